//! What is known of the limits of each workload that has zombies: uses, rates, forecasts, and when to look again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    files::{CgroupPath, Level, Node, Nproc, upwards},
    forecast::{Forecast, Rate, Series},
    reader::Seen,
};
use crate::identity::BootTime;

/// Cgroups with zombies that are looked at, at most.
const KEPT: usize = 1_024;

/// One that has had no zombie for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Between two looks, at most and at least.
const SLOW: Duration = Duration::from_secs(30);
const FAST: Duration = Duration::from_secs(1);

/// By how much is left of the nearest limit: below this part, no longer than that from look to look.
const PACES: [(f64, Duration); 4] = [
    (0.1, FAST),
    (0.25, Duration::from_secs(2)),
    (0.5, Duration::from_secs(5)),
    (0.75, Duration::from_secs(15)),
];

/// Until a limit is full it is looked at so many times.
const LOOKS: u32 = 20;

/// Threads are counted so rarely: their list costs more than all other files.
const LISTED_APART: Duration = Duration::from_secs(25);

/// The ledger's count of zombies and the kernel's own may differ by this, and by one in [`TOLERANCE`] of all: tasks come and go between
/// the readings.
const SLACK: u64 = 4;
const TOLERANCE: u64 = 20;

/// As often in a row they must differ in the same direction.
const STANDING: u32 = 3;

/// A limit on numbers of processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `pids.max` of a cgroup.
    PidsMax(CgroupPath),
    /// `kernel.pid_max` of the initial pid namespace.
    PidMax,
    /// `kernel.threads-max`.
    ThreadsMax,
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
    /// Those of them that are zombies, by the ledger.
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
    /// The part that is left, 0 to 1; `None` without a limit.
    #[must_use]
    pub fn free(&self) -> Option<f64> {
        let max = self.max?;
        Some(if max == 0 { 0.0 } else { max.saturating_sub(self.used) as f64 / max as f64 })
    }

    /// The part of what is used that is zombies, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.used == 0 { 0.0 } else { self.zombies.min(self.used) as f64 / self.used as f64 }
    }
}

/// All limits of one workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headroom {
    /// Zombies in its cgroup and below.
    pub zombies: u64,
    /// From the innermost cgroup outwards, then those of the node.
    pub uses: Vec<Use>,
    /// RLIMIT_NPROC of its holder.
    pub nproc: Option<Nproc>,
}

impl Headroom {
    /// The limit that is full first: by forecast, else the one that has the smallest part left.
    #[must_use]
    pub fn nearest(&self) -> Option<&Use> {
        let limits = || self.uses.iter().filter(|of| of.max.is_some());
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
}

/// The ledger and the kernel's own count have said different numbers of zombies, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// In this cgroup.
    pub path: CgroupPath,
    /// Zombies by the ledger.
    pub ledger: u64,
    /// Tasks that count and are not listed.
    pub unlisted: u64,
}

/// One workload.
#[derive(Debug)]
struct Account {
    due: BootTime,
    looks: u32,
    listed: Option<BootTime>,
    zombies: u64,
    /// Since when it has none.
    empty: Option<BootTime>,
    holder: Option<u32>,
    /// Whose limit this is, once it was read.
    nproc: Option<(u32, Option<Nproc>)>,
    /// How often in a row the counts have differed, and whether the ledger's was greater.
    differed: (u32, bool),
}

/// A cgroup that counts, of one workload or around several.
#[derive(Debug)]
struct Counted {
    level: Level,
    zombies: u64,
    series: Series,
    rate: Option<Rate>,
    /// How long it lasts, if it goes on as from the look before to the latest.
    lasts: Option<Duration>,
    seen: BootTime,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Accounts {
    accounts: HashMap<CgroupPath, Account>,
    levels: HashMap<CgroupPath, Counted>,
    node: Option<(Node, BootTime)>,
    all: u64,
    all_series: Series,
    turned_away: u64,
}

impl Accounts {
    /// A cgroup has zombies now, so many in it and below, held by this process. True where it was not known yet.
    pub fn meet(&mut self, path: &CgroupPath, zombies: u64, holder: Option<u32>, now: BootTime) -> bool {
        if let Some(account) = self.accounts.get_mut(path) {
            account.zombies = zombies;
            account.empty = None;
            account.holder = holder.or(account.holder);
            return false;
        }
        if self.accounts.len() >= KEPT {
            self.turned_away += 1;
            return false;
        }
        let account = Account {
            due: now,
            looks: 0,
            listed: None,
            zombies,
            empty: None,
            holder,
            nproc: None,
            differed: (0, false),
        };
        self.accounts.insert(Arc::clone(path), account);
        true
    }

