//! The example `holder` as a child process, and what /proc says about its children.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{PATIENCE, daemon::Key};

/// A child that was not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leak {
    pub(crate) pid: u32,
    pub(crate) code: u32,
}

/// A running holder. With it end its leaks.
pub(crate) struct Holder {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    pub(crate) fn start() -> Self {
        let mut child = Command::new("holder")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example `holder` starts");
        let commands = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, commands, answers }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A child that exits with `code` and is not waited for.
    pub(crate) fn leak(&mut self, code: u32) -> Leak {
        self.send(&format!("leak {code}"));
        leaked(&self.answer("leaked "))
    }

    /// Short lives one after the other, and those of them that were leaked.
    pub(crate) fn churn(&mut self, lives: u32, leaks: u32) -> Vec<Leak> {
        self.send(&format!("churn {lives} {leaks}"));
        self.leaks()
    }

    /// As above, with `lives` in a row on each of `pids` pids, of which the last is leaked.
    pub(crate) fn succeed(&mut self, pids: u32, lives: u32) -> Vec<Leak> {
        self.send(&format!("succeed {pids} {lives}"));
        self.leaks()
    }

    /// A wait call of every shape; how many.
    pub(crate) fn waits(&mut self) -> u32 {
        self.send("waits 1");
        self.answer("waited ").parse().expect("a number")
    }

    /// Waits for a leak at last.
    pub(crate) fn reap(&mut self, Leak { pid, code }: Leak) {
        self.send(&format!("reap {pid}"));
        assert_eq!(self.answer("reaped "), format!("{pid} {code}"));
    }

    /// Waits until a leak is dead; which process that is by /proc.
    pub(crate) fn key_of(&self, Leak { pid, .. }: Leak) -> Key {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let path = format!("/proc/{pid}/stat");
            let stat = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            // Behind the name, which is in parentheses: state, parent, …, and the start as the 20th.
            let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
            assert_eq!(fields[1], self.pid().to_string(), "{stat}");
            if fields[0] == "Z" {
                return (pid, fields[19].parse().expect("ticks"));
            }
            assert!(Instant::now() < deadline, "{pid} does not die: {stat}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn leaks(&mut self) -> Vec<Leak> {
        let mut leaks = Vec::new();
        loop {
            match self.line() {
                line if line == "done" => return leaks,
                line => leaks.push(leaked(line.strip_prefix("leaked ").unwrap_or(&line))),
            }
        }
    }

    fn send(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the holder reads");
    }

    fn answer(&mut self, beginning: &str) -> String {
        let line = self.line();
        line.strip_prefix(beginning).unwrap_or_else(|| panic!("{beginning}: {line}")).to_owned()
    }

    fn line(&mut self) -> String {
        self.answers.next().expect("the holder runs").expect("text")
    }
}

fn leaked(answer: &str) -> Leak {
    let (pid, code) = answer.split_once(' ').expect("pid and code");
    Leak { pid: pid.parse().expect("a pid"), code: code.parse().expect("a code") }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
