//! Path of a cgroup → workload, by nothing but its names. The names are those that the kubelet, the runtimes, LXC and
//! systemd choose; where a name proves nothing, nothing is claimed.
//!
//! A container that may make cgroups below its own chooses their names: it can pass for another pod that way, but
//! only from below its own cgroup. [`Workload::cgroup`] always shows the whole path.

#[cfg(test)]
mod tests;

use super::{Kind, Runtime, Workload, name};
use crate::text::Untrusted;

impl Workload {
    /// Whose the cgroup at `path` is (from the root of its hierarchy, as the kernel spells it).
    ///
    /// The innermost pod, container or machine wins, then the innermost unit, else it is the host's. A pod's UID is
    /// that of the innermost pod around it, so a container that runs inside a pod's container shows both.
    #[must_use]
    pub fn from_cgroup(path: &[u8]) -> Self {
        Reading::of(path).workload()
    }

    /// As [`Self::from_cgroup`], for a process that is in a cgroup of both hierarchies: the one that says more is
    /// believed, the v2 one where both say as much. `None` where an id could not be resolved.
    #[must_use]
    pub fn from_cgroups(v2: Option<&[u8]>, v1_pids: Option<&[u8]>) -> Self {
        Reading::best(v2, v1_pids).map_or_else(Self::unresolved, |reading| reading.workload())
    }

    /// What is said where no cgroup could be resolved.
    pub(crate) const fn unresolved() -> Self {
        Self { kind: Kind::Host, id: None, runtime: None, pod_uid: None, unit: None, cgroup: None }
    }
}

/// What one path says.
#[derive(Clone, Debug)]
pub(super) struct Reading<'a> {
    pub(super) path: &'a [u8],
    /// Pods, containers and machines around the process, the outermost first.
    pub(super) layers: Vec<Layer>,
    unit: Option<&'a [u8]>,
    session: Option<&'a [u8]>,
    /// How many of the path's names are used up by the innermost layer or unit.
    explained: usize,
    names: usize,
}

/// A pod, container or machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) kind: Kind,
    pub(super) id: Option<Vec<u8>>,
    pub(super) runtime: Option<Runtime>,
    pod_uid: Option<String>,
    /// How many of the path's names lead to it, its own included.
    pub(super) depth: usize,
}

impl Layer {
    pub(super) const fn container(id: Vec<u8>, runtime: Option<Runtime>, depth: usize) -> Self {
        Self { kind: Kind::Container, id: Some(id), runtime, pod_uid: None, depth }
    }

    const fn machine(id: Vec<u8>, runtime: Option<Runtime>, depth: usize) -> Self {
        Self { kind: Kind::Machine, id: Some(id), runtime, pod_uid: None, depth }
    }
}

/// What one name in a path is.
enum Found {
    Pod(String),
    Container(Vec<u8>, Option<Runtime>),
    Machine(Vec<u8>, Option<Runtime>),
    /// The process that watches over a container from the host's side.
    Monitor,
    /// The same for everything below it too.
    MonitorTree,
    Nothing,
}

impl<'a> Reading<'a> {
    pub(super) fn of(path: &'a [u8]) -> Self {
        let names: Vec<&[u8]> = names(path).collect();
        let mut this =
            Self { path, layers: Vec::new(), unit: None, session: None, explained: 0, names: names.len() };
        for at in 0..names.len() {
            let found = this.found(&names, at);
            let depth = at + 1;
            if let Some(unit) = name::unit(names[at]) {
                this.unit = Some(unit);
                this.session = session(unit, &names[..at]);
                this.explained = depth;
            }
            match found {
                Found::Pod(uid) => {
                    this.layers.push(Layer {
                        kind: Kind::Pod,
                        id: None,
                        runtime: None,
                        pod_uid: Some(uid),
                        depth,
                    });
                }
                Found::Container(id, runtime) => this.enter(id, runtime, depth),
                Found::Machine(id, runtime) => this.layers.push(Layer::machine(id, runtime, depth)),
                Found::Monitor => {
                    this.layers.pop_if(|layer| layer.kind == Kind::Pod && layer.id.is_none());
                }
                Found::MonitorTree => break,
                Found::Nothing => continue,
            }
            this.explained = depth;
        }
        this
    }

    /// The more telling of two paths. What only the other one knows about the same thing is added.
    pub(super) fn best(v2: Option<&'a [u8]>, v1_pids: Option<&'a [u8]>) -> Option<Self> {
        let (mut best, other) = match (v2.map(Self::of), v1_pids.map(Self::of)) {
            (Some(v2), Some(v1)) if v1.weight() > v2.weight() => (v1, v2),
            (Some(v2), Some(v1)) => (v2, v1),
            (Some(only), None) | (None, Some(only)) => return Some(only),
            (None, None) => return None,
        };
        if let (Some(mine), Some(theirs)) = (best.layers.last_mut(), other.layers.last())
            && (mine.kind, &mine.id) == (theirs.kind, &theirs.id)
        {
            mine.runtime = mine.runtime.or(theirs.runtime);
        }
        Some(best)
    }

