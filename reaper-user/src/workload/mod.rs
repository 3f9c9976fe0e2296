//! Whose a process is, in the words an operator would use. The answer is read from the cgroup it died in:
//! id → path → pod, container, unit or host.

mod cgroups;
mod handle;
mod lookup;
mod mounts;
mod name;
mod path;
mod states;
mod tree;

use serde::{Deserialize, Serialize};

pub use self::{
    cgroups::{CgroupId, Cgroups, Counts, Hierarchy, Limits, Made, Trouble, Walked},
    lookup::Workloads,
    mounts::{Mount, Mounts, ProcCgroups, v1_pids_hierarchy},
    states::RuntimeStates,
};
use crate::text::Untrusted;

/// What an operator would name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Which kind of thing it is.
    pub kind: Kind,
    /// The container's id, the machine's or the unit's name, the session's id; `None` for the host itself, and for
    /// a process that is in a pod's cgroup but in no container of it.
    pub id: Option<Untrusted>,
    /// The container runtime or machine manager that made it, where the cgroup's name or the runtime's own files tell.
    pub runtime: Option<Runtime>,
    /// The UID of the innermost Kubernetes pod around it in its canonical form (with dashes; a static pod's is a hash
    /// without them).
    pub pod_uid: Option<Untrusted>,
    /// The innermost systemd unit around it, which a container may run inside itself.
    pub unit: Option<Untrusted>,
    /// The cgroup's path from the root of its hierarchy; `None` where the id could not be resolved.
    pub cgroup: Option<Untrusted>,
}

/// The kind of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A container of a pod.
    Pod,
    /// A container.
    Container,
    /// A system container or virtual machine that a machine manager runs (LXC, Incus, systemd-nspawn).
    Machine,
    /// A systemd service, scope or slice, of the system or of a user.
    Unit,
    /// A login session.
    Session,
    /// None of these.
    Host,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Pod, Self::Container, Self::Machine, Self::Unit, Self::Session, Self::Host];

    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Container => "container",
            Self::Machine => "machine",
            Self::Unit => "unit",
            Self::Session => "session",
            Self::Host => "host",
        }
    }
}

/// What made a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// containerd, by its CRI plugin or by nerdctl.
    Containerd,
    /// CRI-O.
    #[serde(rename = "cri-o")]
    CriO,
    /// Docker (also under Kubernetes).
    Docker,
    /// Podman.
    Podman,
    /// LXC, or what uses its library (LXD).
    Lxc,
    /// Incus.
    Incus,
    /// systemd-nspawn.
    Nspawn,
    /// runc, crun or another low-level runtime used directly, where nothing names a manager above it.
    Oci,
}
