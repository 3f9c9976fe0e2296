//! A cgroup of the version 2 hierarchy for one test's processes: by it they are known, and ended.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// The cgroup; its processes die and it is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes it in the root of the hierarchy.
    pub(crate) fn new(name: impl AsRef<OsStr>) -> Self {
        let path = mount().join(name.as_ref());
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path }
    }

    /// Makes one where the pids controller is: in the root of its v1 hierarchy where it has one, while the processes stay where they
    /// are in version 2.
    pub(crate) fn of_pids(name: impl AsRef<OsStr>) -> Self {
        let path = pids_mount().join(name.as_ref());
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path }
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs in it from its first instruction on.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"echo $$ >"$0"/cgroup.procs && exec "$@""#]).arg(&self.path).arg(program);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.path).is_err() {
            if Instant::now() > deadline {
                eprintln!("could not remove {}", self.path.display());
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A cgroup of this name in the root of each hierarchy, made by others; what is below goes with it when this is dropped. Keep it until
/// those have ended.
#[derive(Debug)]
pub(crate) struct Parent(pub(crate) &'static str);

impl Drop for Parent {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let cgroups = mounts.lines().filter(|line| line.contains(" - cgroup"));
        for mount in cgroups.filter_map(|line| line.split(' ').nth(4)) {
            remove(&Path::new(mount).join(self.0));
        }
    }
}

/// What is not empty stays.
fn remove(cgroup: &Path) {
    let Ok(entries) = fs::read_dir(cgroup) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&entry.path());
    }
    if let Err(error) = fs::remove_dir(cgroup) {
        eprintln!("could not remove {}: {error}", cgroup.display());
    }
}

/// Where the hierarchy with the pids controller is mounted: version 1's where it has one.
pub(crate) fn pids_mount() -> PathBuf {
    let has_pids = |options: &str| options.split([' ', ',']).any(|word| word == "pids");
    mounted("cgroup", has_pids).unwrap_or_else(mount)
}

/// Where the version 2 hierarchy is mounted.
fn mount() -> PathBuf {
    mounted("cgroup2", |_| true).expect("no cgroup2 is mounted: the live tests need one")
}

/// Where a file system of this kind is mounted whose source and options are the right ones.
fn mounted(kind: &str, is_it: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let (found, rest) = after.split_once(' ')?;
        (found == kind && is_it(rest)).then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}
