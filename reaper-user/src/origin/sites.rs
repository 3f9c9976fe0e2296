//! Leak sites: origins of one workload with the same stack, counted. Bounded: where there are more than that, those that were seen
//! least recently give way, and are counted.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Origin, Print, Quality, SiteId,
    tally::{Tally, Within},
};
use crate::{identity::BootTime, text::Untrusted, workload::Workload};

/// A workload that has more than one part in so many of the places gives way to itself: what it makes up, it makes up at its own
/// cost.
const SHARE: usize = 4;

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// On the boot clock.
    pub boot: BootTime,
    /// On the wall.
    pub wall: Timestamp,
}

/// A zombie that was reported.
#[derive(Clone, Copy, Debug)]
pub struct Leak<'a> {
    /// The ledger's identity bits.
    pub zombie: u64,
    /// Its name.
    pub comm: &'a Untrusted,
    /// Where it comes from.
    pub origin: &'a Origin,
    /// Whose it is.
    pub workload: &'a Workload,
}

/// A leak site.
#[derive(Clone, Debug)]
pub struct Site {
    /// What a person quotes of it.
    pub id: SiteId,
    /// Whose its zombies are.
    pub workload: Workload,
    /// The latest of its origins; where symbols were read for one, that one.
    pub origin: Origin,
    /// The name of its latest zombie.
    pub comm: Untrusted,
    /// The worst quality of its origins.
    pub quality: Quality,
    /// When its first zombie was reported.
    pub first: Moment,
    /// When its latest was.
    pub last: Moment,
    /// Zombies that were reported and stand.
    pub standing: u64,
    /// Zombies that were reported.
    pub total: u64,
    tally: Tally,
    /// Its place among all by when it was seen last.
    turn: u64,
    print: Print,
}

/// What was counted of all sites, those that gave way included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Sites that gave way to others.
    pub forgotten_sites: u64,
    /// Zombies that were counted there.
    pub forgotten_zombies: u64,
    /// Zombies by the quality of their origin, in the order of [`Quality`].
    pub qualities: [u64; 4],
    /// Forks of interpreters that have no stack; `None` where nobody has counted them.
    pub without: Option<Without>,
}

/// Forks of interpreters that have no stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// They were seen before the interpreter was recognized.
    pub unrecognized: u64,
    /// The interpreter had no stack then that could be read.
    pub missed: u64,
}

/// All of them.
#[derive(Debug)]
pub struct Sites {
    capacity: usize,
    began: Moment,
    /// By number. One that gave way and comes again has another.
    sites: HashMap<u64, Site>,
    numbers: HashMap<(Print, Workload), u64>,
    /// Whose turn it is to give way, the next one first.
    turns: BTreeMap<u64, u64>,
    /// The same for each workload.
    turns_of: HashMap<Workload, BTreeMap<u64, u64>>,
    /// Where zombies that stand were counted, by the ledger's identity bits.
    standing: HashMap<u64, u64>,
    sums: Sums,
    turn: u64,
}

impl Sites {
    /// Nothing is counted yet. At most `capacity` sites are kept.
    #[must_use]
    pub fn new(capacity: usize, now: Moment) -> Self {
        Self {
            capacity: capacity.max(1),
            began: now,
            sites: HashMap::new(),
            numbers: HashMap::new(),
            turns: BTreeMap::new(),
            turns_of: HashMap::new(),
            standing: HashMap::new(),
            sums: Sums::default(),
            turn: 0,
        }
    }

    /// Since when there is counting.
    #[must_use]
    pub const fn began(&self) -> Moment {
        self.began
    }

    /// How many sites are kept at most.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// What was counted of all.
    #[must_use]
    pub const fn sums(&self) -> &Sums {
        &self.sums
    }

    /// So many forks have no stack.
    pub const fn set_without(&mut self, forks: Without) {
        self.sums.without = Some(forks);
    }

