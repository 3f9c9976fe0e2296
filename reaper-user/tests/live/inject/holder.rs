//! The holder that checks itself, and what it says of its rounds.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{done::Done, programs};
use crate::support::program;

/// How long anything may take that is only a matter of being scheduled.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Which of its threads rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thread {
    /// The only one.
    Main,
    /// Another one, while the main one waits for it to end.
    Beside,
    /// Another one, while the main one cannot be stopped.
    Other,
    /// The same, with a stack of 16 KiB.
    Small,
    /// Another one, the main one having ended.
    Alone,
}

impl Thread {
    /// The holder's word for it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Beside => "beside",
            Self::Other => "other",
            Self::Small => "small",
            Self::Alone => "alone",
        }
    }
}

/// A zombie of the holder's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zombie {
    /// The pid as it is seen here.
    pub(super) pid: u32,
    /// The pid as the holder sees it.
    pub(super) ns_pid: u32,
}

/// Addresses in its code.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code {
    /// Behind the instruction that makes the call.
    pub(super) behind: u64,
    /// The restartable section.
    pub(super) section: (u64, u64),
}

/// A running holder; it and all that it has made end when this is dropped.
pub(super) struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    zombies: Receiver<String>,
    _directory: TempDir,
    /// Signals that were sent to it.
    pub(super) sent: usize,
    /// Its pid, and the id of the thread that rests, as they are seen here.
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) code: Code,
    /// The parts of the extended state that it checks.
    pub(super) components: String,
}

impl Holder {
    /// One whose thread rests as `thread` says.
    pub(super) fn start(thread: Thread, options: &[&str]) -> Self {
        Self::spawn(Command::new(programs::holder()), thread, options)
    }

    /// The first process of other pid, mount, user and ipc namespaces.
    pub(super) fn start_apart(options: &[&str]) -> Self {
        let mut unshare = Command::new(program("unshare"));
        unshare
            .args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount", "--ipc"])
            .arg(programs::holder());
        Self::spawn(unshare, Thread::Main, options)
    }