    /// Forgets those that have had no zombie for long; `zombies` says how many there are now.
    pub fn expire(&mut self, now: BootTime, zombies: impl Fn(&[u8]) -> u64) {
        self.accounts.retain(|path, account| {
            account.zombies = zombies(path);
            if account.zombies > 0 {
                account.empty = None;
                return true;
            }
            now.since(*account.empty.get_or_insert(now)) < FORGOTTEN
        });
        if self.accounts.is_empty() {
            *self = Self { turned_away: self.turned_away, ..Self::default() };
            return;
        }
        let accounts = &self.accounts;
        self.levels.retain(|path, counted| {
            now.since(counted.seen) < FORGOTTEN
                || accounts.keys().any(|own| upwards(own).any(|level| *level == **path))
        });
    }

    /// How often a cgroup found no place.
    #[must_use]
    pub const fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// The cgroups that have or had zombies a moment ago.
    pub fn paths(&self) -> impl Iterator<Item = &CgroupPath> {
        self.accounts.keys()
    }

    /// Who holds most of its zombies, where that is known and its own limit is not.
    #[must_use]
    pub fn unread_holder(&self, path: &[u8]) -> Option<u32> {
        let account = self.accounts.get(path)?;
        account.holder.filter(|holder| account.nproc.is_none_or(|(of, _)| of != *holder))
    }

    /// When there is something to look at next.
    #[must_use]
    pub fn next(&self) -> Option<BootTime> {
        self.accounts.values().map(|account| account.due).min()
    }

    /// What is to be looked at now, with those that will be soon: whether its threads are to be counted, and its holder.
    pub fn due(&mut self, now: BootTime) -> Vec<(CgroupPath, bool, Option<u32>)> {
        let soon = now.plus(FAST / 2);
        let due = self.accounts.iter_mut().filter(|(_, account)| account.due <= soon);
        let due = due.map(|(path, account)| {
            // Until the answer is there, or it did not come.
            account.due = now.plus(SLOW);
            let list = account.listed.is_none_or(|listed| now.since(listed) >= LISTED_APART);
            (Arc::clone(path), list, account.holder)
        });
        due.collect()
    }

    /// All of it is to be looked at now.
    pub fn hurry(&mut self, now: BootTime) {
        for account in self.accounts.values_mut() {
            account.due = now;
        }
    }

    /// Takes in what was read of these cgroups; `zombies` are the ledger's, in a cgroup and below it, and `all` on the machine. Says where
    /// the kernel keeps telling another number.
    pub fn take(
        &mut self,
        asked: &[CgroupPath],
        seen: Seen,
        zombies: impl Fn(&[u8]) -> u64,
        all: u64,
        now: BootTime,
    ) -> Vec<Disagreement> {
        if let Some(node) = seen.node {
            self.node = Some((node, now));
            self.all = all;
            self.all_series.push(now, all);
        }
        let mut fell = HashSet::new();
        for level in seen.levels {
            let count = zombies(&level.path);
            let counted = self.levels.entry(Arc::clone(&level.path)).or_insert_with(|| Counted {
                level: level.clone(),
                zombies: 0,
                series: Series::default(),
                rate: None,
                lasts: None,
                seen: now,
            });
            let threads = level.threads.or(counted.level.threads);
            let processes = level.processes.or(counted.level.processes);
            let fresh = level.threads.is_some();
            counted.lasts = lasts(counted, &level, now);
            if count + SLACK < counted.zombies {
                fell.insert(Arc::clone(&level.path));
            }
            counted.level = level;
            counted.zombies = count;
            counted.seen = now;
            counted.series.push(now, count);
            counted.rate = counted.series.rate();
            if !fresh {
                (counted.level.threads, counted.level.processes) = (threads, processes);
            } else if let Some(account) = self.accounts.get_mut(&counted.level.path) {
                account.listed = Some(now);
            }
        }
        let asked_holders = seen.holders;
        let nprocs: HashMap<u32, Nproc> = seen.nprocs.into_iter().collect();
        let mut disagreements = Vec::new();
        for path in asked {
            let headroom = self.of(path);
            let Some(account) = self.accounts.get_mut(path) else { continue };
            if let Some(holder) = account.holder.filter(|holder| asked_holders.contains(holder)) {
                account.nproc = Some((holder, nprocs.get(&holder).copied()));
            }
            // Zombies that went make room for a new beginning.
            account.looks = if fell.contains(path) { 1 } else { account.looks.saturating_add(1) };
            let levels = upwards(path).filter_map(|level| self.levels.get(level));
            let lasts = levels.filter_map(|counted| counted.lasts).min();
            account.due = now.plus(pace(&headroom, lasts, account.looks, now));
            let listed_now = account.listed == Some(now);
            if let Some(counted) = self.levels.get(path).filter(|_| listed_now) {
                disagreements.extend(differ(path, account, counted));
            }
        }
        disagreements
    }

