//! The example `holder` as a child process, and what /proc says about its children.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::Path,
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

/// What a holder rests in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Nanosleep,
    Poll,
    Read,
}

impl Call {
    pub(crate) const ALL: [Self; 3] = [Self::Nanosleep, Self::Poll, Self::Read];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Nanosleep => "nanosleep",
            Self::Poll => "poll",
            Self::Read => "read",
        }
    }

    const fn number(self) -> libc::c_long {
        match self {
            Self::Nanosleep => libc::SYS_nanosleep,
            #[cfg(target_arch = "x86_64")]
            Self::Poll => libc::SYS_poll,
            #[cfg(not(target_arch = "x86_64"))]
            Self::Poll => libc::SYS_ppoll,
            Self::Read => libc::SYS_read,
        }
    }
}

/// How a holder's rest went, by what it saw itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rested {
    /// What the call returned: a negated error number, or what it has read.
    pub(crate) returned: i64,
    pub(crate) elapsed: Duration,
    /// How often the call ended with EINTR.
    pub(crate) interruptions: i64,
    /// What the kernel said was left of a nanosleep at its last interruption; all of it where there was none.
    pub(crate) left: Duration,
}

/// A running holder. With it end its leaks.
pub(crate) struct Holder {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    pub(crate) fn start() -> Self {
        Self::start_as(Path::new("holder"))
    }

    /// By the program at this place, which is a copy of it.
    pub(crate) fn start_as(program: &Path) -> Self {
        let mut child = Command::new(program)
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

    /// Switches the matrix register on; whether the processor has one.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn matrix_on(&mut self) -> bool {
        self.send("matrix");
        self.answer("matrix ") == "on"
    }

    /// Waits for a leak at last.
    pub(crate) fn reap(&mut self, Leak { pid, code }: Leak) {
        self.send(&format!("reap {pid}"));
        assert_eq!(self.answer("reaped "), format!("{pid} {code}"));
    }

    /// Lets it rest in a call until it has waited so long, or is told to end; and waits until it does.
    pub(crate) fn rest(&mut self, call: Call, long: Duration) {
        self.send(&format!("rest {} {}", call.as_str(), long.as_millis()));
        self.wait_until_in(call);
    }

    /// Waits until it rests in this call.
    pub(crate) fn wait_until_in(&self, call: Call) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_in(call) {
            assert!(Instant::now() < deadline, "{} is not in {call:?}: {}", self.pid(), self.status());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it rests in this call, as /proc says.
    pub(crate) fn is_in(&self, call: Call) -> bool {
        let text = fs::read_to_string(format!("/proc/{}/syscall", self.pid())).unwrap_or_default();
        let number = text.split(' ').next().and_then(|number| number.parse().ok());
        // A call with a timeout of its own goes on as another one when it was interrupted.
        number == Some(call.number()) || call != Call::Read && number == Some(libc::SYS_restart_syscall)
    }

    /// Ends its rest, where that has not ended by itself, and returns how it went.
    pub(crate) fn wake(&mut self, call: Call) -> Rested {
        match call {
            Call::Read => self.send(""),
            Call::Nanosleep | Call::Poll => self.signal(),
        }
        self.rested()
    }

    /// Sends it the signal that ends a rest.
    pub(crate) fn signal(&self) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        #[expect(unsafe_code, reason = "std sends no signal but SIGKILL")]
        // SAFETY: no memory is involved, and the child has not been waited for.
        let sent = unsafe { libc::kill(pid, libc::SIGUSR1) };
        assert_eq!(sent, 0);
    }

    /// Waits until its rest ends by itself.
    pub(crate) fn rested(&mut self) -> Rested {
        let answer = self.answer("rested ");
        let numbers: Vec<i64> = answer.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [returned, elapsed, interruptions, left] = numbers[..] else { panic!("{answer}") };
        let time = |micros: i64| Duration::from_micros(micros.try_into().expect("no time is negative"));
        Rested { returned, elapsed: time(elapsed), interruptions, left: time(left) }
    }

    /// What the kernel says of it, for messages.
    pub(crate) fn status(&self) -> String {
        fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default()
    }

    /// How many of these leaks are its zombies, as /proc says.
    pub(crate) fn standing(&self, leaks: &[Leak]) -> usize {
        let own = format!("Z {}", self.pid());
        let stands = |Leak { pid, .. }: &&Leak| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(&format!("{own} ")))
        };
        leaks.iter().filter(stands).count()
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
