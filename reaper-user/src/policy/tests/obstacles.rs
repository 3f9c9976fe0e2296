//! What stands against a step that is due, and when something stronger may come in its place.

use super::*;

#[test]
fn limits_breakers_and_a_pause_say_no_and_when_again() {
    let steps = [(Remedy::Nudge, 60), (Remedy::TerminateHolder, 60)];
    let mut policy = policy(vec![rule(&[], &steps)]);
    let (zombie, holder) = (zombie(Cause::Adopted), holder());
    let decide = |policy: &Policy, age| policy.decide(case(&zombie, &holder), Progress::default(), at(age));
    policy.take(0, HOLDER, at(60));
    policy.take(0, HOLDER, at(60));
    let decision = decide(&policy, 60);
    assert_eq!(decision.act, None, "a delay is no reason for something stronger");
    assert_eq!(
        decision.refusals.iter().map(|(_, no)| no.clone()).collect::<Vec<_>>(),
        [Refusal::Limited(Limit::Holder)]
    );
    assert_eq!((decision.waits.map(|act| act.step), decision.again), (Some(0), None));
    let nudge = decision.waits.unwrap();
    assert_eq!(policy.obstacle(nudge, HOLDER, at(60)), Some((Refusal::Limited(Limit::Holder), at(65))));
    assert_eq!(policy.obstacle(nudge, HOLDER, at(65)), None);
    assert_eq!(policy.apart(0), 5 * SECOND);

    let nudge = decide(&policy, 65).act.unwrap();
    policy.failed(nudge, HOLDER, Trip::NoEffect, at(66));
    let decision = decide(&policy, 70);
    assert_eq!(decision.refusals[0].1, Refusal::Tripped(Scope::Holder));
    assert_eq!(decision.act.unwrap().remedy, Remedy::TerminateHolder);
    assert!(policy.is_overtaken(nudge, HOLDER, at(70)), "by the stronger step");
    policy.failed(nudge, HOLDER, Trip::HolderDied, at(71));
    let decision = decide(&policy, 80);
    assert_eq!((decision.act, decision.again), (None, None));
    let first = policy.obstacle(decision.waits.unwrap(), HOLDER, at(80)).unwrap();
    assert_eq!(first, (Refusal::Tripped(Scope::Rule), at(71 + 3_600)));

    let paused = Policy::new(Terms { paused: true, ..policy.terms().clone() });
    let decision = decide(&paused, 60);
    assert_eq!((decision.act, decision.again), (None, None));
    assert!(decision.refusals.iter().all(|(_, no)| *no == Refusal::Paused));
}

#[test]
fn what_was_refused_and_lasts_lets_a_stronger_step_come_when_it_is_due_and_what_passes_does_not() {
    let policy = policy(vec![rule(&[], &[(Remedy::Reap, 60), (Remedy::TerminateHolder, 600)])]);
    let (zombie, holder) = (zombie(Cause::Adopted), holder());
    let refusal = Refusal::Hand { word: "seccomp-denied", message: String::new() };
    let refused =
        |lasts| Refused { rule: 0, remedy: Remedy::Reap, refusal: refusal.clone(), until: at(700), lasts };
    let decide = |lasts, age| {
        let refused = [refused(lasts)];
        policy.decide(Case { refused: &refused, ..case(&zombie, &holder) }, Progress::default(), at(age))
    };
    let remedy = |act: Option<Act>| act.map(|act| act.remedy);
    for lasts in [true, false] {
        let decision = decide(lasts, 100);
        assert_eq!((decision.act, remedy(decision.waits)), (None, Some(Remedy::Reap)));
        assert_eq!(decision.refusals[0].1, refusal);
        // When the stronger one is due is only of interest where it may come.
        assert_eq!(decision.again, lasts.then(|| at(600)));
    }
    assert_eq!(remedy(decide(true, 600).act), Some(Remedy::TerminateHolder));
    assert_eq!(decide(false, 600).act, None);
}