    /// What is known of a cgroup's limits. Of one that has no zombies it is what was last read of it, if it was.
    #[must_use]
    pub fn of(&self, path: &[u8]) -> Headroom {
        let account = self.accounts.get(path);
        let levels = upwards(path).filter_map(|level| self.levels.get(level)).enumerate();
        // The innermost shows its use even where it has no limit.
        let levels = levels.filter(|(place, counted)| *place == 0 || counted.level.max.is_some());
        let uses = levels.map(|(_, counted)| counted.shown());
        // That others fill the machine is not told of everybody. What is in the root cannot be told from the machine.
        let leaks = path.len() <= 1 || self.levels.get(path).is_some_and(|own| own.rate.is_some());
        Headroom {
            zombies: account.map_or(0, |account| account.zombies),
            uses: uses.chain(self.of_node(leaks)).collect(),
            nproc: account.and_then(|account| account.nproc?.1),
        }
    }

    fn of_node(&self, leaks: bool) -> impl Iterator<Item = Use> {
        let rate = self.all_series.rate().filter(|_| leaks);
        self.node.into_iter().flat_map(move |(node, seen)| {
            [(Limit::PidMax, node.pid_max), (Limit::ThreadsMax, node.threads_max)].map(|(limit, max)| Use {
                limit,
                max: Some(max),
                used: node.tasks,
                zombies: self.all,
                threads: None,
                processes: None,
                rate,
                forecast: rate.and_then(|rate| rate.exhausts(max.saturating_sub(node.tasks), seen)),
            })
        })
    }
}

impl Counted {
    fn shown(&self) -> Use {
        let Self { level, zombies, series: _, rate, lasts: _, seen } = self;
        let left = level.max.map(|max| max.saturating_sub(level.current));
        Use {
            limit: Limit::PidsMax(Arc::clone(&level.path)),
            max: level.max,
            used: level.current,
            zombies: *zombies,
            threads: level.threads,
            processes: level.processes,
            rate: *rate,
            forecast: rate.and_then(|rate| rate.exhausts(left?, *seen)),
        }
    }
}

/// How long a limit lasts if what counts goes on growing as it did since the last look.
fn lasts(before: &Counted, level: &Level, now: BootTime) -> Option<Duration> {
    let grown = level.current.checked_sub(before.level.current).filter(|grown| *grown > 0)?;
    let left = level.max?.saturating_sub(level.current);
    now.since(before.seen).checked_mul(u32::try_from(left / grown).ok()?)
}

/// How long until it is looked at again: sooner the less is left, the sooner it will be full, and the shorter it is known.
fn pace(headroom: &Headroom, lasts: Option<Duration>, looks: u32, now: BootTime) -> Duration {
    let free = headroom.free().unwrap_or(1.0);
    let by_free = PACES.iter().find(|(below, _)| free < *below).map_or(SLOW, |(_, pace)| *pace);
    let first = headroom.uses.iter().filter_map(|of| of.forecast).map(|forecast| forecast.at).min();
    let by_forecast = first.map_or(SLOW, |at| at.since(now) / LOOKS);
    let by_growth = lasts.map_or(SLOW, |lasts| lasts / LOOKS);
    let by_looks = FAST.saturating_mul(1 << looks.saturating_sub(3).min(5));
    by_free.min(by_forecast).min(by_growth).min(by_looks).clamp(FAST, SLOW)
}

/// Tasks that count and are not listed are dead: they must be as many as the ledger says.
fn differ(path: &CgroupPath, account: &mut Account, counted: &Counted) -> Option<Disagreement> {
    let Level { current, threads, .. } = counted.level;
    let (ledger, unlisted) = (counted.zombies, current.saturating_sub(threads?));
    let slack = SLACK + current / TOLERANCE;
    let more = ledger > unlisted;
    let (times, direction) = account.differed;
    account.differed = if ledger.abs_diff(unlisted) <= slack {
        (0, more)
    } else if times > 0 && direction == more {
        (times + 1, more)
    } else {
        (1, more)
    };
    (account.differed.0 == STANDING).then(|| Disagreement { path: Arc::clone(path), ledger, unlisted })
}

#[cfg(test)]
mod tests;
