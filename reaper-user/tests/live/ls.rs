//! `reaper ls`: the zombies that stand now and what is true of them now, from the daemon that runs, else from a census.

use std::{
    collections::HashSet,
    fs,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{Daemon, Workload, assert_valid, machine, program, reaper, run_briefly, signal};

/// What is waited for longer than this does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug)]
pub(crate) struct Listing {
    source: String,
    pub(crate) zombies: Vec<Value>,
    log: String,
}

impl Listing {
    pub(crate) fn take() -> Self {
        let output = run_briefly(Command::new(reaper()).args(["ls", "--output", "json"]));
        assert!(output.status.success(), "{output:?}");
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut zombies: Vec<_> = lines.map(assert_valid).collect();
        let listing = zombies.remove(0);
        assert_eq!(listing["event"], "listing", "{listing}");
        assert_eq!(listing["count"], zombies.len(), "{listing}");
        let source = listing["source"].as_str().unwrap().to_owned();
        Self { source, zombies, log: String::from_utf8(output.stderr).unwrap() }
    }

    fn zombie(&self, pid: u64) -> &Value {
        let found = self.zombies.iter().find(|zombie| zombie["pid"] == pid);
        found.unwrap_or_else(|| panic!("{pid} is not in {self:#?}"))
    }

    fn pids_of(&self, holder: &Value) -> HashSet<u64> {
        let ours = self.zombies.iter().filter(|zombie| zombie["holder"]["pid"] == *holder);
        ours.map(|zombie| zombie["pid"].as_u64().unwrap()).collect()
    }
}

#[test]
fn without_a_daemon_it_lists_the_zombies_that_ps_shows() {
    let _machine = machine();
    let workload = Workload::start(&["standing", "30"]);
    let holder = workload.wait_for("forked", Duration::from_secs(20))["holder"].clone();
    workload.wait_for("settled", Duration::from_secs(20));
    let listing = Listing::take();
    assert_eq!(listing.source, "census");

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
    assert_eq!(listing.pids_of(&holder), shown);
    workload.end();
}

#[test]
fn what_is_not_due_yet_is_listed_with_its_holder_and_its_forker() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "1h"]);
    // Forked by the holder's own child, and adopted: neither has its holder for a forker.
    for kind in ["clone-parent", "subreaper"] {
        let load = ["load", "--only", kind, "--rate", "0", "--leaks", "50", "--seconds", "2"];
        let workload = Workload::start(&[&load[..], &["--truth", "{truth}"]].concat());
        workload.wait_for("settled", Duration::from_secs(30));
        let (truth, listing) = (workload.truth(), Listing::take());
        assert_eq!(listing.source, "daemon", "{}", listing.log);
        assert!(truth.leaks.len() >= 4, "{truth:?}");
        for leak in truth.leaks.values() {
            let zombie = listing.zombie(leak.pid);
            assert_eq!(zombie["forker"]["pid"], leak.forker.pid, "{leak:?}\n{zombie:#}");
            assert_eq!(zombie["forker"]["relation"], leak.forker.relation.as_str(), "{leak:?}\n{zombie:#}");
            assert_eq!(zombie["holder"]["pid"], leak.holder.pid, "{leak:?}\n{zombie:#}");
            assert_eq!(zombie["cause"], leak.cause.as_str(), "{leak:?}\n{zombie:#}");
        }
        workload.end();
    }
    assert!(daemon.end().is_empty(), "nothing is due");
}

#[test]
fn when_the_holder_of_a_reported_zombie_dies_it_is_listed_with_who_adopted_it() {
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "1s"]);
    let family = Family::start();
    daemon.until("the report", PATIENCE, |seen| {
        let ours = seen.is("zombie") && seen.number("/pid") == u64::from(family.zombie);
        if ours {
            assert_eq!(seen.number("/holder/pid"), u64::from(family.holder), "{seen:?}");
        }
        ours
    });
    family.bereave();
    let listing = Listing::take();
    assert_eq!(listing.source, "daemon", "{}", listing.log);
    let zombie = listing.zombie(family.zombie.into());
    assert_eq!(zombie["holder"]["pid"], family.init, "{zombie:#}");
    assert_eq!(zombie["forker"]["pid"], family.holder, "{zombie:#}");
    assert_eq!(zombie["cause"], "adopted", "{zombie:#}");
    drop(family);
    daemon.end();
}

#[test]
fn of_a_daemon_that_is_stopped_it_does_not_wait_for_ever() {
    let _machine = machine();
    let workload = Workload::start(&["standing", "3"]);
    let holder = workload.wait_for("forked", Duration::from_secs(20))["holder"].clone();
    workload.wait_for("settled", Duration::from_secs(20));
    let daemon = Daemon::run(&["--age", "1h"]);
    signal(daemon.pid(), libc::SIGSTOP);
    let listing = Listing::take();
    signal(daemon.pid(), libc::SIGCONT);
    assert_eq!((listing.source.as_str(), listing.pids_of(&holder).len()), ("census", 3));
    assert!(listing.log.contains("has not answered within 10s"), "{}", listing.log);
    workload.end();
    daemon.end();
}

/// The first process of a pid namespace, which waits for nobody; its child, which does not wait either; and that one's
/// dead child.
struct Family {
    unshare: Child,
    init: u32,
    holder: u32,
    zombie: u32,
}

impl Family {
    fn start() -> Self {
        let script = "/bin/sh -c '/bin/true & exec sleep 1000' & exec sleep 1000";
        let mut command = Command::new(program("unshare"));
        command.args(["--pid", "--fork", "--kill-child", "--", "/bin/sh", "-c", script]);
        let mut family = Self { unshare: command.spawn().unwrap(), init: 0, holder: 0, zombie: 0 };
        family.init = only_child(family.unshare.id());
        family.holder = only_child(family.init);
        family.zombie = only_child(family.holder);
        until("it is dead", || (stat(family.zombie).0 == "Z").then_some(()));
        family
    }

    /// Kills the zombie's holder, and waits until /proc names its new one.
    fn bereave(&self) {
        signal(self.holder, libc::SIGKILL);
        until("it is adopted", || (stat(self.zombie).1 == self.init.to_string()).then_some(()));
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // With unshare dies the namespace.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// The only child of a process with one thread.
fn only_child(pid: u32) -> u32 {
    until("it has a child", || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    })
}

/// State and parent of a process, as /proc/PID/stat has them.
fn stat(pid: u32) -> (String, String) {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let mut fields = text.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned);
    (fields.next().unwrap(), fields.next().unwrap())
}

fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = holds() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
