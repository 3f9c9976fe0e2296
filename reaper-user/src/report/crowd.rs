//! Many alike at once, for people: of one holder the first few are shown, and of all holders together as many as fit a page;
//! the rest is counted and said in a line for each holder. Machines are told of each one.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::event::{Event, Process};
use crate::zombie::Cause;

/// How often events are shown: so many at once, then one each time that has passed.
#[derive(Clone, Copy, Debug)]
struct Pace {
    at_once: u32,
    apart: Duration,
}

const OF_ONE: Pace = Pace { at_once: 5, apart: Duration::from_secs(1) };
const OF_ALL: Pace = Pace { at_once: 30, apart: Duration::from_millis(200) };

/// What was counted is said so long after the first of it.
const SAID_AFTER: Duration = Duration::from_secs(2);

/// Holders that have a line of their own each time.
const HOLDERS: usize = 10;

/// Of more holders than that those that are quiet are forgotten.
const REMEMBERED: usize = 1_024;

/// What has been shown: as far as it is ahead of its pace.
#[derive(Clone, Copy, Debug)]
struct Shown(Instant);

impl Shown {
    fn may(self, pace: Pace, now: Instant) -> bool {
        self.0 + pace.apart <= now + pace.apart * pace.at_once
    }

    fn take(&mut self, pace: Pace, now: Instant) {
        self.0 = self.0.max(now) + pace.apart;
    }
}

/// What is said of alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Stands,
    Released,
}

/// Events that were counted and not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) kind: Kind,
    /// Whose they are; `None` where they are of several, or nobody knows.
    pub(super) holder: Option<Process>,
    /// Of how many holders.
    pub(super) holders: usize,
    /// How many, by cause.
    pub(super) causes: BTreeMap<Cause, usize>,
    /// When the latest came.
    pub(super) time: Timestamp,
}

impl Rest {
    pub(super) fn count(&self) -> usize {
        self.causes.values().sum()
    }
}

/// What has been shown of one holder, and what has not.
#[derive(Debug)]
struct Of {
    shown: Shown,
    rest: Option<Rest>,
}

