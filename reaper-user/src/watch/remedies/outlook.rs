//! What the rules say about one zombie, for whoever asks.

use jiff::Timestamp;

use super::{Looked, Plan, Remedies};
use crate::{
    identity::BootTime,
    policy::Rule,
    report::{OutlookEvent, OutlookStep, Seconds, StepStanding, ZombieEvent},
};

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
        let plan = self.plans.get(&id);
        let decided = plan.and_then(|plan| Some((plan, terms.rules.get(plan.looked.rule?)?)));
        OutlookEvent {
            time: Timestamp::now(),
            pid: zombie.pid,
            start_time: zombie.start_time,
            reported,
            acts: self.policy.acts(),
            dry_run: terms.dry_run,
            paused: terms.paused,
            rule: decided.map(|(_, rule)| rule.name.clone()),
            steps: decided.map(|(plan, rule)| steps(plan, rule)).unwrap_or_default(),
            under_way: self.underway.values().any(|underway| underway.is_about(id)),
            again_seconds: plan.and_then(|plan| plan.next).map(|next| Seconds(next.since(now))),
        }
    }
}

fn steps(plan: &Plan, rule: &Rule) -> Vec<OutlookStep> {
    let Looked { rule: place, refusals } = &plan.looked;
    let step = |(number, step): (usize, &crate::policy::Step)| {
        let refusal = refusals.iter().find(|(act, _)| act.step == number).map(|(_, refusal)| refusal);
        let passed = place.is_some_and(|place| plan.progress.has_passed(place, number));
        OutlookStep {
            remedy: step.remedy,
            after_seconds: Seconds(step.after),
            standing: match refusal {
                // That it is reported is behind whatever was looked at.
                _ if passed || step.remedy == crate::remedy::Remedy::Report => StepStanding::Passed,
                Some(_) => StepStanding::Refused,
                None => StepStanding::Ahead,
            },
            reason: refusal.map(|refusal| refusal.as_str().into()),
            message: refusal.map(|refusal| refusal.to_string().as_str().into()),
        }
    };
    rule.steps.iter().enumerate().map(step).collect()
}
