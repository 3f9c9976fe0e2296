//! A confirmed zombie: everything that is known about one process that is dead and was not waited for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    identity::{BootTime, Identity},
    names::Named,
    origin::Origin,
    text::Untrusted,
    workload::Workload,
};

/// A dead thread group that is not yet released, with what was found out about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Zombie {
    /// Who it was.
    pub identity: Identity,
    /// Its pid in its holder's pid namespace, the number that the holder's wait would return. `None` where it
    /// vanished before that could be read, or where the holder cannot see it.
    pub ns_pid: Option<u32>,
    /// Its name, as the kernel keeps it (at most 15 bytes).
    pub comm: Untrusted,
    /// Its command line, where it was taken at exec. A zombie has none left to read.
    pub cmdline: Option<Untrusted>,
    /// When it died.
    pub died: Died,
    /// What a wait would return.
    pub exit: ExitStatus,
    /// Who must wait for it.
    pub holder: Party,
    /// Who forked it, where the fork was seen.
    pub forker: Option<Forker>,
    /// Why it is still there.
    pub cause: Cause,
    /// What the cause was read from.
    pub evidence: Evidence,
    /// Whose it is.
    pub workload: Workload,
    /// What people call that.
    pub named: Named,
    /// Where it comes from; `None` where nothing that could tell is switched on.
    pub origin: Option<Origin>,
    /// It died before the daemon started, and before anything was recorded.
    pub predates: bool,
    /// It may have been told of before, by an earlier daemon; or a hook had missed it and a census found it.
    pub recovered: bool,
}

/// How a zombie was released, where that was seen when it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reap {
    /// When, nanoseconds since boot.
    pub at: BootTime,
    /// The process in whose context it happened, by its pid in the initial pid namespace: the one whose wait returned
    /// the zombie; or one that died, its holder, or a tracer, or the first of its namespace.
    pub pid: u32,
    /// The name of the thread that did it.
    pub comm: Untrusted,
}

/// When a zombie died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Died {
    /// At this moment, to within one tick of the kernel's clock (1 to 10 ms).
    At(BootTime),
    /// As above, but the machine was suspended since, and the stamp cannot tell before or after.
    About(BootTime),
    /// Before this moment, when a census found it dead.
    Before(BootTime),
}

impl Died {
    /// The age at `now`: exact, or at least so much where its death was not seen.
    #[must_use]
    pub fn age(self, now: BootTime) -> Duration {
        now.since(self.moment())
    }

    /// The moment, however it is known.
    #[must_use]
    pub const fn moment(self) -> BootTime {
        let (Self::At(then) | Self::About(then) | Self::Before(then)) = self;
        then
    }

    /// True where its death was seen, so that its age is known.
    #[must_use]
    pub const fn was_seen(self) -> bool {
        !matches!(self, Self::Before(_))
    }
}

/// A zombie that went before anybody looked at it and around it: all that the ledger says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Who it was.
    pub identity: Identity,
    /// When it died.
    pub died: Died,
    /// How.
    pub exit: ExitStatus,
    /// Whose it was.
    pub workload: Workload,
    /// What people call that.
    pub named: Named,
    /// It died before anything was recorded.
    pub predates: bool,
}

/// How a process ended, as wait4 would tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It called exit with this code.
    Code(u8),
    /// This signal killed it.
    Signal {
        /// The signal's number.
        number: u8,
        /// Whether it left a core dump.
        core: bool,
    },
}

impl ExitStatus {
    /// Decodes a wait status.
    #[must_use]
    pub const fn from_wait(status: u16) -> Self {
        let [low, code] = status.to_le_bytes();
        match low & 0x7f {
            0 => Self::Code(code),
            number => Self::Signal { number, core: low & 0x80 != 0 },
        }
    }
}

/// A process beside a zombie: its holder, its forker or its tracer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its pid in the initial pid namespace.
    pub pid: u32,
    /// Its start. `None` where it vanished before it could be read.
    pub start: Option<BootTime>,
    /// Its name; `None` where it is gone.
    pub comm: Option<Untrusted>,
    /// Its command line; `None` where it is gone or is a kernel thread.
    pub cmdline: Option<Untrusted>,
    /// The kernel's one-letter state (`S`, `T`, `D`, …); `None` where it is gone.
    pub state: Option<char>,
}

