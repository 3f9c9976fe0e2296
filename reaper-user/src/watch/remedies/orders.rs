//! From decisions to acts: one act for all zombies of a holder that are due for the same step. Those that an act does not
//! take stand in the queue of that step.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    AT_ONCE, Remedies, SAID, SOON,
    agenda::{Line, Looked, Obstacle},
    backoff::Backoff,
    deeds::Underway,
};
use crate::{
    identity::{BootTime, Identity},
    policy::{Act, Case, Decision, Limit, Policy, Refusal},
    remedy::{Options, Order, Protected, Remedy, Target, Warrant},
    report::{Outbox, RemedyEvent},
    zombie::Zombie,
};

/// Refusals that are said together: of a holder, a step and a reason.
type Alike = (Identity, Act, &'static str);

/// A zombie, and what was decided about it.
pub(super) struct Found {
    id: u64,
    zombie: Zombie,
    holder: Identity,
    decision: Decision,
}

impl Remedies {
    /// Those that are to be looked at now.
    pub(super) fn take(&mut self, now: BootTime) -> Vec<u64> {
        let Self { agenda, policy, underway, backoff, .. } = self;
        agenda
            .take(now, |line| obstacle(policy, underway.values(), backoff, line, now).map(|(_, until)| until))
    }

    /// What stands in the way of a queue now, and until when, where that is known.
    pub(super) fn obstacle(&self, line: Line, now: BootTime) -> Option<(Refusal, Obstacle)> {
        obstacle(&self.policy, self.underway.values(), &self.backoff, line, now)
    }

    /// Decides about a zombie that was looked at.
    pub(super) fn judge(&mut self, id: u64, case: Case<'_>, now: BootTime) {
        let Case { zombie, holder, .. } = case;
        let holder = holder.identity.unwrap_or(Identity { pid: zombie.holder.pid, start: BootTime(0) });
        let refused = self.backoff.of(holder, now);
        let case = Case { refused: &refused, ..case };
        let Some(plan) = self.agenda.plan_mut(id) else { return };
        let rule = self.policy.rule(case, zombie.died.age(now)).rule;
        let decision = self.policy.decide(case, plan.progress, now);
        tracing::debug!(%zombie.identity, ?decision, "looked at for a remedy");
        plan.watch = decision.watch;
        plan.looked = Looked { rule, refusals: decision.refusals.clone() };
        self.agenda.see_holder(id, zombie.holder.identity(), now);
        self.found.push(Found { id, zombie: zombie.clone(), holder, decision });
    }

    /// All were looked at: says what was refused, and does what was decided.
    pub(super) fn act(&mut self, now: BootTime, outbox: &mut Outbox) {
        self.agenda.answered(self.found.iter().map(|found| found.id), now);
        let mut acts: BTreeMap<Line, Vec<Found>> = BTreeMap::new();
        let mut refusals: BTreeMap<Alike, Vec<(Refusal, Zombie)>> = BTreeMap::new();
        for found in std::mem::take(&mut self.found) {
            let Found { id, zombie, holder, decision } = &found;
            // The debugger that was seen is our own hand.
            let traced = |(_, refusal): &(Act, Refusal)| *refusal == Refusal::Protected(Protected::Traced);
            if decision.refusals.iter().any(traced)
                && self.underway.values().any(|underway| underway.is_acting_on(*holder))
            {
                self.agenda.schedule(*id, now.plus(SOON));
                continue;
            }
            if let Some(again) = decision.again {
                self.agenda.schedule(*id, again);
            }
            for (act, refusal) in &decision.refusals {
                // That the hand has refused it was told when it did.
                if matches!(refusal, Refusal::Hand { .. }) {
                    continue;
                }
                let alike = refusals.entry((*holder, *act, refusal.as_str())).or_default();
                alike.push((refusal.clone(), zombie.clone()));
            }
            match (decision.act, decision.waits) {
                (Some(act), _) => acts.entry((*holder, act)).or_default().push(found),
                (None, Some(act)) => self.queue(*id, zombie, (*holder, act), now),
                (None, None) => {}
            }
        }
        for ((holder, act, _), refused) in refusals {
            let Some((refusal, _)) = refused.first() else { continue };
            let zombies: Vec<_> = refused.iter().map(|(_, zombie)| zombie).collect();
            self.refuse(act, holder, refusal, &zombies, outbox);
        }
        for (line, found) in acts {
            self.order(line, found, now, outbox);
        }
    }

    pub(super) fn queue(&mut self, id: u64, zombie: &Zombie, line: Line, now: BootTime) {
        self.agenda.queue(id, line, zombie.died.moment(), zombie.identity.start, now);
    }

    /// Says once why a remedy is not applied to a holder.
    pub(super) fn refuse(
        &mut self,
        act: Act,
        holder: Identity,
        refusal: &Refusal,
        zombies: &[&Zombie],
        outbox: &mut Outbox,
    ) {
        if refusal.is_delay() {
            tracing::debug!(pid = holder.pid, remedy = %act.remedy, "{refusal}");
            return;
        }
        if self.said.len() >= SAID {
            self.said.clear();
        }
        let word = refusal.as_str();
        if self.said.insert((holder, act.rule, act.remedy), word) == Some(word) {
            return;
        }
        let (rule, dry_run) = (self.name(act.rule), self.policy.terms().dry_run);
        let zombies = zombies.get(..AT_ONCE).unwrap_or(zombies);
        let time = Timestamp::now();
        let event = RemedyEvent::new(act.remedy, rule.as_ref(), dry_run, Some(refusal), zombies, time);
        if let Some(event) = event {
            self.tell(event, outbox);
        }
    }

    fn order(&mut self, line: Line, mut found: Vec<Found>, now: BootTime, outbox: &mut Outbox) {
        let (holder, act) = line;
        if act.remedy == Remedy::Autoreap && self.autoreaping.contains(&holder) {
            for found in found {
                self.pass(found.id, act, now);
            }
            return;
        }
        found.sort_by_key(|Found { zombie, .. }| (zombie.died.moment(), zombie.identity.start));
        // Another act of this very batch may have been the last that a limit allows.
        let taken = if self.obstacle(line, now).is_some() { 0 } else { found.len().min(AT_ONCE) };
        for Found { id, zombie, .. } in found.split_off(taken) {
            self.queue(id, &zombie, line, now);
        }
        if found.is_empty() {
            return;
        }
        if act.remedy == Remedy::TerminateHolder {
            self.expect_the_end_of(holder);
        }
        self.policy.take(act.rule, holder, now);
        let rule = self.name(act.rule);
        let ids: Vec<_> = found.iter().map(|found| found.id).collect();
        let zombies: Vec<_> = found.into_iter().map(|found| found.zombie).collect();
        if self.policy.terms().dry_run {
            let (shown, time) = (zombies.iter().collect::<Vec<_>>(), Timestamp::now());
            if let Some(event) = RemedyEvent::new(act.remedy, rule.as_ref(), true, None, &shown, time) {
                self.tell(event, outbox);
            }
            for id in ids {
                self.pass(id, act, now);
            }
            return;
        }
        let terms = self.policy.terms();
        let allowed = terms.rules.get(act.rule).is_some_and(|rule| rule.allow_interrupted_wait);
        let options =
            Options { allow_interrupted_wait: allowed, grace: terms.grace, max_pause: terms.max_pause };
        let targets = zombies
            .iter()
            .map(|zombie| Target { identity: zombie.identity, ns_pid: zombie.ns_pid })
            .collect();
        tracing::info!(remedy = %act.remedy, holder = holder.pid, zombies = ids.len(), "applying a remedy");
        self.orders += 1;
        let number = self.orders;
        let warrant = Warrant::default();
        let mut underway = Underway::new(act, rule, holder, ids, zombies, warrant.clone());
        // Whoever is to be ended is expected to, and nobody is traced yet.
        if act.remedy != Remedy::TerminateHolder {
            underway.watch_its_end(self.deaths.watch(number, &self.proc, holder));
        }
        let order = Order { number, remedy: act.remedy, holder, zombies: targets, options, warrant };
        self.underway.insert(number, underway);
        if let Some(hand) = &self.hand {
            hand.give(order);
        }
    }
}

fn obstacle<'a>(
    policy: &Policy,
    mut underway: impl Iterator<Item = &'a Underway>,
    backoff: &Backoff,
    (holder, act): Line,
    now: BootTime,
) -> Option<(Refusal, Obstacle)> {
    match underway.find(|underway| underway.is_acting_on(holder)) {
        Some(underway) => Some((Refusal::Limited(Limit::AtOnce), underway.due())),
        None => [backoff.stands_against(act, holder, now), policy.obstacle(act, holder, now)]
            .into_iter()
            .flatten()
            .max_by_key(|(_, until)| *until)
            .map(|(refusal, until)| (refusal, Some(until))),
    }
}
