//! The files that limits are in: `pids.*` of cgroups, of either version, and those of the node and of one process.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::workload::Hierarchy;

/// Bytes of a file that holds a number or a few lines.
const SMALL: u64 = 4_096;

/// Cgroups below one whose threads are counted, at most.
const BELOW: usize = 64;

/// Bytes of a list of threads that are read, at most: some 100,000 threads. Who has more is not listed.
const LIST: u64 = 1 << 20;

/// A cgroup's path from the root of the hierarchy, without a slash at its end.
pub type CgroupPath = Arc<[u8]>;

/// What one cgroup says of its pids. A thread that has ended counts until its process is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Which cgroup.
    pub path: CgroupPath,
    /// `pids.max`; `None` where it is `max`.
    pub max: Option<u64>,
    /// `pids.current`: all tasks in it and below it, the dead ones that are not released included.
    pub current: u64,
    /// Threads that are listed in it and below it: those that live. `None` where it was not asked for, there are too many, or they cannot
    /// be listed.
    pub threads: Option<u64>,
    /// Processes that are listed there.
    pub processes: Option<u64>,
}

/// What the node has and may have of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// `kernel.pid_max`, of the initial pid namespace (from Linux 6.14 on each has its own, which only its members can read).
    pub pid_max: u64,
    /// `kernel.threads-max`.
    pub threads_max: u64,
    /// Tasks, the dead ones that are not released included: what `threads-max` is held against. Pids are about as many; groups and
    /// sessions whose leader is gone take one, too.
    pub tasks: u64,
}

/// A process's RLIMIT_NPROC. It is not held against root's processes, nor where CAP_SYS_RESOURCE or CAP_SYS_ADMIN is held, and the
/// kernel shows nobody how many tasks of a user it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nproc {
    /// The real user id of the process.
    pub uid: u32,
    /// The soft limit; `None` where it is unlimited.
    pub limit: Option<u64>,
}

/// How often forks were refused, as `pids.events` or `pids.events.local` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The number behind `max`.
    pub count: u64,
    /// True where it is counted at the cgroup whose limit was hit, false where it is counted at that of the forker (version 1, and
    /// version 2 before Linux 6.11 or mounted with `pids_localevents`).
    /// <https://docs.kernel.org/admin-guide/cgroup-v2.html> (`pids.events`)
    pub at_limit: bool,
    /// The inode number of the cgroup's folder: another one may come to have its path.
    pub cgroup: u64,
}

/// The reader. It counts what it opens.
#[derive(Clone, Debug)]
pub struct Files {
    hierarchy: Hierarchy,
    point: PathBuf,
    proc: PathBuf,
    local_events: bool,
    opened: Arc<AtomicU64>,
}

impl Files {
    /// Reads the hierarchy that the `pids` controller is on, mounted at `point`, and `proc`.
    #[must_use]
    pub fn at(hierarchy: Hierarchy, point: &Path, proc: &Path) -> Self {
        let (point, proc) = (point.to_path_buf(), proc.to_path_buf());
        Self { hierarchy, point, proc, local_events: false, opened: Arc::default() }
    }

    /// The same, where version 2 is mounted with `pids_localevents` or not.
    #[must_use]
    pub fn local_events(self, local_events: bool) -> Self {
        Self { local_events, ..self }
    }

    /// The hierarchy that is read.
    #[must_use]
    pub const fn hierarchy(&self) -> Hierarchy {
        self.hierarchy
    }

    /// How many files were opened, or only looked for.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// A file of a cgroup.
    #[must_use]
    pub fn of(&self, path: &[u8], file: &str) -> PathBuf {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        self.point.join(Path::new(std::ffi::OsStr::from_bytes(relative))).join(file)
    }

