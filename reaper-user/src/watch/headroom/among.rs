//! Zombies that count against a limit that is no cgroup's: of a user, or of a pid namespace.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use super::census::{Own, each_zombie, largest};
use crate::{
    headroom::{CgroupPath, Limit},
    identity::BootTime,
    kernel::INITIAL_PID_NAMESPACE,
    proc::namespaces::{self, INITIAL_USER_NAMESPACE},
    watch::{Describer, WatchError, sweep::exists},
};

/// So many are looked at to see whose they are, at most: some 7 µs each with the user namespace, else 2.
const LOOKED_AT: usize = 8_192;

/// Those of them that count.
#[derive(Clone, Debug, Default)]
pub(super) struct Among {
    /// How many; `None` where it is not known of each whether it does, or there are too many to look at.
    pub(super) all: Option<u64>,
    /// In which cgroups the most of them are, and whose.
    pub(super) own: Vec<(CgroupPath, Own)>,
}

/// One zombie.
#[derive(Debug)]
struct Dead {
    pid: u32,
    pid_ns: u32,
    cgroups: [u64; 2],
}

/// What a look at a zombie says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said<T> {
    Known(T),
    /// It is gone.
    Gone,
    /// It may not be looked at.
    Unknown,
}

/// All zombies of one moment, by the limits that are asked for: a user's may be refused in hundreds of cgroups at once, and the ledger
/// is gone through, and each looked at, once for all.
#[derive(Debug)]
pub(super) struct Zombies {
    dead: Vec<Dead>,
    /// The users of those, in the same order, where somebody has asked for one.
    users: Option<Vec<Said<u32>>>,
    known: HashMap<Limit, Among>,
}

impl Zombies {
    /// Goes through the ledger.
    pub(super) fn of(describer: &Describer, now: BootTime) -> Result<Self, WatchError> {
        let mut dead = Vec::new();
        each_zombie(describer, now, |record| {
            dead.push(Dead { pid: record.tgid(), pid_ns: record.pid_ns, cgroups: describer.cgroups(record) });
        })?;
        Ok(Self { dead, users: None, known: HashMap::new() })
    }

    /// Those that count against a user's or a pid namespace's limit.
    pub(super) fn among(&mut self, limit: &Limit, describer: &mut Describer) -> Among {
        if let Some(known) = self.known.get(limit) {
            return known.clone();
        }
        let proc = describer.proc.root();
        let counts = match limit {
            Limit::PidMaxOf(namespace) => self.within(proc, *namespace),
            Limit::Nproc(uid) if self.dead.len() <= LOOKED_AT => {
                let owners = describer.kernel.counts_owners();
                let users = self.users.get_or_insert_with(|| users(proc, &self.dead, owners));
                let counts = users.iter().map(|user| match user {
                    Said::Known(user) => Some(user == uid),
                    Said::Gone => Some(false),
                    Said::Unknown => None,
                });
                count(&self.dead, counts)
            }
            // Which namespace that is, is not known.
            Limit::NprocWithin(_) => None,
            Limit::Nproc(_) | Limit::PidsMax(_) | Limit::PidMax | Limit::ThreadsMax => None,
        };
        let among = counts.map_or_else(Among::default, |counts| {
            let all = Some(counts.values().sum());
            let mut own: HashMap<CgroupPath, Own> = HashMap::new();
            for ([v2, v1], count) in counts {
                let Some(path) = describer.workloads.cgroups().pids_path([v2, v1]) else { continue };
                let workload = describer.workloads.of(v2, v1);
                own.entry(path).or_insert((0, workload)).0 += count;
            }
            Among { all, own: largest(own.iter()) }
        });
        self.known.insert(limit.clone(), among.clone());
        among
    }

    /// Those that have a number in a pid namespace: they are in it or in one within it.
    fn within(&self, proc: &Path, namespace: u32) -> Option<Counts> {
        let mut within = HashMap::from([(namespace, Some(true)), (INITIAL_PID_NAMESPACE, Some(false))]);
        for Dead { pid, pid_ns, .. } in &self.dead {
            if let Entry::Vacant(unknown) = within.entry(*pid_ns) {
                match said(*pid, namespaces::pid_namespaces(proc, *pid)) {
                    Said::Known(all) => drop(unknown.insert(Some(all.contains(&namespace.into())))),
                    Said::Unknown => drop(unknown.insert(None)),
                    // Another one of it may be there.
                    Said::Gone => {}
                }
            }
        }
        // Of what is not there all are gone.
        count(
            &self.dead,
            self.dead.iter().map(|dead| within.get(&dead.pid_ns).copied().unwrap_or(Some(false))),
        )
    }
}

/// How many there are in the same cgroups.
type Counts = HashMap<[u64; 2], u64>;

/// Those that count; `None` where that is not known of one.
fn count(dead: &[Dead], counts: impl Iterator<Item = Option<bool>>) -> Option<Counts> {
    let mut all = Counts::new();
    for (dead, counts) in dead.iter().zip(counts) {
        if counts? {
            *all.entry(dead.cgroups).or_default() += 1;
        }
    }
    Some(all)
}

/// Which user of the initial user namespace each counts for. Where the kernel counts for `owners`, too, that is who has made the outermost
/// user namespace around it: <https://elixir.bootlin.com/linux/v6.12/source/kernel/ucount.c> (`inc_rlimit_ucounts`)
fn users(proc: &Path, dead: &[Dead], owners: bool) -> Vec<Said<u32>> {
    let mut known: HashMap<u64, u32> = HashMap::new();
    let mut counts_for = |pid: u32| {
        let user = user(proc, pid)?;
        if !owners {
            return Ok(user);
        }
        let namespace = namespaces::user_namespace(proc, pid)?;
        if namespace == INITIAL_USER_NAMESPACE {
            return Ok(user);
        }
        if let Some(owner) = known.get(&namespace) {
            return Ok(*owner);
        }
        let owner = namespaces::outermost_owner(proc, pid)?;
        known.insert(namespace, owner);
        Ok(owner)
    };
    dead.iter().map(|dead| said(dead.pid, counts_for(dead.pid))).collect()
}

/// Of what is gone the kernel says that it may not be looked at.
fn said<T>(pid: u32, answer: io::Result<T>) -> Said<T> {
    match answer {
        Ok(known) => Said::Known(known),
        Err(_) if exists(pid) => Said::Unknown,
        Err(_) => Said::Gone,
    }
}

/// Whose a zombie is: the effective user, also of a process that may not be looked at. The limit is the real user's: of one that changed
/// its user, as `sudo` does, it says another one's.
/// <https://elixir.bootlin.com/linux/v6.12/source/fs/proc/base.c> (`task_dump_owner`)
fn user(proc: &Path, pid: u32) -> io::Result<u32> {
    Ok(fs::metadata(proc.join(pid.to_string()))?.uid())
}