    /// The sites that are kept, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Site> {
        self.sites.values()
    }

    /// Where a zombie that stands was counted, where that is kept.
    #[must_use]
    pub fn of_zombie(&self, zombie: u64) -> Option<&Site> {
        self.sites.get(self.standing.get(&zombie)?)
    }

    /// Counts a zombie. One that stands already is not counted again.
    pub fn add(&mut self, leak: Leak<'_>, now: Moment) {
        if self.standing.contains_key(&leak.zombie) {
            return;
        }
        let Leak { zombie, comm, origin, workload } = leak;
        if let Some(count) = self.sums.qualities.get_mut(origin.quality as usize) {
            *count += 1;
        }
        self.turn += 1;
        let (turn, print) = (self.turn, Print::of(origin, comm));
        let key = (print, workload.clone());
        let number = match self.numbers.get(&key) {
            Some(number) => *number,
            None => {
                self.make_room(workload);
                self.numbers.insert(key, turn);
                self.sites.insert(turn, Site::new(leak, print, now));
                turn
            }
        };
        self.standing.insert(zombie, number);
        let Some(site) = self.sites.get_mut(&number) else { return };
        let before = std::mem::replace(&mut site.turn, turn);
        site.count(leak, now);
        self.turns.remove(&before);
        self.turns.insert(turn, number);
        let own = self.turns_of.entry(workload.clone()).or_default();
        own.remove(&before);
        own.insert(turn, number);
    }

    /// A zombie is gone.
    pub fn remove(&mut self, zombie: u64) {
        if let Some(number) = self.standing.remove(&zombie)
            && let Some(site) = self.sites.get_mut(&number)
        {
            site.standing -= 1;
        }
    }

    /// How many zombies of a site were reported within `span`; `None` where that is longer than is remembered.
    #[must_use]
    pub fn within(&self, site: &Site, span: Duration, now: BootTime) -> Option<Within> {
        if span >= now.since(self.began.boot) {
            return Some(Within { count: site.total, span: now.since(self.began.boot) });
        }
        site.tally.within(span, now, self.began.boot)
    }

    fn make_room(&mut self, newcomer: &Workload) {
        if self.sites.len() < self.capacity {
            return;
        }
        let own = self.turns_of.get(newcomer).filter(|own| own.len() >= (self.capacity / SHARE).max(1));
        let next = own.and_then(BTreeMap::first_key_value).or_else(|| self.turns.first_key_value());
        let Some(site) = next.and_then(|(_, number)| self.sites.remove(number)) else { return };
        let Site { turn, print, workload, total, .. } = site;
        self.turns.remove(&turn);
        if let Some(own) = self.turns_of.get_mut(&workload) {
            own.remove(&turn);
            if own.is_empty() {
                self.turns_of.remove(&workload);
            }
        }
        self.numbers.remove(&(print, workload));
        self.sums.forgotten_sites += 1;
        self.sums.forgotten_zombies += total;
    }
}

impl Site {
    /// Nothing is counted at it yet.
    fn new(leak: Leak<'_>, print: Print, now: Moment) -> Self {
        let Leak { zombie: _, comm, origin, workload } = leak;
        Self {
            id: print.id(),
            workload: workload.clone(),
            origin: origin.clone(),
            comm: comm.clone(),
            quality: origin.quality,
            first: now,
            last: now,
            standing: 0,
            total: 0,
            tally: Tally::default(),
            turn: 0,
            print,
        }
    }

    fn count(&mut self, leak: Leak<'_>, now: Moment) {
        let Leak { zombie: _, comm, origin, workload: _ } = leak;
        if named(origin) >= named(&self.origin) {
            self.origin = origin.clone();
        }
        self.comm = comm.clone();
        self.quality = self.quality.max(origin.quality);
        self.last = now;
        self.standing += 1;
        self.total += 1;
        self.tally.add(now.boot);
    }
}

/// How much of a stack has a name.
fn named(origin: &Origin) -> usize {
    let frames = origin.stack.iter().flat_map(|stack| &stack.frames);
    frames.filter(|frame| frame.function.is_some()).count()
}

#[cfg(test)]
mod tests;
