use unicode_width::UnicodeWidthStr;

use super::*;
use crate::report::{Loss, fixture};

fn lines(width: usize, event: &Event) -> Vec<String> {
    Human::new(width, false).lines(event)
}

#[test]
fn a_zombie_in_80_columns() {
    assert_eq!(
        Human::new(80, false).header(),
        "UTC          PID HOLDER          AGE EXIT    CAUSE          WORKLOAD     COMM"
    );
    assert_eq!(
        lines(80, &fixture::event(&fixture::never_waited())),
        [
            "14:03:07    4712 app(4700)        5s 0       never-waited   3f2a9c0d1e4b sh",
            "  no wait seen in 2.5s; pid 7 to its holder",
        ]
    );
}

#[test]
fn a_zombie_where_the_width_is_unknown() {
    assert_eq!(
        Human::new(120, false).header(),
        "UTC          PID HOLDER            FORKER           AGE EXIT    CAUSE                  WORKLOAD          COMM"
    );
    assert_eq!(
        lines(120, &fixture::event(&fixture::adopted())),
        [
            "14:03:07    4712 tini(4700)        4600 gone         5s SIGSEGV adopted                3f2a9c0d1e4b      chrome",
            "  adopted: forked by chromedriver (4600, gone); dumped core; pid 7 to its holder",
        ]
    );
}

#[test]
fn the_stack_is_below_the_zombie_where_it_is_asked_for() {
    let event = fixture::event(&fixture::forked_at(crate::origin::fixture::exact(42)));
    let without = lines(80, &event);
    assert_eq!(without.last().unwrap(), "  chrome ← chromedriver ← python3 /srv/crawl.py --all ← sh");
    let with = Human::new(80, false).with_stacks().lines(&event);
    assert_eq!(with[..without.len()], without);
    assert_eq!(
        with[without.len()..],
        [
            "  exact Python stack of python3 (4500)",
            "    Popen._execute_child /usr/lib/python3.11/subprocess.py:1806",
            "    Popen.__init__ /usr/lib/python3.11/subprocess.py:1024",
            "  > open_browser /srv/crawl.py:42",
            "    <module> /srv/crawl.py:90",
        ]
    );
}

#[test]
fn an_age_that_is_not_exact_shows_it() {
    let [row, _] = lines(80, &fixture::event(&fixture::predating())).try_into().unwrap();
    assert!(row.contains("  4m12s+ 0 "), "{row}");
    let [row, _] = lines(120, &fixture::event(&fixture::suspended())).try_into().unwrap();
    assert!(row.contains("  ~5s 0 "), "{row}");
}

#[test]
fn a_release_says_how_long_it_stood() {
    let row = lines(80, &fixture::released(&fixture::never_waited()));
    assert_eq!(row, ["14:03:07    4712 released after 12s, sh of app(4700)"]);
    let row = lines(80, &fixture::reaped(&fixture::never_waited(), 4700));
    assert_eq!(row, ["14:03:07    4712 released after 12s by its holder, sh of app(4700)"]);
    let row = lines(80, &fixture::reaped(&fixture::never_waited(), 1));
    assert_eq!(row, ["14:03:07    4712 released after 12s by tini(1), sh of app(4700)"]);
    let row = lines(80, &fixture::released(&fixture::predating()));
    assert!(row[0].contains("released after at least 4m19s"), "{row:?}");
    let row = lines(80, &fixture::released(&fixture::suspended()));
    assert!(row[0].contains("released after about 12s"), "{row:?}");
}

#[test]
fn a_loss_says_what_to_do_in_the_width_there_is() {
    for loss in Loss::ALL {
        let lines = lines(80, &Event::lost(loss, 12, 40, fixture::time()));
        assert!(
            lines[0].starts_with(&format!("14:03:07 lost: {} 12 (40 in all): ", loss.as_str())),
            "{lines:?}"
        );
        assert!(lines.iter().all(|line| line.width() <= 80), "{lines:?}");
    }
}

#[test]
fn nothing_is_wider_than_the_terminal() {
    for width in [43, 60, 80, 100, 120, 200] {
        let human = Human::new(width, false).with_stacks();
        assert!(human.header().width() <= width);
        for zombie in fixture::all() {
            for event in [fixture::event(&zombie), fixture::released(&zombie)] {
                for line in human.lines(&event) {
                    assert!(line.width() <= width, "{width}: {line}");
                }
            }
        }
    }
}

#[test]
fn a_hostile_name_reaches_no_terminal() {
    for colour in [false, true] {
        let human = Human::new(200, colour).with_stacks();
        for event in [fixture::event(&fixture::hostile()), fixture::released(&fixture::hostile())] {
            for line in human.lines(&event) {
                let bare = anstream::adapter::strip_str(&line).to_string();
                assert!(!bare.chars().any(char::is_control), "{line:?}");
                assert!(!line.contains("\x1b[2J") && !line.contains('\u{202e}'), "{line:?}");
            }
        }
        let row = human.lines(&fixture::event(&fixture::hostile())).swap_remove(0);
        assert!(row.contains(r"\x1b[2J\u{202e}\n"), "{row:?}");
    }
}

#[test]
fn colour_changes_no_text() {
    for zombie in fixture::all() {
        let plain = Human::new(100, false).lines(&fixture::event(&zombie));
        let coloured = Human::new(100, true).lines(&fixture::event(&zombie));
        assert_ne!(plain, coloured);
        let stripped: Vec<_> =
            coloured.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(plain, stripped);
    }
}

#[test]
fn a_pid_is_never_cut() {
    let mut zombie = fixture::never_waited();
    zombie.holder.pid = 4_194_303;
    zombie.holder.comm = Some("chromedriver".into());
    let row = lines(80, &fixture::event(&zombie)).swap_remove(0);
    assert!(row.contains(" c…(4194303) "), "{row}");
}

#[test]
fn signals_have_their_names() {
    assert_eq!(exit(ExitStatus::Signal { number: 9, core: false }), "SIGKILL");
    assert_eq!(exit(ExitStatus::Signal { number: 31, core: false }), "SIGSYS");
    assert_eq!(exit(ExitStatus::Signal { number: 34, core: false }), "SIG34");
    assert_eq!(exit(ExitStatus::Signal { number: 0, core: false }), "SIG0");
}

#[test]
fn a_remedy_says_what_to_whom_by_which_rule_and_what_came_of_it() {
    let human = Human::new(200, false);
    let lines = |events: Vec<Event>| -> Vec<String> {
        events.iter().map(|event| human.lines(event).join("\n")).collect()
    };
    let told = lines(fixture::remedies());
    assert!(
        told[0].contains(
            "reap for 2 zombies of tini(4700) by rule orphans: applied, pause 120 µs: 2 of 2 are gone"
        ),
        "{told:?}"
    );
    assert!(told[1].contains("refused: the holder was seen waiting for any child"), "{told:?}");
    assert!(told[2].contains("planned: the holder would be made to wait for them"), "{told:?}");
    assert!(told.iter().all(|line| !line.chars().any(|c| c == '\u{1b}')), "{told:?}");
    let told = lines(fixture::breakers());
    assert!(
        told[0].contains(
            "circuit breaker of the rule opened after nudge to tini(4700) by rule orphans: the holder died"
        ),
        "{told:?}"
    );
    assert!(told[0].contains("for 1h"), "{told:?}");
}
