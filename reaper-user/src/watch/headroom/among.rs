//! Zombies that count against a limit that is no cgroup's: of a user, or of a pid namespace.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use super::census::{Own, each_zombie, largest};
use crate::{
    headroom::{CgroupPath, Limit},
    identity::BootTime,
    watch::{Describer, WatchError},
};

/// So many are looked at to see whose they are, at most: some 3 µs each.
const LOOKED_AT: usize = 16_384;

/// Those of them that count.
#[derive(Clone, Debug, Default)]
pub(super) struct Among {
    /// How many; `None` where there are too many to look at.
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

/// All zombies of one moment, by the limits that are asked for: a user's may be refused in hundreds of cgroups at once, and the ledger
/// is gone through, and each looked at, once for all.
#[derive(Debug)]
pub(super) struct Zombies {
    dead: Vec<Dead>,
    /// The users of those, in the same order, where somebody has asked for one.
    users: Option<Vec<Option<u32>>>,
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
        let counts = match limit {
            Limit::PidMaxOf(namespace) => {
                Some(count(self.dead.iter().filter(|dead| dead.pid_ns == *namespace)))
            }
            Limit::Nproc(uid) if self.dead.len() <= LOOKED_AT => {
                let users = self.users.get_or_insert_with(|| {
                    let proc = describer.proc.root();
                    self.dead.iter().map(|dead| user(proc, dead.pid)).collect()
                });
                let pairs = self.dead.iter().zip(users);
                Some(count(pairs.filter(|(_, user)| **user == Some(*uid)).map(|(dead, _)| dead)))
            }
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
}

/// How many there are in the same cgroups.
fn count<'a>(dead: impl Iterator<Item = &'a Dead>) -> HashMap<[u64; 2], u64> {
    let mut counts = HashMap::new();
    for dead in dead {
        *counts.entry(dead.cgroups).or_default() += 1;
    }
    counts
}

/// Whose a zombie is: the effective user, also of a process that may not be looked at. The limit is the real user's: of one that changed
/// its user, as `sudo` does, it says another one's.
/// <https://elixir.bootlin.com/linux/v6.12/source/fs/proc/base.c> (`task_dump_owner`)
fn user(proc: &Path, pid: u32) -> Option<u32> {
    fs::metadata(proc.join(pid.to_string())).ok().map(|found| found.uid())
}
