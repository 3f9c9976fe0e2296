use std::{fs, io::Write as _, path::Path};

use reaper_ebpf::refused::Who;
use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::{headroom::Source, workload::Hierarchy};

#[test]
fn it_answers_tells_of_refusals_and_ends() {
    let root = tempfile::tempdir().unwrap();
    let cgroup = root.path().join("pod/box");
    fs::create_dir_all(&cgroup).unwrap();
    for directory in [&cgroup, &root.path().join("pod")] {
        fs::write(directory.join("pids.current"), "3\n").unwrap();
        fs::write(directory.join("pids.max"), "10\n").unwrap();
        fs::write(directory.join("pids.events"), "max 0\n").unwrap();
    }
    let (send, mut reports) = unbounded_channel();
    let reader = Reader::start(Files::at(Hierarchy::V2, root.path(), root.path()), false, send).unwrap();
    let path: CgroupPath = Arc::from(&b"/pod/box"[..]);
    assert_eq!(reader.watch(vec![Arc::clone(&path)], true), Ok(()));
    assert!(reader.ask(Ask { number: 4, cgroups: vec![(path, false)], holders: Vec::new() }));
    let Some(Report::Seen(Seen { number: 4, levels, node: None, unread: 1, .. })) = reports.blocking_recv()
    else {
        panic!("no answer");
    };
    assert_eq!(levels.len(), 2);
    // At once, as the kernel does: not empty in between.
    let events = fs::OpenOptions::new().write(true).open(cgroup.join("pids.events"));
    events.unwrap().write_all(b"max 10000\n").unwrap();
    let Some(Report::Refused(refusal)) = reports.blocking_recv() else { panic!("not told") };
    assert_eq!((refusal.count, refusal.levels.len()), (10_000, 2));
    drop(reader);
    assert!(reports.blocking_recv().is_none());
}

#[test]
fn what_nobody_claims_is_told_when_all_was_handed_over_and_what_is_told_is_settled_after_it() {
    let root = tempfile::tempdir().unwrap();
    let cgroup = root.path().join("pod");
    fs::create_dir_all(&cgroup).unwrap();
    for (file, text) in [("pids.current", "10\n"), ("pids.max", "10\n"), ("pids.events", "max 0\n")] {
        fs::write(cgroup.join(file), text).unwrap();
    }
    let (send, mut reports) = unbounded_channel();
    let reader = Reader::start(Files::at(Hierarchy::V2, root.path(), root.path()), true, send).unwrap();
    let path: CgroupPath = Arc::from(&b"/pod"[..]);
    assert_eq!(reader.watch(vec![Arc::clone(&path)], true), Ok(()));
    assert!(reader.ask(Ask { number: 1, cgroups: vec![(Arc::clone(&path), false)], holders: Vec::new() }));
    assert!(matches!(reports.blocking_recv(), Some(Report::Seen(Seen { number: 1, .. }))));
    let events = fs::OpenOptions::new().write(true).open(cgroup.join("pids.events"));
    events.unwrap().write_all(b"max 5\n").unwrap();
    assert!(reader.attempt(Attempt {
        who: Who { cgroup: 7, uid: 0, elsewhere: 0 },
        source: Source::Fexit,
        forker: None,
        cgroup: Some(path),
        uid: 0,
        processes: 0,
        nproc: None,
        pid_ns: 1,
        pids: 0,
        pid_max: None,
        unread: false,
        count: 2,
        fresh: true,
    }));
    let told = |report| match report {
        Some(Report::Refused(refusal)) => (refusal.source, refusal.count),
        other => panic!("{other:?}"),
    };
    assert_eq!(told(reports.blocking_recv()), (Source::Fexit, 2));
    assert!(matches!(reports.blocking_recv(), Some(Report::Settled(2))));
    assert!(matches!(reports.blocking_recv(), Some(Report::Wanted)));
    assert!(reader.handed_over(Instant::now()));
    assert_eq!(told(reports.blocking_recv()), (Source::PidsEvents, 3));
    drop(reader);
    assert!(reports.blocking_recv().is_none());
}

/// The innermost of so many cgroups in each other, each with these files.
fn chain(root: &Path, depth: usize, files: &[(&str, &str)]) -> String {
    let path = "/c".repeat(depth);
    fs::create_dir_all(root.join(&path[1..])).unwrap();
    for level in 1..=depth {
        for (file, text) in files {
            fs::write(root.join(&path[1..2 * level]).join(file), text).unwrap();
        }
    }
    path
}

#[test]
fn of_a_deep_cgroup_little_is_read_and_the_rest_is_counted() {
    let root = tempfile::tempdir().unwrap();
    let path = chain(root.path(), 500, &[("pids.current", "3\n"), ("pids.max", "10\n")]);
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let cgroups = vec![(Arc::from(path.as_bytes()), false)];
    let seen = Seen::read(&files, &Ask { number: 1, cgroups, holders: Vec::new() });
    // Those between, and the node, which is not there.
    assert_eq!((seen.levels.len(), seen.unread), (32, 468 + 1));
    assert!(files.opened() <= 2 * 32 + 3, "{} files", files.opened());
}

#[test]
fn after_what_took_long_there_is_a_long_pause_from_its_end_on() {
    let pause = |took, moved, behind| {
        let now = Instant::now();
        rest(took, moved, behind).saturating_duration_since(now)
    };
    let (short, long) = (Duration::from_micros(100), Duration::from_millis(200));
    for (moved, behind) in [(true, true), (true, false), (false, true), (false, false)] {
        assert!(pause(long, moved, behind) >= long * REST);
    }
    assert!(pause(short, true, false) >= CALM);
    assert!((short * REST..CALM).contains(&pause(short, false, true)));
    assert!(pause(short, false, false) < short);
}

#[test]
fn whoever_is_refused_deep_down_keeps_nobody_elses_limits_from_being_read() {
    let root = tempfile::tempdir().unwrap();
    let files = [("pids.current", "1\n"), ("pids.max", "1\n"), ("pids.events", "max 0\n")];
    let path = chain(root.path(), 300, &files);
    let deep: Vec<CgroupPath> = (200..=300).map(|depth| Arc::from(&path.as_bytes()[..2 * depth])).collect();
    let (send, mut reports) = unbounded_channel();
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let reader = Reader::start(files, false, send).unwrap();
    assert_eq!(reader.watch(deep.clone(), true), Ok(()));
    let outer: CgroupPath = Arc::from(&b"/c"[..]);
    let mut waited = Vec::new();
    for number in 1..=6 {
        for path in &deep {
            let path = String::from_utf8(path[1..].to_vec()).unwrap();
            fs::write(root.path().join(path).join("pids.events"), format!("max {number}\n")).unwrap();
        }
        let asked = Instant::now();
        assert!(reader.ask(Ask { number, cgroups: vec![(Arc::clone(&outer), false)], holders: Vec::new() }));
        while !matches!(reports.blocking_recv().unwrap(), Report::Seen(seen) if seen.number == number) {}
        waited.push(asked.elapsed());
    }
    waited.sort_unstable();
    assert!(waited[3] < Duration::from_millis(250), "{waited:?}");
}
