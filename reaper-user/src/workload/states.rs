//! What the low-level runtimes and Incus keep about their containers on disk: the certain answer where a cgroup's
//! name shows nothing (`runc run NAME` puts a container at `/NAME`, or wherever its configuration says).
//!
//! Read only for a zombie whose cgroup explains too little, once a cgroup. Files are believed only if they belong to
//! the owner of the root directory (root's, in production), are regular and are of sane size.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    Kind, Runtime, name,
    path::{Layer, Reading},
};

/// Containers that are looked at in one directory. A node that runs as many has other troubles.
const MAX_STATES: usize = 4096;

/// Bytes of one state file: runc's holds the container's whole configuration, commonly 6 to 60 kB.
const MAX_BYTES: u64 = 4 << 20;

/// The state directories below one root directory.
#[derive(Debug)]
pub struct RuntimeStates {
    root: PathBuf,
    owner: Option<u32>,
    /// What was read, by the state file's path, so that only what changed is read again.
    read: HashMap<PathBuf, (Stamp, Option<State>)>,
}

type Stamp = (u64, i64, i64, u64);

/// One container: where it says its cgroups are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    id: Vec<u8>,
    runtime: Runtime,
    v2: Option<Vec<u8>>,
    v1_pids: Option<Vec<u8>>,
}

impl RuntimeStates {
    /// The state directories below `root`: `/`, or where the host's root directory is mounted.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        let owner = fs::metadata(root).ok().map(|metadata| metadata.uid());
        Self { root: root.to_path_buf(), owner, read: HashMap::new() }
    }

    /// Adds to `reading`, the best of these two paths, what its names could not tell.
    pub(super) fn complete(&mut self, reading: &mut Reading<'_>, v2: Option<&[u8]>, v1_pids: Option<&[u8]>) {
        // What is deeper runs in a container, whose runtime keeps its state where the host does not see it.
        if let [layer] = &mut reading.layers[..] {
            self.complete_runtime(layer);
        } else if reading.is_unexplained()
            && let Some(state) = self.find(v2, v1_pids)
        {
            reading.add(Layer::container(state.id.clone(), Some(state.runtime), usize::MAX));
        }
    }

    /// Who made a container whose id is known.
    fn complete_runtime(&self, layer: &mut Layer) {
        let Some(id) = layer.id.as_deref().filter(|id| !matches!(*id, b"." | b"..")) else { return };
        match (layer.kind, layer.runtime) {
            // LXC's library made it; Incus keeps a directory (or a link to one) for each container of its own,
            // PROJECT_NAME outside the default project. LXD has no name of its own here.
            (Kind::Machine, Some(Runtime::Lxc)) => {
                let place = self.root.join("var/lib/incus/containers").join(OsStr::from_bytes(id));
                if fs::symlink_metadata(place).is_ok() {
                    layer.runtime = Some(Runtime::Incus);
                }
            }
            (Kind::Pod | Kind::Container, None) => {
                let of = |(place, runtime): (PathBuf, Runtime)| {
                    let known = fs::symlink_metadata(place.join(OsStr::from_bytes(id))).is_ok();
                    (known && runtime != Runtime::Oci).then_some(runtime)
                };
                layer.runtime = self.places().into_iter().find_map(of);
            }
            _ => {}
        }
    }

    /// The container that claims one of these cgroups, or the closest cgroup around one.
    fn find(&mut self, v2: Option<&[u8]>, v1_pids: Option<&[u8]>) -> Option<&State> {
        self.refresh();
        let fit = |claim: &Option<Vec<u8>>, path: Option<&[u8]>| -> usize {
            let (Some(claim), Some(path)) = (claim, path) else { return 0 };
            let inside = path.strip_prefix(&claim[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
            if inside { claim.len() } else { 0 }
        };
        let states = self.read.values().filter_map(|(_, state)| state.as_ref());
        states
            .map(|state| (fit(&state.v2, v2).max(fit(&state.v1_pids, v1_pids)), state))
            .filter(|(fit, _)| *fit > 1)
            // Two that claim the same cgroup: any, but always the same one.
            .max_by(|(a, left), (b, right)| a.cmp(b).then_with(|| right.id.cmp(&left.id)))
            .map(|(_, state)| state)
    }

    /// Directories with one directory a container, and who keeps them.
    fn places(&self) -> Vec<(PathBuf, Runtime)> {
        let at = |place: &str| self.root.join(place);
        let mut places = vec![
            (at("run/docker/runtime-runc/moby"), Runtime::Docker),
            (at("run/runc"), Runtime::Oci),
            (at("run/crun"), Runtime::Oci),
        ];
        // containerd keeps one directory a namespace; Docker's is `moby`, where Docker uses containerd's own.
        let namespaces = fs::read_dir(at("run/containerd/runc")).into_iter().flatten().take(64);
        places.extend(namespaces.filter_map(Result::ok).map(|entry| {
            let runtime = if entry.file_name() == "moby" { Runtime::Docker } else { Runtime::Containerd };
            (entry.path(), runtime)
        }));
        places
    }

    fn refresh(&mut self) {
        let mut before = std::mem::take(&mut self.read);
        for (place, runtime) in self.places() {
            let entries = fs::read_dir(place).into_iter().flatten().filter_map(Result::ok).take(MAX_STATES);
            for entry in entries {
                let id = entry.file_name().into_vec();
                for (file, form) in [("state.json", Form::Runc), ("status", Form::Crun)] {
                    let path = entry.path().join(file);
                    let Some((stamp, file)) = self.open(&path) else { continue };
                    let state = match before.remove(&path) {
                        Some((known, state)) if known == stamp => state,
                        _ => form.read(file, &id, runtime),
                    };
                    self.read.insert(path, (stamp, state));
                }
            }
        }
    }

    fn open(&self, path: &Path) -> Option<(Stamp, File)> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let sane = metadata.is_file() && metadata.len() <= MAX_BYTES && Some(metadata.uid()) == self.owner;
        sane.then(|| ((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()), file))
    }
}

