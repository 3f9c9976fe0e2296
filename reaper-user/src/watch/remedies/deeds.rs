//! What came of remedies: whether they had their effect, and whether the holder survived them.

use std::time::Duration;

use jiff::Timestamp;

use super::{News, Remedies, deaths::DeathWatch};
use crate::{
    identity::{BootTime, Identity},
    policy::{Act, Refusal, Trip},
    proc::{Proc, ticks},
    remedy::{Deed, Remedy, Warrant},
    report::{BreakerEvent, Event, Outbox, Outcome, Process, RemedyEvent, State},
    text::Untrusted,
    watch::{Watch, sweep::exists},
    zombie::Zombie,
};

/// How long after a remedy its zombies should be gone: a holder that is nudged has to be scheduled.
const EFFECT: Duration = Duration::from_secs(2);

/// A holder that dies within this time has probably died of it.
const SURVIVES: Duration = Duration::from_secs(10);

/// A remedy that was begun.
#[derive(Debug)]
pub(super) struct Underway {
    pub(super) act: Act,
    rule: Option<Untrusted>,
    holder: Identity,
    pub(super) ids: Vec<u64>,
    zombies: Vec<Zombie>,
    phase: Phase,
    /// Zombies of the same holder that went meanwhile, though it is about others.
    others: u64,
    /// Its rule has been replaced meanwhile: what comes of it says nothing of the one that has its place.
    outlived: bool,
    /// It ended in this: what is left of it is not done.
    refusal: Option<Refusal>,
    /// Something was done that should have an effect.
    acted: bool,
    /// What the hand goes by.
    pub(super) warrant: Warrant,
    /// The holder's end is waited for.
    end: Option<DeathWatch>,
    /// The holder has ended since it was begun.
    died: bool,
}

#[derive(Debug)]
enum Phase {
    /// The hand has it.
    Begun,
    /// It was done; its effect is looked for at this moment.
    Done { deed: Deed, at: BootTime, due: BootTime },
    /// Its effect was seen; whether the holder survives it is looked for at this moment.
    Survival { due: BootTime },
}

impl Underway {
    pub(super) fn new(
        act: Act,
        rule: Option<Untrusted>,
        holder: Identity,
        ids: Vec<u64>,
        zombies: Vec<Zombie>,
        warrant: Warrant,
    ) -> Self {
        Self {
            act,
            rule,
            holder,
            ids,
            zombies,
            phase: Phase::Begun,
            others: 0,
            outlived: false,
            refusal: None,
            acted: true,
            warrant,
            end: None,
            died: false,
        }
    }

    pub(super) fn watch_its_end(&mut self, end: Option<DeathWatch>) {
        self.end = end;
    }

    /// The hand is not to do it, where it has not begun.
    pub(super) fn withdraw(&self) {
        self.warrant.withdraw();
    }

    pub(super) const fn due(&self) -> Option<BootTime> {
        match self.phase {
            Phase::Begun => None,
            Phase::Done { due, .. } | Phase::Survival { due } => Some(due),
        }
    }

    /// Whether something is being done to a holder, or was just now and it is not known yet what came of it.
    pub(super) fn is_acting_on(&self, holder: Identity) -> bool {
        self.holder == holder && !matches!(self.phase, Phase::Survival { .. })
    }