    fn spawn(mut command: Command, thread: Thread, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = command
            .arg(directory.path())
            .arg(thread.as_str())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to_lines, lines) = mpsc::channel();
        let (to_zombies, zombies) = mpsc::channel();
        let output = child.stdout.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let to = if line.starts_with("zombies") { &to_zombies } else { &to_lines };
                let _ = to.send(line);
            }
        });
        let (pid, code) = (child.id(), Code { behind: 0, section: (0, 0) });
        let input = child.stdin.take();
        let mut this = Self {
            child,
            input,
            lines,
            zombies,
            _directory: directory,
            sent: 0,
            pid,
            tid: pid,
            code,
            components: String::new(),
        };
        this.introduce(thread);
        this
    }

    fn introduce(&mut self, thread: Thread) {
        let line =
            self.line(PATIENCE).unwrap_or_else(|| panic!("the holder is not ready: {}", self.status()));
        let words: Vec<&str> = line.split(' ').collect();
        let ["ready", pid, tid, _, named @ ..] = words.as_slice() else { panic!("{line}") };
        let field = |name: &str| {
            let found = named.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("{line}"))
        };
        let address = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let span = |text: &str| text.split_once('-').map(|(from, to)| (address(from), address(to))).unwrap();
        self.code = Code { behind: address(field("return")), section: span(field("section")) };
        field("components").clone_into(&mut self.components);
        let (own, tid): (u32, u32) = (pid.parse().unwrap(), tid.parse().unwrap());
        if own == self.pid {
            self.tid = tid;
        } else {
            // Its only thread, one namespace further in.
            self.pid = *children(self.pid).first().unwrap();
            self.tid = self.pid;
        }
        if matches!(thread, Thread::Other | Thread::Small) {
            self.until("its main thread is in a vfork", |this| this.state(this.pid) == Some('D'));
        }
        if thread == Thread::Alone {
            self.until("its main thread has ended", |this| this.state(this.pid) == Some('Z'));
        }
    }

    /// Gives an order.
    pub(super) fn order(&mut self, order: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{order}\n").as_bytes()).unwrap();
    }

    /// The next line that is not about zombies.
    pub(super) fn line(&mut self, timeout: Duration) -> Option<String> {
        let line = self.lines.recv_timeout(timeout).ok()?;
        assert!(!line.starts_with("failed"), "the holder: {line}");
        Some(line)
    }

    /// Gives an order and waits for the answer.
    pub(super) fn ask(&mut self, order: &str, answer: &str) -> String {
        self.order(order);
        let line = self.line(PATIENCE).unwrap_or_else(|| panic!("no answer to {order:?}: {}", self.status()));
        line.strip_prefix(answer).unwrap_or_else(|| panic!("{order:?} is answered by {line:?}")).to_owned()
    }

    /// Waits for what becomes of the round that is on; `None` where it is not over in time.
    pub(super) fn done(&mut self, timeout: Duration) -> Option<Done> {
        self.line(timeout).map(|line| Done::parse(&line))
    }

    /// Lets so many orphans die.
    pub(super) fn pile(&mut self, number: usize) -> Vec<Zombie> {
        self.order(&format!("pile {number}"));
        let line =
            self.zombies.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no zombies: {}", self.status()));
        let mut expected: Vec<u32> =
            line.split(' ').skip(1).map(|word| word.split_once(':').unwrap().0.parse().unwrap()).collect();
        assert_eq!(expected.len(), number, "{line}");
        expected.sort_unstable();
        let deadline = Instant::now() + PATIENCE;
        let apart = self.pid != self.child.id();
        loop {
            let zombies: Vec<Zombie> = if apart {
                let held = tasks(self.pid).into_iter().flat_map(|tid| children_of(self.pid, tid));
                held.filter_map(|pid| Some(Zombie { pid, ns_pid: ns_pid(pid)? })).collect()
            } else {
                expected.iter().map(|pid| Zombie { pid: *pid, ns_pid: *pid }).collect()
            };
            let zombies: Vec<_> = zombies
                .into_iter()
                .filter(|zombie| expected.binary_search(&zombie.ns_pid).is_ok())
                .filter(|zombie| stat(zombie.pid).is_some_and(|stat| stat == ('Z', self.pid)))
                .collect();
            if zombies.len() == number {
                return zombies;
            }
            assert!(Instant::now() < deadline, "not all of {expected:?} are zombies: {}", self.status());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many of these stand.
    pub(super) fn standing(&self, zombies: &[Zombie]) -> usize {
        zombies.iter().filter(|zombie| stat(zombie.pid) == Some(('Z', self.pid))).count()
    }

    /// Waits until the thread is blocked in the call of its round.
    pub(super) fn until_in_call(&self) {
        self.until("the thread is in its call", |this| this.is_in_call());
    }

    /// Whether the thread is blocked in the call of its round.
    pub(super) fn is_in_call(&self) -> bool {
        let call = fs::read_to_string(format!("/proc/{}/task/{}/syscall", self.pid, self.tid));
        let address =
            call.as_deref().unwrap_or_default().trim_end().rsplit_once(" 0x").map(|(_, address)| address);
        address.and_then(|address| u64::from_str_radix(address, 16).ok()) == Some(self.code.behind)
    }

    /// The kernel's letter for the state of one of its threads.
    pub(super) fn state(&self, tid: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/task/{tid}/stat", self.pid)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Ticks that its thread has spent in its own code.
    pub(super) fn ran(&self) -> u64 {
        let stat =
            fs::read_to_string(format!("/proc/{}/task/{}/stat", self.pid, self.tid)).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        // The 14th of all: the state is the third.
        fields.split(' ').nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
    }

    /// Waits for a fact about it.
    pub(super) fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "waited in vain: {what}; {}", self.status());
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Whether it runs still.
    pub(super) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end: how it ended.
    pub(super) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "does not end: {}", self.status());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What it is at, for messages.
    pub(super) fn status(&self) -> String {
        let read = |name: &str| fs::read_to_string(format!("/proc/{}/task/{}/{name}", self.pid, self.tid));
        let (stat, call) = (read("stat").unwrap_or_default(), read("syscall").unwrap_or_default());
        format!("pid {} stat {} call {}", self.pid, stat.trim_end(), call.trim_end())
    }

    /// How many signals it has handled. All that were sent before have been, then.
    pub(super) fn signals(&mut self) -> usize {
        self.ask("signals", "signals ").parse().unwrap()
    }

    /// Lets it wait for its own children and end: what was wrong with them, and how many rounds it has had.
    pub(super) fn settle(mut self) -> (u32, Vec<String>) {
        let said = self.ask("settle", "settled ");
        let mut words = said.split_whitespace();
        let rounds = words.next().unwrap().parse().unwrap();
        let status = self.ended();
        let mut wrong: Vec<_> = words.map(str::to_owned).collect();
        if !status.success() {
            wrong.push(format!("ended with {status}"));
        }
        (rounds, wrong)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The companion ends with its input, after what it has to clear up.
        drop(self.input.take());
        if self.lives() {
            crate::support::signal(self.pid, libc::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether somebody traces a thread.
pub(super) fn is_traced(pid: u32, tid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}

/// State and parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn tasks(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn children_of(pid: u32, tid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn children(pid: u32) -> Vec<u32> {
    children_of(pid, pid)
}

/// The pid of a process in its own namespace.
fn ns_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next_back()?.parse().ok()
}
