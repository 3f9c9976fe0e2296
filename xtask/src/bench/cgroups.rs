//! Many cgroups for one measurement, and zombies that die in them.

use std::{fs, path::PathBuf};

use anyhow::Context as _;

/// In Python: leaves a zombie in a cgroup.
pub(super) const LEAVE: &str = "
import os
def leave(cgroup):
    if os.fork() == 0:
        with open(cgroup + '/cgroup.procs', 'w') as procs:
            procs.write('0')
        os._exit(0)
";

/// Cgroups named like units; they go when this is dropped.
pub(super) struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    /// Makes them in the root of a hierarchy.
    pub(super) fn make(mount: &str, names: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut made = Self(Vec::new());
        for name in names {
            let path = PathBuf::from(mount).join(name);
            fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
            made.0.push(path);
        }
        Ok(made)
    }

    /// Their folders.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.0
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = fs::remove_dir(path) {
                eprintln!("bench: could not remove {}: {error}", path.display());
            }
        }
    }
}

/// Where version 2 is mounted.
pub(super) fn v2_mount() -> anyhow::Result<String> {
    mount("cgroup2", None)?.context("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

/// Where the hierarchy is mounted that counts pids.
pub(super) fn pids_mount() -> anyhow::Result<String> {
    let v1 = mount("cgroup", Some("pids"))?;
    Ok(if let Some(v1) = v1 { v1 } else { v2_mount()? })
}

fn mount(kind: &str, with: Option<&str>) -> anyhow::Result<Option<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, at, found, options, ..] = fields[..] else { return None };
        let has = with.is_none_or(|with| options.split(',').any(|option| option == with));
        (found == kind && has).then(|| at.to_owned())
    }))
}
