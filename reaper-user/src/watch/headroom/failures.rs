//! Refused forks, put together: the first of a limit is told at once, what follows within a while in one event with its count.

use std::{collections::HashMap, time::Duration};

use crate::{
    headroom::{CgroupPath, Refusal, upwards},
    identity::BootTime,
};

/// Of one limit it is told no more often than this.
const APART: Duration = Duration::from_secs(10);

/// Cgroups that are remembered; the longest quiet give way.
const KEPT: usize = 1_024;

#[derive(Debug)]
struct Tally {
    total: u64,
    /// Those that are not told of yet, the latest with what was seen then.
    untold: u64,
    latest: Refusal,
    told: Option<BootTime>,
    at: BootTime,
}

/// What is to be told of one limit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Due {
    /// The latest.
    pub(super) refusal: Refusal,
    /// How many since it was last told.
    pub(super) count: u64,
    /// How many in all.
    pub(super) total: u64,
}

/// By the cgroup that counts them.
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_cgroup: HashMap<CgroupPath, Tally>,
}

impl Failures {
    /// Some more.
    pub(super) fn add(&mut self, refusal: Refusal, now: BootTime) {
        if self.by_cgroup.len() >= KEPT && !self.by_cgroup.contains_key(&refusal.path) {
            let quiet = self.by_cgroup.iter().filter(|(_, tally)| tally.untold == 0);
            if let Some(path) = quiet.min_by_key(|(_, tally)| tally.at).map(|(path, _)| path.clone()) {
                self.by_cgroup.remove(&path);
            }
        }
        let count = refusal.count;
        let tally = self.by_cgroup.entry(refusal.path.clone()).or_insert_with(|| Tally {
            total: 0,
            untold: 0,
            latest: refusal.clone(),
            told: None,
            at: now,
        });
        tally.total += count;
        tally.untold += count;
        // Who was the first to try is not named again.
        let forker = refusal.forker.clone().or_else(|| tally.latest.forker.take());
        tally.latest = Refusal { forker, ..refusal };
        tally.at = now;
    }

    /// When there is something to tell next.
    pub(super) fn next(&self) -> Option<BootTime> {
        let untold = self.by_cgroup.values().filter(|tally| tally.untold > 0);
        untold.map(|tally| tally.told.map_or(BootTime(0), |told| told.plus(APART))).min()
    }

    /// What is to be told now.
    pub(super) fn due(&mut self, now: BootTime) -> Vec<Due> {
        let due = self
            .by_cgroup
            .values_mut()
            .filter(|tally| tally.untold > 0 && tally.told.is_none_or(|told| now.since(told) >= APART));
        due.map(|tally| {
            tally.told = Some(now);
            let count = std::mem::take(&mut tally.untold);
            Due { refusal: tally.latest.clone(), count, total: tally.total }
        })
        .collect()
    }

    /// How many were refused in a cgroup and below, or by its own limit.
    pub(super) fn total(&self, path: &[u8]) -> u64 {
        let below = |other: &[u8]| upwards(other).any(|level| level == path);
        self.by_cgroup.iter().filter(|(other, _)| below(other)).map(|(_, tally)| tally.total).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::headroom::Source;

    fn refusal(path: &str, count: u64) -> Refusal {
        let path: CgroupPath = Arc::from(path.as_bytes());
        Refusal { path, at_limit: true, forker: None, count, source: Source::PidsEvents, levels: Vec::new() }
    }

    fn at(ms: u64) -> BootTime {
        BootTime(1_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn ten_thousand_are_the_first_and_a_line_with_a_count() {
        let mut failures = Failures::default();
        let mut told = Vec::new();
        for number in 0..10_000 {
            failures.add(refusal("/pod", 1), at(number / 10));
            told.extend(failures.due(at(number / 10)).into_iter().map(|due| (due.count, due.total)));
        }
        assert_eq!(told, [(1, 1)]);
        assert_eq!(failures.next(), Some(at(10_000)));
        assert_eq!(failures.due(at(9_999)), []);
        let rest = failures.due(at(10_000));
        assert_eq!((rest[0].count, rest[0].total), (9_999, 10_000));
        assert_eq!(failures.next(), None);
        assert_eq!(failures.due(at(60_000)), []);
        failures.add(refusal("/pod", 3), at(60_000));
        assert_eq!(failures.due(at(60_000))[0].count, 3);
    }

    #[test]
    fn each_limit_is_told_of_by_itself_and_a_pod_has_those_of_its_containers() {
        let mut failures = Failures::default();
        failures.add(refusal("/pod/box", 2), at(0));
        failures.add(refusal("/pod", 1), at(0));
        failures.add(refusal("/podium", 5), at(0));
        assert_eq!(failures.due(at(0)).len(), 3);
        assert_eq!((failures.total(b"/pod"), failures.total(b"/pod/box"), failures.total(b"/x")), (3, 2, 0));
    }

    #[test]
    fn there_are_never_more_than_fit() {
        let mut failures = Failures::default();
        for number in 0..KEPT as u64 + 7 {
            failures.add(refusal(&format!("/c{number}"), 1), at(number));
            failures.due(at(number));
        }
        assert_eq!(failures.by_cgroup.len(), KEPT);
        assert_eq!(failures.total(b"/c0"), 0);
    }
}
