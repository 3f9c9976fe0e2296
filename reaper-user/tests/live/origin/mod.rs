//! Where zombies come from, on real programs: leak sites and their counts, what is made of them, and explanations, against what
//! the programs themselves say that they did.

mod adopted;
#[path = "../../native/build.rs"]
#[expect(dead_code, reason = "shared with the tests that stop programs at their forks")]
mod build;
mod explain;
mod file_systems;
mod late;
mod lineage;
mod native;
mod privilege;
mod python;
mod pythons;
mod sites;
mod started;
mod workers;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::support::{Daemon, assert_valid, fixture, reaper, run_briefly};

/// A program that leaks; it is killed when this is dropped.
pub(super) struct Leaker {
    child: Child,
    /// Each child that it leaked, with the line.
    pub(super) leaked: Vec<(u64, u64)>,
}

impl Leaker {
    /// See `leaker.py`. Returns when all of its children are dead.
    pub(super) fn start(arguments: &[&str]) -> Self {
        let python = Path::new("/usr/bin/python3");
        assert!(python.exists(), "{} is missing: `cargo xtask setup` installs it", python.display());
        let mut child = Command::new(python)
            .args(["-I", "-S"])
            .arg(fixture("origin/leaker.py"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let leaked = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, leaked }
    }

    pub(super) fn pid(&self) -> u64 {
        self.child.id().into()
    }

    /// How many it leaked at each line.
    pub(super) fn by_line(&self) -> BTreeMap<u64, u64> {
        let mut lines = BTreeMap::new();
        for (_, line) in &self.leaked {
            *lines.entry(*line).or_default() += 1;
        }
        lines
    }
}

impl Drop for Leaker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon that has reported all that a program leaked. The daemon runs before the program does.
pub(super) fn reported(more: &[&str], arguments: &[&str]) -> (Daemon, Leaker) {
    reported_by(Daemon::run(&[&["--age", "400ms"], more].concat()), arguments)
}

/// The same with one that runs already.
pub(super) fn reported_by(mut daemon: Daemon, arguments: &[&str]) -> (Daemon, Leaker) {
    let leaker = Leaker::start(arguments);
    let mut left: HashSet<u64> = leaker.leaked.iter().map(|(pid, _)| *pid).collect();
    daemon.until("all are reported", Duration::from_secs(120), |seen| {
        if seen.is("zombie") && seen.number("/holder/pid") == leaker.pid() {
            left.remove(&seen.number("/pid"));
        }
        left.is_empty()
    });
    (daemon, leaker)
}

/// Resident memory of a process, KiB.
pub(super) fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// `reaper` with these arguments, which must succeed.
pub(super) fn run(arguments: &[&str]) -> Output {
    let output = run_briefly(Command::new(reaper()).args(arguments));
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

/// What it writes as JSON, each line valid.
pub(super) fn events(output: &Output) -> Vec<Value> {
    output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(assert_valid).collect()
}

/// The head of `reaper leaks`, and the sites of one forker.
pub(super) fn leaks(forker: u64) -> (Value, Vec<Value>) {
    let mut events = events(&run(&["leaks", "--output", "json"]));
    let head = events.remove(0);
    assert_eq!((&head["event"], &head["sites"]), (&"leaks".into(), &events.len().into()), "{head:#}");
    events.retain(|site| site["origin"]["chain"][0]["pid"] == forker);
    (head, events)
}

/// The line of the frame to look at.
pub(super) fn line(origin: &Value) -> Option<u64> {
    let place = usize::try_from(origin["stack"]["place"].as_u64()?).unwrap();
    origin["stack"]["frames"][place]["line"].as_u64()
}

/// How many may say that not all could be read: the kernel may just be moving a page of the process, and nobody can read it until
/// it has.
pub(super) fn rare(count: usize) -> usize {
    (count / 25).max(1)
}
