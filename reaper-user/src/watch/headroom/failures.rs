//! Refused forks, put together: the first of a limit is told at once, what follows within a while in one event with its count, in
//! whichever cgroups that is; where there are very many limits, those of several in one event.

mod bucket;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use self::bucket::Bucket;
use crate::{
    headroom::{CgroupPath, Key, Refusal, Source, is_within},
    identity::BootTime,
    workload::Workload,
};

/// Of one limit it is told no more often than this.
const APART: Duration = Duration::from_secs(10);

/// Where several limits refuse forks of one workload in turns, the one that zombies have the largest part of counts for so long.
const RECENT: Duration = Duration::from_secs(60);

/// Limits that are remembered; the longest quiet give way.
const KEPT: usize = 1_024;

/// Cgroups that are remembered of what is not told of yet, for all limits together. What is beyond is counted without.
const CGROUPS: usize = 8_192;

#[derive(Debug)]
struct Tally {
    total: u64,
    /// Those that are not told of yet, the latest with what was seen then.
    untold: u64,
    /// How many of those the hook has seen.
    hooked: u64,
    latest: Refusal,
    workload: Workload,
    /// In which cgroups those were that are not told of.
    cgroups: HashMap<CgroupPath, Tried>,
    told: Option<BootTime>,
    /// When it last had an event of its own.
    alone: Option<BootTime>,
    at: BootTime,
}

impl Tally {
    fn is_due(&self, now: BootTime) -> bool {
        self.untold > 0 && self.told.is_none_or(|told| now.since(told) >= APART)
    }

    /// One more cgroup, of so many in all.
    fn tried_in(&mut self, path: &CgroupPath, tried: Tried, all: &mut usize) {
        if let Some(before) = self.cgroups.get_mut(path) {
            before.is_forkers |= tried.is_forkers;
        } else if *all < CGROUPS {
            *all += 1;
            self.cgroups.insert(Arc::clone(path), tried);
        }
    }

    /// What is to be told of it.
    fn tell(&mut self, key: &Option<Key>, now: BootTime) -> Due {
        self.told = Some(now);
        let refusal = self.latest.clone();
        // Of what follows it need not be the forker.
        self.latest.forker = None;
        Due {
            key: key.clone(),
            refusal,
            workload: self.workload.clone(),
            count: std::mem::take(&mut self.untold),
            hooked: std::mem::take(&mut self.hooked),
            total: self.total,
            cgroups: std::mem::take(&mut self.cgroups),
        }
    }
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

/// In one of the cgroups that forks were refused in.
#[derive(Clone, Debug, PartialEq)]
struct Tried {
    workload: Workload,
    /// It is the forker's; else that of the limit, and whose process tried is not known.
    is_forkers: bool,
}

/// What is to be told of one limit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Due {
    /// The limit; `None` for those of several.
    key: Option<Key>,
    /// The latest.
    pub(super) refusal: Refusal,
    /// Whose process tried; where that is not known, whose limit it was.
    pub(super) workload: Workload,
    /// How many since it was last told.
    pub(super) count: u64,
    /// How many of those the hook has seen.
    hooked: u64,
    /// How many in all.
    pub(super) total: u64,
    /// In which cgroups.
    cgroups: HashMap<CgroupPath, Tried>,
}

impl Due {
    /// Whether one limit has refused all of them.
    pub(super) const fn is_of_one(&self) -> bool {
        self.key.is_some()
    }

    /// All that had a part in it.
    pub(super) fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.cgroups.values().map(|tried| &tried.workload).chain([&self.workload])
    }

    /// In how many cgroups these were: those whose processes tried; where no such is known, those of the limits.
    pub(super) fn cgroups(together: &[Self]) -> u64 {
        let mut all: HashSet<&CgroupPath> = HashSet::new();
        for Self { cgroups, .. } in together {
            let is_known = cgroups.values().any(|tried| tried.is_forkers);
            let told = cgroups.iter().filter(|(_, tried)| tried.is_forkers || !is_known);
            all.extend(told.map(|(path, _)| path));
        }
        all.len().max(1) as u64
    }
}

/// Refused forks of a cgroup: those that were refused by its own limit, or those of its own processes.
#[derive(Debug)]
struct Counted {
    total: u64,
    at: BootTime,
}

/// By the limit, where it is known; else by the cgroup that they were refused in.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// `None` has what came when there was no place for one more.
    by_limit: HashMap<Option<Key>, Tally>,
    /// In how many cgroups, for each limit, they are not told of yet.
    cgroups: usize,
    /// By the cgroup that counts them, and whether that is the one that has the limit.
    counted: HashMap<(CgroupPath, bool), Counted>,
    bucket: Bucket,
}

impl Failures {
    /// Some more, for [`Self::total`].
    pub(super) fn count(&mut self, refusal: &Refusal, now: BootTime) {
        let key = (Arc::clone(&refusal.path), refusal.at_limit);
        if self.counted.len() >= KEPT
            && !self.counted.contains_key(&key)
            && let Some(quiet) = self.counted.iter().min_by_key(|(_, counted)| counted.at)
        {
            let quiet = quiet.0.clone();
            self.counted.remove(&quiet);
        }
        let counted = self.counted.entry(key).or_insert(Counted { total: 0, at: now });
        counted.total += refusal.count;
        counted.at = now;
    }

