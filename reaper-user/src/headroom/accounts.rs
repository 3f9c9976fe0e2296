//! What is known of the limits of each workload that has zombies, or whose forks were refused a moment ago: uses, rates, forecasts, and
//! when to look again.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    files::{CgroupPath, Level, Node, Nproc},
    forecast::{Rate, Series},
    limit::{Headroom, Limit, Use},
    nested::upwards,
    reader::Seen,
};
use crate::identity::BootTime;

/// Cgroups that are looked at, at most.
const KEPT: usize = 1_024;

/// Cgroups that count which are known, at most. Beside those of the workloads themselves the outermost stay, which most are below; of
/// those the longest unseen give way.
const LEVELS: usize = 4 * KEPT;

/// One that has had no zombie and no refused fork for so long is forgotten, and so is what was read so long ago: all is read twice as often.
pub const FORGOTTEN: Duration = Duration::from_secs(60);

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

/// What has taken long to read is not read again for so many times as long, unless that is [`SLOW`].
const REST: u32 = 20;

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
    /// Since when it has none, and no fork of it was refused.
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
    all_rate: Option<Rate>,
    turned_away: u64,
}

impl Accounts {
    /// A cgroup has zombies now, so many in it and below, held by this process. True where it was not known yet.
    pub fn meet(&mut self, path: &CgroupPath, zombies: u64, holder: Option<u32>, now: BootTime) -> bool {
        let Some((account, is_new)) = self.entry(path, zombies > 0, now) else { return false };
        account.zombies = zombies;
        account.holder = holder.or(account.holder);
        is_new
    }

    /// A fork was refused in a cgroup, which need not have zombies. False where there was no place for it.
    pub fn refused(&mut self, path: &CgroupPath, now: BootTime) -> bool {
        self.entry(path, false, now).is_some()
    }

    /// The account of a cgroup, and whether that is new. Those that have no zombies give way to one that has; `None` where there is no
    /// place.
    fn entry(&mut self, path: &CgroupPath, has_zombies: bool, now: BootTime) -> Option<(&mut Account, bool)> {
        let is_new = !self.accounts.contains_key(path);
        if is_new && self.accounts.len() >= KEPT {
            let empty =
                self.accounts.iter().find(|(_, account)| account.zombies == 0).filter(|_| has_zombies);
            let Some(empty) = empty.map(|(path, _)| Arc::clone(path)) else {
                self.turned_away += 1;
                return None;
            };
            self.accounts.remove(&empty);
        }
        let account = self.accounts.entry(Arc::clone(path)).or_insert_with(|| Account {
            due: now,
            looks: 0,
            listed: None,
            zombies: 0,
            empty: None,
            holder: None,
            nproc: None,
            differed: (0, false),
        });
        account.empty = None;
        Some((account, is_new))
    }

