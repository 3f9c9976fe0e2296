//! Zombies that were reported and stand.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    identity::{BootTime, Identity},
    workload::{CgroupId, Hierarchy},
    zombie::Zombie,
};

/// So many zombies take memory that is worth giving back.
const MANY: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Standings {
    by_id: HashMap<u64, Standing>,
    /// The most there have been since memory was last given back.
    most: usize,
}

#[derive(Debug)]
struct Standing {
    cgroups: [u64; 2],
    zombie: Box<Zombie>,
    /// Whether it is counted under its own labels.
    own: bool,
}

impl Standings {
    /// Adds one; `cgroups` are its ids in v2 and in v1's pids hierarchy, `own` says whether it is counted
    /// under its own labels.
    pub(super) fn add(&mut self, id: u64, cgroups: [u64; 2], zombie: Zombie, own: bool) {
        self.by_id.insert(id, Standing { cgroups, zombie: Box::new(zombie), own });
        self.most = self.most.max(self.by_id.len());
    }

    /// Once, when of many but few are left: what they took can be given back.
    pub(super) fn have_ebbed(&mut self) -> bool {
        let ebbed = self.most >= MANY && self.by_id.len() <= self.most / 4;
        if ebbed {
            self.by_id.shrink_to_fit();
            self.most = self.by_id.len();
        }
        ebbed
    }

    /// Removes one; says, too, whether it is counted under its own labels.
    pub(super) fn remove(&mut self, id: u64) -> Option<(Box<Zombie>, bool)> {
        self.by_id.remove(&id).map(|standing| (standing.zombie, standing.own))
    }

    /// Whether none stands.
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.by_id.keys().copied()
    }

    /// Whether it was reported and stands.
    pub(super) fn has(&self, id: u64) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The age of the oldest.
    pub(super) fn oldest(&self, now: BootTime) -> Option<Duration> {
        self.by_id.values().map(|standing| standing.zombie.died.age(now)).max()
    }

    /// Their holders, as they were reported.
    pub(super) fn holders(&self) -> impl Iterator<Item = (u64, Identity)> {
        self.by_id.iter().map(|(id, standing)| (*id, standing.zombie.holder.identity()))
    }

    /// Each with the ids of its cgroups in v2 and in v1's pids hierarchy.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, [u64; 2], &Zombie)> {
        self.by_id.iter().map(|(id, standing)| (*id, standing.cgroups, &*standing.zombie))
    }

    /// The cgroups they died in.
    pub(super) fn cgroups(&self) -> HashSet<CgroupId> {
        let each = |standing: &Standing| {
            let [v2, v1] = standing.cgroups;
            [CgroupId { hierarchy: Hierarchy::V2, id: v2 }, CgroupId { hierarchy: Hierarchy::V1Pids, id: v1 }]
        };
        self.by_id.values().flat_map(each).collect()
    }
}