    /// Some more to tell; the workload is that of the forker where it is known, else that of the cgroup that counts.
    pub(super) fn add(&mut self, refusal: Refusal, workload: Workload, now: BootTime) {
        let key = self.place_for(refusal.key());
        let count = refusal.count;
        let tally = self.by_limit.entry(key).or_insert_with(|| Tally {
            total: 0,
            untold: 0,
            hooked: 0,
            latest: refusal.clone(),
            workload: workload.clone(),
            cgroups: HashMap::new(),
            told: None,
            alone: None,
            at: now,
        });
        tally.total += count;
        tally.untold += count;
        if matches!(refusal.source, Source::Fexit | Source::Kretprobe) {
            tally.hooked += count;
        }
        let path = refusal.forker.as_ref().unwrap_or(&refusal.path);
        let tried = Tried { workload: workload.clone(), is_forkers: refusal.forker.is_some() };
        tally.tried_in(path, tried, &mut self.cgroups);
        // Who is named stays so until it is told.
        if refusal.forker.is_some() || tally.latest.forker.is_none() {
            tally.workload = workload;
        }
        let forker = refusal.forker.clone().or_else(|| tally.latest.forker.take());
        tally.latest = Refusal { forker, ..refusal };
        tally.at = now;
    }

    /// Where those of a limit are counted: where there is no place for one more, one of which all is told gives way, or it has none.
    fn place_for(&mut self, key: Key) -> Option<Key> {
        let key = Some(key);
        if self.by_limit.len() < KEPT || self.by_limit.contains_key(&key) {
            return key;
        }
        let quiet = self.by_limit.iter().filter(|(_, tally)| tally.untold == 0);
        let quiet = quiet.min_by_key(|(_, tally)| tally.at)?.0.clone();
        self.by_limit.remove(&quiet);
        key
    }

    /// When there is something to tell next.
    pub(super) fn next(&self) -> Option<BootTime> {
        let untold = self.by_limit.values().filter(|tally| tally.untold > 0);
        let next = untold.map(|tally| tally.told.map_or(BootTime(0), |told| told.plus(APART))).min()?;
        Some(next.max(self.bucket.next()))
    }

    /// How many are not told of that the hook has seen.
    pub(super) fn untold_of_hook(&self) -> u64 {
        self.by_limit.values().map(|tally| tally.hooked).sum()
    }

    /// All that is not told of yet is to be told now.
    pub(super) fn hurry(&mut self) {
        self.bucket = Bucket::default();
        for tally in self.by_limit.values_mut() {
            tally.told = None;
        }
    }

    /// What is to be told now; what is one event is together. A limit has an event of its own unless there are more than may be told:
    /// whoever makes a cgroup for each fork that is refused has a limit for each.
    pub(super) fn due(&mut self, now: BootTime) -> Vec<Vec<Due>> {
        let mut due: Vec<_> = self.by_limit.iter_mut().filter(|(_, tally)| tally.is_due(now)).collect();
        let room = self.bucket.room(now);
        if room == 0 || due.is_empty() {
            return Vec::new();
        }
        let alone = if due.len() <= room { due.len() } else { room - 1 };
        // In turns, that each limit is named at times.
        due.sort_by_key(|(_, tally)| (tally.alone, Reverse(tally.untold)));
        let rest = due.split_off(alone);
        let mut events: Vec<Vec<Due>> = Vec::new();
        for (key, tally) in due {
            tally.alone = Some(now);
            events.push(vec![tally.tell(key, now)]);
        }
        if !rest.is_empty() {
            events.push(rest.into_iter().map(|(key, tally)| tally.tell(key, now)).collect());
        }
        self.bucket.take(events.len(), now);
        self.cgroups -= events.iter().flatten().map(|due| due.cgroups.len()).sum::<usize>();
        events
    }

    /// It could not be told: it is told as late as what follows.
    pub(super) fn put_back(&mut self, due: impl IntoIterator<Item = Due>) {
        for Due { key, refusal, workload, count, hooked, total: _, cgroups } in due {
            if let Some(tally) = self.by_limit.get_mut(&key) {
                tally.untold += count;
                tally.hooked += hooked;
                (tally.latest, tally.workload) = (refusal, workload);
                for (path, tried) in cgroups {
                    tally.tried_in(&path, tried, &mut self.cgroups);
                }
            }
        }
    }

    /// How many were refused in a cgroup and below, or by a limit of it or around it: those it may have had a part in.
    pub(super) fn total(&self, path: &[u8]) -> u64 {
        let of = |((other, at_limit), _): &(&(CgroupPath, bool), &Counted)| {
            is_within(other, path) || *at_limit && is_within(path, other)
        };
        self.counted.iter().filter(of).map(|(_, counted)| counted.total).sum()
    }
}

#[cfg(test)]
mod tests;
