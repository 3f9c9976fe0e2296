//! The circuit breaker: back to reporting where a remedy did not do what it should, or did harm.

use std::{collections::HashMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::refusal::Scope;
use crate::{
    identity::{BootTime, Identity},
    remedy::Remedy,
};

/// How long it stays open the first time. Then one more remedy is tried; where that fails too, twice as long.
const OPEN: Duration = Duration::from_secs(3_600);

/// It does not stay open longer than this.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// So many holders in a row on which a rule's remedy had no effect stop the rule.
const HOLDERS: u32 = 3;

/// What a remedy led to that it should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trip {
    /// The zombie is still there.
    NoEffect,
    /// The holder died within seconds.
    HolderDied,
}

impl Trip {
    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoEffect => "no-effect",
            Self::HolderDied => "holder-died",
        }
    }
}

/// What is stopped: of a rule or a holder, one remedy or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Rule(usize, Option<Remedy>),
    Holder(Identity, Option<Remedy>),
}

#[derive(Clone, Copy, Debug)]
struct Open {
    until: BootTime,
    lasts: Duration,
}

/// A breaker that has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What it stands for.
    pub scope: Scope,
    /// The remedy that it stops; `None` for all.
    pub remedy: Option<Remedy>,
    /// Why.
    pub trip: Trip,
    /// Until when.
    pub until: BootTime,
}

/// All breakers.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    open: HashMap<Key, Open>,
    /// Holders in a row without an effect, by rule and remedy.
    in_vain: HashMap<(usize, Remedy), u32>,
}

impl Breaker {
    /// Says what is stopped, and until when.
    pub(super) fn stands_against(
        &self,
        rule: usize,
        holder: Identity,
        remedy: Remedy,
        now: BootTime,
    ) -> Option<(Scope, BootTime)> {
        let of = |scope, key: fn(usize, Identity, Option<Remedy>) -> Key| {
            [None, Some(remedy)].map(|remedy| {
                let open = self.open.get(&key(rule, holder, remedy))?;
                (open.until > now).then_some((scope, open.until))
            })
        };
        let rules = of(Scope::Rule, |rule, _, remedy| Key::Rule(rule, remedy));
        let holders = of(Scope::Holder, |_, holder, remedy| Key::Holder(holder, remedy));
        rules.into_iter().chain(holders).flatten().max_by_key(|(_, until)| *until)
    }

    /// A remedy had its effect: the count begins anew.
    pub(super) fn worked(&mut self, rule: usize, remedy: Remedy) {
        self.in_vain.remove(&(rule, remedy));
    }

    /// It had its effect and did no harm: what has stopped it before is forgotten. Not what has opened meanwhile, after another one.
    pub(super) fn proven(&mut self, rule: usize, holder: Identity, remedy: Remedy, now: BootTime) {
        let tried = [None, Some(remedy)].map(|of| [Key::Rule(rule, of), Key::Holder(holder, of)]);
        self.open.retain(|key, open| open.until > now || !tried.as_flattened().contains(key));
    }

    /// A remedy did not. Says what has opened.
    pub(super) fn failed(
        &mut self,
        rule: usize,
        holder: Identity,
        remedy: Remedy,
        trip: Trip,
        now: BootTime,
    ) -> Vec<Opened> {
        // A nudge that is not heeded says nothing of stronger remedies: they are there for that.
        let of = (remedy == Remedy::Nudge && trip == Trip::NoEffect).then_some(remedy);
        let mut opened = Vec::new();
        match trip {
            // Whoever takes the holder's place would be next.
            Trip::HolderDied => opened.push(self.trip(Key::Rule(rule, of), Scope::Rule, of, trip, now)),
            Trip::NoEffect => {
                opened.push(self.trip(Key::Holder(holder, of), Scope::Holder, of, trip, now));
                let in_vain = self.in_vain.entry((rule, remedy)).or_default();
                *in_vain += 1;
                if *in_vain >= HOLDERS {
                    opened.push(self.trip(Key::Rule(rule, of), Scope::Rule, of, trip, now));
                }
            }
        }
        opened
    }

