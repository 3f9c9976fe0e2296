//! What people call a workload: namespace, pod, container and image, or what a unit is for. The answer comes from the runtime that
//! made it, one module each.
//!
//! A runtime may be slow, broken or gone, and nothing waits for it: [`Namer::of`] says what is known at this moment and has the rest
//! asked for on a thread of its own. What comes later is there for the next event. All text of an answer is hostile.

mod cache;
mod cri;
mod docker;
mod namer;
mod socket;
mod systemd;
mod text;
mod worker;

use std::{path::Path, sync::Arc};

pub use self::{
    cache::Counts,
    cri::Client as CriClient,
    namer::{Namer, Requests, Settings},
};
use crate::{
    text::Untrusted,
    workload::{Kind, Runtime, Workload},
};

/// The label, and the annotation of a pod, by which a workload says that no remedy is to be applied to it: with the value `off`.
pub const OPT_OUT_LABEL: &str = "reaper-remedies";

/// What a runtime calls a workload. What it did not say, or said empty, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The Kubernetes namespace.
    pub namespace: Option<Untrusted>,
    /// The pod's name.
    pub pod: Option<Untrusted>,
    /// The container's name; `None` for what is in a pod and in no container of it.
    pub container: Option<Untrusted>,
    /// The image that the container was made from, as whoever made it wrote it where the runtime knows that.
    pub image: Option<Untrusted>,
    /// What a systemd unit says of itself.
    pub description: Option<Untrusted>,
    /// The pod's labels and the container's; where both have one, the pod's. Sorted by key.
    pub labels: Vec<(Untrusted, Untrusted)>,
    /// Labels that there was no room for.
    pub labels_lost: u64,
    /// It says by [`OPT_OUT_LABEL`] that it is to be left alone.
    pub opts_out: bool,
}

/// What is known of a workload's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Named {
    /// These.
    As(Arc<Names>),
    /// Nothing: it is not the kind of workload that has names, whoever may know it has answered that they do not, or there is nobody
    /// to ask.
    #[default]
    Nobody,
    /// It was asked for and there is no answer yet: the runtime is slow or down.
    Pending,
}

impl Named {
    /// The names, where they are known.
    #[must_use]
    pub fn names(&self) -> Option<&Names> {
        match self {
            Self::As(names) => Some(names),
            Self::Nobody | Self::Pending => None,
        }
    }
}

/// What a runtime is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// A container, by its whole id.
    Container(String),
    /// A pod, by its UID.
    Pod(String),
    /// A unit of the system's manager.
    Unit(String),
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Cri,
    Docker,
    Podman,
    Systemd,
}

impl Asked {
    /// As in `[names]`.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Cri => "cri",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Systemd => "systemd",
        }
    }
}

impl Key {
    /// The id, UID or name in it.
    fn as_str(&self) -> &str {
        match self {
            Self::Container(text) | Self::Pod(text) | Self::Unit(text) => text,
        }
    }

    /// What there is to ask about a workload; `None` where nobody could know it.
    fn of(workload: &Workload) -> Option<Self> {
        let Workload { kind, id, runtime: _, pod_uid, unit: _, cgroup } = workload;
        match (kind, id, pod_uid) {
            // The id is part of a request: only what a runtime may have given.
            (Kind::Pod | Kind::Container, Some(id), _) if is_container_id(id.as_str()) => {
                Some(Self::Container(id.as_str().to_owned()))
            }
            // Also where it has an id of another kind: its pod is known.
            (Kind::Pod, _, Some(uid)) => Some(Self::Pod(uid.as_str().to_owned())),
            // A user's manager has units of its own, which the system's does not know or has others of the same name.
            (Kind::Unit, Some(unit), _)
                if cgroup.as_ref().is_some_and(|path| !path.as_str().contains("/user@")) =>
            {
                Some(Self::Unit(unit.as_str().to_owned()))
            }
            _ => None,
        }
    }

    /// Whether this one may know it.
    fn is_for(&self, asked: Asked, runtime: Option<Runtime>) -> bool {
        match self {
            Self::Unit(_) => asked == Asked::Systemd,
            Self::Pod(_) => asked == Asked::Cri,
            Self::Container(_) => match runtime {
                Some(Runtime::Containerd | Runtime::CriO) => asked == Asked::Cri,
                Some(Runtime::Docker) => asked == Asked::Docker,
                Some(Runtime::Podman) => asked == Asked::Podman,
                Some(Runtime::Lxc | Runtime::Incus | Runtime::Nspawn) => false,
                Some(Runtime::Oci) | None => asked != Asked::Systemd,
            },
        }
    }
}

/// 64 hex digits, as all of these runtimes give them.
fn is_container_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nothing listens there: there is no socket.
    #[error("there is no socket")]
    Absent,
    /// There was no connection to it, or it is out of order.
    #[error("{0}")]
    Failed(Untrusted),
    /// It has answered, but not what it was asked, or that it cannot say that: it may know others all the same.
    #[error("{0}")]
    Wrong(Untrusted),
    /// It took too long.
    #[error("no answer within {}", crate::config::Span(worker::PATIENCE))]
    TimedOut,
}

impl Unanswered {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(text::told(&error.to_string()))
    }

    fn wrong(error: impl std::fmt::Display) -> Self {
        Self::Wrong(text::told(&error.to_string()))
    }

    fn connecting(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::NotFound { Self::Absent } else { Self::failed(error) }
    }
}

/// What one calls a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    names: Names,
    /// Why something is not in them that rules do without: it is asked for again.
    lacks: Option<Untrusted>,
}

impl From<Names> for Answer {
    fn from(names: Names) -> Self {
        Self { names, lacks: None }
    }
}

/// One that can be asked.
trait Engine: Send + Sync + 'static {
    /// What it calls it; `None` where it does not know it. Where it takes longer than it may, the future is dropped.
    fn look_up(&self, key: &Key) -> impl Future<Output = Result<Option<Answer>, Unanswered>> + Send;

    /// Where it listens.
    fn socket(&self) -> &Path;
}

#[cfg(test)]
mod tests;
