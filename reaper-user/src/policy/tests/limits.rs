//! Limits over a change of the configuration.

use super::*;

#[test]
fn a_rule_that_stays_the_same_keeps_what_it_has_used_wherever_it_stands_and_whatever_it_is_called() {
    let other = rule(&[Cause::Unknown], &[(Remedy::Nudge, 60)]);
    let limited = Rule { per_minute: Some(1), ..rule(&[Cause::Adopted], &[(Remedy::Nudge, 60)]) };
    let mut policy = policy(vec![limited.clone()]);
    let act = |rule| Act { rule, step: 0, remedy: Remedy::Nudge };
    let elsewhere = Identity { pid: 4701, ..HOLDER };
    let against = |policy: &Policy, rule| policy.obstacle(act(rule), elsewhere, at(1)).map(|(why, _)| why);
    policy.take(0, HOLDER, at(0));
    let renamed = Rule { name: "renamed".into(), ..limited.clone() };
    let terms = Terms { rules: vec![other, renamed], ..policy.terms().clone() };
    policy.take_terms(terms);
    assert_eq!(against(&policy, 0), None);
    assert_eq!(against(&policy, 1), Some(Refusal::Limited(Limit::Rule)));
    // For others than before, it is another one.
    let mut changed = limited;
    changed.when.causes.push(Cause::Unknown);
    let terms = Terms { rules: vec![changed], ..policy.terms().clone() };
    policy.take_terms(terms);
    assert_eq!(against(&policy, 0), None);
}