    /// Which cgroup has this path, by its inode number; `None` where none has.
    pub fn inode(&self, path: &[u8]) -> io::Result<Option<u64>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(there(fs::metadata(self.of(path, "")))?.map(|folder| folder.ino()))
    }

    /// Whether there is such a cgroup.
    #[must_use]
    pub fn exists(&self, path: &[u8]) -> bool {
        matches!(self.inode(path), Ok(Some(_)))
    }

    /// What a cgroup says; `None` where it is gone, or counts no pids, as the root does. Threads are counted where `list` is set.
    pub fn level(&self, path: &CgroupPath, list: bool) -> io::Result<Option<Level>> {
        let Some(current) = self.number(path, "pids.current")?.flatten() else { return Ok(None) };
        let Some(max) = self.number(path, "pids.max")? else { return Ok(None) };
        let counted = if list { self.count(path) } else { None };
        let (threads, processes) = counted.unzip();
        Ok(Some(Level { path: Arc::clone(path), max, current, threads, processes }))
    }

    /// How often forks were refused; `None` where the cgroup is gone or does not say.
    pub fn refused(&self, path: &[u8]) -> io::Result<Option<Refused>> {
        let read = |file| there(self.small(&self.of(path, file)));
        let local = if self.hierarchy == Hierarchy::V2 { read("pids.events.local")? } else { None };
        // With `pids_localevents` both files have the old meaning, and are the same.
        let at_limit = local.is_some() && !self.local_events;
        let Some(text) = local.map_or_else(|| read("pids.events"), |text| Ok(Some(text)))? else {
            return Ok(None);
        };
        let count = text.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok());
        let count = count.ok_or_else(|| malformed(&self.of(path, "pids.events")))?;
        Ok(self.inode(path)?.map(|cgroup| Refused { count, at_limit, cgroup }))
    }

    /// What the node has and may have.
    pub fn node(&self) -> io::Result<Node> {
        let number = |file: &str| {
            let path = self.proc.join(file);
            let text = self.small(&path)?;
            text.trim().parse().map_err(|_| malformed(&path))
        };
        let path = self.proc.join("loadavg");
        // `0.20 0.18 0.12 1/80 11206`: running tasks and all, proc_loadavg(5).
        let load = self.small(&path)?;
        let tasks = load.split(' ').nth(3).and_then(|tasks| tasks.split_once('/')?.1.parse().ok());
        Ok(Node {
            pid_max: number("sys/kernel/pid_max")?,
            threads_max: number("sys/kernel/threads-max")?,
            tasks: tasks.ok_or_else(|| malformed(&path))?,
        })
    }

    /// The RLIMIT_NPROC of a process; `None` where it is gone.
    pub fn nproc(&self, pid: u32) -> io::Result<Option<Nproc>> {
        let process = self.proc.join(pid.to_string());
        let Some(limits) = there(self.small(&process.join("limits")))? else { return Ok(None) };
        let Some(status) = there(self.small(&process.join("status")))? else { return Ok(None) };
        let first = |text: &str, begin| {
            let rest = text.lines().find_map(|line| line.strip_prefix(begin))?;
            rest.split_whitespace().next().map(str::to_owned)
        };
        let parse = || {
            let (soft, uid) = (first(&limits, "Max processes")?, first(&status, "Uid:")?);
            let limit = if soft == "unlimited" { None } else { Some(soft.parse().ok()?) };
            Some(Nproc { uid: uid.parse().ok()?, limit })
        };
        parse().map(Some).ok_or_else(|| malformed(&process))
    }

    /// Threads and processes in a cgroup and all below it; `None` where there are too many to look at, or they cannot be listed (the
    /// processes of a threaded cgroup).
    fn count(&self, path: &[u8]) -> Option<(u64, u64)> {
        let threads_file = if self.hierarchy == Hierarchy::V2 { "cgroup.threads" } else { "tasks" };
        let mut left = vec![self.of(path, "")];
        let (mut threads, mut processes, mut seen) = (0, 0, 0);
        while let Some(directory) = left.pop() {
            seen += 1;
            if seen > BELOW {
                return None;
            }
            // One that vanishes meanwhile has none.
            let lines = |file| there(self.lines(&directory.join(file))).map(|lines| lines.unwrap_or(Some(0)));
            threads += lines(threads_file).ok()??;
            processes += lines("cgroup.procs").ok()??;
            // Two links: its own, and that of the directory above it. A cgroup that has none below it is not listed.
            if fs::metadata(&directory).is_ok_and(|metadata| metadata.nlink() == 2) {
                continue;
            }
            for entry in fs::read_dir(&directory).into_iter().flatten().map_while(Result::ok) {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(entry.path());
                }
            }
        }
        Some((threads, processes))
    }

    /// How many lines a file has; `None` where it is too long.
    fn lines(&self, path: &Path) -> io::Result<Option<u64>> {
        let text = self.bytes(path, LIST)?;
        let whole = (text.len() as u64) < LIST;
        Ok(whole.then(|| text.iter().filter(|byte| **byte == b'\n').count() as u64))
    }

    /// A number, or `max`: then `None` inside; `None` outside where there is no such file (any more).
    fn number(&self, path: &[u8], file: &str) -> io::Result<Option<Option<u64>>> {
        let path = self.of(path, file);
        let Some(text) = there(self.small(&path))? else { return Ok(None) };
        match text.trim() {
            "max" => Ok(Some(None)),
            number => number.parse().map(|number| Some(Some(number))).map_err(|_| malformed(&path)),
        }
    }

    fn small(&self, path: &Path) -> io::Result<String> {
        let bytes = self.bytes(path, SMALL)?;
        String::from_utf8(bytes).map_err(|_| malformed(path))
    }

    fn bytes(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let mut bytes = Vec::new();
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// What was read, `None` where it is gone: a file of a cgroup that was removed while it was open says ENODEV, one of a process ESRCH.
fn there<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ESRCH)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn malformed(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is not as expected", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A cgroup `/pod/box` with one below it.
    fn tree(hierarchy: Hierarchy) -> (tempfile::TempDir, Files) {
        let root = tempfile::tempdir().unwrap();
        let (pod, inner) = (root.path().join("pod"), root.path().join("pod/box/inner"));
        fs::create_dir_all(&inner).unwrap();
        let list = if hierarchy == Hierarchy::V2 { "cgroup.threads" } else { "tasks" };
        for (directory, max, current, threads) in [
            (pod.clone(), "256\n", "41\n", ""),
            (pod.join("box"), "max\n", "40\n", "7\n8\n"),
            (inner, "max\n", "1\n", "9\n"),
        ] {
            fs::write(directory.join("pids.max"), max).unwrap();
            fs::write(directory.join("pids.current"), current).unwrap();
            fs::write(directory.join("pids.events"), "max 12\n").unwrap();
            fs::write(directory.join(list), threads).unwrap();
            fs::write(
                directory.join("cgroup.procs"),
                threads.lines().next().map_or(String::new(), |one| format!("{one}\n")),
            )
            .unwrap();
        }
        let files = Files::at(hierarchy, root.path(), root.path());
        (root, files)
    }

    #[test]
    fn a_level_says_limit_use_and_what_lives_in_it_and_below_on_either_version() {
        for hierarchy in [Hierarchy::V2, Hierarchy::V1Pids] {
            let (_root, files) = tree(hierarchy);
            let path: CgroupPath = Arc::from(&b"/pod/box"[..]);
            let level = Level {
                path: Arc::clone(&path),
                max: None,
                current: 40,
                threads: Some(3),
                processes: Some(2),
            };
            assert_eq!(files.level(&path, true).unwrap(), Some(level));
            let pod = files.level(&Arc::from(&b"/pod"[..]), false).unwrap().unwrap();
            assert_eq!((pod.max, pod.current, pod.threads), (Some(256), 41, None));
            assert_eq!(files.level(&Arc::from(&b"/gone"[..]), true).unwrap(), None);
            assert!(files.opened() > 6);
        }
    }

    #[test]
    fn refusals_are_counted_where_the_kernel_counts_them() {
        let (root, files) = tree(Hierarchy::V2);
        let cgroup = fs::metadata(root.path().join("pod")).unwrap().ino();
        assert_eq!(files.refused(b"/pod").unwrap(), Some(Refused { count: 12, at_limit: false, cgroup }));
        fs::write(root.path().join("pod/pids.events.local"), "max 3\n").unwrap();
        assert_eq!(files.refused(b"/pod").unwrap(), Some(Refused { count: 3, at_limit: true, cgroup }));
        assert_eq!(files.refused(b"/gone").unwrap(), None);
        let files = files.local_events(true);
        assert_eq!(files.refused(b"/pod").unwrap(), Some(Refused { count: 3, at_limit: false, cgroup }));
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_gone() {
        let (root, files) = tree(Hierarchy::V2);
        let path: CgroupPath = Arc::from(&b"/pod"[..]);
        // A directory opens and does not read, as any file where something is wrong with the system.
        for file in ["pids.current", "pids.events"] {
            fs::remove_file(root.path().join("pod").join(file)).unwrap();
            fs::create_dir(root.path().join("pod").join(file)).unwrap();
        }
        assert!(files.level(&path, false).is_err() && files.refused(&path).is_err());
    }

    #[test]
    fn one_that_vanishes_while_it_is_listed_has_none_and_the_others_count() {
        let (root, files) = tree(Hierarchy::V2);
        let inner = root.path().join("pod/box/inner");
        for file in ["cgroup.threads", "cgroup.procs"] {
            fs::remove_file(inner.join(file)).unwrap();
        }
        let level = files.level(&Arc::from(&b"/pod/box"[..]), true).unwrap().unwrap();
        assert_eq!((level.threads, level.processes), (Some(2), Some(1)));
    }

    #[test]
    fn the_node_and_a_holder_are_read() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("sys/kernel")).unwrap();
        fs::create_dir(root.path().join("7")).unwrap();
        fs::write(root.path().join("sys/kernel/pid_max"), "32768\n").unwrap();
        fs::write(root.path().join("sys/kernel/threads-max"), "192730\n").unwrap();
        fs::write(root.path().join("loadavg"), "8.68 6.07 3.61 7/791 2369\n").unwrap();
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             100                  96365                processes \n";
        fs::write(root.path().join("7/limits"), limits).unwrap();
        fs::write(root.path().join("7/status"), "Name:\tx\nUid:\t1000\t1000\t1000\t1000\n").unwrap();
        let files = Files::at(Hierarchy::V2, root.path(), root.path());
        assert_eq!(files.node().unwrap(), Node { pid_max: 32_768, threads_max: 192_730, tasks: 791 });
        assert_eq!(files.nproc(7).unwrap(), Some(Nproc { uid: 1_000, limit: Some(100) }));
        assert_eq!(files.nproc(8).unwrap(), None);
        fs::write(root.path().join("loadavg"), "1 2 3\n").unwrap();
        assert!(files.node().unwrap_err().to_string().contains("loadavg"));
    }
}