    pub(super) fn is_about(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// A zombie of this holder is gone.
    pub(super) fn see_gone(&mut self, id: u64, holder: u32) {
        self.others += u64::from(self.holder.pid == holder && !self.is_about(id));
    }

    pub(super) const fn outlive_its_rule(&mut self) {
        self.outlived = true;
    }

    fn event(&self) -> Option<RemedyEvent> {
        let zombies: Vec<_> = self.zombies.iter().collect();
        RemedyEvent::new(self.act.remedy, self.rule.as_ref(), false, None, &zombies, Timestamp::now())
    }

    /// What came of it, where the holder lives or does not and so many of the zombies are gone.
    pub(super) fn outcome(&self, lives: bool, gone: u64) -> Outcome {
        match (self.act.remedy, lives) {
            (Remedy::TerminateHolder, false) => Outcome::Applied,
            (_, false) => Outcome::HolderDied,
            // It only stood still.
            (_, true) if !self.acted => Outcome::Refused,
            // Asked to end, it may have waited for them: then it need not.
            (Remedy::TerminateHolder, true) if gone < self.zombies.len() as u64 => Outcome::NoEffect,
            // It is for children to come.
            (Remedy::Autoreap, true) if self.refusal.is_none() => Outcome::Applied,
            (Remedy::Autoreap, true) => Outcome::NoEffect,
            // Whoever waits once for each SIGCHLD waits for its eldest child, whichever ones this is about.
            (Remedy::Nudge, true) if self.others > 0 => Outcome::Applied,
            (_, true) if gone == 0 => Outcome::NoEffect,
            (_, true) => Outcome::Applied,
        }
    }
}

impl Remedies {
    /// A holder is being ended: that it does not survive is no fault of what was done to it before.
    pub(super) fn expect_the_end_of(&mut self, holder: Identity) {
        self.underway.retain(|_, underway| {
            underway.holder != holder || !matches!(underway.phase, Phase::Survival { .. })
        });
    }

    /// The step is behind the zombie; what comes next is looked for.
    pub(super) fn pass(&mut self, id: u64, act: Act, now: BootTime) {
        if let Some(plan) = self.agenda.plan_mut(id) {
            plan.progress.pass(act.rule, act.step);
            self.agenda.schedule(id, now);
        }
    }

    /// It was not done: those that it was about are the first when it is tried again. When that can be is asked now, for all that waits for the
    /// holder.
    pub(super) fn put_back(&mut self, underway: &Underway, now: BootTime) {
        let Underway { act, holder, ids, zombies, outlived, .. } = underway;
        for (id, zombie) in ids.iter().zip(zombies) {
            if *outlived {
                self.agenda.schedule(*id, now);
            } else {
                self.queue(*id, zombie, (*holder, *act), now);
            }
        }
        self.agenda.wake(*holder, now);
    }

    /// It is known what came of it: its zombies go on to what is next, and breakers open.
    pub(super) fn conclude(
        &mut self,
        underway: &Underway,
        outcome: Outcome,
        now: BootTime,
        outbox: &mut Outbox,
    ) {
        let Underway { act, holder, ids, outlived, refusal, .. } = underway;
        match refusal {
            Some(refusal) if outcome == Outcome::Refused && !outlived => {
                self.come_again(underway, refusal, now);
            }
            // Whoever waits once for each SIGCHLD is nudged again, as long as it helps; and what came to a refusal is not done.
            _ if *outlived
                || refusal.is_some()
                || (act.remedy == Remedy::Nudge && outcome == Outcome::Applied) =>
            {
                self.put_back(underway, now);
            }
            _ => {
                for id in ids {
                    self.pass(*id, *act, now);
                }
            }
        }
        match outcome {
            _ if *outlived => {}
            Outcome::Refused => {}
            // Of what was taken back nobody expects an effect.
            Outcome::NoEffect if *refusal == Some(Refusal::Withdrawn) => {}
            // When that was noticed.
            Outcome::HolderDied if underway.died => {}
            Outcome::HolderDied => self.trip(underway, Trip::HolderDied, now, outbox),
            Outcome::NoEffect => self.trip(underway, Trip::NoEffect, now, outbox),
            _ => {
                self.policy.worked(*act);
                match act.remedy {
                    // Whom it ended need not survive it.
                    Remedy::TerminateHolder => self.policy.proven(*act, *holder, now),
                    Remedy::Autoreap => _ = self.autoreaping.insert(*holder),
                    _ => {}
                }
            }
        }
        self.agenda.wake(*holder, now);
    }

    /// Nothing came of it: it is tried again when what stood in the way may be gone, which is known as long as nobody has looked again.
    /// Where that will hardly be, all that wait for it are looked at: something stronger may come in its place.
    fn come_again(&mut self, underway: &Underway, refusal: &Refusal, now: BootTime) {
        let line = (underway.holder, underway.act);
        let lasts = self.backoff.refused(underway.act, underway.holder, refusal, now);
        self.put_back(underway, now);
        if lasts && self.policy.has_more(underway.act) {
            self.agenda.dissolve(|other| *other == line, now);
        }
        for id in &underway.ids {
            if let Some(plan) = self.agenda.plan_mut(*id) {
                plan.looked.refusals.push((underway.act, refusal.clone()));
            }
        }
    }

