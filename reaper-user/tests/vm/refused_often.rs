//! Refused forks that two count, that are of more users than the hook keeps, and that outlive a daemon: each is told once, or counted as
//! lost. The truth is the kernel's own count, and what the program that was refused says itself. Seldom and long: xtask's `vm/matrix.rs`
//! says which kernels have these.

use std::{process::Command, time::Instant};

use crate::{
    PATIENCE,
    daemon::Daemon,
    forker::{Forker, Limited, is_v2},
    refused::{ends, offered, refusals, start, told, user_is_refused},
    require_vm,
};

const PINS: &str = "/sys/fs/bpf/reaper-refused";
/// The machine has no loopback address.
const RUN: [&str; 9] =
    ["run", "--age", "1s", "--output", "json", "--metrics-listen", "off", "--pin-path", PINS];

/// For several times as long as what one has counted waits for the other.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_long_storm_that_two_count_is_told_once() {
    const LIMIT: u64 = 20;
    require_vm();
    let (daemon, began) = (start(), Instant::now());
    let cgroup = Limited::make("reaper-storm.service", LIMIT);
    let mut forker = Forker::start();
    cgroup.holds(&forker);
    forker.fills("zombie");
    let refused = forker.refused_of("storm 4000") + 1;
    assert_eq!(cgroup.counted(), refused);
    ends(daemon, began, refused);
}

/// And what its own limits refuse is told as theirs.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_fork_into_another_cgroup_is_told_by_the_limit_that_refused_it() {
    const LIMIT: u64 = 12;
    require_vm();
    if !is_v2() {
        // Nobody can fork there.
        return;
    }
    let hook = offered();
    let mut daemon = start();
    let cgroup = Limited::make("reaper-elsewhere.service", 0);
    let into = format!("into {} 50", cgroup.folder.display());
    let of = |daemon: &Daemon, kind: &str| {
        let of = refusals(daemon).into_iter().filter(|event| event["limit"]["kind"] == kind);
        of.filter_map(|event| event["count"].as_u64()).sum::<u64>()
    };
    assert_eq!(Forker::start().refused_of(&into), 50);
    assert_eq!(cgroup.counted(), 50);
    // The rest within ten seconds, or when it ends.
    daemon.wait_until("the first of them", |daemon| of(daemon, "pids-max") > 0);
    let mut users = 0;
    if hook != "none" {
        let (mut forker, _) = user_is_refused(2_345, LIMIT);
        users = 1 + forker.refused_of(&into);
        assert_eq!((users, cgroup.counted()), (51, 50));
        daemon.wait_until("the user's", |daemon| of(daemon, "rlimit-nproc") > 0);
    }
    let daemon = daemon.stop();
    assert_eq!((told(&daemon), of(&daemon, "pids-max")), (50 + users, 50), "{:?}", refusals(&daemon));
    for event in refusals(&daemon) {
        let is_there = event["limit"]["kind"] == "pids-max";
        assert!(!is_there || event["limit"]["cgroup"] == cgroup.path, "{event}");
        assert!(!is_there || event["forker"].is_null(), "nobody knows whose it was: {event}");
    }
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn of_more_users_than_are_kept_all_refusals_are_told_and_those_after_them_are_seen() {
    /// The hook counts for 256 at a time.
    const USERS: u64 = 300;
    require_vm();
    let hook = offered();
    if hook == "none" {
        return;
    }
    let mut daemon = start().may_lose("refusal-lost");
    let cgroup = Limited::make("reaper-many.service", 1);
    let mut forker = Forker::start();
    cgroup.holds(&forker);
    assert_eq!(forker.refused_of(&format!("users 3000 {USERS}")), USERS);
    // What nobody but the cgroup has counted is known as long as there is the cgroup.
    daemon.wait_until("all of them", |daemon| told(daemon) >= USERS);
    assert_eq!((told(&daemon), cgroup.counted()), (USERS, USERS), "{:?}", refusals(&daemon));
    // With the cgroup ends what is counted for it.
    drop(forker);
    drop(cgroup);
    let deadline = Instant::now() + PATIENCE;
    for user in 4_000.. {
        let (forker, _) = user_is_refused(user, 5);
        let is_seen = |daemon: &Daemon| {
            refusals(daemon)
                .iter()
                .any(|event| event["forker"]["pid"] == forker.pid() && event["source"] == hook)
        };
        if daemon.comes_soon(is_seen) {
            break;
        }
        assert!(Instant::now() < deadline, "nothing is seen any more");
    }
    let daemon = daemon.stop();
    assert!(daemon.lost("refusal-lost") >= USERS - 256, "{}", daemon.lost("refusal-lost"));
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn what_a_daemon_was_killed_before_it_told_is_counted_by_the_next() {
    require_vm();
    if offered() == "none" {
        return;
    }
    let mut first = Daemon::start_as(&RUN);
    let (mut forker, _) = user_is_refused(5_000, 10);
    first.wait_until("the first", |daemon| told(daemon) == 1);
    // What follows within ten seconds is one more event.
    assert_eq!(forker.forks(100), 100);
    first.kill();
    let second = Daemon::start_as(&RUN).may_lose("unrecognized").may_lose("refusal-unwatched");
    let second = second.stop();
    assert_eq!((told(&second), second.lost("refusal-unwatched")), (0, 100));
    // Whoever ends in peace leaves nothing.
    assert_eq!(Daemon::start_as(&RUN).may_lose("unrecognized").stop().lost("refusal-unwatched"), 0);
    let unloaded = Command::new("reaper").args(["unload", "--pin-path", PINS]).status();
    assert!(unloaded.expect("reaper starts").success());
}
