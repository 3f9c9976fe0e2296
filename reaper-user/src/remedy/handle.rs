//! A process held by a descriptor, so that no other can be hit in its place.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::Protected;
use crate::{
    identity::Identity,
    policy::Refusal,
    proc::{Proc, ReadError, Seen, ticks},
};

/// A living process whose identity was verified after it was opened: whoever has the pid then had it when it was opened.
#[derive(Debug)]
pub struct Handle {
    identity: Identity,
    descriptor: OwnedFd,
    proc: Proc,
}

impl Handle {
    /// Opens a holder. Refused where it is gone, another one, or traced.
    pub fn open(proc: &Proc, identity: Identity) -> Result<Self, Refusal> {
        let (this, seen) = Self::of(proc, identity)?;
        if seen.tracer.is_some() {
            return Err(Refusal::Protected(Protected::Traced));
        }
        Ok(this)
    }

    /// A descriptor that can be read from when the process has ended; one that is traced has one, too.
    pub fn end(proc: &Proc, identity: Identity) -> Result<OwnedFd, Refusal> {
        Self::of(proc, identity).map(|(this, _)| this.descriptor)
    }

    fn of(proc: &Proc, identity: Identity) -> Result<(Self, Seen), Refusal> {
        let pid = i32::try_from(identity.pid).ok().and_then(Pid::from_raw).ok_or(Refusal::HolderGone)?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error {
            Errno::SRCH => Refusal::HolderGone,
            error => failed("pidfd-failed", "opening the holder", error),
        })?;
        let this = Self { identity, descriptor, proc: proc.clone() };
        let seen = this.see()?;
        Ok((this, seen))
    }

    /// Who it is.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// Its state now, if it is the same process still.
    pub fn see(&self) -> Result<Seen, Refusal> {
        let seen = self.proc.see(self.identity.pid).map_err(|error| match error {
            ReadError::Gone(_) => Refusal::HolderGone,
            ReadError::Unreadable { .. } => Refusal::Hand { word: "unreadable", message: error.to_string() },
        })?;
        if seen.start_ticks != ticks(self.identity.start) || seen.tgid != self.identity.pid {
            return Err(Refusal::IdentityChanged);
        }
        if seen.has_ended() { Err(Refusal::HolderGone) } else { Ok(seen) }
    }

    /// Sends it a signal.
    pub fn send(&self, signal: Signal) -> Result<(), Refusal> {
        pidfd_send_signal(&self.descriptor, signal).map_err(|error| match error {
            Errno::SRCH => Refusal::HolderGone,
            Errno::PERM => failed("not-permitted", "signalling the holder (CAP_KILL is missing)", error),
            error => failed("signal-failed", "signalling the holder", error),
        })
    }

    /// True as soon as it has ended; false where it has not `within` that time.
    #[must_use]
    pub fn has_ended(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3_600, tv_nsec: 0 });
            let mut ends = [PollFd::new(&self.descriptor, PollFlags::IN)];
            match poll(&mut ends, Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                // Interrupted: the rest of the time.
                Err(_) if left > Duration::ZERO => {}
                Err(_) => return false,
            }
        }
    }
}

fn failed(word: &'static str, what: &str, error: Errno) -> Refusal {
    Refusal::Hand { word, message: format!("{what}: {}", std::io::Error::from(error)) }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::identity::BootTime;

    fn sleeper() -> (Child, Identity) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let seen = Proc::at("/proc").see(child.id()).unwrap();
        (child, Identity { pid: seen.tgid, start: BootTime(seen.start_ticks * 10_000_000) })
    }

    #[test]
    fn it_signals_the_process_that_was_meant_and_sees_its_end() {
        let (mut child, identity) = sleeper();
        let handle = Handle::open(&Proc::at("/proc"), identity).unwrap();
        assert!(handle.see().is_ok() && !handle.has_ended(Duration::ZERO));
        handle.send(Signal::TERM).unwrap();
        assert!(handle.has_ended(Duration::from_secs(10)));
        assert_eq!(handle.see(), Err(Refusal::HolderGone), "dead, though nobody has waited for it");
        child.wait().unwrap();
        assert_eq!(handle.send(Signal::TERM), Err(Refusal::HolderGone));
        assert_eq!(Handle::open(&Proc::at("/proc"), identity).unwrap_err(), Refusal::HolderGone);
    }

    #[test]
    fn another_process_with_the_pid_is_not_touched() {
        let (mut child, identity) = sleeper();
        let other = Identity { start: BootTime(identity.start.0 - 1_000_000_000), ..identity };
        assert_eq!(Handle::open(&Proc::at("/proc"), other).unwrap_err(), Refusal::IdentityChanged);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
