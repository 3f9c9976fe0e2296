//! What came of a stop, and the words for why not.

use std::{fs, path::Path};

use rustix::io::Errno;

use super::{
    order::{Answer, Fate},
    place::NoPlace,
    puppet::Broken,
};

/// What came of a stop.
pub enum Outcome {
    /// The step is done, or what the fates say of it.
    Done(Vec<Fate>),
    /// The same, and nothing more is to be tried with this holder, for a reason.
    Partly(Vec<Fate>, &'static str, String),
    /// Another thread or another moment may be better.
    Elsewhere(&'static str, String),
    /// Not with this holder.
    Refused(&'static str, String),
}

pub(super) fn no_place(reason: &NoPlace) -> Answer {
    match reason {
        NoPlace::NoRoom(why) => Answer::refused("no-room", *why),
        NoPlace::Unwinding => {
            Answer::refused("unwinding", "it is still busy with what an earlier tracer left when it died")
        }
    }
}

pub(super) fn refused_place(no: &NoPlace) -> Outcome {
    let (word, message) = no_place(no).refusal.unwrap_or_default();
    match word.as_str() {
        "unwinding" => Outcome::Refused("unwinding", message),
        _ => Outcome::Refused("no-room", message),
    }
}

pub(super) fn gone(tid: u32) -> Outcome {
    Outcome::Elsewhere("gone", format!("thread {tid} has ended"))
}

pub(super) fn executed() -> Outcome {
    Outcome::Refused("identity-changed", "it has executed another program".to_owned())
}

pub(super) fn strict(tid: u32) -> Outcome {
    Outcome::Refused(
        "seccomp-strict",
        format!("seccomp lets thread {tid} do nothing but read, write and end"),
    )
}

pub(super) fn another_architecture() -> Outcome {
    Outcome::Refused("arch-32bit", "it runs code for another architecture".to_owned())
}

pub(super) fn no_instruction() -> Outcome {
    Outcome::Refused("no-instruction", "its code has no instruction that could be used".to_owned())
}

pub(super) fn kernel(what: &str, error: Errno) -> Outcome {
    Outcome::Elsewhere("failed", format!("{what}: {}", std::io::Error::from(error)))
}

pub(super) fn unreadable_filters(error: Errno) -> Outcome {
    let why = std::io::Error::from(error);
    let message = format!(
        "its seccomp filters could not be read: {why} (CAP_SYS_ADMIN, and no filter on reaper itself, are needed)"
    );
    Outcome::Refused("seccomp-unreadable", message)
}

pub(super) fn broken_before(tid: u32, broken: Broken) -> Outcome {
    match broken {
        Broken::Ended => gone(tid),
        Broken::Executed => executed(),
        Broken::NoStop => Outcome::Refused("no-stop", format!("thread {tid} did not stop in time")),
        Broken::Kernel(error) => kernel("tracing it", error),
        Broken::Signal(_) | Broken::Fault(_) | Broken::Stuck | Broken::Left => {
            Outcome::Refused("no-stop", format!("thread {tid} could not be brought to stand"))
        }
    }
}

pub(super) fn tracer(directory: &Path) -> Option<u32> {
    let status = fs::read_to_string(directory.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()
}
