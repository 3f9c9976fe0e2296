//! Rules that ask for the names of workloads, and the label that opts out.

use super::{super::*, SECOND, at, case, holder, policy, rule, verdict, zombie};
use crate::{
    names::{Named, Names},
    remedy::{Holder, Remedy},
    report::fixture,
    workload::{Kind, Workload},
    zombie::{Cause, Zombie},
};

/// A rule for whom a namespace or labels are asked for.
fn by_names(namespace: Option<&str>, labels: &[(&str, &str)], steps: &[(Remedy, u64)]) -> Rule {
    let pattern = |text: &str| vec![text.parse::<Pattern>().unwrap()];
    let when = Match {
        namespaces: namespace.map(pattern).unwrap_or_default(),
        labels: labels.iter().map(|(key, value)| ((*key).into(), pattern(value))).collect(),
        ..Match::default()
    };
    Rule { when, ..rule(&[], steps) }
}

#[test]
fn a_rule_that_asks_for_names_means_whom_they_fit_once_they_are_known() {
    let (subject, names) = (Subject::default(), fixture::names());
    for (namespace, labels, expected) in [
        (Some("crawlers"), &[][..], Fit::Yes),
        (Some("crawl*"), &[("app", "fetcher"), ("tier", "*")], Fit::Yes),
        (Some("shops"), &[], Fit::No),
        (None, &[("app", "shop")], Fit::No),
        (None, &[("app", "fetcher"), ("missing", "**")], Fit::No),
    ] {
        let when = by_names(namespace, labels, &[]).when;
        assert_eq!(when.fits(&fixture::named(names.clone()), subject), expected, "{namespace:?} {labels:?}");
        let of = |named| Zombie { named, ..fixture::never_waited() };
        assert_eq!(when.fits(&of(Named::Pending), subject), Fit::NotYet);
        assert_eq!(when.fits(&of(Named::Nobody), subject), Fit::No);
        // Names do not matter where something else does not fit.
        let elsewhere = Match { kinds: vec![Kind::Host], ..when };
        assert_eq!(elsewhere.fits(&of(Named::Pending), subject), Fit::No);
    }
}

#[test]
fn until_the_names_are_known_neither_the_rule_that_asks_for_them_nor_one_behind_it_acts() {
    let spared = by_names(Some("crawlers"), &[], &[(Remedy::Report, 0), (Remedy::Nudge, 60)]);
    let policy = policy(vec![spared, rule(&[], &[(Remedy::TerminateHolder, 0)])]);
    let holder = holder();
    let of = |named| Zombie { named, ..zombie(Cause::Adopted) };
    let decide = |zombie: &Zombie, age| policy.decide(case(zombie, &holder), Progress::default(), at(age));
    let pending = of(Named::Pending);
    let decision = decide(&pending, 4);
    let act = Act { rule: 0, step: 1, remedy: Remedy::Nudge };
    assert_eq!((decision.act, decision.refusals), (None, vec![(act, Refusal::NamesUnknown)]));
    assert_eq!(decision.again, Some(at(6)), "soon");
    assert_eq!(decide(&pending, 7_200).again, Some(at(7_260)), "and ever more rarely");
    assert_eq!(policy.report_at(&pending, None, SECOND), None, "a report is not put off");
    assert_eq!(decide(&fixture::named(fixture::names()), 5).act, None, "the first rule decides");
    let nobodys = of(Named::Nobody);
    assert_eq!(decide(&nobodys, 5).act.unwrap().remedy, Remedy::TerminateHolder);
}

#[test]
fn a_label_opts_out_and_until_labels_are_known_nothing_is_done() {
    let (holder, rule) = (holder(), rule(&[], &[]));
    let of = |named| Zombie { named, ..zombie(Cause::Adopted) };
    let out = Names { opts_out: true, ..fixture::names() };
    for (named, expected) in [
        (Named::As(out.into()), Err("opted-out")),
        (Named::Pending, Err("names-unknown")),
        (Named::As(fixture::names().into()), Ok(())),
        (Named::Nobody, Ok(())),
    ] {
        let zombie = of(named);
        assert_eq!(verdict(Remedy::Nudge, &rule, case(&zombie, &holder), 3_600), expected);
    }
}

#[test]
fn a_label_of_the_holders_workload_opts_out_too() {
    let (zombie, rule) = (zombie(Cause::Adopted), rule(&[], &[]));
    for (opts_out, expected) in
        [(Some(true), Err("opted-out")), (None, Err("names-unknown")), (Some(false), Ok(()))]
    {
        let holder = Holder { opts_out, ..holder() };
        assert_eq!(verdict(Remedy::Reap, &rule, case(&zombie, &holder), 3_600), expected);
    }
}

#[test]
fn a_holder_is_ended_only_for_a_zombie_of_its_own_workload() {
    let (zombie, rule) = (zombie(Cause::Adopted), Rule { may_end_container: true, ..rule(&[], &[]) });
    let of = |workload| Holder { workload, ..holder() };
    let own = zombie.workload.clone();
    let cgroup = Some("/kubepods.slice/kubepods-pod5f1c.slice/cri-containerd-3f2a.scope/worker".into());
    for (holder, expected) in [
        (of(Some(Workload { cgroup, ..own.clone() })), Ok(())),
        (of(Some(Workload { id: Some("another".into()), ..own.clone() })), Err("other-workload")),
        (of(Some(Workload { pod_uid: None, ..own.clone() })), Err("other-workload")),
        (of(Some(Workload { kind: Kind::Host, id: None, pod_uid: None, ..own })), Err("other-workload")),
        (of(None), Err("other-workload")),
    ] {
        assert_eq!(verdict(Remedy::TerminateHolder, &rule, case(&zombie, &holder), 3_600), expected);
        assert_eq!(verdict(Remedy::Reap, &rule, case(&zombie, &holder), 3_600), Ok(()), "it stays");
    }
}
