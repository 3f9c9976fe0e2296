//! The binary under test: started, awaited, read with deadlines, and ended.

use std::{
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{assert_valid, boot_now, reaper, signal};

/// How long the daemon may take to load, attach and take its census.
const READY: Duration = Duration::from_secs(30);

/// How long it may take to end.
const END: Duration = Duration::from_secs(15);

/// An event, and when its line came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// On the boot clock, ns, as the reader of the pipe saw it.
    pub(crate) at: u64,
    /// The event, valid by the schema.
    pub(crate) event: Value,
}

impl Seen {
    /// Whether it is this kind of event.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.event["event"] == kind
    }

    /// A number in it.
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        self.event
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no {pointer} in {self:?}"))
    }

    /// A text in it; empty where there is none.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.event.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The process it is about: pid, and start in clock ticks, as /proc/PID/stat has them.
    pub(crate) fn process(&self) -> (u64, u64) {
        // Both the kernel and we round down; a tick is 10 ms on every architecture that is supported.
        (self.number("/pid"), self.number("/start_time") / 10_000_000)
    }

    /// Whether it is about a process of this test's workload, by any of the marks it has. Others may run one, too.
    pub(crate) fn is_of_workload(&self) -> bool {
        let names = ["/comm", "/holder/comm", "/forker/comm"];
        let cgroup = self.text("/workload/cgroup");
        let orphan = self.event.pointer("/holder/pid").is_none_or(|holder| holder == 1);
        cgroup.ends_with(&format!("reaper-live-{}", std::process::id()))
            || !orphan
                && !cgroup.contains("reaper-live-")
                && names.iter().any(|name| self.text(name) == "churn")
    }
}

/// A running daemon that writes JSON.
pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<(u64, Vec<u8>)>,
    watching: Receiver<()>,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    seen: Vec<Seen>,
}

/// What a daemon left.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// All events.
    pub(crate) seen: Vec<Seen>,
    /// All of standard error.
    pub(crate) log: String,
}

impl Daemon {
    /// `reaper trace` with these arguments, ready.
    pub(crate) fn trace(arguments: &[&str]) -> Self {
        Self::spawn(reaper_to("trace").args(arguments), Stdio::piped()).ready()
    }

    /// `reaper run` with these arguments, ready. It leaves nothing behind.
    pub(crate) fn run(arguments: &[&str]) -> Self {
        Self::run_into(Stdio::piped(), arguments)
    }

    /// As [`Self::run`], with another standard output: its events are not seen here.
    pub(crate) fn run_into(output: impl Into<Stdio>, arguments: &[&str]) -> Self {
        Self::spawn(reaper_to("run").arg("--no-persist").args(arguments), output).ready()
    }

    /// As [`Self::run`], with all that `arrange` says to the command.
    pub(crate) fn run_as(arrange: impl FnOnce(&mut Command)) -> Self {
        let mut command = reaper_to("run");
        arrange(command.arg("--no-persist"));
        Self::spawn(&mut command, Stdio::piped()).ready()
    }

    /// As [`Self::run`], started by `starter`, which becomes the command that is behind it.
    pub(crate) fn run_by(mut starter: Command, arguments: &[&str]) -> Self {
        starter.arg(reaper()).args(["run", "--output", "json", "--no-persist"]).args(arguments);
        Self::spawn(&mut starter, Stdio::piped()).ready()
    }

    /// `reaper run` with its state pinned under `pins`, ready.
    pub(crate) fn run_pinned(pins: &Path, arguments: &[&str]) -> Self {
        Self::spawn_pinned(pins, arguments).ready()
    }

    /// As [`Self::run_pinned`], but only begun.
    pub(crate) fn spawn_pinned(pins: &Path, arguments: &[&str]) -> Self {
        Self::spawn(reaper_to("run").arg("--pin-path").arg(pins).args(arguments), Stdio::piped())
    }

