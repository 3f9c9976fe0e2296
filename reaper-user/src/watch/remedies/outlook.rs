//! What the rules say about one zombie, for whoever asks.

use jiff::Timestamp;

use super::{
    AT_ONCE, Remedies,
    agenda::{Line, Looked, Obstacle, Plan},
};
use crate::{
    identity::BootTime,
    policy::{Refusal, Rule},
    remedy::Remedy,
    report::{OutlookEvent, OutlookStep, Seconds, StepStanding, ZombieEvent},
};

/// How it stands in a queue.
struct Turn {
    line: Line,
    /// Behind so many.
    before: usize,
    /// What stands in the way of all of them.
    obstacle: Option<(Refusal, Obstacle)>,
}

impl Remedies {
    /// As it was decided when it was last looked at; a zombie that is not reported was not.
    pub(in crate::watch) fn outlook(
        &self,
        id: u64,
        zombie: &ZombieEvent,
        reported: bool,
        now: BootTime,
    ) -> OutlookEvent {
        let terms = self.policy.terms();
        let plan = self.agenda.plan(id);
        let decided = plan.and_then(|plan| Some((plan, terms.rules.get(plan.looked.rule?)?)));
        let turn = self.agenda.place(id).map(|(line, before)| {
            let obstacle = self.obstacle(line, now);
            Turn { line, before, obstacle }
        });
        let again = plan.and_then(|plan| plan.next);
        let turn_comes = turn.as_ref().map(|turn| self.comes(turn, now));
        OutlookEvent {
            time: Timestamp::now(),
            pid: zombie.pid,
            start_time: zombie.start_time,
            reported,
            acts: self.policy.acts(),
            dry_run: terms.dry_run,
            paused: terms.paused,
            rule: decided.map(|(_, rule)| rule.name.clone()),
            steps: decided.map(|(plan, rule)| steps(plan, rule, turn.as_ref())).unwrap_or_default(),
            under_way: self.underway.values().any(|underway| underway.is_about(id)),
            queued_behind: turn.map(|turn| turn.before as u64),
            again_seconds: [again, turn_comes]
                .into_iter()
                .flatten()
                .min()
                .map(|next| Seconds(next.since(now))),
        }
    }

    /// About when: if nothing of the holder goes meanwhile, and no other holder takes what is left of a limit.
    fn comes(&self, turn: &Turn, now: BootTime) -> BootTime {
        let free = turn.obstacle.as_ref().and_then(|(_, until)| *until).unwrap_or(now);
        let acts_before = u32::try_from(turn.before / AT_ONCE).unwrap_or(u32::MAX);
        free.plus(self.policy.apart(turn.line.1.rule).saturating_mul(acts_before))
    }
}

fn steps(plan: &Plan, rule: &Rule, turn: Option<&Turn>) -> Vec<OutlookStep> {
    let Looked { rule: place, refusals } = &plan.looked;
    let step = |(number, step): (usize, &crate::policy::Step)| {
        let waits = turn.filter(|turn| turn.line.1.step == number);
        let in_the_way = waits.and_then(|turn| turn.obstacle.as_ref()).map(|(refusal, _)| refusal);
        // A limit, and what the hand has refused, is known as it is now, anything else as it was when it was last looked at.
        let stands = |refusal: &Refusal| match refusal {
            Refusal::Hand { .. } | Refusal::Busy => {
                in_the_way.is_some_and(|now| now.as_str() == refusal.as_str())
            }
            _ => !refusal.is_about_all(),
        };
        let found =
            refusals.iter().find(|(act, refusal)| act.step == number && (waits.is_none() || stands(refusal)));
        let refusal = found.map(|(_, refusal)| refusal);
        let passed = place.is_some_and(|place| plan.progress.has_passed(place, number));
        let reason = refusal.or(in_the_way);
        OutlookStep {
            remedy: step.remedy,
            after_seconds: Seconds(step.after),
            standing: match refusal {
                // That it is reported is behind whatever was looked at.
                _ if passed || step.remedy == Remedy::Report => StepStanding::Passed,
                Some(_) => StepStanding::Refused,
                None if waits.is_some() => StepStanding::Waiting,
                None => StepStanding::Ahead,
            },
            reason: reason.map(|refusal| refusal.as_str().into()),
            message: reason.map(|refusal| refusal.to_string().as_str().into()),
        }
    };
    rule.steps.iter().enumerate().map(step).collect()
}
