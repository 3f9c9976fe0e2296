//! Who is never touched, whatever a rule says: known by structure, or by the executable as it was recorded when it was
//! first seen. Never by a name alone, which anyone can take.

use std::fmt;

use crate::text::Untrusted;

/// Why a process is never touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protected {
    /// The machine's PID 1.
    HostInit,
    /// A kernel thread.
    KernelThread,
    /// This program, or one of the processes that it descends from.
    Ourselves,
    /// A debugger is attached to it.
    Traced,
    /// It is an ancestor of a container's first process, and outside of that container.
    AboveContainer,
    /// Its executable is one of those that run containers or the machine.
    Executable(Untrusted),
    /// Some of that could not be found out.
    Unclear,
}

impl Protected {
    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::HostInit => "host-init",
            Self::KernelThread => "kernel-thread",
            Self::Ourselves => "ourselves",
            Self::Traced => "traced",
            Self::AboveContainer => "above-container",
            Self::Executable(_) => "executable",
            Self::Unclear => "unclear",
        }
    }
}

impl fmt::Display for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostInit => f.write_str("it is the machine's PID 1"),
            Self::KernelThread => f.write_str("it is a kernel thread"),
            Self::Ourselves => f.write_str("it is reaper itself, or a process that reaper descends from"),
            Self::Traced => f.write_str("a debugger is attached to it"),
            Self::AboveContainer => f.write_str(
                "a container's first process descends from it, and it is outside of that container",
            ),
            Self::Executable(path) => write!(f, "it runs {path}"),
            Self::Unclear => f.write_str(
                "/proc does not say enough of it to know that it may be touched: reading its executable takes what tracing it \
                 takes (CAP_SYS_PTRACE; where AppArmor confines reaper, `ptrace (read, trace)` of the holder's profile too)",
            ),
        }
    }
}
