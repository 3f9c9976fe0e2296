//! Signals: those that end the view as q does, and those of a shell that stops it and has it go on.

use std::{fs, io};

use rustix::process::{
    self, Pid, Signal as Number, getpid, getppid, kill_current_process_group, kill_process,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Come {
    /// It shall end.
    End,
    /// It shall stop, and has given the terminal back before.
    Stop,
    /// It goes on, after it was stopped without being asked.
    GoOn,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Signals {
    ends: [Signal; 4],
    stop: Signal,
    goes_on: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let [terminate, interrupt, hangup, quit] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()];
        let kind = |number: Number| SignalKind::from_raw(number.as_raw());
        Ok(Self {
            ends: [signal(terminate)?, signal(interrupt)?, signal(hangup)?, signal(quit)?],
            stop: signal(kind(Number::TSTP))?,
            goes_on: signal(kind(Number::CONT))?,
        })
    }

    pub(super) async fn come(&mut self) -> Come {
        let Self { ends: [terminate, interrupt, hangup, quit], stop, goes_on } = self;
        tokio::select! {
            _ = terminate.recv() => Come::End,
            _ = interrupt.recv() => Come::End,
            _ = hangup.recv() => Come::End,
            _ = quit.recv() => Come::End,
            _ = stop.recv() => Come::Stop,
            _ = goes_on.recv() => Come::GoOn,
        }
    }

    /// Stops this program until it shall go on. Where no shell could have it go on it does not stop, as the kernel does where nobody
    /// handles the signal.
    pub(super) async fn stop(&mut self) -> io::Result<()> {
        if is_orphaned() {
            return Ok(());
        }
        kill_process(getpid(), Number::STOP)?;
        self.goes_on.recv().await;
        Ok(())
    }
}

/// Ctrl-Z, which is no signal while keys are read one by one: it is for all that the shell has started together, and comes to this
/// program, too.
pub(super) fn suspend() -> io::Result<()> {
    Ok(kill_current_process_group(Number::TSTP)?)
}

/// Whether there is no shell above this process group in its session: it has been started as a session's first program, or who
/// started it has ended.
fn is_orphaned() -> bool {
    let own = process::getpgrp();
    let session = process::getsid(None).ok();
    let mut above = getppid();
    while let Some(pid) = above {
        if process::getpgid(Some(pid)).is_ok_and(|group| group == own) {
            above = parent(pid);
        } else {
            return process::getsid(Some(pid)).ok() != session;
        }
    }
    true
}

/// The parent of a process, as /proc says.
fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Pid::from_raw(stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?)
}
