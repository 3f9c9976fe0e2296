//! What the tracing process is told, and what it answers: one line of JSON each way.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::code::Code;

/// What is to be done to one holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Who gives it: the tracing process does not outlive this one.
    pub from: u32,
    /// The holder, and when it started, in clock ticks since boot.
    pub holder: Process,
    /// Where the instructions are.
    pub code: Code,
    /// What it is made to do.
    pub task: Task,
    /// How.
    pub method: Method,
    /// Whether a timed wait of the holder may end early.
    pub allow_interrupted_wait: bool,
    /// How long it may stand still at once.
    pub max_pause: Duration,
    /// How long a thread and a moment are looked for.
    pub patience: Duration,
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid here.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

/// A zombie of the holder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// The process.
    pub process: Process,
    /// Its pid in the holder's pid namespace.
    pub ns_pid: u32,
}

/// What a holder is made to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// To wait for these zombies, once each and without blocking.
    Reap(Vec<Child>),
    /// To have its children released when they die (`SA_NOCLDWAIT`), or no longer.
    Autoreap(bool),
}

/// How it is made to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Call by call for few, a chain of calls for many.
    #[default]
    Auto,
    /// Call by call.
    Step,
    /// A chain, where the program has the instructions for it.
    Chain,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Why the rest was not done: a word and a sentence.
    pub refusal: Option<(String, String)>,
    /// What became of each zombie, in the order's order; for `Autoreap` of the one call: nothing was to be done where it is
    /// [`Fate::Gone`].
    pub results: Vec<Fate>,
    /// How long the holder stood still, each time.
    pub pauses: Vec<Duration>,
    /// Waits of the holder that ended early because of this.
    pub interrupted: u32,
    /// Waits that were begun anew and may end late.
    pub late: u32,
    /// Chains that the holder left by itself, because this process was too slow.
    pub fell_through: u32,
    /// Something was laid into its memory, and a thread of it may have gone through that. Without it nobody did more than stand still.
    pub laid: bool,
}

/// What became of a zombie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It was not come to.
    #[default]
    Untouched,
    /// The holder has waited for it.
    Reaped,
    /// It is no zombie of this holder's any more.
    Gone,
    /// The kernel refused, with this error number.
    Failed(i32),
}

impl Answer {
    /// A refusal of all of it.
    #[must_use]
    pub fn refused(word: &str, message: impl Into<String>) -> Self {
        Self { refusal: Some((word.to_owned(), message.into())), ..Self::default() }
    }
}
