//! The judgement of who is protected, from what was read of a holder and from whose its cgroups are.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{
    Holder, Protected,
    sight::{Executable, Sight},
};
use crate::{
    identity::Identity,
    text::Untrusted,
    workload::{Kind, Workload, Workloads},
};

/// What runs containers and machines, by the names of its executables.
const NAMES: [&str; 16] = [
    "systemd",
    "systemd-executor",
    "kubelet",
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v1",
    "containerd-shim-runc-v2",
    "docker-containerd",
    "docker-containerd-shim",
    "dockerd",
    "crio",
    "conmon",
    "conmonrs",
    "conmon-rs",
    "k3s",
    "podman",
];

/// Where they usually are.
const FOLDERS: [&str; 12] = [
    "/usr/lib/systemd",
    "/lib/systemd",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/libexec/podman",
    "/usr/libexec/crio",
    "/usr/lib/podman",
    "/usr/lib/cri-o-runc/sbin",
    "/opt/bin",
    "/home/kubernetes/bin",
];

/// Knows the executables that are protected: once recorded, they are so under any name and when another file takes their place.
#[derive(Debug, Default)]
pub struct Guard {
    known: HashMap<(u64, u64), Untrusted>,
}

impl Guard {
    /// Records what is at the usual places below `root`.
    pub fn record(&mut self, root: &Path) {
        for folder in FOLDERS {
            for name in NAMES {
                let path = root.join(folder.trim_start_matches('/')).join(name);
                if let Ok(metadata) = fs::metadata(&path)
                    && metadata.is_file()
                {
                    let place = (metadata.dev(), metadata.ino());
                    self.known.entry(place).or_insert_with(|| crate::config::shown(&path));
                }
            }
        }
    }

    /// Says of a holder whether it may be touched; what its workload is called is for [`Holder::name`]. `identity` is who it is
    /// expected to be.
    pub fn judge(&mut self, identity: Identity, sight: Option<Sight>, workloads: &mut Workloads) -> Holder {
        let expected = crate::proc::ticks(identity.start);
        let Some(sight) = sight.filter(|sight| sight.seen.start_ticks == expected) else {
            return Holder::gone();
        };
        let own = sight.cgroup.as_deref().map(|text| workloads.from_proc(text, true));
        let parents = sight.parent_cgroup.as_deref().map(|text| workloads.from_proc(text, true));
        let below: Vec<_> = sight.below.iter().map(|text| workloads.from_proc(text, true)).collect();
        let protected = self.protects(&sight, own.as_ref(), &below);
        let starts_namespace = sight.seen.ns_pids.len() > 1 && sight.seen.ns_pids.last() == Some(&1);
        let heads_container = own.as_ref().is_some_and(|own| {
            container(own).is_some()
                && parents.as_ref().is_none_or(|parents| container(parents) != container(own))
        });
        Holder {
            identity: Some(identity),
            uid: Some(sight.seen.uid),
            heeds: sight.heeds,
            opt_out: sight.opt_out,
            workload: own,
            opts_out: None,
            container_init: starts_namespace || heads_container,
            executable: sight.executable.map(|executable| executable.path),
            protected,
        }
    }

    fn protects(&mut self, sight: &Sight, own: Option<&Workload>, below: &[Workload]) -> Option<Protected> {
        let seen = &sight.seen;
        if seen.tgid == 1 {
            return Some(Protected::HostInit);
        }
        if seen.kernel_thread {
            return Some(Protected::KernelThread);
        }
        if sight.ourselves {
            return Some(Protected::Ourselves);
        }
        if seen.tracer.is_some() {
            return Some(Protected::Traced);
        }
        let (Some(own), Some(executable)) = (own, &sight.executable) else { return Some(Protected::Unclear) };
        if below.iter().any(|init| is_outside(own, init)) {
            return Some(Protected::AboveContainer);
        }
        if let Some(path) = self.known.get(&executable.file) {
            return Some(Protected::Executable(path.clone()));
        }
        if container(own).is_none() && is_named(executable) {
            self.known.insert(executable.file, executable.path.clone());
            return Some(Protected::Executable(executable.path.clone()));
        }
        None
    }
}

impl Holder {
    /// One that is gone.
    #[must_use]
    pub const fn gone() -> Self {
        Self {
            identity: None,
            executable: None,
            uid: None,
            heeds: super::Heeds::No,
            opt_out: super::OptOut::No,
            workload: None,
            opts_out: Some(false),
            container_init: false,
            protected: None,
        }
    }
}

/// One of ours by its name, where nobody but root can give a file that name: an unusual place, or an upgrade before this
/// daemon's start.
fn is_named(executable: &Executable) -> bool {
    let name = executable.path.as_str().rsplit('/').next().unwrap_or_default();
    executable.is_roots && executable.in_init_user_ns && NAMES.contains(&name)
}

/// The container, if it is one.
fn container(workload: &Workload) -> Option<(Option<&Untrusted>, Option<&Untrusted>)> {
    matches!(workload.kind, Kind::Pod | Kind::Container | Kind::Machine)
        .then_some((workload.id.as_ref(), workload.pod_uid.as_ref()))
}

/// Whether a process of `own` is outside of the container that `init` is the first process of. Where that is none by its name, its
/// cgroup stands for it: a sandbox that a program makes for itself stays in the program's cgroup.
fn is_outside(own: &Workload, init: &Workload) -> bool {
    match (container(init), &own.cgroup, &init.cgroup) {
        (Some(of), ..) => container(own) != Some(of),
        (None, Some(own), Some(init)) => {
            let below = own.as_str().strip_prefix(init.as_str().trim_end_matches('/'));
            !below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        (None, ..) => true,
    }
}

#[cfg(test)]
mod tests;
