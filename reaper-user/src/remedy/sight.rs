//! Reading of a holder in /proc what decides whether it may be touched. A process is read by its pid, its ancestors one by
//! one; /proc is never listed. All of it may be a container's invention, and has bounds.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Heeds, OPT_OUT, OptOut};
use crate::{
    identity::Identity,
    proc::{Proc, Seen, ticks},
    text::Untrusted,
};

/// Bytes of an environment that are read. A longer one may hold anything behind that.
const ENVIRONMENT_BYTES: u64 = 1 << 20;

/// Bytes of any other file.
const FILE_BYTES: u64 = 1 << 16;

/// Threads and descriptors of a holder that are looked at for a wait for signals.
const LOOKED_AT: usize = 1_024;

/// Ancestors that are followed: more than a process can have in practice.
const ANCESTORS: usize = 256;

/// A holder, before it is known whose its cgroups are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its state.
    pub seen: Seen,
    /// Its executable; `None` where it could not be read.
    pub executable: Option<Executable>,
    /// What it makes of SIGCHLD.
    pub heeds: Heeds,
    /// What its environment says.
    pub opt_out: OptOut,
    /// This process, or one that it descends from.
    pub ourselves: bool,
    /// The text of its `cgroup` file; `None` where it could not be read.
    pub cgroup: Option<Vec<u8>>,
    /// The same of its parent; `None` where it has none.
    pub parent_cgroup: Option<Vec<u8>>,
    /// The same of each first process of a pid namespace that descends from it.
    pub below: Vec<Vec<u8>>,
}

/// What a process executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// Its path in the process's mount namespace, as it was when it was executed.
    pub path: Untrusted,
    /// Device and inode number of what runs, also after another file was put in its place.
    pub file: (u64, u64),
    /// Whether it is root's, and nobody else may write it.
    pub is_roots: bool,
    /// Whether the process is in the initial user namespace, where only root can mount one file over another.
    pub in_init_user_ns: bool,
}

/// The first processes of pid namespaces, and who is above them. Each process is read once.
#[derive(Debug)]
pub struct Ancestry<'a> {
    proc: &'a Proc,
    inits: &'a [Identity],
    parents: HashMap<u32, Option<(u32, u64)>>,
    /// For each process, the first processes below it.
    below: Option<HashMap<u32, Vec<u32>>>,
}

impl<'a> Ancestry<'a> {
    /// Of these first processes.
    #[must_use]
    pub fn of(proc: &'a Proc, inits: &'a [Identity]) -> Self {
        Self { proc, inits, parents: HashMap::new(), below: None }
    }

    /// A process's parent, and when the process itself started, in clock ticks.
    fn parent(&mut self, pid: u32) -> Option<(u32, u64)> {
        let proc = self.proc;
        *self.parents.entry(pid).or_insert_with(|| proc.parent(pid))
    }

    /// Whether `pid` is `from` or above it.
    fn is_above(&mut self, pid: u32, from: u32) -> bool {
        let mut at = from;
        for _ in 0..ANCESTORS {
            if at == pid {
                return true;
            }
            match self.parent(at) {
                Some((parent, _)) if parent != 0 => at = parent,
                _ => return false,
            }
        }
        // Who has that many ancestors hides something.
        true
    }

    /// The `cgroup` files of the first processes below `pid`.
    fn below(&mut self, pid: u32) -> Vec<Vec<u8>> {
        if self.below.is_none() {
            let mut below: HashMap<u32, Vec<u32>> = HashMap::new();
            for init in self.inits {
                // The pid may be another process's by now.
                if self.parent(init.pid).is_none_or(|(_, start)| start != ticks(init.start)) {
                    continue;
                }
                let mut at = init.pid;
                for _ in 0..ANCESTORS {
                    let Some((parent, _)) = self.parent(at).filter(|(parent, _)| *parent != 0) else { break };
                    below.entry(parent).or_default().push(init.pid);
                    at = parent;
                }
            }
            self.below = Some(below);
        }
        let inits = self.below.as_ref().and_then(|below| below.get(&pid)).cloned().unwrap_or_default();
        let mut texts: Vec<_> = inits
            .into_iter()
            .filter_map(|init| read(&self.proc.of(init).join("cgroup"), FILE_BYTES).ok())
            .collect();
        texts.sort_unstable();
        texts.dedup();
        texts
    }
}

