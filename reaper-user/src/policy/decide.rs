//! The decision: which step of which rule is due for a zombie now, when the next one is, and why not.

use std::time::Duration;

use super::{
    Refusal, Rule,
    breaker::{Breaker, Opened, Trip},
    limits::Limits,
    rule::{Fit, Subject},
    safety::{Case, Refused, Waited, allows},
};
use crate::{
    identity::{BootTime, Identity},
    remedy::Remedy,
    zombie::{Cause, Zombie},
};

/// A zombie that a remedy was refused for is looked at again after this, and then ever more rarely.
const AGAIN: Duration = Duration::from_secs(60);

/// But not more rarely than this.
const AGAIN_AT_LEAST: Duration = Duration::from_secs(3_600);

/// Names are often there in the next moment, and may be missing for as long as a runtime is down.
fn unnamed_for(age: Duration) -> Duration {
    (age / 2).clamp(Duration::from_secs(1), AGAIN)
}

/// What holds for all remedies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether it is only said what would be done.
    pub dry_run: bool,
    /// Whether nothing is done.
    pub paused: bool,
    /// Remedies a minute on the machine.
    pub per_minute: u32,
    /// Remedies a minute for one holder.
    pub per_holder: u32,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// How long a holder may stand still at once.
    pub max_pause: Duration,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// The rules with their limits and breakers.
#[derive(Debug)]
pub struct Policy {
    terms: Terms,
    limits: Limits,
    breaker: Breaker,
}

/// Which steps of which rule a zombie has behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    rule: Option<usize>,
    done: u8,
}

impl Progress {
    /// The step is behind it.
    pub fn pass(&mut self, rule: usize, step: usize) {
        if self.rule != Some(rule) {
            *self = Self { rule: Some(rule), done: 0 };
        }
        self.done |= 1 << step.min(7);
    }

    /// Whether the step is behind it.
    #[must_use]
    pub const fn has_passed(self, rule: usize, step: usize) -> bool {
        matches!(self.rule, Some(own) if own == rule) && self.done & (1 << step) != 0
    }
}

/// A step that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Act {
    /// The rule's place.
    pub rule: usize,
    /// The step's place in it.
    pub step: usize,
    /// What is to be done.
    pub remedy: Remedy,
}

/// What stands against an act.
struct Obstacle {
    refusal: Refusal,
    until: BootTime,
    /// It is only a matter of time: a stronger remedy is not taken because of it.
    passes: bool,
}

/// The rule that decides about a zombie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Its place; `None` where no rule matches.
    pub rule: Option<usize>,
    /// Whether it matches is not known before the names of the workload are: until then neither it nor one behind it does anything.
    pub unnamed: bool,
    /// The next age at which another one may match.
    pub later: Option<Duration>,
}

/// What is decided about a zombie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What is to be done now.
    pub act: Option<Act>,
    /// What would be due and is not applied, and why.
    pub refusals: Vec<(Act, Refusal)>,
    /// What would be done, were it not for a limit or a breaker: nothing else is waited for, and that of all zombies of the
    /// holder together. Of several the one that is ready first.
    pub waits: Option<Act>,
    /// Whether the holder's wait calls may still decide something.
    pub watch: bool,
    /// When it is to be looked at again, whatever it waits for beside; `None` where nothing is known to change by itself.
    pub again: Option<BootTime>,
}

