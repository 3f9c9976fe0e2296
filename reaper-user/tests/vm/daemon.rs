//! `reaper trace --output json` as a child process, and its events.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PATIENCE;

/// A process, for ever: its pid and its start in clock ticks since boot, as /proc/PID/stat has it.
pub(crate) type Key = (u32, u64);

/// A running daemon. It is killed where a test ends early.
pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<Value>,
    seen: Vec<Value>,
    /// What it may lose in this test.
    may_lose: Vec<&'static str>,
}

impl Daemon {
    /// Starts it and waits until it watches.
    pub(crate) fn start(age: &str) -> Self {
        Self::start_as(&["trace", "--age", age, "--output", "json"])
    }

    /// Starts reaper with these arguments and waits until it watches.
    pub(crate) fn start_as(arguments: &[&str]) -> Self {
        let mut child = Command::new("reaper")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("reaper starts");
        let (watching, ready) = mpsc::channel();
        let errors = BufReader::new(child.stderr.take().expect("a pipe"));
        thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                eprintln!("reaper: {line}");
                if line.contains("watching") {
                    let _ = watching.send(());
                }
            }
        });
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        // The kernel skips a program that is running already; an emulated machine may be slow.
        let may_lose = vec!["program-skipped", "refusal-skipped", "hook-missed", "free-missed", "sweep-late"];
        let daemon = Self { child, lines, seen: Vec::new(), may_lose };
        ready.recv_timeout(PATIENCE).expect("reaper says that it is watching");
        daemon
    }

    /// In this test it may lose this as well.
    pub(crate) fn may_lose(mut self, what: &'static str) -> Self {
        self.may_lose.push(what);
        self
    }

    /// Waits until `enough` of what was seen since the start.
    pub(crate) fn wait_until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        if let Err(why) = self.comes(enough, PATIENCE) {
            panic!("{what}: {why}; seen:\n{}", self.text());
        }
    }

    /// Whether `enough` of that is seen within two seconds.
    pub(crate) fn comes_soon(&mut self, enough: impl Fn(&Self) -> bool) -> bool {
        self.comes(enough, Duration::from_secs(2)).is_ok()
    }

    /// As `wait_until`, for all of `wanted`: what is missing is named.
    pub(crate) fn wait_for_all(&mut self, kind: &str, wanted: &BTreeMap<Key, Value>) {
        let missing = |daemon: &Self| {
            let seen = daemon.by_process(kind);
            wanted
                .iter()
                .filter(|(key, _)| !seen.contains_key(key))
                .map(|(_, what)| what.to_string())
                .collect()
        };
        if let Err(why) = self.comes(|daemon| Vec::is_empty(&missing(daemon)), PATIENCE) {
            panic!("{kind}: {why} of\n{}\nseen:\n{}", missing(self).join("\n"), self.text());
        }
    }

    fn comes(&mut self, enough: impl Fn(&Self) -> bool, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        while !enough(self) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Timeout) => return Err(format!("not seen in {patience:?}")),
                Err(RecvTimeoutError::Disconnected) => return Err("reaper ended".to_owned()),
            }
        }
        Ok(())
    }

    /// As `wait_until`, but for as long as `while_waiting` takes: it is called again and again.
    pub(crate) fn wait_for_zombie(&mut self, pid: u32, mut while_waiting: impl FnMut()) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.events("zombie").find(|event| event["pid"] == pid) {
                return event.clone();
            }
            assert!(
                Instant::now() < deadline,
                "zombie {pid}: not reported in {PATIENCE:?}; seen:\n{}",
                self.text()
            );
            while_waiting();
            if let Ok(event) = self.lines.recv_timeout(Duration::from_millis(50)) {
                self.seen.push(event);
            }
        }
    }

    /// The events of one kind so far, by process. Two for the same process are a failure.
    pub(crate) fn by_process(&self, kind: &str) -> BTreeMap<Key, &Value> {
        let mut found = BTreeMap::new();
        for event in self.events(kind) {
            let number = |field: &str| event[field].as_u64().unwrap_or_else(|| panic!("{field}: {event}"));
            let pid = u32::try_from(number("pid")).expect("a pid");
            // Nanoseconds to ticks of 10 ms.
            let before = found.insert((pid, number("start_time") / 10_000_000), event);
            assert_eq!(before, None, "reported twice: {event}");
        }
        found
    }

    /// Those of one kind so far.
    pub(crate) fn events(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.seen.iter().filter(move |event| event["event"] == kind)
    }

    /// Ends it as Ctrl-C does, and takes what it still has to say.
    pub(crate) fn stop(mut self) -> Self {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        #[expect(unsafe_code, reason = "std sends no signal but SIGKILL")]
        // SAFETY: no memory is involved, and the child has not been waited for.
        let sent = unsafe { libc::kill(pid, libc::SIGINT) };
        assert_eq!(sent, 0);
        let deadline = Instant::now() + PATIENCE;
        while let Ok(event) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.seen.push(event);
        }
        let status = self.child.wait().expect("reaper is our child");
        assert_eq!(status.code(), Some(0), "Ctrl-C is a normal end");
        // What the kernel skips is not ours, but it says how much that was, and no more can come of it.
        let skipped = self.lost("program-skipped");
        for what in ["hook-missed", "free-missed"] {
            assert!(self.lost(what) <= skipped, "{what}, {skipped} skipped; seen:\n{}", self.text());
        }
        let is_expected = |event: &&Value| self.may_lose.iter().any(|what| event["what"] == *what);
        let lost: Vec<&Value> = self.events("lost").filter(|event| !is_expected(event)).collect();
        assert!(lost.is_empty(), "{lost:?}");
        self
    }

    /// How much of one kind was lost.
    pub(crate) fn lost(&self, what: &str) -> u64 {
        let lost = self.events("lost").filter(|event| event["what"] == what);
        lost.map(|event| event["count"].as_u64().unwrap_or_else(|| panic!("count: {event}"))).sum()
    }

    /// Stops it where it is.
    pub(crate) fn stand_still(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).expect("it runs");
    }

    /// Ends it as the kernel does where memory is short.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("reaper is our child");
    }

    fn text(&self) -> String {
        self.seen.iter().map(|event| format!("{event}\n")).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail where it was stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
