//! The workload program `churn`, and what it knows about its own dead.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::{Cgroup, churn, leeway};

/// The least that counts as a healthy machine's load, lives a second.
const HEALTHY: f64 = 1_000.0;

/// Kinds of leaks that stand until the workload ends.
const STANDING: [&str; 9] = [
    "never-waited",
    "no-signal",
    "vfork",
    "posix-spawn",
    "exec-from-thread",
    "last-two-threads",
    "forked-by-thread",
    "clone-parent",
    "subreaper",
];

/// A process, as the truth file names one.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: u64,
    pub(crate) start_ticks: u64,
    pub(crate) comm: String,
}

/// A forker, and what it was to the holder when the truth was written.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Forker {
    pub(crate) pid: u64,
    pub(crate) relation: String,
}

/// A child that nobody waited for, as /proc showed it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Leak {
    pub(crate) kind: String,
    pub(crate) pid: u64,
    pub(crate) ns_pid: u64,
    pub(crate) start_ticks: u64,
    pub(crate) comm: String,
    pub(crate) exit: Value,
    pub(crate) holder: Holder,
    pub(crate) forker: Forker,
    pub(crate) cause: String,
    pub(crate) tracer: Option<u64>,
    pub(crate) died_after: u64,
    pub(crate) died_before: u64,
    pub(crate) released_later: bool,
}

#[derive(Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
enum Line {
    Leak(Box<Leak>),
    Released { pid: u64, start_ticks: u64, released_after: u64, released_before: u64 },
    Undecided { pid: u64, start_ticks: u64 },
}

/// All that the workload knows. Processes are named by pid and start in clock ticks.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// Each leaked child.
    pub(crate) leaks: HashMap<(u64, u64), Leak>,
    /// Those that the workload let be released, and between which moments.
    pub(crate) released: HashMap<(u64, u64), (u64, u64)>,
    /// Those about which it claims nothing.
    pub(crate) undecided: HashSet<(u64, u64)>,
}

impl Truth {
    fn read(path: &Path) -> Self {
        let mut truth = Self::default();
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            match serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")) {
                Line::Leak(leak) => {
                    let twice = truth.leaks.insert((leak.pid, leak.start_ticks), *leak);
                    assert!(twice.is_none(), "the workload leaked twice: {twice:?}");
                }
                Line::Released { pid, start_ticks, released_after, released_before } => {
                    truth.released.insert((pid, start_ticks), (released_after, released_before));
                }
                Line::Undecided { pid, start_ticks } => {
                    truth.undecided.insert((pid, start_ticks));
                }
            }
        }
        truth
    }
}

/// A running workload, in a cgroup of its own.
pub(crate) struct Workload {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    directory: TempDir,
    _cgroup: Cgroup,
}

impl Workload {
    /// `churn` with these arguments.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let cgroup = Cgroup::new(format!("reaper-live-{}", std::process::id()));
        Self::start_in(cgroup, &churn(), arguments)
    }

    /// The program at `path`, which is `churn`, in this cgroup. `{truth}` stands for the truth file.
    pub(crate) fn start_in(cgroup: Cgroup, path: &Path, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let truth = directory.path().join("truth");
        let mut child = cgroup
            .command(path)
            .args(
                arguments
                    .iter()
                    .map(|word| if *word == "{truth}" { truth.as_os_str() } else { word.as_ref() }),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = child.stdout.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { input: child.stdin.take(), child, lines, directory, _cgroup: cgroup }
    }

    /// Waits until it says that `event` has come.
    pub(crate) fn wait_for(&self, event: &str, timeout: Duration) -> Value {
        loop {
            let line = self
                .lines
                .recv_timeout(timeout)
                .unwrap_or_else(|error| panic!("the workload does not say {event:?}: {error}"));
            let value: Value = serde_json::from_str(&line).unwrap();
            if value["event"] == event {
                assert_eq!(
                    value["failed"].as_u64().unwrap_or(0),
                    0,
                    "the workload failed, see above: {value}"
                );
                return value;
            }
        }
    }

    /// What it knows by now.
    pub(crate) fn truth(&self) -> Truth {
        Truth::read(&self.directory.path().join("truth"))
    }

    /// About 1,100 healthy lives and 30 leaks a second until it is told to settle. What it leaks stands until its end.
    pub(crate) fn leaking() -> Self {
        let mut arguments = vec!["load", "--rate", "1200", "--workers", "6", "--leaks", "50"];
        arguments.extend(["--seconds", "86400", "--truth", "{truth}"]);
        arguments.extend(STANDING.iter().flat_map(|kind| ["--only", kind]));
        Self::start(&arguments)
    }

    /// `zombies` children of one holder, all of them dead.
    pub(crate) fn standing(zombies: usize) -> Self {
        let workload = Self::start(&["standing", &zombies.to_string(), "--truth", "{truth}"]);
        workload.wait_for("settled", Duration::from_secs(60));
        workload
    }

    /// Lets it make nothing new. What it says of the lives it led, and all that it knows.
    pub(crate) fn settle(&mut self) -> (Value, Truth) {
        self.input.as_mut().unwrap().write_all(b"settle\n").unwrap();
        let settled = self.wait_for("settled", Duration::from_secs(60));
        (settled, self.truth())
    }

    /// As [`Self::settle`]. Panics where there was not the load of a healthy machine: then nothing was put to the test.
    pub(crate) fn settle_from_load(&mut self) -> Truth {
        let (settled, truth) = self.settle();
        let rate = settled["rate"].as_f64().unwrap();
        println!("{rate:.0} lives a second, {} leaks", truth.leaks.len());
        assert!(rate >= HEALTHY / f64::from(leeway()), "{rate} lives a second only: {settled}");
        truth
    }

    /// Healthy lives until it is ended: about 1,100 a second, of which every kind has been led.
    pub(crate) fn healthy() -> Self {
        let workload = Self::start(&["idle", "--rate", "1100"]);
        workload.wait_for("warm", Duration::from_secs(30));
        workload
    }

    /// Ends the healthy lives. Panics where there were not a thousand a second: then nothing was put to the test.
    pub(crate) fn end_healthy(mut self) {
        drop(self.input.take());
        let settled = self.wait_for("settled", Duration::from_secs(30));
        self.end();
        let rate = settled["rate"].as_f64().unwrap();
        println!("{rate:.0} lives a second");
        assert!(rate >= HEALTHY / f64::from(leeway()), "{rate} lives a second only: {settled}");
    }

    /// Lets it end all of its processes, and waits for that.
    pub(crate) fn end(mut self) {
        drop(self.input.take());
        self.wait_for("finished", Duration::from_secs(30));
        assert!(self.child.wait().unwrap().success(), "the workload failed, see above");
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let Self { child, input, lines: _, directory: _, _cgroup: _ } = self;
        drop(input.take());
        let _ = child.kill();
        let _ = child.wait();
    }
}