    fn trip(&mut self, underway: &Underway, trip: Trip, now: BootTime, outbox: &mut Outbox) {
        let Underway { act, holder, rule, zombies, .. } = underway;
        let Some(first) = zombies.first().filter(|_| !underway.outlived) else { return };
        let name = rule.clone().unwrap_or_default();
        for opened in self.policy.failed(*act, *holder, trip, now) {
            let shown = Process::from(&first.holder);
            tracing::warn!(
                rule = %name,
                remedy = %act.remedy,
                holder = holder.pid,
                "circuit breaker of the {}: {}",
                opened.scope.as_str(),
                trip.as_str()
            );
            let event = BreakerEvent::new(opened, &name, act.remedy, shown, now, Timestamp::now());
            self.open.retain(|(until, _)| *until > now);
            self.open.push((opened.until, event.clone()));
            outbox.send(Event::Breaker(Box::new(event)));
        }
        let policy = &self.policy;
        // What the hand has not begun is not done either.
        for other in self.underway.values() {
            if policy.is_tripped(other.act, other.holder, now) {
                other.withdraw();
            }
        }
        self.agenda.dissolve(|(holder, act)| policy.is_overtaken(*act, *holder, now), now);
    }

    pub(super) fn name(&self, rule: usize) -> Option<Untrusted> {
        self.policy.terms().rules.get(rule).map(|rule| rule.name.clone())
    }

    /// The hand has done something, or has not.
    pub(super) fn take_deed(&mut self, number: u64, deed: Deed, now: BootTime, outbox: &mut Outbox) {
        let Some(mut underway) = self.underway.remove(&number) else { return };
        underway.refusal.clone_from(&deed.refusal);
        underway.acted = deed.refusal.is_none() || deed.acted();
        // Whom it touched before it came to a refusal may die of that all the same.
        if let Some(refusal) = deed.refusal.as_ref().filter(|_| !deed.touched()) {
            // What stood in its way was in the way of a rule that there is no more.
            if *refusal == Refusal::Withdrawn || underway.outlived {
                self.put_back(&underway, now);
                return;
            }
            self.come_again(&underway, refusal, now);
            let zombies: Vec<_> = underway.zombies.iter().collect();
            self.refuse(underway.act, underway.holder, refusal, &zombies, outbox);
        } else {
            if underway.refusal.is_none() {
                self.backoff.done(underway.act, underway.holder);
            }
            underway.phase = Phase::Done { deed, at: now, due: now.plus(EFFECT) };
            if underway.died {
                self.trip(&underway, Trip::HolderDied, now, outbox);
            }
            self.underway.insert(number, underway);
        }
    }

    #[cfg(test)]
    pub(super) fn survive(&mut self, number: u64, due: BootTime) {
        let underway = self.underway.get_mut(&number);
        underway.unwrap().phase = Phase::Survival { due };
    }

    /// A holder has ended. Where something was done to it, or is being done, nobody else is touched by that rule; what came of it
    /// for the zombies is looked for when it should be there.
    pub(super) fn see_death(&mut self, number: u64, now: BootTime, outbox: &mut Outbox) {
        let Some(mut underway) = self.underway.remove(&number) else { return };
        underway.died = true;
        match underway.phase {
            // It may have ended before the hand came to it: that is known when it says what it did.
            Phase::Begun => _ = self.underway.insert(number, underway),
            Phase::Done { .. } => {
                self.trip(&underway, Trip::HolderDied, now, outbox);
                self.underway.insert(number, underway);
            }
            Phase::Survival { .. } => self.trip(&underway, Trip::HolderDied, now, outbox),
        }
    }
}

impl Watch {
    /// Something has become of an order.
    pub(in crate::watch) fn take_news(&mut self, number: u64, news: News, now: BootTime) {
        match news {
            News::Done(deed) => self.remedies.take_deed(number, deed, now, &mut self.outbox),
            News::HolderDied => self.remedies.see_death(number, now, &mut self.outbox),
        }
        if let Some(next) = self.remedies.next() {
            self.sweep_by(next);
        }
    }

