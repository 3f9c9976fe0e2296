//! More deaths than the ledger can hold: what is missing is counted, one by one.

use std::{collections::HashSet, fs, time::Duration};

use crate::support::{Daemon, Seen, Workload, machine};

/// Far more than the ledger's 1,024 entries.
const CHILDREN: usize = 3_000;

/// A second process life anywhere on the machine while the ledger is full is lost and counted, too.
const ATTEMPTS: usize = 5;

#[test]
fn what_a_full_ledger_misses_equals_the_loss_counter() {
    let _machine = machine();
    for attempt in 1..=ATTEMPTS {
        let outcome = bomb();
        let Outcome { foreign, reported, lost } = outcome;
        println!("attempt {attempt}: {reported} reported, {lost} lost, {foreign} started by others");
        assert!(reported >= 512, "fewer reports than the ledger has slots: {outcome:?}");
        assert!(lost > 0, "the ledger was never full: {outcome:?}");
        // Never fewer than all: that would be silence. More, where others were started and died meanwhile, but no more
        // than there were.
        match (reported + lost).checked_sub(CHILDREN) {
            Some(0) => return,
            Some(excess) => assert!(excess <= foreign, "{excess} lost that never lived: {outcome:?}"),
            None => panic!("not all are reported or counted: {outcome:?}"),
        }
    }
    panic!(
        "other processes were started on this machine in each of {ATTEMPTS} attempts: try it when it is quiet"
    );
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Processes and threads that were started by others while the ledger was full.
    foreign: usize,
    reported: usize,
    lost: usize,
}

fn bomb() -> Outcome {
    let sizes = ["--ledger-entries", "512", "--ledger-overflow", "512"];
    let mut daemon = Daemon::run(&[&["--age", "1s"], &sizes[..]].concat());
    let (before, threads) = (forks(), threads(daemon.pid()));
    let children = CHILDREN.to_string();
    let workload = Workload::start(&["standing", &children, "--truth", "{truth}"]);
    workload.wait_for("settled", Duration::from_secs(60));
    let truth = workload.truth();
    assert_eq!(truth.leaks.len(), CHILDREN);

    let (mut reported, mut lost) = (HashSet::new(), 0);
    let mut count = |seen: &Seen| {
        if seen.is("zombie") && truth.leaks.contains_key(&seen.process()) {
            assert!(reported.insert(seen.process()), "reported twice: {seen:?}");
        }
        if seen.is("lost") && seen.text("/what") == "death-lost" {
            lost += usize::try_from(seen.number("/count")).unwrap();
            assert_eq!(u64::try_from(lost).unwrap(), seen.number("/total"), "{seen:?}");
        }
        reported.len() + lost >= CHILDREN
    };
    // Losses are said once a minute at most.
    let complete = daemon.came(Duration::from_secs(75), &mut count);
    // Not foreign: the shell that becomes the workload, its holder, the thread here that reads its output, and
    // threads that the daemon needed meanwhile.
    let own = CHILDREN + 3 + self::threads(daemon.pid()).saturating_sub(threads);
    let seen = daemon.end();
    let foreign = (forks() - before).saturating_sub(own);
    (reported, lost) = (HashSet::new(), 0);
    for event in &seen {
        if event.is("zombie") && truth.leaks.contains_key(&event.process()) {
            reported.insert(event.process());
        } else if event.is("lost") && event.text("/what") == "death-lost" {
            lost += usize::try_from(event.number("/count")).unwrap();
        }
    }
    assert!(complete, "{} reported and {lost} lost are not all {CHILDREN}", reported.len());
    workload.end();
    Outcome { foreign, reported: reported.len(), lost }
}

/// Processes and threads started since boot.
fn forks() -> usize {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    stat.lines().find_map(|line| line.strip_prefix("processes ")).unwrap().trim().parse().unwrap()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}
