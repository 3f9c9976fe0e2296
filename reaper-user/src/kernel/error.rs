//! What can be missing, and what to do about it.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError, sys::SyscallError};
use thiserror::Error;

use super::{btf::BtfError, patch::PatchError};

/// Why the kernel side could not be set up or asked.
#[derive(Debug, Error)]
pub enum KernelError {
    /// This process lacks a privilege.
    #[error("missing {what}: run as root, or grant {grant}")]
    Privilege {
        /// What is missing.
        what: String,
        /// How to grant it.
        grant: &'static str,
    },
    /// The kernel lacks something.
    #[error("this kernel cannot be used: {what}; {remedy}")]
    Unavailable {
        /// What is missing.
        what: String,
        /// What would help.
        remedy: String,
    },
    /// The kernel's structures are not what the object was written for.
    #[error("this kernel cannot be used: {0}; please report it with the kernel's version")]
    Btf(#[from] BtfError),
    /// The object could not be fitted to the kernel.
    #[error("this kernel cannot be used: {0}; please report it with the kernel's version")]
    Patch(#[from] PatchError),
    /// The object could not be loaded.
    #[error("loading the BPF object: {}", chain(.0))]
    Load(#[source] Box<EbpfError>),
    /// A program was refused.
    #[error("the kernel refused the BPF program `{program}`: {}", verdict(.source))]
    Program {
        /// The program's name.
        program: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// The folder with what is pinned cannot be used.
    #[error("{}: {problem}; {remedy}", .path.display())]
    Pins {
        /// Which.
        path: PathBuf,
        /// What is the matter.
        problem: String,
        /// What would help.
        remedy: String,
    },
    /// A map could not be read or written.
    #[error("the BPF map `{map}`: {}", chain(.source))]
    Map {
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl KernelError {
    /// True where a privilege is what is missing (exit code 77), false where it is the kernel (69).
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Privilege { .. })
    }

    /// True where this process is short of descriptors, memory or threads: later it may succeed.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN)
                ) {
                    return true;
                }
                // What it wraps is not what it calls its source.
                next = error.get_ref().map(|inner| -> &(dyn std::error::Error + 'static) { inner });
            } else {
                next = error.source();
            }
        }
        false
    }

    pub(super) fn load(error: EbpfError) -> Self {
        if is_denied(&error) {
            return Self::denied("the kernel refused to create BPF maps or programs (EPERM)");
        }
        Self::Load(Box::new(error))
    }

    pub(super) fn program(program: &'static str, error: ProgramError) -> Self {
        // The verifier refuses with the same error as a missing privilege, but not without a word.
        let refused = matches!(&error, ProgramError::LoadError { verifier_log, .. }
            if !verifier_log.to_string().trim().is_empty());
        if !refused && is_denied(&error) {
            return Self::denied(&format!("the kernel refused to load the BPF program `{program}` (EPERM)"));
        }
        Self::Program { program, source: Box::new(error) }
    }

    pub(super) fn map(map: &'static str, error: MapError) -> Self {
        Self::Map { map, source: Box::new(error) }
    }

    pub(super) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }

    fn denied(what: &str) -> Self {
        let mut what = what.to_owned();
        if let Some(mode) = lockdown().filter(|mode| mode != "none") {
            what.push_str(&format!("; kernel lockdown is `{mode}`"));
        }
        Self::Privilege {
            what: format!("the permission to use BPF: {what}"),
            grant: "CAP_BPF and CAP_PERFMON, and let no seccomp filter deny bpf(2)",
        }
    }
}

/// The kernel's lockdown mode, where it can be seen.
#[must_use]
pub fn lockdown() -> Option<String> {
    let text = std::fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>().or_else(|| match error.downcast_ref::<SyscallError>() {
            Some(SyscallError { io_error, .. }) => Some(io_error),
            None => None,
        });
        if io.is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        next = error.source();
    }
    false
}

/// What the kernel said of a program: of the verifier's log, which may be thousands of lines, the one that says why.
pub(super) fn verdict(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    if log.trim().is_empty() {
        return io_error.to_string();
    }
    tracing::debug!(%log, "the verifier's log");
    format!("{io_error}; the verifier says: {}", reason(&log))
}

fn reason(log: &str) -> &str {
    const STATISTICS: [&str; 4] = ["processed ", "verification time", "stack depth", "insns processed"];
    log.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start)))
        .unwrap_or("nothing")
}

/// An error and what caused it, in one line, without the repetition of transparent wrappers.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text.replace('\n', " | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_verifier_log_the_line_that_says_why_is_kept() {
        let log = "0: (79) r7 = *(u64 *)(r1 +0)\n60: (85) call bpf_probe_read#4\nunknown func bpf_probe_read#4\n\
                   verification time 2899 usec\nstack depth 8\nprocessed 38 insns (limit 1000000)\n\n";
        assert_eq!(reason(log), "unknown func bpf_probe_read#4");
        assert_eq!(reason(""), "nothing");
    }
}