/// Looks at a holder; `None` where it is gone.
#[must_use]
pub fn look(proc: &Proc, pid: u32, ancestry: &mut Ancestry<'_>) -> Option<Sight> {
    let seen = proc.see(pid).ok().filter(|seen| seen.tgid == pid && !seen.has_ended())?;
    let directory = proc.of_living(pid);
    let cgroup = |pid| read(&proc.of(pid).join("cgroup"), FILE_BYTES).ok();
    Some(Sight {
        executable: if seen.kernel_thread { None } else { executable(proc, &directory) },
        heeds: heeds(&directory, &seen),
        opt_out: if seen.kernel_thread { OptOut::No } else { opt_out(&directory) },
        ourselves: ancestry.is_above(pid, std::process::id()),
        cgroup: cgroup(pid),
        parent_cgroup: Some(seen.parent).filter(|parent| *parent != 0).and_then(cgroup),
        below: ancestry.below(pid),
        seen,
    })
}

fn executable(proc: &Proc, directory: &Path) -> Option<Executable> {
    use std::os::unix::ffi::OsStrExt as _;
    let link = directory.join("exe");
    let path = fs::read_link(&link).ok()?;
    // Through the link: what runs, not what has its path.
    let metadata = fs::metadata(&link).ok()?;
    let shown = path.as_os_str().as_bytes();
    let user_ns = |of: PathBuf| fs::read_link(of.join("ns/user")).ok();
    let own = user_ns(directory.to_owned());
    Some(Executable {
        path: Untrusted::new(shown.strip_suffix(b" (deleted)").unwrap_or(shown)),
        file: (metadata.dev(), metadata.ino()),
        is_roots: metadata.uid() == 0 && metadata.mode() & 0o022 == 0,
        in_init_user_ns: own.is_some() && own == user_ns(proc.of(1)),
    })
}

/// Whether SIGCHLD would wake it. A signalfd says in `fdinfo` which signals it is for; a thread in `sigwait` is known by the
/// call that it is in.
fn heeds(directory: &Path, seen: &Seen) -> Heeds {
    const SIGCHLD: u64 = 1 << (17 - 1);
    if seen.handles_sigchld {
        return Heeds::Handler;
    }
    let fetches = |info: &[u8]| {
        let text = String::from_utf8_lossy(info);
        let mask = text.lines().find_map(|line| line.strip_prefix("sigmask:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & SIGCHLD != 0)
    };
    let is_signalfd =
        |path: &Path| fs::read_link(path).is_ok_and(|link| link.as_os_str() == "anon_inode:[signalfd]");
    for descriptor in names(&directory.join("fd")) {
        if is_signalfd(&directory.join("fd").join(&descriptor))
            && read(&directory.join("fdinfo").join(&descriptor), FILE_BYTES).is_ok_and(|info| fetches(&info))
        {
            return Heeds::Signalfd;
        }
    }
    let waits = libc::SYS_rt_sigtimedwait.to_string();
    for thread in names(&directory.join("task")) {
        let call = read(&directory.join("task").join(thread).join("syscall"), FILE_BYTES);
        if call.is_ok_and(|call| call.split(|byte| *byte == b' ').next() == Some(waits.as_bytes())) {
            return Heeds::Sigwait;
        }
    }
    Heeds::No
}

/// What is in a directory of one process, up to a bound.
fn names(directory: &Path) -> Vec<std::ffi::OsString> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.take(LOOKED_AT).filter_map(|entry| Some(entry.ok()?.file_name())).collect()
}

fn opt_out(directory: &Path) -> OptOut {
    let Ok(text) = read(&directory.join("environ"), ENVIRONMENT_BYTES + 1) else { return OptOut::Unknown };
    let wanted = [OPT_OUT.as_bytes(), b"=off"].concat();
    if text.split(|byte| *byte == 0).any(|variable| variable == wanted) {
        return OptOut::Yes;
    }
    if text.len() as u64 > ENVIRONMENT_BYTES { OptOut::Unknown } else { OptOut::No }
}

fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
