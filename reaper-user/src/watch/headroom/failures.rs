//! Refused forks, put together: the first of a limit is told at once, what follows within a while in one event with its count.

use std::{collections::HashMap, time::Duration};

use crate::{
    headroom::{Key, Refusal, Source, is_within},
    identity::BootTime,
    workload::Workload,
};

/// Of one limit it is told no more often than this.
const APART: Duration = Duration::from_secs(10);

/// Where several limits refuse forks of one workload in turns, the one that zombies have the largest part of counts for so long.
const RECENT: Duration = Duration::from_secs(60);

/// Limits that are remembered; the longest quiet give way.
const KEPT: usize = 1_024;

#[derive(Debug)]
struct Tally {
    total: u64,
    /// Those that are not told of yet, the latest with what was seen then.
    untold: u64,
    /// How many of those the hook has seen.
    hooked: u64,
    latest: Refusal,
    workload: Workload,
    told: Option<BootTime>,
    at: BootTime,
}

/// Refused forks of one workload, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FailedForks {
    /// How many.
    pub count: u64,
    /// The part of what the limit counts that was zombies, 0 to 1, and when that was told; `None` where the latest limit is not known.
    share: Option<(f64, BootTime)>,
}

impl FailedForks {
    /// So many, and this part was zombies.
    #[must_use]
    pub fn new(count: u64, share: Option<f64>) -> Self {
        Self { count, share: share.map(|share| (share, BootTime(0))) }
    }

    /// The part of what the limit counts that was zombies, 0 to 1; `None` where the latest limit is not known.
    #[must_use]
    pub fn zombie_share(&self) -> Option<f64> {
        self.share.map(|(share, _)| share)
    }

    /// Some were told of: this part of what the limit counts was zombies.
    pub(super) fn told(&mut self, share: Option<f64>, now: BootTime) {
        let recent = self.share.filter(|(_, at)| now.since(*at) < RECENT).map(|(share, _)| share);
        if share >= recent {
            self.share = share.map(|share| (share, now));
        }
    }
}

/// What is to be told of one limit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Due {
    /// The latest.
    pub(super) refusal: Refusal,
    /// Whose process tried; where that is not known, whose limit it was.
    pub(super) workload: Workload,
    /// How many since it was last told.
    pub(super) count: u64,
    /// How many of those the hook has seen.
    pub(super) hooked: u64,
    /// How many in all.
    pub(super) total: u64,
}

/// By the cgroup that counts them, or where the limit is no cgroup's the forker's, and the limit.
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_limit: HashMap<Key, Tally>,
}

impl Failures {
    /// Some more; the workload is that of the forker where it is known, else that of the cgroup that counts.
    pub(super) fn add(&mut self, refusal: Refusal, workload: Workload, now: BootTime) {
        if self.by_limit.len() >= KEPT && !self.by_limit.contains_key(&refusal.key()) {
            let quiet = self.by_limit.iter().filter(|(_, tally)| tally.untold == 0);
            if let Some(key) = quiet.min_by_key(|(_, tally)| tally.at).map(|(key, _)| key.clone()) {
                self.by_limit.remove(&key);
            }
        }
        let count = refusal.count;
        let tally = self.by_limit.entry(refusal.key()).or_insert_with(|| Tally {
            total: 0,
            untold: 0,
            hooked: 0,
            latest: refusal.clone(),
            workload: workload.clone(),
            told: None,
            at: now,
        });
        tally.total += count;
        tally.untold += count;
        if matches!(refusal.source, Source::Fexit | Source::Kretprobe) {
            tally.hooked += count;
        }
        // Who is named stays so until it is told.
        if refusal.forker.is_some() || tally.latest.forker.is_none() {
            tally.workload = workload;
        }
        let forker = refusal.forker.clone().or_else(|| tally.latest.forker.take());
        tally.latest = Refusal { forker, ..refusal };
        tally.at = now;
    }

    /// When there is something to tell next.
    pub(super) fn next(&self) -> Option<BootTime> {
        let untold = self.by_limit.values().filter(|tally| tally.untold > 0);
        untold.map(|tally| tally.told.map_or(BootTime(0), |told| told.plus(APART))).min()
    }