    /// Forgets those that have had neither zombies nor refused forks for long; `zombies` says how many there are now.
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
        self.levels.retain(|_, counted| now.since(counted.seen) < FORGOTTEN);
        self.node = self.node.filter(|(_, seen)| now.since(*seen) < FORGOTTEN);
    }

    /// How often a cgroup found no place.
    #[must_use]
    pub const fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// The cgroups that have zombies, had some or were refused a fork a moment ago.
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

    /// What is to be looked at now, with those that will be soon, and whether its threads are to be counted.
    pub fn due(&mut self, now: BootTime) -> Vec<(CgroupPath, bool)> {
        let soon = now.plus(FAST / 2);
        let due = self.accounts.iter_mut().filter(|(_, account)| account.due <= soon);
        let due = due.map(|(path, account)| {
            // Until the answer is there, or it did not come.
            account.due = now.plus(SLOW);
            let list = account.listed.is_none_or(|listed| now.since(listed) >= LISTED_APART);
            if list {
                account.listed = Some(now);
            }
            (Arc::clone(path), list)
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
        self.node = seen.node.map(|node| (node, now));
        self.all = all;
        self.all_series.push(now, all);
        self.all_rate = self.all_series.rate();
        // What is gone, or cannot be read, has no limit that is known.
        let there: HashSet<&[u8]> = seen.levels.iter().map(|level| &*level.path).collect();
        for level in asked.iter().flat_map(|path| upwards(path)).filter(|level| !there.contains(level)) {
            self.levels.remove(level);
        }
        let (mut fell, mut listed) = (HashSet::new(), HashSet::new());
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
            if level.threads.is_some() {
                listed.insert(Arc::clone(&level.path));
            }
            counted.lasts = lasts(counted, &level, now);
            if count + SLACK < counted.zombies {
                fell.insert(Arc::clone(&level.path));
            }
            // Its path is here already.
            let path = Arc::clone(&counted.level.path);
            counted.level = Level { path, threads, processes, ..level };
            counted.zombies = count;
            counted.seen = now;
            counted.series.push(now, count);
            counted.rate = counted.series.rate();
        }
        self.bound_levels();
        let nprocs: HashMap<u32, Option<Nproc>> = seen.nprocs.into_iter().collect();
        let mut disagreements = Vec::new();
        for path in asked {
            let headroom = self.of(path);
            let Some(account) = self.accounts.get_mut(path) else { continue };
            if let Some((holder, nproc)) = account.holder.and_then(|pid| Some((pid, nprocs.get(&pid)?))) {
                account.nproc = Some((holder, *nproc));
            }
            // Zombies that went make room for a new beginning.
            account.looks = if fell.contains(path) { 1 } else { account.looks.saturating_add(1) };
            let levels = upwards(path).filter_map(|level| self.levels.get(level));
            let lasts = levels.filter_map(|counted| counted.lasts).min();
            let rest = seen.took.saturating_mul(REST).min(SLOW);
            account.due = now.plus(pace(&headroom, lasts, account.looks, now).max(rest));
            if let Some(counted) = self.levels.get(path).filter(|_| listed.contains(path)) {
                disagreements.extend(differ(path, account, counted));
            }
        }
        disagreements
    }

    /// Forgets those that are too many.
    fn bound_levels(&mut self) {
        let Some(over @ 1..) = self.levels.len().checked_sub(LEVELS) else { return };
        let Self { accounts, levels, turned_away, .. } = self;
        let depth = |path: &[u8]| path.iter().filter(|byte| **byte == b'/').count();
        let mut order: Vec<_> = levels
            .iter()
            .map(|(path, counted)| {
                (accounts.contains_key(path), Reverse(depth(path)), counted.seen, Arc::clone(path))
            })
            .collect();
        order.sort_unstable();
        for (.., path) in order.into_iter().take(over) {
            levels.remove(&path);
            *turned_away += 1;
        }
    }

    /// What is known of a cgroup's limits. Of one that has no zombies it is what was last read of it, if it was.
    #[must_use]
    pub fn of(&self, path: &[u8]) -> Headroom {
        let account = self.accounts.get(path);
        let levels = upwards(path).filter_map(|level| self.levels.get(level));
        // Its own shows its use even where it has no limit.
        let levels = levels.filter(|counted| *counted.level.path == *path || counted.level.max.is_some());
        let uses = levels.map(Counted::shown);
        // What is in the root cannot be told from the machine.
        let own = self.levels.get(path).map(|own| own.rate);
        let rate = if path.len() <= 1 { self.all_rate } else { own.flatten() };
        let seen = upwards(path).find_map(|level| Some(self.levels.get(level)?.seen));
        Headroom {
            zombies: account.map_or(0, |account| account.zombies),
            rate,
            // That others fill the machine is not told of everybody.
            uses: uses.chain(self.of_node(rate.is_some())).collect(),
            nproc: account.and_then(|account| account.nproc?.1),
            seen: seen.or_else(|| Some(self.node?.1)),
        }
    }

    fn of_node(&self, leaks: bool) -> impl Iterator<Item = Use> {
        let rate = self.all_rate.filter(|_| leaks);
        self.node.into_iter().flat_map(move |(node, seen)| {
            [(Limit::PidMax, node.pid_max), (Limit::ThreadsMax, node.threads_max)].map(|(limit, max)| Use {
                rate,
                forecast: rate.and_then(|rate| rate.exhausts(max.saturating_sub(node.tasks), seen)),
                ..Use::new(limit, Some(max), node.tasks, self.all)
            })
        })
    }
}

impl Counted {
    fn shown(&self) -> Use {
        let Self { level, zombies, series: _, rate, lasts: _, seen } = self;
        let left = level.max.map(|max| max.saturating_sub(level.current));
        Use {
            threads: level.threads,
            processes: level.processes,
            rate: *rate,
            forecast: rate.and_then(|rate| rate.exhausts(left?, *seen)),
            ..Use::new(Limit::PidsMax(Arc::clone(&level.path)), level.max, level.current, *zombies)
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
