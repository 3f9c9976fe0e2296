use super::*;
use crate::origin::fixture;

fn lines(origin: &Origin, width: usize) -> Vec<String> {
    let zombie = "chrome".into();
    ShownOrigin::new(origin, &zombie).lines(&zombie, width)
}

#[test]
fn a_stack_is_shown_below_who_forked_whom_and_how_good_it_is() {
    assert_eq!(
        lines(&fixture::exact(42), 80),
        [
            "  chrome ← chromedriver ← python3 /srv/crawl.py --all ← sh",
            "  exact Python stack of python3 (4500)",
            "    Popen._execute_child /usr/lib/python3.11/subprocess.py:1806",
            "    Popen.__init__ /usr/lib/python3.11/subprocess.py:1024",
            "  > open_browser /srv/crawl.py:42",
            "    <module> /srv/crawl.py:90",
        ]
    );
    assert_eq!(
        lines(&fixture::approximate(), 100),
        [
            "  chrome ← leak",
            "  approximate native stack of leak (4700): something of it was guessed or may be missing",
            "    __libc_fork (/usr/lib/x86_64-linux-gnu/libc.so.6)",
            "  > leak_here /src/leak.c:12",
            "    /opt/leak+0x1300",
            "    …",
        ]
    );
}

#[test]
fn where_there_is_no_stack_it_is_said_why() {
    let said = |origin: &Origin| lines(origin, 100).join("\n");
    assert_eq!(
        said(&fixture::lineage_only()),
        "  chrome ← chromedriver --port=9515 ← python3 ← sh\n  lineage-only: no stack was taken of any process of the chain"
    );
    assert_eq!(
        said(&fixture::predating()),
        "  chrome\n  predates: it was forked before anything was recorded"
    );
}

#[test]
fn where_a_living_process_was_started_is_not_told_as_where_it_leaks() {
    let origin = fixture::started();
    assert_eq!(
        lines(&origin, 120)[..3],
        [
            "  chrome ← chromedriver --port=9515 ← python3 /srv/crawl.py --all ← sh",
            "  lineage-only: no stack was taken of chromedriver (4600), which lives; it was started at: Python stack of python3",
            "    (4500)",
        ]
    );
    let shown = ShownOrigin::new(&origin, &"chrome".into());
    assert!(shown.stack.is_some() && shown.stack_of_leak().is_none());
    assert_eq!(shown.place(&"chrome".into(), 80), "chrome ← chromedriver via open_browser crawl.py:42");
    assert_eq!(shown.place(&"chrome".into(), 24), "chrome ← chromedriver v…");
}

#[test]
fn what_was_started_is_the_one_that_the_stack_s_process_forked() {
    let mut origin = fixture::started();
    let mut supervisor = origin.chain[0].clone();
    supervisor.process.pid = 4_550;
    supervisor.comm = "supervisor".into();
    origin.chain.insert(1, supervisor);
    origin.stack_of = Some(2);
    assert_eq!(
        ShownOrigin::new(&origin, &"chrome".into()).quality_text(),
        "lineage-only: no stack was taken of chromedriver (4600), which lives; supervisor (4550), which that comes from, was started at: \
         Python stack of python3 (4500)"
    );
}

#[test]
fn a_short_frame_has_no_folders() {
    let short = |origin: &Origin| {
        ShownOrigin::new(origin, &"x".into())
            .stack
            .unwrap()
            .frames
            .iter()
            .map(ShownFrame::short)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        short(&fixture::approximate()),
        ["__libc_fork (libc.so.6)", "leak_here leak.c:12", "leak+0x1300"]
    );
    assert_eq!(short(&fixture::exact(42))[2], "open_browser crawl.py:42");
}

#[test]
fn where_there_is_little_room_the_line_is_kept() {
    let [_, _, frame, _] =
        ShownOrigin::new(&fixture::exact(42), &"x".into()).stack.unwrap().frames.try_into().unwrap();
    let within = |width| frame.within(width);
    assert_eq!(
        [25, 24, 14, 13, 5].map(within),
        ["open_browser crawl.py:42", "open_browser crawl.py:42", "o… crawl.py:42", "crawl.py:42", "craw…"]
    );
}

#[test]
fn hostile_names_stay_in_their_lines() {
    for width in [43, 80, 200] {
        for line in lines(&fixture::hostile(), width) {
            assert!(line.width() <= width, "{width}: {line}");
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    }
}
