//! Zombies that stand: those that predate the daemon, and the list of all.

use std::{collections::HashSet, process::Command, time::Duration};

use crate::support::{Daemon, Workload, assert_valid, machine, program, reaper, run_briefly};

#[test]
fn zombies_older_than_the_daemon_are_reported_once_and_say_so() {
    let _machine = machine();
    let workload = Workload::start(&["standing", "20", "--truth", "{truth}"]);
    workload.wait_for("settled", Duration::from_secs(20));
    let truth = workload.truth();
    let mut daemon = Daemon::trace(&["--age", "1s"]);
    let mut missing: HashSet<_> = truth.leaks.keys().copied().collect();
    daemon.until("reports of what predates", Duration::from_secs(10), |seen| {
        missing.remove(&seen.process());
        missing.is_empty()
    });
    workload.end();
    let mut standing: HashSet<_> = truth.leaks.keys().copied().collect();
    daemon.until("releases of what predates", Duration::from_secs(10), |seen| {
        if seen.is("released") {
            standing.remove(&seen.process());
        }
        standing.is_empty()
    });
    let seen = daemon.end();
    for (process, leak) in &truth.leaks {
        let of_it: Vec<_> = seen.iter().filter(|seen| seen.process() == *process).collect();
        let [zombie, release] = of_it.as_slice() else { panic!("{of_it:?}") };
        let event = &zombie.event;
        assert!(zombie.is("zombie") && release.is("released"), "{of_it:?}");
        assert_eq!((&event["predates"], &event["age_seconds"]), (&true.into(), &().into()), "{event:#}");
        assert!(event["age_at_least"].is_number(), "{event:#}");
        assert_eq!(event["cause"], "unknown", "{event:#}");
        assert_eq!(zombie.number("/holder/pid"), leak.holder.pid, "{event:#}");
        assert_eq!(event["exit"]["code"], leak.exit["code"], "{event:#}");
    }
}

#[test]
fn ls_without_a_daemon_lists_the_zombies_that_ps_shows() {
    let _machine = machine();
    let workload = Workload::start(&["standing", "30"]);
    let holder = workload.wait_for("forked", Duration::from_secs(20))["holder"].clone();
    workload.wait_for("settled", Duration::from_secs(20));

    let listed = run_briefly(Command::new(reaper()).args(["ls", "--output", "json"]));
    assert!(listed.status.success(), "{listed:?}");
    let lines = listed.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let events: Vec<_> = lines.map(assert_valid).collect();
    assert_eq!(events[0]["event"], "listing", "{events:?}");
    assert_eq!(events[0]["count"], events.len() - 1, "{:?}", events[0]);
    let ours = events.iter().filter(|event| event["holder"]["pid"] == holder);
    let listed: HashSet<_> = ours.map(|event| event["pid"].as_u64().unwrap()).collect();

    let ps =
        run_briefly(Command::new(program("ps")).args(["-o", "pid=,stat=", "--ppid", &holder.to_string()]));
    let ps = String::from_utf8(ps.stdout).unwrap();
    let shown: HashSet<u64> = ps
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .filter(|(_, state)| state.trim().starts_with('Z'))
        .map(|(pid, _)| pid.parse().unwrap())
        .collect();
    assert_eq!(shown.len(), 30, "{ps}");
    assert_eq!(listed, shown);
    workload.end();
}
