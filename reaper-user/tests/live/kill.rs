//! A daemon that is killed at any moment and started again tells of everything all the same: what it pinned goes on
//! recording, and what was not told yet is told by the next.

use std::{thread, time::Duration};

use crate::support::{Daemon, Ended, Pins, Random, Reports, Workload, machine, rounds};

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
    // It is said where it may be so, not always.
    assert!(recovered <= 10 + truth.leaks.len() / 4, "{recovered} of {}", truth.leaks.len());
    workload.end();
}
