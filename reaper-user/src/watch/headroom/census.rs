//! Which zombies count where: all of them, of any age, by their cgroup and by all above it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use reaper_ebpf::{Record, state};

use super::NAMED;
use crate::{
    headroom::{Below, CgroupPath, around},
    identity::BootTime,
    kernel::KernelError,
    watch::{
        Describer, Watch, WatchError,
        sweep::{cpu_time, exists},
    },
    workload::{Hierarchy, Workload},
};

/// A pass over the kernel's tasks, which version 1 makes necessary, takes one part in so many of a CPU, at most.
const PASS_SHARE: u32 = 2_000;

/// What was waited for counts against no limit any more, but is in the ledger until the kernel has freed it: tens of milliseconds later as
/// a rule. Whoever died longer ago than this was hardly waited for just now, and is not looked for.
const FREED: Duration = Duration::from_secs(2);

/// Goes through all zombies, and through nothing that was waited for: the newest are looked for, some 600 ns each.
pub(super) fn each_zombie(
    describer: &Describer,
    now: BootTime,
    mut visit: impl FnMut(&Record),
) -> Result<(), KernelError> {
    describer.kernel.each(
        |found| found == state::DEAD || found == state::STANDING,
        |record| {
            let died = || describer.clock.moment(record.exit_stamp).at;
            let is_new = record.state() == state::DEAD && now.since(died()) < FREED;
            if !is_new || exists(record.tgid()) {
                visit(&record);
            }
        },
    )
}

/// Zombies of one cgroup, and whose they are.
pub(super) type Own = (u64, Workload);

/// The cgroups that have the most, as many as are told of.
pub(super) fn largest<'a>(own: impl Iterator<Item = (&'a CgroupPath, &'a Own)>) -> Vec<(CgroupPath, Own)> {
    let mut own: Vec<_> = own.collect();
    own.sort_by_key(|(_, (zombies, _))| std::cmp::Reverse(*zombies));
    own.truncate(NAMED);
    own.into_iter().map(|(path, own)| (Arc::clone(path), own.clone())).collect()
}

/// How many zombies there are, and where.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// In each cgroup itself, and whose they are.
    pub(super) own: HashMap<CgroupPath, Own>,
    /// In each cgroup and below it.
    below: Below,
    /// On the machine.
    pub(super) all: u64,
    /// The cgroups of those that are no newcomers.
    pub(super) aged: Vec<CgroupPath>,
}

impl Census {
    /// In a cgroup and below it; the root has its own only, for it has no limit.
    pub(super) fn below(&self, path: &[u8]) -> u64 {
        self.below.of(path)
    }
}

/// Zombies of two ids: how many, and whether one of them is no newcomer.
type Counts = HashMap<[u64; 2], (u64, bool)>;

impl Watch {
    /// Counts them. In version 1 of cgroups the newest are missing unless it is to be `exact`.
    pub(super) fn zombie_census(&mut self, exact: bool) -> Result<Census, WatchError> {
        let hierarchy = self.headrooms.hierarchy;
        let now = self.describer.clock.refresh();
        let (mut counts, mut unknown) = self.count_dead(now)?;
        if hierarchy == Hierarchy::V1Pids
            && unknown > 0
            && (exact || Instant::now() >= self.headrooms.next_pass)
        {
            let before = cpu_time();
            self.describer.look_up_v1()?;
            let took = cpu_time().saturating_sub(before);
            self.headrooms.next_pass = Instant::now() + (took * PASS_SHARE).min(Duration::from_secs(30));
            (counts, unknown) = self.count_dead(now)?;
            tracing::trace!(unknown, "zombies whose cgroup is not known");
        }
        let mut census = Census::default();
        for ([v2, v1], (count, aged)) in counts {
            census.all += count;
            let Some(path) = self.describer.workloads.cgroups().pids_path([v2, v1]) else { continue };
            // What died in a cgroup that was removed counts against the limits around that, not against those of another one that has its
            // path now.
            let id = if hierarchy == Hierarchy::V2 { v2 } else { v1 };
            let now_there = self.headrooms.reader.files().inode(&path).ok().flatten();
            let is_replaced = now_there.is_some_and(|other| other != id);
            if aged && !is_replaced {
                census.aged.push(Arc::clone(&path));
            }
            let own = if is_replaced { around(&path).map(Arc::from) } else { Some(path) };
            let Some(own) = own else { continue };
            match census.own.entry(own) {
                std::collections::hash_map::Entry::Occupied(mut own) => own.get_mut().0 += count,
                std::collections::hash_map::Entry::Vacant(own) => {
                    own.insert((count, self.describer.workloads.of(v2, v1)));
                }
            }
        }
        census.below = Below::new(census.own.iter().map(|(path, (count, _))| (Arc::clone(path), *count)));
        Ok(census)
    }

    /// Zombies by their cgroups, and how many of them have none in version 1.
    fn count_dead(&self, now: BootTime) -> Result<(Counts, u64), WatchError> {
        let (mut counts, mut unknown) = (Counts::new(), 0);
        let half = self.aging.half();
        each_zombie(&self.describer, now, |record| {
            let ids = self.describer.cgroups(record);
            unknown += u64::from(ids[1] == 0);
            let aged = record.state() == state::STANDING
                || now.since(self.describer.clock.moment(record.exit_stamp).at) >= half;
            let (count, has_aged) = counts.entry(ids).or_default();
            *count += 1;
            *has_aged |= aged;
        })?;
        Ok((counts, unknown))
    }
}
