//! The seed's program, in Go and in Python, as PID 1 of a real container: every child is reported in time, with
//! everything right, and its release when the container is killed.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::support::{
    Container, Daemon, MILLISECOND, Rootfs, SECOND, Seen, fixture, leeway, machine, program, rounds,
};

/// How late a report may be.
const LATE: u64 = 100 * MILLISECOND;

/// One child, as it logged itself and as /proc numbers it.
struct Child {
    ns_pid: u64,
    died: u64,
    code: u64,
}

#[test]
fn every_child_of_the_go_seed_is_reported_in_time_and_released_with_its_container() {
    let _machine = machine();
    let binary = build_go();
    let fill = |shared: &Path| {
        fs::copy(&binary, shared.join("seed")).unwrap();
    };
    let count = rounds(40, 300);
    holds("go", Rootfs::Empty, fill, &["/seed/seed"], count);
}

#[test]
fn every_child_of_the_python_seed_is_reported_in_time_and_released_with_its_container() {
    let _machine = machine();
    let python = Path::new("/usr/bin/python3");
    assert!(python.exists(), "{} is missing: `cargo xtask setup` installs it", python.display());
    let fill = |shared: &Path| {
        fs::copy(fixture("seed/main.py"), shared.join("main.py")).unwrap();
    };
    let count = rounds(40, 300);
    holds("python", Rootfs::HostPrograms, fill, &["/usr/bin/python3", "-I", "-S", "/seed/main.py"], count);
}

fn build_go() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let binary = directory.join("seed-go");
    // No deadline: the first build compiles Go's own library, too.
    let built = Command::new(program("go"))
        .args(["build", "-o"])
        .arg(&binary)
        .arg(fixture("seed/main.go"))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "")
        .env("GOCACHE", directory.join("go-cache"))
        .status();
    assert!(built.unwrap().success(), "go could not build the seed, see above");
    binary
}

fn holds(name: &str, rootfs: Rootfs, fill: impl FnOnce(&Path), program: &[&str], count: u64) {
    let age = 2 * SECOND;
    let mut daemon = Daemon::trace(&["--age", "2s"]);
    let number = count.to_string();
    let container = Container::start(name, rootfs, fill, &[program, &[&number, "/seed/log"]].concat());
    let init = container.init();

    let mut reported = HashSet::new();
    let timeout = Duration::from_millis(100 * count) + Duration::from_secs(20);
    daemon.until("a report for each child", timeout, |seen| {
        if seen.is("zombie") && seen.number("/holder/pid") == u64::from(init) {
            reported.insert(seen.number("/pid"));
        }
        reported.len() as u64 == count
    });

    let truth = truth(&container, init);
    assert_eq!(truth.len() as u64, count, "the container's own log");
    container.kill();
    let mut left = reported.clone();
    daemon.until("a release for each child", Duration::from_secs(10), |seen| {
        if seen.is("released") {
            left.remove(&seen.number("/pid"));
        }
        left.is_empty()
    });

    let seen = daemon.end();
    let of = |kind| {
        let ours = move |seen: &&Seen| seen.is(kind) && seen.number("/holder/pid") == u64::from(init);
        seen.iter().filter(ours).collect::<Vec<_>>()
    };
    let (zombies, releases) = (of("zombie"), of("released"));
    assert_eq!((zombies.len() as u64, releases.len() as u64), (count, count), "each once");
    let mut latest = 0;
    for zombie in zombies {
        let child = truth
            .get(&zombie.number("/pid"))
            .unwrap_or_else(|| panic!("not a child of the container's PID 1: {zombie:?}"));
        assert_right(zombie, child, init, &container.id);
        let after = zombie.at.saturating_sub(child.died + age);
        assert!(zombie.at + 10 * MILLISECOND >= child.died + age, "too early: {zombie:?}");
        assert!(after <= LATE * u64::from(leeway()), "{} ms late: {zombie:?}", after / MILLISECOND);
        latest = latest.max(after);
    }
    println!("{name}: {count} reports, the latest {} ms after the age", latest / MILLISECOND);
}

fn assert_right(zombie: &Seen, child: &Child, init: u32, container: &str) {
    let event = &zombie.event;
    assert_eq!(zombie.number("/ns_pid"), child.ns_pid, "{event:#}");
    assert_eq!(zombie.number("/exit/code"), child.code, "{event:#}");
    assert_eq!(zombie.number("/forker/pid"), u64::from(init), "{event:#}");
    assert_eq!(zombie.text("/forker/relation"), "holder", "{event:#}");
    assert_eq!(zombie.text("/workload/id"), container, "{event:#}");
    assert_eq!(event["predates"], false, "{event:#}");
    // Two children that die at the same moment may share a SIGCHLD.
    let cause = zombie.text("/cause");
    assert!(["never-waited", "notification-coalesced"].contains(&cause), "{event:#}");
}

/// What the children wrote about themselves, by the pids that the host gave them.
fn truth(container: &Container, init: u32) -> HashMap<u64, Child> {
    let log = fs::read_to_string(container.shared().join("log")).unwrap();
    let mut logged: HashMap<u64, Child> = log
        .lines()
        .map(|line| {
            let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let &[ns_pid, died, code] = numbers.as_slice() else { panic!("{line:?}") };
            (ns_pid, Child { ns_pid, died, code })
        })
        .collect();
    children(init).into_iter().filter_map(|pid| Some((pid, logged.remove(&ns_pid(pid)?)?))).collect()
}

/// The children of a process, dead ones included, whichever of its threads forked them.
fn children(pid: u32) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default())
        .flat_map(|text| text.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

fn ns_pid(pid: u64) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}