    /// Looks for the effects that should be there by now.
    pub(super) fn settle_deeds(&mut self, now: BootTime) {
        let is_due = |due: Option<BootTime>| due.is_some_and(|due| due <= now);
        let due: Vec<_> = self
            .remedies
            .underway
            .iter()
            .filter(|(_, underway)| is_due(underway.due()))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some(mut underway) = self.remedies.underway.remove(&number) else { continue };
            match std::mem::replace(&mut underway.phase, Phase::Begun) {
                Phase::Begun => {}
                Phase::Done { deed, at, .. } => {
                    if self.settle(&underway, &deed, now) {
                        underway.phase = Phase::Survival { due: at.plus(SURVIVES) };
                        self.remedies.underway.insert(number, underway);
                    }
                }
                Phase::Survival { .. } => {
                    if state(&self.describer.proc, underway.holder).is_none() {
                        self.remedies.trip(&underway, Trip::HolderDied, now, &mut self.outbox);
                    } else if !underway.outlived {
                        self.remedies.policy.proven(underway.act, underway.holder, now);
                    }
                }
            }
        }
    }

    /// Says what came of a remedy. True where it is still to be seen whether the holder survives it.
    fn settle(&mut self, underway: &Underway, deed: &Deed, now: BootTime) -> bool {
        let Underway { act, holder, ids, zombies, .. } = underway;
        let Some(mut event) = underway.event() else { return false };
        let mut gone = 0;
        for ((id, zombie), shown) in ids.iter().zip(zombies).zip(&mut event.zombies) {
            // On a machine that is busy enough the kernel frees one seconds after it was waited for: it has no pid then.
            let is_gone = self.describer.kernel.record(*id).is_none() || !exists(zombie.identity.pid);
            gone += u64::from(is_gone);
            shown.gone = Some(is_gone);
            let taken = deed.taken.iter().find(|(of, _)| *of == zombie.identity);
            shown.status_taken = matches!(taken, Some((_, Ok(()))));
        }
        let before = zombies.len() as u64;
        let lives = state(&self.describer.proc, *holder);
        let ends = act.remedy == Remedy::TerminateHolder;
        let outcome = underway.outcome(lives.is_some(), gone);
        let others = if act.remedy == Remedy::Nudge && underway.others > 0 {
            format!(", and {} more of the same holder", underway.others)
        } else {
            String::new()
        };
        event.outcome = outcome;
        event.after = Some(State { zombies: before - gone, holder: lives });
        event.signals = deed.signals.iter().map(|signal| Untrusted::from(*signal)).collect();
        event.stood(deed);
        let why = deed.refusal.as_ref().map(|refusal| format!("; {refusal}")).unwrap_or_default();
        let ended = if ends && lives.is_none() { ", the holder has ended" } else { "" };
        event.message = match &deed.refusal {
            Some(refusal) if outcome == Outcome::Refused => {
                event.reason = Some(refusal.as_str().into());
                refusal.to_string()
            }
            _ => format!("{gone} of {before} gone{others}{ended}{why}"),
        }
        .as_str()
        .into();
        tracing::debug!(remedy = %act.remedy, holder = holder.pid, outcome = outcome.as_str(), "{}", event.message);
        self.remedies.tell(event, &mut self.outbox);
        self.remedies.conclude(underway, outcome, now, &mut self.outbox);
        if lives.is_none() {
            // Whoever has them now may be asked at once.
            self.remedies.agenda.dissolve(|(of, _)| of == holder, now);
        }
        !ends && outcome != Outcome::HolderDied
    }
}

/// The state of a process that lives and is the one that is meant.
fn state(proc: &Proc, holder: Identity) -> Option<char> {
    let seen = proc.see(holder.pid).ok()?;
    (seen.start_ticks == ticks(holder.start) && !seen.has_ended()).then_some(seen.state)
}
