//! Limits on numbers of processes, what is used of them, and which is the nearest.

use std::time::Duration;

use super::{
    files::{CgroupPath, Nproc},
    forecast::{Forecast, Rate},
};
use crate::identity::BootTime;

/// The part of a limit that a workload's own zombies must be, for a remedy to come sooner because little is left of it.
const WORTH: f64 = 0.1;

/// A limit on numbers of processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `pids.max` of a cgroup.
    PidsMax(CgroupPath),
    /// `kernel.pid_max` of the initial pid namespace.
    PidMax,
    /// `kernel.pid_max` of another pid namespace, by its inode number.
    PidMaxOf(u32),
    /// `kernel.threads-max`.
    ThreadsMax,
    /// RLIMIT_NPROC of a user.
    Nproc(u32),
    /// RLIMIT_NPROC of a user, of whose processes those count that are in one user namespace, which is not the initial one.
    NprocWithin(u32),
}

/// A limit, and what is used of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    /// Which.
    pub limit: Limit,
    /// How much it is; `None` where there is none: then only the use is known.
    pub max: Option<u64>,
    /// Tasks that count.
    pub used: u64,
    /// Those of them that are zombies, by the ledger: no more than are used, for those were counted at another moment.
    pub zombies: u64,
    /// Those of them that live, where they were counted.
    pub threads: Option<u64>,
    /// Processes that live, where they were counted.
    pub processes: Option<u64>,
    /// How fast the zombies become more.
    pub rate: Option<Rate>,
    /// When it will be full by that.
    pub forecast: Option<Forecast>,
}

impl Use {
    /// What is used of a limit, and how many of that are zombies by the ledger.
    #[must_use]
    pub fn new(limit: Limit, max: Option<u64>, used: u64, zombies: u64) -> Self {
        let zombies = zombies.min(used);
        Self { limit, max, used, zombies, threads: None, processes: None, rate: None, forecast: None }
    }

    /// The part that is left, 0 to 1; `None` without a limit.
    #[must_use]
    pub fn free(&self) -> Option<f64> {
        Some(free(self.max?, self.used))
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.max.is_some_and(|max| self.used >= max)
    }

    /// How long it is at `now` until nothing is left.
    #[must_use]
    pub fn lasts(&self, now: BootTime) -> Option<Duration> {
        if self.is_full() { Some(Duration::ZERO) } else { Some(self.forecast?.at.since(now)) }
    }

    /// The part of what is used that is zombies, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.used == 0 { 0.0 } else { self.zombies as f64 / self.used as f64 }
    }
}

/// The part of a limit that is left, 0 to 1.
#[must_use]
pub fn free(max: u64, used: u64) -> f64 {
    if max == 0 { 0.0 } else { max.saturating_sub(used) as f64 / max as f64 }
}

/// All limits of one workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headroom {
    /// Zombies in its cgroup and below.
    pub zombies: u64,
    /// How fast those become more.
    pub rate: Option<Rate>,
    /// From the innermost cgroup outwards, then those of the node.
    pub uses: Vec<Use>,
    /// RLIMIT_NPROC of its holder.
    pub nproc: Option<Nproc>,
    /// When that was read; `None` where nothing is known.
    pub seen: Option<BootTime>,
}

impl Headroom {
    /// The limit that is full, or first will be: by forecast, else the one that has the smallest part left.
    #[must_use]
    pub fn nearest(&self) -> Option<&Use> {
        let limits = || self.uses.iter().filter(|of| of.max.is_some());
        if let Some(full) = limits().find(|of| of.is_full()) {
            return Some(full);
        }
        let first = limits().filter_map(|of| Some((of.forecast?.at, of))).min_by_key(|(at, _)| *at);
        first.map(|(_, of)| of).or_else(|| {
            let part = |of: &&Use| of.free().unwrap_or(1.0);
            limits().min_by(|one, other| part(one).total_cmp(&part(other)))
        })
    }

    /// The smallest part that is left of any.
    #[must_use]
    pub fn free(&self) -> Option<f64> {
        self.uses.iter().filter_map(Use::free).min_by(f64::total_cmp)
    }

    /// The smallest part that is left of any that is full of its own zombies for [`WORTH`] at least: where others fill a limit, a remedy for
    /// these few would not make room.
    #[must_use]
    pub fn free_by_own(&self) -> Option<f64> {
        let counts = |of: &&Use| of.max.is_some_and(|max| self.zombies as f64 >= max as f64 * WORTH);
        self.uses.iter().filter(counts).filter_map(Use::free).min_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_others_fill_a_limit_brings_no_remedy_forward() {
        let node = Use::new(Limit::PidMax, Some(1_000), 990, 2);
        let own = |zombies, used| Headroom {
            zombies,
            uses: vec![Use::new(Limit::PidsMax((*b"/own").into()), Some(20), used, zombies), node.clone()],
            ..Headroom::default()
        };
        assert_eq!((own(1, 19).free_by_own(), own(0, 20).free_by_own()), (None, None));
        assert_eq!((own(2, 10).free_by_own(), own(2, 19).free_by_own()), (Some(0.5), Some(0.05)));
        assert_eq!(own(1, 10).free(), Some(0.01));
    }
}
