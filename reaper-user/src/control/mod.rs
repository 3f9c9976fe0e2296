//! The control socket: how `reaper ls`, `leaks`, `headroom`, `top`, `explain` and `check` ask the running daemon. Root's; nothing is done to a process by it; one question a
//! connection.
//!
//! A client writes one line, `{"version":1,"request":"zombies"}`; the daemon answers with one JSON line that says whether it
//! understood and how many events follow, then with a line for each, and closes. What can be asked for, and what follows:
//!
//! | request | with | events |
//! |---|---|---|
//! | `zombies` | `workload`, not required: a cgroup's path | zombies, of that cgroup and below it, circuit breakers that are open |
//! | `losses` | | losses |
//! | `leaks` | `span_ms`, not required | one `leaks`, leak sites that leaked within that span |
//! | `setup` | | none; how it was set up is in the first line, as `setup` |
//! | `watch` | `pid` of a holder, `span_ms` | none: how long it takes to wait for children is in `zombies` from then on, for that span and as long as it takes |
//! | `headroom` | `workload`, not required | one `headroom` for that workload, or for each that has zombies |
//! | `explain` | `pid` | the zombie that it is or the zombies that it holds, their leak sites, circuit breakers of their holder; of a zombie, what the rules say |

mod ask;
mod serve;

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::{
    ask::{Leaks, explain, headroom, leaks, losses, setup, watch, zombies, zombies_in},
    serve::Control,
};
use crate::{lock, names, report::ParseError};

/// The socket's file, in the folder of what is there while a daemon runs.
const SOCKET: &str = "reaper.sock";

/// What can be asked for: every zombie that stands now.
const ZOMBIES: &str = "zombies";

/// What can be asked for: how much was lost.
const LOSSES: &str = "losses";

/// What can be asked for: leak sites.
const LEAKS: &str = "leaks";

/// What can be asked for: limits on processes.
const HEADROOM: &str = "headroom";

/// What can be asked for: all that is known of a pid.
const EXPLAIN: &str = "explain";

/// What can be asked for: how the daemon was set up.
const SETUP: &str = "setup";

/// What can be asked for: that a holder is watched.
const WATCH: &str = "watch";

/// The version of what is spoken. A daemon answers only its own.
pub const VERSION: u32 = 1;

/// Where the daemon listens.
#[must_use]
pub fn socket() -> PathBuf {
    lock::directory().join(SOCKET)
}

/// How the daemon was set up, as far as other commands go by it. It does not change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Whom it asks what people call workloads.
    pub names: names::Settings,
    /// Where it serves metrics; `None` where it does not.
    pub metrics: Option<SocketAddr>,
    /// Why it does not, although nobody has turned them off.
    pub no_metrics: Option<String>,
    /// Whether it was told to put no hook on the way of forks. One that is older than that has none.
    #[serde(default)]
    pub no_fork_hook: bool,
}

impl Setup {
    /// Whether a hook may be put on the way of forks: not where whoever asks wants none, and not beside a daemon that is to have none.
    #[must_use]
    pub fn lets_hook(daemon: &Result<Self, ControlError>, unwanted: bool) -> bool {
        !unwanted && !daemon.as_ref().is_ok_and(|setup| setup.no_fork_hook)
    }
}

/// Why the daemon could not be asked, or could not listen.
#[derive(Debug, Error)]
pub enum ControlError {
    /// No daemon is there to be asked.
    #[error("no daemon listens at {0}")]
    NoDaemon(PathBuf),
    /// This user may not ask the daemon.
    #[error("{0}: only root may ask the daemon: run as root")]
    NotRoot(PathBuf),
    /// This user may not make the socket, or its directory.
    #[error(
        "{directory}: {source}: run as root, or make the directory this user's own (systemd: RuntimeDirectory=reaper)"
    )]
    Denied {
        /// The socket's directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket could not be used.
    #[error("{path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The daemon speaks another version, or refused.
    #[error("the daemon at {path} answered: {answer}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What it said.
        answer: String,
    },
    /// The daemon did not answer in time.
    #[error(
        "the daemon at {path} has not answered within {patience:?}: it may be stopped, or starved of CPU"
    )]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The answer ended before its end.
    #[error("the daemon at {path} said {came} of {count} lines, then hung up")]
    Cut {
        /// The socket.
        path: PathBuf,
        /// Lines that were announced.
        count: usize,
        /// Lines that came.
        came: usize,
    },
    /// The answer is not what was asked for.
    #[error("the daemon's answer could not be read: {0}")]
    Answer(#[from] ParseError),
}

impl ControlError {
    /// True where a privilege is what is missing (exit code 77).
    #[must_use]
    pub const fn is_permission(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::NotRoot(_))
    }
}

/// What every version of a question has: another one may have anything else, and shall be told what is wrong with its version.
#[derive(Debug, Deserialize)]
struct Head {
    version: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Question {
    version: u32,
    #[serde(default)]
    request: String,
    /// How far back, or for how long, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    span_ms: Option<u64>,
    /// About whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// About which workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
}

impl Question {
    fn of(request: &str) -> Self {
        Self { version: VERSION, request: request.to_owned(), ..Self::default() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    version: u32,
    ok: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Lines that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<usize>,
    /// How the daemon was set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    setup: Option<Setup>,
}

impl Verdict {
    const fn refused(message: String) -> Self {
        Self { version: VERSION, ok: false, message: Some(message), lines: None, setup: None }
    }

    const fn followed_by(lines: usize) -> Self {
        Self { version: VERSION, ok: true, message: None, lines: Some(lines), setup: None }
    }

    fn line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|line| line + "\n")
    }
}

#[cfg(test)]
mod tests;
