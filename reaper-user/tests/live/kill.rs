//! A daemon that is killed at any moment and started again tells of everything all the same: what it pinned goes on
//! recording, and what was not told yet is told by the next.

use std::{collections::BTreeSet, thread, time::Duration};

use serde_json::Value;

use crate::support::{Daemon, Ended, Pins, Random, Reports, Seen, Workload, machine, rounds};

/// How long one of them may live, ms. Every third is killed while it starts.
const LIFE: u64 = 2_500;
const START: u64 = 500;

#[test]
fn whenever_it_is_killed_the_union_of_all_reports_is_what_was_leaked() {
    let _machine = machine();
    let pins = Pins::new("kill");
    let mut random = Random::new();
    let mut workload = Workload::leaking();
    let mut reports = Reports::default();
    for round in 1..=rounds(20, 200) {
        let life = random.below(if round % 3 == 0 { START } else { LIFE });
        let daemon = Daemon::spawn_pinned(pins.path(), &["--age", "1s"]);
        thread::sleep(Duration::from_millis(life));
        let Ended { code, seen, log } = daemon.end_with(libc::SIGKILL);
        assert_eq!(code, None, "round {round}: it ended by itself within {life} ms:\n{log}");
        reports.add(seen);
    }
    let truth = workload.settle_from_load();
    let mut missing = reports.missing(&truth);
    println!("{} leaks are left to the last life", missing.len());

    let mut daemon = Daemon::run_pinned(pins.path(), &["--age", "1s"]);
    daemon.came(Duration::from_secs(30), |seen| {
        if seen.is("zombie") {
            missing.remove(&seen.process());
        }
        missing.is_empty()
    });
    // What comes now comes too often.
    daemon.during(Duration::from_secs(2));
    reports.add(daemon.end());
    let recovered = reports.assert_equal(&truth);
    // It is said where it may be so, not always: what is written out is written down as told at once.
    assert!(recovered <= 10 + truth.leaks.len() / 20, "{recovered} of {}", truth.leaks.len());
    workload.end();
}

#[test]
fn what_is_reaped_while_no_daemon_runs_is_told_of_by_the_next() {
    let _machine = machine();
    let pins = Pins::new("away");
    let workload = Workload::standing(20);
    let truth = workload.truth();
    let mut first = Daemon::run_pinned(pins.path(), &["--age", "200ms"]);
    let mut missing: BTreeSet<_> = truth.leaks.keys().copied().collect();
    first.until("all reports", Duration::from_secs(10), |seen| {
        if seen.is("zombie") {
            missing.remove(&seen.process());
        }
        missing.is_empty()
    });
    first.end_with(libc::SIGKILL);
    // Their holder ends and who inherits them does not keep them.
    workload.end();

    let mut second = Daemon::run_pinned(pins.path(), &["--age", "200ms"]);
    let mut missing: BTreeSet<_> = truth.leaks.keys().copied().collect();
    second.until("all releases", Duration::from_secs(10), |seen| {
        if seen.is("released") && missing.remove(&seen.process()) {
            let leak = &truth.leaks[&seen.process()];
            assert_eq!(seen.event["recovered"], true, "{seen:?}");
            assert_eq!(seen.event["holder"], Value::Null, "nobody has looked: {seen:?}");
            assert_eq!(seen.event["exit"]["code"], leak.exit["code"], "{seen:?}");
        }
        missing.is_empty()
    });
    let ours = |seen: &&Seen| seen.is("released") && truth.leaks.contains_key(&seen.process());
    let again = second.during(Duration::from_secs(1)).iter().filter(ours).count();
    assert_eq!(again, 0, "told twice");
    second.end();
}
