//! How many remedies are applied in a time.

use std::{collections::HashMap, time::Duration};

use super::refusal::Limit;
use crate::identity::{BootTime, Identity};

/// A minute's remedies need not be spread evenly: one part in so many may come at once.
const AT_ONCE: u32 = 6;

/// A number a minute: some at once, then evenly. (The generic cell rate algorithm.)
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Between two, in the long run.
    apart: Duration,
    /// How far the account may be overdrawn.
    slack: Duration,
    /// When the account is balanced.
    balanced: BootTime,
}

impl Rate {
    fn a_minute(number: u32) -> Self {
        let number = number.max(1);
        let apart = Duration::from_secs(60) / number;
        Self { apart, slack: apart * (number / AT_ONCE).max(1).saturating_sub(1), balanced: BootTime(0) }
    }

    /// When the next one may come.
    fn ready(&self) -> BootTime {
        let slack = u64::try_from(self.slack.as_nanos()).unwrap_or(u64::MAX);
        BootTime(self.balanced.0.saturating_sub(slack))
    }

    fn take(&mut self, now: BootTime) {
        self.balanced = self.balanced.max(now).plus(self.apart);
    }
}

/// All limits.
#[derive(Debug)]
pub(super) struct Limits {
    machine: Rate,
    per_holder: u32,
    holders: HashMap<Identity, Rate>,
    rules: Vec<Option<Rate>>,
}

impl Limits {
    pub(super) fn new(per_minute: u32, per_holder: u32, rules: impl Iterator<Item = Option<u32>>) -> Self {
        Self {
            machine: Rate::a_minute(per_minute),
            per_holder,
            holders: HashMap::new(),
            rules: rules.map(|number| number.map(Rate::a_minute)).collect(),
        }
    }

    /// Goes on from others: what was taken of the machine's and the holders' is taken still. So is what was taken of a rule's,
    /// where it is the same: `same` says which one it was of those before, for each of these.
    pub(super) fn go_on_from(&mut self, before: Self, same: impl Iterator<Item = Option<usize>>) {
        for (rate, was) in self.rules.iter_mut().zip(same) {
            let was = was.and_then(|was| before.rules.get(was).copied().flatten());
            if let (Some(rate), Some(was)) = (rate, was) {
                rate.balanced = was.balanced;
            }
        }
        self.machine.balanced = before.machine.balanced;
        let new = Rate::a_minute(self.per_holder);
        let holders = before.holders.into_iter();
        self.holders =
            holders.map(|(holder, rate)| (holder, Rate { balanced: rate.balanced, ..new })).collect();
    }

    /// Says which limit stands against one more now, and until when.
    pub(super) fn stands_against(
        &self,
        rule: usize,
        holder: Identity,
        now: BootTime,
    ) -> Option<(Limit, BootTime)> {
        let rule = self.rules.get(rule).and_then(Option::as_ref);
        [
            (Limit::Machine, Some(&self.machine)),
            (Limit::Holder, self.holders.get(&holder)),
            (Limit::Rule, rule),
        ]
        .into_iter()
        .filter_map(|(limit, rate)| rate.map(|rate| (limit, rate.ready())))
        .filter(|(_, ready)| *ready > now)
        .max_by_key(|(_, ready)| *ready)
    }

    /// Between two for one holder by this rule, in the long run.
    pub(super) fn apart(&self, rule: usize) -> Duration {
        let rule = self.rules.get(rule).and_then(Option::as_ref).map_or(Duration::ZERO, |rate| rate.apart);
        rule.max(self.machine.apart).max(Rate::a_minute(self.per_holder).apart)
    }

    /// One more is applied.
    pub(super) fn take(&mut self, rule: usize, holder: Identity, now: BootTime) {
        self.machine.take(now);
        // Those whose account is balanced need not be remembered.
        self.holders.retain(|_, rate| rate.balanced > now);
        self.holders.entry(holder).or_insert(Rate::a_minute(self.per_holder)).take(now);
        if let Some(rate) = self.rules.get_mut(rule).and_then(Option::as_mut) {
            rate.take(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDER: Identity = Identity { pid: 7, start: BootTime(1) };
    const OTHER: Identity = Identity { pid: 8, start: BootTime(1) };

    fn at(seconds: u64) -> BootTime {
        BootTime(1_000_000_000_000 + seconds * 1_000_000_000)
    }

    /// The seconds at which a remedy was allowed, of ten minutes.
    fn taken(limits: &mut Limits, holders: &[Identity]) -> Vec<u64> {
        let mut taken = Vec::new();
        for second in 0..600 {
            for holder in holders {
                while limits.stands_against(0, *holder, at(second)).is_none() {
                    limits.take(0, *holder, at(second));
                    taken.push(second);
                }
            }
        }
        taken
    }

    #[test]
    fn a_holder_has_a_few_at_once_and_then_its_rate() {
        let taken = taken(&mut Limits::new(6_000, 12, [None].into_iter()), &[HOLDER]);
        assert_eq!(taken[..5], [0, 0, 5, 10, 15]);
        assert!((120..=122).contains(&taken.len()), "{}", taken.len());
    }

    #[test]
    fn the_machines_limit_is_shared_by_all_holders() {
        let taken = taken(&mut Limits::new(60, 600, [None].into_iter()), &[HOLDER, OTHER]);
        assert_eq!(taken.iter().filter(|second| **second == 0).count(), 10);
        assert!((600..=610).contains(&taken.len()), "{}", taken.len());
    }

    #[test]
    fn a_rules_own_limit_holds_beside_the_others() {
        let mut limits = Limits::new(60, 60, [Some(1)].into_iter());
        limits.take(0, HOLDER, at(0));
        assert_eq!(limits.stands_against(0, OTHER, at(1)), Some((Limit::Rule, at(60))));
        assert_eq!(limits.stands_against(0, OTHER, at(60)), None);
    }

    #[test]
    fn the_limit_that_lasts_longest_is_named() {
        let mut limits = Limits::new(1, 6, [None].into_iter());
        limits.take(0, HOLDER, at(0));
        assert_eq!(limits.stands_against(0, HOLDER, at(1)), Some((Limit::Machine, at(60))));
    }

    #[test]
    fn other_limits_do_not_give_back_what_was_taken() {
        let mut limits = Limits::new(6, 12, [Some(1)].into_iter());
        limits.take(0, HOLDER, at(0));
        let mut others = Limits::new(12, 6, [Some(1)].into_iter());
        others.go_on_from(limits, [None].into_iter());
        // Nor does a rule take over what another one in its place has used.
        assert_eq!(others.stands_against(0, HOLDER, at(1)), Some((Limit::Holder, at(5))));
    }

    #[test]
    fn a_rule_that_is_the_same_in_another_place_has_used_what_it_had() {
        let mut limits = Limits::new(60, 60, [None, Some(1)].into_iter());
        limits.take(1, HOLDER, at(0));
        let mut others = Limits::new(60, 60, [Some(1), Some(1), None].into_iter());
        others.go_on_from(limits, [Some(1), Some(0), None].into_iter());
        assert_eq!(others.stands_against(0, OTHER, at(1)), Some((Limit::Rule, at(60))));
        assert_eq!(others.stands_against(1, OTHER, at(1)), None, "that one had no limit");
        assert_eq!(others.stands_against(2, OTHER, at(1)), None);
    }
}
