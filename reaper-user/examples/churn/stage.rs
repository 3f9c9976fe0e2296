//! What the processes of one run share: options, counters, and how they start each other.

use std::{
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    sys::{self, Fork, Pid},
    truth::Truth,
};

/// The healthy lives, by kind; the number is the counter's place.
pub(crate) const LIVES: [&str; 11] = [
    "waited-at-once",
    "ignored-sigchld",
    "no-child-wait",
    "vfork",
    "posix-spawn",
    "exec",
    "exec-from-thread",
    "last-two-threads",
    "clone-parent",
    "orphan",
    "signalled",
];

const STOP: usize = LIVES.len();
const SETTLED: usize = STOP + 1;
const FAILED: usize = STOP + 2;
const LEAKS: usize = STOP + 3;

/// Shared by every process of the run.
pub(crate) struct Stage {
    counters: &'static [AtomicU64],
    /// Where the leaks are written down.
    pub(crate) truth: Truth,
    /// The age from which a zombie is reported.
    pub(crate) threshold: Duration,
    /// How long leaks stand that end by themselves.
    pub(crate) stands: Duration,
    /// Path of this program.
    pub(crate) exe: String,
}

impl Stage {
    /// A new stage.
    pub(crate) fn new(truth: Truth, threshold: Duration, stands: Duration) -> Result<Self> {
        let exe = std::env::current_exe()?.display().to_string();
        Ok(Self { counters: sys::shared_counters(LEAKS + 1)?, truth, threshold, stands, exe })
    }

    /// Counts one healthy life of the kind at this place of [`LIVES`].
    pub(crate) fn lived(&self, kind: usize) {
        self.counters[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// Healthy lives so far, by kind.
    pub(crate) fn lives(&self) -> impl Iterator<Item = (&'static str, u64)> {
        LIVES.iter().zip(self.counters).map(|(kind, counter)| (*kind, counter.load(Ordering::Relaxed)))
    }

    /// Counts the healthy lives anew, from none.
    pub(crate) fn count_anew(&self) {
        for counter in &self.counters[..LIVES.len()] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Counts one leak.
    pub(crate) fn leaked(&self) {
        self.counters[LEAKS].fetch_add(1, Ordering::Relaxed);
    }

    /// Leaks so far.
    pub(crate) fn leaks(&self) -> u64 {
        self.counters[LEAKS].load(Ordering::Relaxed)
    }

    /// Asks every process to make nothing new.
    pub(crate) fn stop(&self) {
        self.counters[STOP].store(1, Ordering::Relaxed);
    }

    /// Whether that was asked.
    pub(crate) fn stopping(&self) -> bool {
        self.counters[STOP].load(Ordering::Relaxed) != 0
    }

    /// How many of the main process's children have nothing left to do.
    pub(crate) fn settled(&self) -> u64 {
        self.counters[SETTLED].load(Ordering::Relaxed)
    }

    /// How many processes gave up; each said why on stderr.
    pub(crate) fn failed(&self) -> u64 {
        self.counters[FAILED].load(Ordering::Relaxed)
    }

    fn fail(&self, name: &str, error: &anyhow::Error) {
        self.counters[FAILED].fetch_add(1, Ordering::Relaxed);
        let _ = writeln!(io::stderr(), "churn: {name}: {error:#}");
    }

    /// Starts a process which lives until its parent dies. It settles when `body` returns.
    pub(crate) fn start(&self, name: &str, body: impl FnOnce(&Self) -> Result<()>) -> io::Result<Pid> {
        self.start_unsettled(name, |stage| {
            body(stage)?;
            stage.counters[SETTLED].fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }

    /// As [`Self::start`], for the processes below the main process's own children.
    pub(crate) fn start_unsettled(
        &self,
        name: &str,
        body: impl FnOnce(&Self) -> Result<()>,
    ) -> io::Result<Pid> {
        child(|| {
            if let Err(error) = sys::die_with_parent().map_err(Into::into).and_then(|()| body(self)) {
                self.fail(name, &error);
            }
            loop {
                thread::park();
            }
        })
    }
}

/// A child that runs `body` and exits with what it returns.
pub(crate) fn child(body: impl FnOnce() -> u8) -> io::Result<Pid> {
    match sys::fork()? {
        Fork::Child => sys::exit_now(body()),
        Fork::Parent(pid) => Ok(pid),
    }
}

/// A pipe between two processes of the run, made before the fork.
pub(crate) struct Wire {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Wire {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { reader, writer })
    }

    /// Lets one [`Self::wait`] return.
    pub(crate) fn open(&self) -> io::Result<()> {
        (&self.writer).write_all(b"\n")
    }

    /// Blocks until the other side opens.
    pub(crate) fn wait(&self) -> io::Result<()> {
        (&self.reader).read_exact(&mut [0])
    }

    /// Sends a pid.
    pub(crate) fn send(&self, pid: Pid) -> io::Result<()> {
        (&self.writer).write_all(&pid.to_ne_bytes())
    }

    /// Receives a pid.
    pub(crate) fn receive(&self) -> io::Result<Pid> {
        let mut bytes = [0; size_of::<Pid>()];
        (&self.reader).read_exact(&mut bytes)?;
        Ok(Pid::from_ne_bytes(bytes))
    }
}

/// How a child ends: varied, so that a mixed-up exit status is seen.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// With this code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

impl End {
    /// That of a kind's `round`-th child.
    pub(crate) fn of(round: u64) -> Self {
        match round % 5 {
            3 => Self::Signal(libc::SIGKILL),
            4 => Self::Signal(libc::SIGTERM),
            _ => Self::Code(Self::code_of(round)),
        }
    }

    /// An exit code for a kind's `round`-th child.
    pub(crate) fn code_of(round: u64) -> u8 {
        u8::try_from(round * 7 % 251).unwrap_or(0)
    }

    /// Ends the calling process.
    pub(crate) fn happen(self) -> ! {
        match self {
            Self::Code(code) => sys::exit_now(code),
            Self::Signal(signal) => sys::die_of(signal),
        }
    }
}

/// A steady beat.
pub(crate) struct Pace {
    next: Instant,
    interval: Duration,
    /// Beats so far.
    pub(crate) round: u64,
}

impl Pace {
    /// One beat each `interval`.
    pub(crate) fn new(interval: Duration) -> Self {
        Self { next: Instant::now(), interval, round: 0 }
    }

    /// Sleeps to the next beat; false when the run ends. Late beats are made up for.
    pub(crate) fn beat(&mut self, stage: &Stage) -> bool {
        while !stage.stopping() {
            let wait = self.next.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                self.next += self.interval;
                self.round += 1;
                return true;
            }
            thread::sleep(wait.min(Duration::from_millis(50)));
        }
        false
    }
}

/// Asks until it is so; an error after ten seconds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        if Instant::now() > deadline {
            bail!("waited 10 s in vain: {what}");
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}