    fn trip(&mut self, key: Key, scope: Scope, remedy: Option<Remedy>, trip: Trip, now: BootTime) -> Opened {
        let lasts = self.open.get(&key).map_or(OPEN, |open| (open.lasts * 2).min(LONGEST));
        let until = now.plus(lasts);
        // Long after its end it is forgotten, with the holders that are gone.
        self.open.retain(|_, open| open.until.plus(LONGEST) > now);
        self.open.insert(key, Open { until, lasts });
        Opened { scope, remedy, trip, until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(pid: u32) -> Identity {
        Identity { pid, start: BootTime(1) }
    }

    fn at(seconds: u64) -> BootTime {
        BootTime(1_000_000_000_000 + seconds * 1_000_000_000)
    }

    #[test]
    fn a_holder_that_dies_of_it_stops_the_rule_at_once() {
        let mut breaker = Breaker::default();
        let [opened] = *breaker.failed(0, holder(1), Remedy::Reap, Trip::HolderDied, at(0)) else { panic!() };
        assert_eq!((opened.scope, opened.remedy, opened.until), (Scope::Rule, None, at(3_600)));
        for remedy in [Remedy::Nudge, Remedy::Reap, Remedy::TerminateHolder] {
            let against = breaker.stands_against(0, holder(2), remedy, at(1));
            assert_eq!(against, Some((Scope::Rule, at(3_600))), "{remedy}");
            assert_eq!(breaker.stands_against(1, holder(2), remedy, at(1)), None, "another rule");
        }
        assert_eq!(breaker.stands_against(0, holder(2), Remedy::Reap, at(3_600)), None, "one is tried");
        let [opened] = *breaker.failed(0, holder(2), Remedy::Reap, Trip::HolderDied, at(3_600)) else {
            panic!()
        };
        assert_eq!(opened.until, at(3 * 3_600), "twice as long");
    }

    #[test]
    fn a_nudge_in_vain_stops_nudges_of_that_holder_and_nothing_stronger() {
        let mut breaker = Breaker::default();
        let opened = breaker.failed(0, holder(1), Remedy::Nudge, Trip::NoEffect, at(0));
        assert_eq!(
            (opened.len(), opened[0].scope, opened[0].remedy),
            (1, Scope::Holder, Some(Remedy::Nudge))
        );
        assert!(breaker.stands_against(0, holder(1), Remedy::Nudge, at(1)).is_some());
        assert_eq!(breaker.stands_against(0, holder(1), Remedy::Reap, at(1)), None);
        assert_eq!(breaker.stands_against(0, holder(2), Remedy::Nudge, at(1)), None);
    }

    #[test]
    fn a_reap_in_vain_stops_everything_for_that_holder_and_three_in_a_row_the_rule() {
        let mut breaker = Breaker::default();
        for pid in 1..=2 {
            assert_eq!(breaker.failed(0, holder(pid), Remedy::Reap, Trip::NoEffect, at(0)).len(), 1);
        }
        assert!(breaker.stands_against(0, holder(1), Remedy::TerminateHolder, at(1)).is_some());
        let opened = breaker.failed(0, holder(3), Remedy::Reap, Trip::NoEffect, at(0));
        assert_eq!(
            opened.iter().map(|opened| opened.scope).collect::<Vec<_>>(),
            [Scope::Holder, Scope::Rule]
        );
        assert_eq!(breaker.stands_against(0, holder(9), Remedy::Reap, at(1)).unwrap().0, Scope::Rule);
    }

    #[test]
    fn an_effect_begins_the_count_anew() {
        let mut breaker = Breaker::default();
        for pid in 1..=2 {
            breaker.failed(0, holder(pid), Remedy::Nudge, Trip::NoEffect, at(0));
        }
        breaker.worked(0, Remedy::Nudge);
        assert_eq!(breaker.failed(0, holder(3), Remedy::Nudge, Trip::NoEffect, at(0)).len(), 1);
    }

    #[test]
    fn what_was_begun_before_does_not_close_it_and_what_is_tried_later_only_once_it_did_no_harm() {
        let mut breaker = Breaker::default();
        breaker.failed(0, holder(1), Remedy::Reap, Trip::HolderDied, at(0));
        breaker.worked(0, Remedy::Reap);
        breaker.proven(0, holder(2), Remedy::Reap, at(10));
        assert!(breaker.stands_against(0, holder(3), Remedy::Reap, at(10)).is_some());
        // The one that is tried works, and its holder dies of it after that.
        breaker.worked(0, Remedy::Reap);
        breaker.failed(0, holder(2), Remedy::Reap, Trip::HolderDied, at(3_600));
        assert!(breaker.stands_against(0, holder(3), Remedy::Reap, at(10_799)).is_some(), "twice as long");
        breaker.proven(0, holder(3), Remedy::Reap, at(10_800));
        let [opened] = *breaker.failed(0, holder(3), Remedy::Reap, Trip::HolderDied, at(10_800)) else {
            panic!()
        };
        assert_eq!(opened.until, at(10_800 + 3_600), "as the first time");
    }
}
