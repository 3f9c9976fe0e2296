//! From what was seen of zombies and their holders to decisions, and from decisions to acts: one act for all zombies of a
//! holder that are due for the same step.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{AT_ONCE, Looked, Plan, SAID, SOON, deeds::Underway};
use crate::{
    identity::{BootTime, Identity},
    observe::{Answer, Purpose, Request, Scene},
    policy::{Act, Case, Decision, Refusal, Waited},
    proc::Seen,
    remedy::{Options, Order, Remedy, Sight, Target},
    report::{Event, RemedyEvent},
    watch::{Watch, WatchError},
    zombie::{Asked, Waits, Zombie},
};

/// Refusals that are said together: of a holder, a rule, a step and a reason.
type Alike = (Identity, usize, usize, &'static str);

/// A zombie, and what was decided about it.
pub(super) struct Found {
    id: u64,
    zombie: Zombie,
    holder: Option<Identity>,
    decision: Decision,
}

impl Watch {
    /// Asks about those that a remedy may be due for, and settles what came of earlier ones.
    pub(in crate::watch) fn remedy(&mut self, now: BootTime) -> Result<(), WatchError> {
        self.settle_deeds(now);
        let ids = self.remedies.ask(now);
        if !ids.is_empty() {
            // An upgrade may have put other files there, and the next one may replace those.
            self.remedies.guard.record(std::path::Path::new("/"));
            let inits = self.describer.namespace_inits()?;
            let describer = &self.describer;
            let records: Vec<_> = ids.iter().filter_map(|id| describer.kernel.record(*id)).collect();
            let requests: Vec<_> = records
                .iter()
                .map(|record| Request::Remedy {
                    id: record.id(),
                    zombie: Identity::of(record),
                    forker: describer.kernel.forker_of(record),
                    inits: inits.clone(),
                })
                .collect();
            self.describer.look_up_v1()?;
            if self.observer.ask(Purpose::Remedy, requests).is_err() {
                self.remedies.ask_again(now);
            }
        }
        for holder in self.remedies.holders() {
            self.describer.holders.keep(holder, now);
        }
        if let Some(next) = self.remedies.next() {
            self.sweep_by(next);
        }
        Ok(())
    }

    /// Takes in what was seen. With the last of it, acts.
    pub(in crate::watch) fn consider(
        &mut self,
        answers: Vec<Answer>,
        last: bool,
        now: BootTime,
    ) -> Result<(), WatchError> {
        if !self.remedies.asked.is_empty() {
            for answer in answers {
                match answer {
                    Answer::Zombie { id, scene, sight } => {
                        self.decide(id, &scene, sight.as_deref(), now);
                    }
                    // Its release is announced, or it is looked at a little later.
                    Answer::NotAZombie { id, .. } => self.remedies.schedule(id, now.plus(SOON)),
                    Answer::Probation { .. } => {}
                }
            }
            if last {
                self.remedies.asked.clear();
                self.act(now);
                self.describer.kernel.settle(!self.describer.holders.is_empty())?;
            }
        }
        if let Some(next) = self.remedies.next() {
            self.sweep_by(next);
        }
        Ok(())
    }

    fn decide(&mut self, id: u64, scene: &Scene, sight: Option<&Sight>, now: BootTime) {
        let Some(record) = self.describer.kernel.record(id) else { return };
        let zombie = self.describer.describe(&record, scene, now);
        let seen = scene.holder.seen.as_ref().map(|(seen, _)| seen);
        let identity = Identity {
            pid: zombie.holder.pid,
            // Where the ledger does not have it, /proc's ticks must do.
            start: zombie.holder.start.or_else(|| seen.map(Seen::start)).unwrap_or_default(),
        };
        // Its environment or its executable may hang; whether it is protected is then not known.
        let unclear = sight.is_none() && seen.is_some();
        let mut holder = self.remedies.guard.judge(identity, sight.cloned(), &mut self.describer.workloads);
        if unclear && holder.identity.is_none() {
            holder.identity = Some(identity);
            holder.protected = Some(crate::remedy::Protected::Unclear);
        }
        let half = self.aging.half();
        let watched = self.describer.holders.get(zombie.holder.pid, seen).copied();
        if let Some(seen) = seen.filter(|_| watched.is_none()) {
            // Its probation has ended, or it was reported by an earlier daemon.
            let crate::watch::Describer { holders, kernel, .. } = &mut self.describer;
            holders.put(seen, now, half, kernel);
        }
        let case = Case {
            zombie: &zombie,
            holder: &holder,
            waited: waited(zombie.evidence.waits, half),
            reap_times: watched.map(|watched| watched.reap_times(now)),
        };
        let (rule, _) = self.remedies.policy.rule(case, zombie.died.age(now));
        let Some(Plan { progress, holder: of, watch, looked, .. }) = self.remedies.plans.get_mut(&id) else {
            return;
        };
        *of = zombie.holder.pid;
        let decision = self.remedies.policy.decide(case, *progress, now);
        *watch = decision.watch;
        *looked = Looked { rule, refusals: decision.refusals.clone() };
        tracing::debug!(%zombie.identity, ?decision, "looked at for a remedy");
        let holder = holder.identity;
        self.remedies.found.push(Found { id, zombie, holder, decision });
    }

    /// Says what was refused, and does what was decided: one act for each holder, rule and step.
    fn act(&mut self, now: BootTime) {
        let mut acts: BTreeMap<(Identity, usize, usize), Vec<Found>> = BTreeMap::new();
        let mut refusals: BTreeMap<Alike, Vec<(Refusal, Zombie)>> = BTreeMap::new();
        for found in std::mem::take(&mut self.remedies.found) {
            if let Some(again) = found.decision.again {
                self.remedies.schedule(found.id, again);
            }
            let of = found.holder.unwrap_or(Identity { pid: found.zombie.holder.pid, start: BootTime(0) });
            for (act, refusal) in &found.decision.refusals {
                let key = (of, act.rule, act.step, refusal.as_str());
                refusals.entry(key).or_default().push((refusal.clone(), found.zombie.clone()));
            }
            if let Some(act) = found.decision.act {
                acts.entry((of, act.rule, act.step)).or_default().push(found);
            }
        }
        for ((holder, rule, step, _), refused) in refusals {
            let Some(remedy) = self.remedies.remedy_of(rule, step) else { continue };
            let Some((refusal, _)) = refused.first() else { continue };
            let zombies: Vec<_> = refused.iter().map(|(_, zombie)| zombie).collect();
            self.refuse(Act { rule, step, remedy }, holder, refusal, &zombies);
        }
        for ((holder, rule, step), found) in acts {
            let Some(remedy) = self.remedies.remedy_of(rule, step) else { continue };
            self.order(Act { rule, step, remedy }, holder, found, now);
        }
    }

    /// Says that something is not done, once for a holder and a reason.
    pub(super) fn refuse(&mut self, act: Act, holder: Identity, refusal: &Refusal, zombies: &[&Zombie]) {
        let word = refusal.as_str();
        if refusal.is_delay() {
            tracing::debug!(pid = holder.pid, remedy = %act.remedy, "{refusal}");
            return;
        }
        if self.remedies.said.len() >= SAID {
            self.remedies.said.clear();
        }
        if self.remedies.said.insert((holder, act.rule, act.remedy), word) == Some(word) {
            return;
        }
        let (rule, dry_run) = (self.remedies.name(act.rule), self.remedies.policy.terms().dry_run);
        let zombies = zombies.get(..AT_ONCE).unwrap_or(zombies);
        let time = Timestamp::now();
        let event = RemedyEvent::new(act.remedy, rule.as_ref(), dry_run, Some(refusal), zombies, time);
        if let Some(event) = event {
            self.outbox.send(Event::Remedy(Box::new(event)));
        }
    }

    fn order(&mut self, act: Act, holder: Identity, mut found: Vec<Found>, now: BootTime) {
        // Another act of this very batch may have been the last that a limit allows.
        let later = if self.remedies.is_acting_on(holder) {
            Some(now.plus(SOON))
        } else {
            self.remedies.policy.ready(act, holder, now)
        };
        let rest =
            if later.is_some() { found.split_off(0) } else { found.split_off(found.len().min(AT_ONCE)) };
        for found in rest {
            self.remedies.schedule(found.id, later.unwrap_or(now));
        }
        if found.is_empty() {
            return;
        }
        if act.remedy == Remedy::Autoreap && self.remedies.autoreaping.contains(&holder) {
            for found in found {
                self.remedies.pass(found.id, act, now);
            }
            return;
        }
        if act.remedy == Remedy::TerminateHolder {
            self.remedies.expect_the_end_of(holder);
        }
        self.remedies.policy.take(act.rule, holder, now);
        let ids: Vec<_> = found.iter().map(|found| found.id).collect();
        let zombies: Vec<_> = found.into_iter().map(|found| found.zombie).collect();
        if self.remedies.policy.terms().dry_run {
            let shown: Vec<_> = zombies.iter().collect();
            let (rule, time) = (self.remedies.name(act.rule), Timestamp::now());
            if let Some(event) = RemedyEvent::new(act.remedy, rule.as_ref(), true, None, &shown, time) {
                self.outbox.send(Event::Remedy(Box::new(event)));
            }
            for id in ids {
                self.remedies.pass(id, act, now);
            }
            return;
        }
        let terms = self.remedies.policy.terms();
        let allowed = terms.rules.get(act.rule).is_some_and(|rule| rule.allow_interrupted_wait);
        let options =
            Options { allow_interrupted_wait: allowed, grace: terms.grace, max_pause: terms.max_pause };
        let targets = zombies
            .iter()
            .map(|zombie| Target { identity: zombie.identity, ns_pid: zombie.ns_pid })
            .collect();
        tracing::info!(remedy = %act.remedy, holder = holder.pid, zombies = ids.len(), "applying a remedy");
        self.remedies.orders += 1;
        let number = self.remedies.orders;
        let order = Order { number, remedy: act.remedy, holder, zombies: targets, options };
        let rule = self.remedies.name(act.rule);
        self.remedies.underway.insert(number, Underway::new(act, rule, holder, ids, zombies));
        if let Some(hand) = &self.remedies.hand {
            hand.give(order);
        }
    }
}

/// What the holder was seen waiting for. The kernel's hook does not tell a pid from a process group: both count.
pub(crate) fn waited(waits: Option<Waits>, least: std::time::Duration) -> Waited {
    match waits {
        None => Waited::Unwatched,
        Some(Waits { any: 1.., .. }) => Waited::ForAny,
        Some(Waits { asked: Asked::For(number), .. }) => Waited::ForIt(number),
        Some(Waits { asked: Asked::Unclear, .. }) => Waited::Unclear,
        // What was watched for a moment only has shown nothing yet.
        Some(Waits { watched, .. }) if watched < least => Waited::Unwatched,
        Some(_) => Waited::ForOthers,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn waits_that_could_return_the_zombie_are_told_from_those_that_could_not() {
        let second = Duration::from_secs(1);
        let waits = |watched, any, asked| {
            Some(Waits { watched, any, one: 9, last_ago: None, last_number: Some(60), asked, longest: None })
        };
        let of = |any, asked| waited(waits(15 * second, any, asked), 15 * second);
        assert_eq!(of(0, Asked::No), Waited::ForOthers);
        assert_eq!(of(1, Asked::No), Waited::ForAny);
        assert_eq!(of(0, Asked::For(40)), Waited::ForIt(40));
        assert_eq!(of(0, Asked::Unclear), Waited::Unclear);
        assert_eq!(waited(None, second), Waited::Unwatched);
        assert_eq!(waited(waits(second, 0, Asked::No), 2 * second), Waited::Unwatched);
    }
}