impl Party {
    /// Who it is; with a start of 0 where that is not known.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start: self.start.unwrap_or_default() }
    }
}

/// The process that called fork, and what it is to the holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forker {
    /// The forker.
    pub party: Party,
    /// What it is to the holder.
    pub relation: Relation,
}

/// What the forker is to the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// The same process.
    Holder,
    /// Another one that still lives.
    Other,
    /// Another one that is dead.
    Gone,
}

/// Why a zombie is still there: the first of these that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A debugger that has not waited for it keeps it from its parent.
    HeldByTracer,
    /// Its pid namespace is being taken down and cannot be while it stands.
    NamespaceDying,
    /// The holder is stopped (T, t), or was found in uninterruptible sleep (D) twice.
    HolderStopped,
    /// It was an orphan when it was given to the holder, which never knew it.
    Adopted,
    /// The holder has exec'ed since the fork: the program that runs now never knew the child. Also where the fork was not seen
    /// and the kernel shows that another program than the holder's made it.
    Inherited,
    /// Its SIGCHLD was merged into one that was pending: a handler that waits once per signal misses it.
    NotificationCoalesced,
    /// The holder forked it and does not wait for it.
    NeverWaited,
    /// The kernel no longer shows why.
    Unknown,
}

impl Cause {
    /// All of them, in the order in which they are looked for.
    pub const ALL: [Self; 8] = [
        Self::HeldByTracer,
        Self::NamespaceDying,
        Self::HolderStopped,
        Self::Adopted,
        Self::Inherited,
        Self::NotificationCoalesced,
        Self::NeverWaited,
        Self::Unknown,
    ];

    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HeldByTracer => "held-by-tracer",
            Self::NamespaceDying => "namespace-dying",
            Self::HolderStopped => "holder-stopped",
            Self::Adopted => "adopted",
            Self::Inherited => "inherited",
            Self::NotificationCoalesced => "notification-coalesced",
            Self::NeverWaited => "never-waited",
            Self::Unknown => "unknown",
        }
    }
}

/// What a cause was read from. Every field is what the kernel said, not a conclusion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// The parent when it was forked, where that was seen.
    pub parent_at_fork: Option<Identity>,
    /// What became of its SIGCHLD.
    pub sigchld: Option<Sigchld>,
    /// The debugger that holds it.
    pub tracer: Option<Party>,
    /// The holder's state at half the threshold.
    pub holder_state_at_probation: Option<char>,
    /// True where the holder has exec'ed since it forked the child, by the kernel's own counter.
    pub holder_exec_since_fork: Option<bool>,
    /// The first process of its pid namespace, where that is dead.
    pub namespace_init: Option<Identity>,
    /// Inode number of its pid namespace.
    pub pid_ns: Option<u32>,
    /// The holder's wait calls while it was watched. `None` where it was not watched.
    pub waits: Option<Waits>,
}

/// What became of a SIGCHLD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sigchld {
    /// Queued to the holder.
    Delivered,
    /// Dropped: the holder has no handler for it.
    Ignored,
    /// Dropped: one was pending already.
    Coalesced,
}

/// A holder's wait calls while it was on probation. io_uring's waitid is not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// How long it was watched.
    pub watched: Duration,
    /// Calls for any child.
    pub any: u64,
    /// Calls for one pid or one process group.
    pub one: u64,
    /// How long ago the latest call was made.
    pub last_ago: Option<Duration>,
    /// What the latest call for one asked for: a pid or a process group, as the initial pid namespace
    /// numbers it.
    pub last_number: Option<u32>,
    /// Whether this very zombie was asked for.
    pub asked: Asked,
    /// The longest that a child of it stood which it then waited for; `None` where only its calls were watched.
    pub longest: Option<Duration>,
}

/// Whether a holder asked for a zombie by its number: its pid, or its process group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// Not while it was watched.
    #[default]
    No,
    /// By this number, as the initial pid namespace has it.
    For(u32),
    /// Not every number that it asked for could be kept.
    Unclear,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_read_as_wait4_defines_them() {
        assert_eq!(ExitStatus::from_wait(0x0700), ExitStatus::Code(7));
        assert_eq!(ExitStatus::from_wait(0x0009), ExitStatus::Signal { number: 9, core: false });
        assert_eq!(ExitStatus::from_wait(0x008b), ExitStatus::Signal { number: 11, core: true });
    }
}