    pub(super) fn workload(&self) -> Workload {
        let layer = self.layers.last();
        let (kind, id) = match (layer, self.session, self.unit) {
            (Some(layer), _, _) => (layer.kind, layer.id.as_deref()),
            (None, Some(session), _) => (Kind::Session, Some(session)),
            (None, None, Some(unit)) => (Kind::Unit, Some(unit)),
            (None, None, None) => (Kind::Host, None),
        };
        Workload {
            kind,
            id: id.map(Untrusted::new),
            runtime: layer.and_then(|layer| layer.runtime),
            pod_uid: self.layers.iter().rev().find_map(|layer| layer.pod_uid.as_deref()).map(Untrusted::from),
            unit: self.unit.map(Untrusted::new),
            cgroup: Some(Untrusted::new(self.path)),
        }
    }

    /// True where a low-level runtime may have made this cgroup under a name that shows nothing: below the last
    /// thing that has a name, or in a scope that anybody may have made.
    pub(super) fn is_unexplained(&self) -> bool {
        let in_scope = self.session.is_none() && self.unit.is_some_and(|unit| unit.ends_with(b".scope"));
        self.layers.is_empty() && self.names > 0 && (self.explained < self.names || in_scope)
    }

    /// Adds a container that something else than the path's names told of, innermost.
    pub(super) fn add(&mut self, layer: Layer) {
        self.layers.push(layer);
    }

    fn weight(&self) -> (usize, bool, bool, bool, usize) {
        let layer = self.layers.last();
        (
            self.layers.len(),
            layer.is_some_and(|layer| layer.id.is_some()),
            self.session.is_some(),
            self.unit.is_some(),
            // The root says nothing at all, and a slice less than what is in it.
            if self.layers.is_empty() { self.names } else { 0 },
        )
    }

    /// A container: of the pod it is in, or of its own.
    fn enter(&mut self, id: Vec<u8>, runtime: Option<Runtime>, depth: usize) {
        if let Some(pod) = self.layers.last_mut()
            && pod.kind == Kind::Pod
            && pod.id.is_none()
        {
            pod.id = Some(id);
            pod.runtime = runtime;
            pod.depth = depth;
        } else {
            self.layers.push(Layer::container(id, runtime, depth));
        }
    }

    fn found(&mut self, names: &[&[u8]], at: usize) -> Found {
        let this = names[at];
        // A name that was taken for somebody's id is not also the directory that a manager keeps its ids in.
        let claimed = self.layers.last().map_or(0, |layer| layer.depth);
        let above = |levels: usize| match at.checked_sub(levels) {
            Some(index) if index >= claimed => names[index],
            _ => b"",
        };
        if let Some((slice, manager, id)) = colon_form(this) {
            if let Some((_, uid)) = name::pod_slice(slice) {
                let pod = Layer { kind: Kind::Pod, id: None, runtime: None, pod_uid: Some(uid), depth: at };
                self.layers.push(pod);
            }
            return match Manager::of(manager) {
                Some(Manager::Runs(runtime)) => Found::Container(id.to_vec(), Some(runtime)),
                Some(Manager::Watches) => Found::Monitor,
                None => Found::Container(id.to_vec(), Some(Runtime::Oci)),
            };
        }
        if let Some((slice, uid)) = name::pod_slice(this)
            && names[..at].iter().any(|name| name.strip_suffix(b".slice") == Some(slice))
        {
            return Found::Pod(uid);
        }
        if let Some(uid) = this.strip_prefix(b"pod").and_then(name::pod_uid)
            && (above(1) == b"kubepods" || name::QOS.contains(&above(1)) && above(2) == b"kubepods")
        {
            return Found::Pod(uid);
        }
        let found = bare_container(this, &above, at);
        if matches!(found, Found::Nothing) { machine(this, &above, names.get(at + 1)) } else { found }
    }
}

/// The names in a path. One reached from a cgroup namespace may begin with `..`, which names nothing.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b"..")
}

/// `slice:prefix:name`, the form in which the systemd driver hands a cgroup to a runtime. A runtime that does not
/// use systemd makes a directory of that name: nothing else does.
fn colon_form(name: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut parts = name.splitn(3, |&byte| byte == b':');
    let (slice, prefix, id) = (parts.next()?, parts.next()?, parts.next()?);
    (slice.ends_with(b".slice") && !prefix.is_empty() && name::is_oci_id(id)).then_some((slice, prefix, id))
}

