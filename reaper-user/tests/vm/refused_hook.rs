//! The hook on the clone path itself: what there is where fexit is not or nobody wants any, what it costs, and that it may be detached
//! under way. Seldom and long: xtask's `vm/matrix.rs` says which kernels have these.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::sys::Stats;

use crate::{
    PATIENCE,
    daemon::Daemon,
    fentry::Empty,
    forker::Forker,
    holder::Holder,
    refused::{OUTER, checked, ends, is_told_of_a_user, offered, sees_pids_max_only, start, without_fexit},
    release::Runs,
    require_vm,
};

/// Whoever wants no hook has none, as it is where the kernel lets nobody have one.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn without_a_hook_refused_forks_are_known_from_pids_max_only() {
    require_vm();
    let run = ["run", "--no-persist", "--no-fork-hook", "--output", "json", "--metrics-listen", "off"];
    sees_pids_max_only(Daemon::start_as(&run).may_lose("unrecognized"));
}

/// As many programs may be at a function as its trampoline has room for: then there is no fexit, and there are kretprobes still.
fn no_room() -> Vec<Empty> {
    let mut all = Vec::new();
    loop {
        match Empty::at(OUTER) {
            Ok(one) => all.push(one),
            Err(full) => {
                println!("{} programs at {OUTER}, then: {full}", all.len());
                return all;
            }
        }
    }
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_kretprobe_stands_in_for_fexit() {
    require_vm();
    if offered() != "fexit" {
        // The other tests have seen what there is instead.
        return;
    }
    let _all = no_room();
    let (offered, found) = (without_fexit(true), checked());
    assert!(found.starts_with(offered), "the kernel offers {offered}, reaper found {found}");
    assert!(found.contains("no fexit"), "{found}");
    if offered == "kretprobe" {
        let _counting = aya::sys::enable_stats(Stats::RunTime).expect("the kernel counts");
        let (mut daemon, began) = (start(), Instant::now());
        passes_once(offered);
        let refused = is_told_of_a_user(&mut daemon, offered);
        ends(daemon, began, refused);
    }
}

/// Whoever is held in a fork returns through what the daemon had attached, and that after it is gone.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_daemon_may_end_while_a_fork_is_under_way() {
    require_vm();
    offered();
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = start();
    let mut held: Vec<_> = (0..3).map(|number| Held::start(folder.path(), number)).collect();
    daemon.stop();
    // What is detached is freed when nobody can be in it any more, as far as the kernel knows, and what comes next is in its place.
    let next = start();
    next.stop();
    for Held { forker, linger, end } in &mut held {
        fs::write(end, "").expect("a file");
        assert_eq!(forker.ends(linger), "done");
        assert_eq!(forker.forks(20), 0);
    }
}

/// One that is held in a fork until there is a file.
struct Held {
    forker: Forker,
    linger: String,
    end: PathBuf,
}

impl Held {
    fn start(folder: &Path, number: u32) -> Self {
        let [begun, end] = ["begun", "end"].map(|name| folder.join(format!("{name}-{number}")));
        let mut forker = Forker::start();
        let linger = format!("linger {} {}", begun.display(), end.display());
        forker.begins(&linger);
        let deadline = Instant::now() + PATIENCE;
        while !begun.exists() {
            assert!(Instant::now() < deadline, "it does not fork");
            thread::sleep(Duration::from_millis(1));
        }
        Self { forker, linger, end }
    }
}

/// Prints what being called costs, as the kernel counts it; of an emulated machine's figures only the ratio says something.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_fork_that_succeeds_passes_the_hook_once() {
    require_vm();
    let hook = offered();
    let _counting = aya::sys::enable_stats(Stats::RunTime).expect("the kernel counts");
    let beside = Empty::at(OUTER).map_err(|error| println!("nothing to compare with: {error}"));
    let daemon = start();
    passes_once(hook);
    daemon.stop();
    drop(beside);
}

fn passes_once(hook: &str) {
    const LIVES: u32 = 200;
    let mut holder = Holder::start();
    let before = Runs::now();
    holder.churn(LIVES, 0);
    let spent = Runs::now().since(&before);
    println!("{LIVES} lives, {hook}: {spent:?}");
    let expected = if hook == "none" { 0 } else { u64::from(LIVES) };
    // A kretprobe misses a few, a program that is running already is skipped; and others fork, too.
    let expected = expected - expected / 50..=2 * expected;
    // The kernel keeps 15 bytes of a program's name.
    let passed = spent.of(&format!("refused_{}", &hook[..4]));
    assert!(expected.contains(&passed), "{passed}: {spent:?}");
}
