//! Who a process is: a pid alone is reused, a pid with its start time is not.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A moment on the boot clock (`CLOCK_BOOTTIME`), in nanoseconds. It runs on during suspend and is never set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootTime(pub u64);

impl BootTime {
    /// How long after `earlier` this is; zero where it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment and `span` more.
    #[must_use]
    pub fn plus(self, span: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A process (a thread group): its id in the initial pid namespace and when its leader started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The thread group's id.
    pub pid: u32,
    /// Start of its leader (`start_boottime`).
    pub start: BootTime,
}

impl Identity {
    /// Whose ledger entry it is.
    #[must_use]
    pub const fn of(record: &reaper_ebpf::Record) -> Self {
        Self { pid: record.tgid(), start: BootTime(record.start) }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, start } = self;
        write!(f, "pid {pid} (started {} ns after boot)", start.0)
    }
}