impl Policy {
    /// With all breakers closed.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let Terms { per_minute, per_holder, rules, .. } = &terms;
        let limits = Limits::new(*per_minute, *per_holder, rules.iter().map(|rule| rule.per_minute));
        Self { terms, limits, breaker: Breaker::default() }
    }

    /// Takes other terms, with all breakers closed. What was taken of the limits is not given back by that, but for those of rules
    /// that are other ones now.
    pub fn take_terms(&mut self, terms: Terms) {
        let before = std::mem::replace(self, Self::new(terms));
        let rules = &self.terms.rules;
        let same = rules.iter().map(|rule| before.terms.rules.iter().position(|was| was.is_still(rule)));
        self.limits.go_on_from(before.limits, same);
    }

    /// What holds for all remedies.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// True where a rule does more than report.
    #[must_use]
    pub fn acts(&self) -> bool {
        self.terms.rules.iter().any(Rule::acts)
    }

    /// The parts that are left of limits, below which a step comes sooner.
    #[must_use]
    pub fn headroom_thresholds(&self) -> Vec<f64> {
        self.terms
            .rules
            .iter()
            .flat_map(|rule| &rule.steps)
            .filter_map(|step| Some(step.headroom_below?.part()))
            .collect()
    }

    /// True where a rule reaps.
    #[must_use]
    pub fn reaps(&self) -> bool {
        self.terms.rules.iter().any(|rule| rule.step(Remedy::Reap).is_some())
    }

    /// The rule that decides about a zombie of this age.
    #[must_use]
    pub fn rule(&self, case: Case<'_>, age: Duration) -> Choice {
        let executable = case.holder.executable.as_ref();
        let subject = Subject { executable, uid: case.holder.uid };
        let mut later: Option<Duration> = None;
        for (place, rule) in self.terms.rules.iter().enumerate() {
            let fit = rule.when.fits(case.zombie, subject);
            match rule.when.age.filter(|least| *least > age) {
                _ if fit == Fit::No => {}
                None => return Choice { rule: Some(place), unnamed: fit == Fit::NotYet, later },
                Some(least) => later = Some(later.map_or(least, |later| later.min(least))),
            }
        }
        Choice { rule: None, unnamed: false, later }
    }

    /// Decides about a zombie at `now`.
    #[must_use]
    pub fn decide(&self, case: Case<'_>, progress: Progress, now: BootTime) -> Decision {
        let died = case.zombie.died;
        let age = died.age(now);
        let reaches = |wanted: Duration| now.plus(wanted.saturating_sub(age));
        let Choice { rule: place, unnamed, later } = self.rule(case, age);
        let backoff = now.plus((age / 2).clamp(AGAIN, AGAIN_AT_LEAST));
        // That its holder is stopped passes (a remedy itself stops it for a moment), and another rule may be for what is then.
        let passes = matches!(case.zombie.cause, Cause::HeldByTracer | Cause::HolderStopped);
        let again = [later.map(reaches), passes.then_some(backoff)].into_iter().flatten().min();
        let mut decision = Decision { again, ..Decision::default() };
        let Some((place, rule)) = place.and_then(|place| Some((place, self.terms.rules.get(place)?))) else {
            return decision;
        };
        if unnamed {
            let first = rule.steps.iter().position(|step| step.remedy != Remedy::Report);
            let act =
                first.and_then(|step| Some(Act { rule: place, step, remedy: rule.steps.get(step)?.remedy }));
            decision.refusals.extend(act.map(|act| (act, Refusal::NamesUnknown)));
            let then = now.plus(unnamed_for(age));
            decision.again = Some(decision.again.map_or(then, |again| again.min(then)));
            return decision;
        }
        let (mut again, mut ready) = (decision.again, None);
        let mut at = |moment: BootTime| again = Some(again.map_or(moment, |again| again.min(moment)));
        for (step, wanted) in rule.steps.iter().enumerate() {
            let act = Act { rule: place, step, remedy: wanted.remedy };
            if wanted.remedy == Remedy::Report || progress.has_passed(place, step) {
                continue;
            }
            if wanted.remedy == Remedy::Reap {
                let of_it = allows(Remedy::Reap, rule, case, age);
                decision.watch = of_it.is_ok() || of_it.is_err_and(|refusal| refusal.is_about_waits());
            }
            if age < wanted.after && !wanted.is_hurried(case.free) {
                at(reaches(wanted.after));
                if rule.is_hurried(step + 1, case.free) {
                    continue;
                }
                break;
            }
            let mut is_delay = false;
            let refusal = match self.check(act, rule, case, age) {
                Ok(holder) => match self.stands_against(act, holder, case, now) {
                    None => {
                        decision.act = Some(act);
                        break;
                    }
                    Some(Obstacle { refusal, until, passes }) => {
                        is_delay = passes;
                        if ready.is_none_or(|ready| until < ready) {
                            (ready, decision.waits) = (Some(until), Some(act));
                        }
                        refusal
                    }
                },
                Err(refusal) => {
                    match (&refusal, case.waited) {
                        // Nothing changes by itself: that it ends is another configuration.
                        (Refusal::Paused, _) => {}
                        (Refusal::NamesUnknown, _) => at(now.plus(unnamed_for(age))),
                        (Refusal::MayStillWait { from, .. }, _) => at(reaches(*from)),
                        (Refusal::NotWatched, Waited::Unwatched(left)) => at(now.plus(left).min(backoff)),
                        _ => at(backoff),
                    }
                    refusal
                }
            };
            is_delay |= refusal == Refusal::NamesUnknown;
            decision.refusals.push((act, refusal));
            if is_delay {
                break;
            }
        }
        decision.again = again;
        decision
    }

    /// Whether it may be done to this zombie, limits aside; and to whom.
    fn check(&self, act: Act, rule: &Rule, case: Case<'_>, age: Duration) -> Result<Identity, Refusal> {
        let holder = case.holder.identity.ok_or(Refusal::HolderGone)?;
        allows(act.remedy, rule, case, age)?;
        if self.terms.paused { Err(Refusal::Paused) } else { Ok(holder) }
    }

    /// What stands against it now, be it a breaker, a limit, or that it was refused lately.
    fn stands_against(&self, act: Act, holder: Identity, case: Case<'_>, now: BootTime) -> Option<Obstacle> {
        let refused = case.refused.iter().find(|of| (of.rule, of.remedy) == (act.rule, act.remedy));
        let refused = refused.map(|Refused { refusal, until, lasts, .. }| Obstacle {
            refusal: refusal.clone(),
            until: *until,
            passes: !lasts,
        });
        // What lasts would be so behind a limit, too: nothing is gained by waiting for that first.
        if refused.as_ref().is_some_and(|refused| !refused.passes) {
            return refused;
        }
        let obstacle = self.obstacle(act, holder, now);
        obstacle.map(|(refusal, until)| Obstacle { passes: refusal.is_delay(), refusal, until }).or(refused)
    }

    /// The breaker or limit that stands against it now, whichever zombies of the holder it is for, and until when.
    #[must_use]
    pub fn obstacle(&self, act: Act, holder: Identity, now: BootTime) -> Option<(Refusal, BootTime)> {
        let tripped = self.breaker.stands_against(act.rule, holder, act.remedy, now);
        tripped.map(|(scope, until)| (Refusal::Tripped(scope), until)).or_else(|| {
            let limited = self.limits.stands_against(act.rule, holder, now);
            limited.map(|(limit, ready)| (Refusal::Limited(limit), ready))
        })
    }

    /// Whether a breaker has stopped it.
    #[must_use]
    pub fn is_tripped(&self, act: Act, holder: Identity, now: BootTime) -> bool {
        self.breaker.stands_against(act.rule, holder, act.remedy, now).is_some()
    }

    /// Whether something may come in its place.
    #[must_use]
    pub fn has_more(&self, act: Act) -> bool {
        self.terms.rules.get(act.rule).is_some_and(|rule| act.step + 1 < rule.steps.len())
    }

    /// Whether a breaker has stopped it, and something stronger may come in its place.
    #[must_use]
    pub fn is_overtaken(&self, act: Act, holder: Identity, now: BootTime) -> bool {
        self.has_more(act) && self.is_tripped(act, holder, now)
    }

    /// How far apart acts of a rule on one holder are, in the long run.
    #[must_use]
    pub fn apart(&self, rule: usize) -> Duration {
        self.limits.apart(rule)
    }

    /// The age at which a zombie is to be reported, where the first rule that fits it says one. Of its holder only the user is
    /// known by then: a rule that asks for the executable does not fit.
    #[must_use]
    pub fn report_at(&self, zombie: &Zombie, uid: Option<u32>, age: Duration) -> Option<Duration> {
        let subject = Subject { executable: None, uid };
        let fits = |rule: &&Rule| {
            rule.when.age.is_none_or(|least| least <= age) && rule.when.fits(zombie, subject) == Fit::Yes
        };
        self.terms.rules.iter().find(fits).and_then(Rule::reports_after)
    }

    /// A remedy is applied to a holder now, for one zombie or many: it counts once.
    pub fn take(&mut self, rule: usize, holder: Identity, now: BootTime) {
        self.limits.take(rule, holder, now);
    }

    /// A remedy had its effect.
    pub fn worked(&mut self, act: Act) {
        self.breaker.worked(act.rule, act.remedy);
    }

    /// A remedy had its effect, and the holder was none the worse for it.
    pub fn proven(&mut self, act: Act, holder: Identity, now: BootTime) {
        self.breaker.proven(act.rule, holder, act.remedy, now);
    }

    /// A remedy had not, or did harm. Says which breakers have opened.
    pub fn failed(&mut self, act: Act, holder: Identity, trip: Trip, now: BootTime) -> Vec<Opened> {
        self.breaker.failed(act.rule, holder, act.remedy, trip, now)
    }
}