/// Who puts a prefix before a container's id.
enum Manager {
    Runs(Runtime),
    Watches,
}

impl Manager {
    fn of(prefix: &[u8]) -> Option<Self> {
        Some(match prefix {
            b"cri-containerd" | b"containerd" | b"nerdctl" => Self::Runs(Runtime::Containerd),
            b"crio" => Self::Runs(Runtime::CriO),
            b"docker" => Self::Runs(Runtime::Docker),
            // With `--cgroups=split` the container is in `libpod-payload-<id>` inside the unit that started it.
            b"libpod" | b"libpod-payload" => Self::Runs(Runtime::Podman),
            b"crio-conmon" | b"libpod-conmon" => Self::Watches,
            _ => return None,
        })
    }
}

fn bare_container<'a>(this: &[u8], above: &dyn Fn(usize) -> &'a [u8], at: usize) -> Found {
    if name::is_container_id(this) {
        return Found::Container(
            this.to_vec(),
            match above(1) {
                b"docker" => Some(Runtime::Docker),
                // The namespaces of containerd that ctr and nerdctl use; Docker's has its own parent.
                b"default" | b"k8s.io" if at == 1 => Some(Runtime::Containerd),
                _ => None,
            },
        );
    }
    if above(1) == b"buildkit" && name::is_buildkit_id(this) {
        return Found::Container(this.to_vec(), (above(2) == b"docker").then_some(Runtime::Docker));
    }
    let scope = this.strip_suffix(b".scope");
    let stem = scope.unwrap_or(this);
    if let Some(split) = stem.len().checked_sub(64).filter(|_| stem.is_ascii())
        && let (Some(prefix), id) = (stem[..split].strip_suffix(b"-"), &stem[split..])
        && name::is_container_id(id)
        && let Some(manager) = Manager::of(prefix)
    {
        return match manager {
            Manager::Runs(runtime) => Found::Container(id.to_vec(), Some(runtime)),
            Manager::Watches => Found::Monitor,
        };
    }
    // What runc and crun ask systemd for where their configuration names no cgroup.
    if let Some(scope) = scope
        && let Some(id) = [&b"runc-"[..], b"crun-"].iter().find_map(|prefix| scope.strip_prefix(*prefix))
        && name::is_oci_id(id)
    {
        return Found::Container(id.to_vec(), Some(Runtime::Oci));
    }
    Found::Nothing
}

fn machine<'a>(this: &[u8], above: &dyn Fn(usize) -> &'a [u8], below: Option<&&[u8]>) -> Found {
    // LXC from 4.0; before, `/lxc/NAME`, and for a while `lxc.payload/NAME`. Where a name was taken LXC adds -1, -2, …
    // <https://github.com/lxc/lxc/blob/lxc-5.0.0/src/lxc/cgroups/cgroup.h>
    if this == b"lxc.monitor" || this == b"lxc.pivot" || this.starts_with(b"lxc.monitor.") {
        return Found::MonitorTree;
    }
    if let Some(id) = this.strip_prefix(b"lxc.payload.").filter(|id| !id.is_empty()) {
        return Found::Machine(id.to_vec(), Some(Runtime::Lxc));
    }
    if matches!(above(1), b"lxc" | b"lxc.payload") {
        return Found::Machine(this.to_vec(), Some(Runtime::Lxc));
    }
    // systemd-nspawn itself is in `supervisor`, what it runs in `payload`.
    // <https://github.com/systemd/systemd/blob/v257/src/nspawn/nspawn-cgroup.c> (`create_subcgroup`)
    let below = below.copied().unwrap_or_default();
    let instance = this.strip_prefix(b"systemd-nspawn@").and_then(|name| name.strip_suffix(b".service"));
    let scope = this.strip_prefix(b"machine-").and_then(|name| name.strip_suffix(b".scope"));
    let in_machines = above(1).starts_with(b"machine") && above(1).ends_with(b".slice");
    let (id, runtime) = match (instance, scope) {
        (Some(instance), _) => (instance, Some(Runtime::Nspawn)),
        // libvirt and systemd-vmspawn register their machines under such names too.
        (None, Some(scope)) if in_machines => (scope, (below == b"payload").then_some(Runtime::Nspawn)),
        _ => return Found::Nothing,
    };
    if id.is_empty() || below == b"supervisor" {
        return Found::Nothing;
    }
    Found::Machine(name::unescape(id), runtime)
}

/// The id of a login session, as loginctl shows it.
fn session<'a>(unit: &'a [u8], above: &[&[u8]]) -> Option<&'a [u8]> {
    let id = unit.strip_prefix(b"session-")?.strip_suffix(b".scope")?;
    let in_user = above.last().is_some_and(|slice| slice.starts_with(b"user-") && slice.ends_with(b".slice"));
    (in_user && !id.is_empty()).then_some(id)
}