impl Of {
    fn is_of_use(&self, now: Instant) -> bool {
        self.rest.is_some() || self.shown.0 > now
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Crowd {
    all: Shown,
    holders: HashMap<(Kind, Option<u32>), Of>,
    due: Option<Instant>,
}

impl Crowd {
    pub(super) fn new(now: Instant) -> Self {
        Self { all: Shown(now), holders: HashMap::new(), due: None }
    }

    /// Whether an event is to be shown. Where not, it has been counted.
    pub(super) fn admits(&mut self, event: &Event, now: Instant) -> bool {
        let (kind, holder, cause, time) = match event {
            Event::Zombie(zombie) => (Kind::Stands, Some(&zombie.holder), zombie.cause, zombie.time),
            Event::Released(released) => {
                let cause = released.cause.unwrap_or(Cause::Unknown);
                (Kind::Released, released.holder.as_ref(), cause, released.time)
            }
            _ => return true,
        };
        if self.holders.len() >= REMEMBERED {
            self.holders.retain(|_, of| of.is_of_use(now));
        }
        let of = self
            .holders
            .entry((kind, holder.map(|holder| holder.pid)))
            .or_insert(Of { shown: Shown(now), rest: None });
        // What comes behind one that was only counted is counted too: the order stays.
        if of.rest.is_none() && of.shown.may(OF_ONE, now) && self.all.may(OF_ALL, now) {
            of.shown.take(OF_ONE, now);
            self.all.take(OF_ALL, now);
            return true;
        }
        let holders = usize::from(holder.is_some());
        let none = || Rest { kind, holder: holder.cloned(), holders, causes: BTreeMap::new(), time };
        let rest = of.rest.get_or_insert_with(none);
        *rest.causes.entry(cause).or_default() += 1;
        rest.time = time;
        self.due.get_or_insert(now + SAID_AFTER);
        false
    }

    /// When something is to be said.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What has been counted, the most first; nobody counts it any longer.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Rest> {
        self.due = None;
        let mut rests: Vec<_> = self.holders.values_mut().filter_map(|of| of.rest.take()).collect();
        self.holders.retain(|_, of| of.is_of_use(now));
        rests.sort_by_key(|rest| {
            let holder = rest.holder.as_ref().map(|holder| holder.pid);
            (std::cmp::Reverse(rest.count()), holder, rest.time)
        });
        let mut others: Vec<Rest> = Vec::new();
        for rest in rests.split_off(rests.len().min(HOLDERS)) {
            match others.iter_mut().find(|others| others.kind == rest.kind) {
                None => others.push(Rest { holder: None, ..rest }),
                Some(others) => {
                    others.holders += rest.holders;
                    others.time = others.time.max(rest.time);
                    for (cause, count) in rest.causes {
                        *others.causes.entry(cause).or_default() += count;
                    }
                }
            }
        }
        rests.extend(others);
        rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::fixture, zombie::Zombie};

    fn zombie(holder: u32) -> Event {
        let mut zombie: Zombie = fixture::never_waited();
        zombie.holder.pid = holder;
        fixture::event(&zombie)
    }

    #[test]
    fn a_slow_leak_is_shown_one_by_one() {
        let start = Instant::now();
        let mut crowd = Crowd::new(start);
        assert!((0..600).all(|second| crowd.admits(&zombie(7), start + Duration::from_secs(second))));
        assert_eq!((crowd.due(), crowd.take(start)), (None, vec![]));
        for holder in 0..10_000 {
            assert!(crowd.admits(&zombie(holder), start + Duration::from_secs(600 + u64::from(holder))));
        }
        assert!(crowd.holders.len() <= REMEMBERED, "those who are quiet take no room");
    }

    #[test]
    fn of_thousands_a_few_are_shown_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut crowd = Crowd::new(start);
        let shown = (0..3_000).filter(|_| crowd.admits(&zombie(7), start)).count();
        assert_eq!((shown, crowd.due()), (5, Some(start + SAID_AFTER)));
        assert!(!crowd.admits(&zombie(7), start + Duration::from_millis(900)));
        // Another holder's are shown still, and what is no crowd always.
        assert!(crowd.admits(&zombie(8), start));
        assert!(crowd.admits(&fixture::explanations().remove(0), start));
        let later = start + SAID_AFTER;
        let [rest] = &crowd.take(later)[..] else { panic!() };
        assert_eq!((rest.count(), rest.holder.as_ref().unwrap().pid), (2_996, 7));
        assert_eq!((crowd.due(), crowd.take(later)), (None, vec![]));
        assert!(crowd.admits(&zombie(7), later), "it goes on");
        assert!(crowd.admits(&fixture::released(&fixture::never_waited()), later), "releases are others");
    }

    #[test]
    fn of_many_holders_as_many_are_shown_as_fit_a_page_and_none_is_forgotten() {
        let start = Instant::now();
        let mut crowd = Crowd::new(start);
        let of = |holder| (0..10 + holder % 3).map(move |_| zombie(holder));
        let events: Vec<_> = (1..=300).flat_map(of).collect();
        let shown = events.iter().filter(|event| crowd.admits(event, start)).count();
        assert_eq!(shown, 30);
        let rests = crowd.take(start + SAID_AFTER);
        assert_eq!(rests.len(), HOLDERS + 1);
        assert_eq!(shown + rests.iter().map(Rest::count).sum::<usize>(), events.len());
        let others = rests.last().unwrap();
        assert!(others.holder.is_none() && others.holders > 280, "{others:?}");
        assert!(crowd.holders.len() <= 300);
        assert_eq!(crowd.take(start + Duration::from_secs(60)), []);
        assert!(crowd.holders.is_empty(), "those who are quiet take no room");
    }
}