    fn spawn(command: &mut Command, output: impl Into<Stdio>) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(output).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let (ready, watching) = mpsc::channel();
        let log = Arc::new(Mutex::new(String::new()));
        let complaints = child.stderr.take().unwrap();
        let kept = Arc::clone(&log);
        let mut readers = vec![thread::spawn(move || {
            each_line(complaints, |line| {
                let line = String::from_utf8_lossy(&line);
                if line.contains("watching") {
                    let _ = ready.send(());
                }
                let mut log = kept.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            });
        })];
        let pass_on = move |line| drop(sender.send((boot_now(), line)));
        readers.extend(child.stdout.take().map(|output| thread::spawn(move || each_line(output, pass_on))));
        Self { child, lines, watching, log, readers, seen: Vec::new() }
    }

    /// Waits until it watches.
    pub(crate) fn ready(mut self) -> Self {
        if self.watching.recv_timeout(READY).is_err() {
            let status = self.child.try_wait();
            panic!("the daemon is not ready ({status:?}):\n{}", self.log());
        }
        self
    }

    /// What it has said on standard error.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Hands every event, past ones first, to `done` until that says so; panics after `timeout`.
    pub(crate) fn until(&mut self, what: &str, timeout: Duration, done: impl FnMut(&Seen) -> bool) {
        assert!(
            self.came(timeout, done),
            "waited {timeout:?} in vain: {what}; {} events, log:\n{}",
            self.seen.len(),
            self.log()
        );
    }

    /// As [`Self::until`]; false after `timeout`, for a test that says better itself what is missing.
    pub(crate) fn came(&mut self, timeout: Duration, mut done: impl FnMut(&Seen) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        if self.seen.iter().any(&mut done) {
            return true;
        }
        while let Some(seen) = self.next(deadline) {
            let enough = done(&seen);
            self.seen.push(seen);
            if enough {
                return true;
            }
        }
        false
    }

    /// Takes in what comes within `span`: for facts that are about a span of time, not to wait for one.
    pub(crate) fn during(&mut self, span: Duration) -> &[Seen] {
        let (first, deadline) = (self.seen.len(), Instant::now() + span);
        while let Some(seen) = self.next(deadline) {
            self.seen.push(seen);
        }
        &self.seen[first..]
    }

    fn next(&self, deadline: Instant) -> Option<Seen> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((at, line)) => Some(Seen { at, event: assert_valid(&line) }),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                panic!("the daemon has ended:\n{}", self.log())
            }
        }
    }

    /// Ends it with a signal and returns all that it wrote.
    pub(crate) fn end_with(mut self, number: i32) -> Ended {
        signal(self.pid(), number);
        let deadline = Instant::now() + END;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        };
        let mut seen = std::mem::take(&mut self.seen);
        // The channel ends with the pipe.
        seen.extend(self.lines.iter().map(|(at, line)| Seen { at, event: assert_valid(&line) }));
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let log = self.log.lock().unwrap().clone();
        assert!(!log.contains("panicked"), "{log}");
        Ended { code: status.code(), seen, log }
    }

    /// Ctrl-C, which must end it well.
    pub(crate) fn end(self) -> Vec<Seen> {
        let Ended { code, seen, log } = self.end_with(libc::SIGINT);
        assert_eq!(code, Some(0), "{log}");
        seen
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reaper_to(command: &str) -> Command {
    let mut reaper = Command::new(reaper());
    reaper.args([command, "--output", "json"]);
    reaper
}

/// Whole lines only: one that is killed may leave a part of one.
pub(crate) fn each_line(input: impl Read, mut take: impl FnMut(Vec<u8>)) {
    let (mut input, mut line) = (BufReader::new(input), Vec::new());
    while input.read_until(b'\n', &mut line).is_ok() && line.pop() == Some(b'\n') {
        take(std::mem::take(&mut line));
    }
}

/// Runs a command that must end by itself; panics where it does not within half a minute.
pub(crate) fn run_briefly(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drop(sender.send(child.wait_with_output())));
    receiver.recv_timeout(READY).map_or_else(
        |_| {
            signal(pid, libc::SIGKILL);
            panic!("{command:?} does not end by itself")
        },
        Result::unwrap,
    )
}

/// It refused with this code, on standard error, naming all `parts`.
pub(crate) fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    assert!(output.stdout.is_empty(), "{output:?}");
}
