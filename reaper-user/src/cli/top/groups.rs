//! The zombies of one workload, by who holds them, why they stand and where they come from.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use crate::{
    identity::BootTime,
    origin::SiteId,
    report::{HeadroomEvent, ShownWorkload, ZombieEvent, is_within},
    zombie::Cause,
};

/// What the zombies of one group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupKey {
    /// The holder's pid,
    pub(super) holder: u32,
    /// and its start, where that is known.
    pub(super) start: Option<BootTime>,
    /// Why they stand.
    pub(super) cause: Cause,
    /// The leak site, where they have one.
    pub(super) site: Option<SiteId>,
}

/// Zombies that have all of that in common, the oldest first. There is one at least.
#[derive(Debug)]
pub(super) struct Group<'a> {
    /// What they have in common.
    pub(super) key: GroupKey,
    /// The oldest,
    pub(super) oldest: &'a ZombieEvent,
    /// and all of them.
    pub(super) zombies: Vec<&'a ZombieEvent>,
}

/// The groups of a workload, the largest first.
pub(super) fn groups<'a>(row: &HeadroomEvent, zombies: &'a [ZombieEvent]) -> Vec<Group<'a>> {
    let mut by_key: HashMap<GroupKey, Vec<&ZombieEvent>> = HashMap::new();
    for zombie in zombies.iter().filter(|zombie| is_of(&zombie.workload, row)) {
        by_key.entry(key(zombie)).or_default().push(zombie);
    }
    let mut groups: Vec<_> = by_key
        .into_iter()
        .filter_map(|(key, mut zombies)| {
            zombies.sort_by_key(|zombie| (Reverse(age(zombie)), zombie.start_time, zombie.pid));
            Some(Group { key, oldest: zombies.first()?, zombies })
        })
        .collect();
    groups.sort_by_key(|group| (Reverse(group.zombies.len()), group.key));
    groups
}

fn key(zombie: &ZombieEvent) -> GroupKey {
    GroupKey {
        holder: zombie.holder.pid,
        start: zombie.holder.start_time,
        cause: zombie.cause,
        site: zombie.origin.as_ref().map(|origin| origin.site),
    }
}

fn age(zombie: &ZombieEvent) -> Option<Duration> {
    zombie.age_seconds.or(zombie.age_at_least).map(|age| age.0)
}

/// Whether a zombie of this workload counts in a row: it died in the row's cgroup or below. The root has only its own.
fn is_of(workload: &ShownWorkload, row: &HeadroomEvent) -> bool {
    let (Some(own), Some(of_row)) = (&workload.cgroup, &row.workload.cgroup) else {
        return workload.cgroup == row.workload.cgroup;
    };
    is_within(own, of_row)
}
