//! Zombies that count against a limit that is no cgroup's: of a user, or of a pid namespace.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _};

use reaper_ebpf::state;

use crate::{
    headroom::{CgroupPath, Limit},
    watch::{Watch, WatchError},
    workload::Workload,
};

/// So many are looked at to see whose they are, at most: some 3 µs each.
const LOOKED_AT: usize = 16_384;

/// Those of them that count.
#[derive(Debug, Default)]
pub(super) struct Among {
    /// How many; `None` where there are too many to look at.
    pub(super) all: Option<u64>,
    /// In which cgroups, and whose.
    pub(super) own: HashMap<CgroupPath, (u64, Workload)>,
}

impl Watch {
    /// Those that count against a user's or a pid namespace's limit.
    pub(super) fn zombies_among(&mut self, limit: &Limit) -> Result<Among, WatchError> {
        let mut dead = Vec::new();
        self.describer.kernel.each(
            |found| found == state::DEAD || found == state::STANDING,
            |record| {
                if !matches!(limit, Limit::PidMaxOf(namespace) if *namespace != record.pid_ns) {
                    dead.push((record.tgid(), self.describer.cgroups(&record)));
                }
            },
        )?;
        let mut among = Among::default();
        if let Limit::Nproc(uid) = limit {
            if dead.len() > LOOKED_AT {
                return Ok(among);
            }
            // It is the effective one, also of a process that may not be looked at; a zombie keeps it.
            // <https://elixir.bootlin.com/linux/v6.12/source/fs/proc/base.c> (`task_dump_owner`)
            let proc = self.describer.proc.root();
            dead.retain(|(pid, _)| {
                fs::metadata(proc.join(pid.to_string())).is_ok_and(|found| found.uid() == *uid)
            });
        }
        among.all = Some(dead.len() as u64);
        let mut counts: HashMap<[u64; 2], u64> = HashMap::new();
        for (_, ids) in dead {
            *counts.entry(ids).or_default() += 1;
        }
        for ([v2, v1], count) in counts {
            let Some(path) = self.describer.workloads.cgroups().pids_path([v2, v1]) else { continue };
            let workload = self.describer.workloads.of(v2, v1);
            among.own.entry(path).or_insert((0, workload)).0 += count;
        }
        Ok(among)
    }
}