    /// How many are not told of that the hook has seen.
    pub(super) fn untold_of_hook(&self) -> u64 {
        self.by_limit.values().map(|tally| tally.hooked).sum()
    }

    /// All that is not told of yet is to be told now.
    pub(super) fn hurry(&mut self) {
        for tally in self.by_limit.values_mut() {
            tally.told = None;
        }
    }

    /// What is to be told now.
    pub(super) fn due(&mut self, now: BootTime) -> Vec<Due> {
        let due = self
            .by_limit
            .values_mut()
            .filter(|tally| tally.untold > 0 && tally.told.is_none_or(|told| now.since(told) >= APART));
        due.map(|tally| {
            tally.told = Some(now);
            let count = std::mem::take(&mut tally.untold);
            let hooked = std::mem::take(&mut tally.hooked);
            let refusal = tally.latest.clone();
            // Of what follows it need not be the forker.
            tally.latest.forker = None;
            Due { refusal, workload: tally.workload.clone(), count, hooked, total: tally.total }
        })
        .collect()
    }

    /// It could not be told: it is told as late as what follows.
    pub(super) fn put_back(&mut self, due: Vec<Due>) {
        for Due { refusal, workload, count, hooked, total: _ } in due {
            if let Some(tally) = self.by_limit.get_mut(&refusal.key()) {
                tally.untold += count;
                tally.hooked += hooked;
                (tally.latest, tally.workload) = (refusal, workload);
            }
        }
    }