#[derive(Clone, Copy)]
enum Form {
    Runc,
    Crun,
}

/// runc's state.json: <https://github.com/opencontainers/runc/blob/v1.1.5/libcontainer/container_linux.go> (`State`,
/// `BaseState`). The paths are those of the directories, by controller; v2's key is empty.
#[derive(Deserialize)]
struct RuncState {
    id: String,
    #[serde(default)]
    cgroup_paths: HashMap<String, String>,
}

/// crun's status: <https://github.com/containers/crun/blob/1.8.1/src/libcrun/status.c>. One path for every hierarchy.
#[derive(Deserialize)]
struct CrunStatus {
    #[serde(rename = "cgroup-path", default)]
    cgroup_path: String,
}

impl Form {
    fn read(self, file: File, id: &[u8], runtime: Runtime) -> Option<State> {
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        let state = match self {
            Self::Runc => {
                let RuncState { id, cgroup_paths } = serde_json::from_slice(&text).ok()?;
                // Where v1 is there too, v2 is mounted below, on /sys/fs/cgroup/unified.
                let v2_mount = if cgroup_paths.len() > 1 { 1 } else { 0 };
                State {
                    id: id.into_bytes(),
                    runtime,
                    v2: cgroup_paths.get("").and_then(|path| below_mount(path, v2_mount)),
                    v1_pids: cgroup_paths.get("pids").and_then(|path| below_mount(path, 1)),
                }
            }
            Self::Crun => {
                let CrunStatus { cgroup_path } = serde_json::from_slice(&text).ok()?;
                let path = cgroup_path.starts_with('/').then(|| cgroup_path.into_bytes());
                State { id: id.to_vec(), runtime, v2: path.clone(), v1_pids: path }
            }
        };
        name::is_oci_id(&state.id).then_some(state)
    }
}

/// The path of a cgroup within its hierarchy, which is mounted `levels` below /sys/fs/cgroup.
fn below_mount(path: &str, levels: usize) -> Option<Vec<u8>> {
    let mut rest = path.strip_prefix("/sys/fs/cgroup")?;
    for _ in 0..levels {
        let inside = rest.strip_prefix('/')?;
        rest = &inside[inside.find('/')?..];
    }
    (rest.starts_with('/') && rest.len() > 1).then(|| rest.as_bytes().to_vec())
}

#[cfg(test)]
mod tests;