    /// How many were refused in a cgroup and below, or by a limit of it or around it: those it may have had a part in.
    pub(super) fn total(&self, path: &[u8]) -> u64 {
        let of = |((other, _), tally): &(&Key, &Tally)| {
            is_within(other, path) || tally.latest.at_limit && is_within(path, other)
        };
        self.by_limit.iter().filter(of).map(|(_, tally)| tally.total).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::headroom::{CgroupPath, Found, Limit};

    fn refusal(path: &str, count: u64) -> Refusal {
        let path: CgroupPath = Arc::from(path.as_bytes());
        let (source, found) = (Source::PidsEvents, Found::PidsMax);
        Refusal { path, at_limit: true, forker: None, count, source, levels: Vec::new(), found, who: None }
    }

    fn at(ms: u64) -> BootTime {
        BootTime(1_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn of_several_limits_the_one_with_the_most_zombies_counts_for_a_while() {
        let mut failed = FailedForks::default();
        let shares = [
            (0, Some(0.8), Some(0.8)),
            (1, Some(0.0), Some(0.8)),
            (2, None, Some(0.8)),
            (3, Some(0.9), Some(0.9)),
            (62, Some(0.1), Some(0.9)),
            (63, Some(0.1), Some(0.1)),
            (122, None, Some(0.1)),
            (123, None, None),
        ];
        for (second, told, known) in shares {
            failed.told(told, at(second * 1_000));
            assert_eq!(failed.zombie_share(), known, "second {second}");
        }
    }

    #[test]
    fn ten_thousand_are_the_first_and_a_line_with_a_count() {
        let mut failures = Failures::default();
        let mut told = Vec::new();
        for number in 0..10_000 {
            failures.add(refusal("/pod", 1), Workload::unresolved(), at(number / 10));
            told.extend(failures.due(at(number / 10)).into_iter().map(|due| (due.count, due.total)));
        }
        assert_eq!(told, [(1, 1)]);
        assert_eq!(failures.next(), Some(at(10_000)));
        assert_eq!(failures.due(at(9_999)), []);
        let rest = failures.due(at(10_000));
        assert_eq!((rest[0].count, rest[0].total), (9_999, 10_000));
        assert_eq!(failures.next(), None);
        assert_eq!(failures.due(at(60_000)), []);
        failures.add(refusal("/pod", 3), Workload::unresolved(), at(60_000));
        assert_eq!(failures.due(at(60_000))[0].count, 3);
    }

    #[test]
    fn each_limit_is_told_of_by_itself_and_a_pod_has_those_of_its_containers() {
        let mut failures = Failures::default();
        for (path, count, at_limit) in
            [("/pod/box", 2, true), ("/pod", 1, true), ("/podium", 5, true), ("/old", 4, false)]
        {
            failures.add(Refusal { at_limit, ..refusal(path, count) }, Workload::unresolved(), at(0));
        }
        assert_eq!(failures.due(at(0)).len(), 4);
        let totals = ["/pod", "/pod/box", "/pod/other", "/old", "/old/box", "/x"];
        // By the pod's limit any of its containers may have been refused; what is counted at a forker is that one's only.
        assert_eq!(totals.map(|path| failures.total(path.as_bytes())), [3, 3, 1, 4, 0, 0]);
    }

    #[test]
    fn what_a_user_or_the_node_may_have_is_told_by_itself_and_counted_where_it_was_refused() {
        let mut failures = Failures::default();
        for (path, found, count) in [
            ("/pod", Found::PidsMax, 1),
            ("/pod", Found::Other(Limit::Nproc(7), 10, 10), 2),
            ("/pod", Found::Other(Limit::Nproc(7), 12, 13), 3),
            ("/pod", Found::Other(Limit::Nproc(8), 10, 10), 4),
            ("/pod", Found::Unknown, 5),
            ("/else", Found::Other(Limit::ThreadsMax, 10, 10), 6),
        ] {
            let at_limit = found == Found::PidsMax;
            failures.add(Refusal { found, at_limit, ..refusal(path, count) }, Workload::unresolved(), at(0));
        }
        let mut counts: Vec<_> = failures.due(at(0)).iter().map(|due| due.count).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 4, 5, 5, 6]);
        assert_eq!(["/pod", "/else", "/pod/box"].map(|path| failures.total(path.as_bytes())), [15, 6, 1]);
    }

    #[test]
    fn a_forker_is_named_with_what_it_was_refused_and_not_with_what_follows() {
        let mut failures = Failures::default();
        let forker = Some(Arc::from(&b"/pod/box"[..]));
        let whose = |id: &str| Workload { id: Some(id.into()), ..Workload::unresolved() };
        failures.add(Refusal { forker: forker.clone(), ..refusal("/pod", 1) }, whose("box"), at(0));
        failures.add(refusal("/pod", 1), whose("pod"), at(1));
        let first = failures.due(at(1)).remove(0);
        assert_eq!((first.refusal.forker, first.workload), (forker, whose("box")));
        failures.add(refusal("/pod", 1), whose("pod"), at(20_000));
        let second = failures.due(at(20_000)).remove(0);
        assert_eq!((second.refusal.forker, second.workload), (None, whose("pod")));
    }

    #[test]
    fn what_could_not_be_told_is_told_later_with_its_forker() {
        let mut failures = Failures::default();
        let forker = Some(Arc::from(&b"/pod/box"[..]));
        failures.add(Refusal { forker, ..refusal("/pod", 2) }, Workload::unresolved(), at(0));
        let due = failures.due(at(0));
        failures.put_back(due.clone());
        assert_eq!((failures.due(at(9_999)), failures.next()), (Vec::new(), Some(at(10_000))));
        assert_eq!(failures.due(at(10_000)), due);
        assert_eq!(failures.next(), None);
    }

    #[test]
    fn what_the_hook_has_seen_and_is_not_told_is_known_also_of_a_limit_that_others_speak_of() {
        let mut failures = Failures::default();
        for (source, count) in [(Source::Fexit, 1), (Source::Fexit, 20), (Source::PidsEvents, 300)] {
            failures.add(Refusal { source, ..refusal("/pod", count) }, Workload::unresolved(), at(0));
            if count == 1 {
                assert_eq!(failures.untold_of_hook(), 1);
                assert_eq!(failures.due(at(0)).len(), 1);
            }
        }
        assert_eq!(failures.untold_of_hook(), 20);
        let due = failures.due(at(10_000));
        assert_eq!(failures.untold_of_hook(), 0);
        failures.put_back(due);
        assert_eq!(failures.untold_of_hook(), 20);
    }

    #[test]
    fn there_are_never_more_than_fit() {
        let mut failures = Failures::default();
        for number in 0..KEPT as u64 + 7 {
            failures.add(refusal(&format!("/c{number}"), 1), Workload::unresolved(), at(number));
            failures.due(at(number));
        }
        assert_eq!(failures.by_limit.len(), KEPT);
        assert_eq!(failures.total(b"/c0"), 0);
    }
}
