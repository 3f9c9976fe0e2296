mod limits;
mod names;
mod obstacles;

use std::time::Duration;

use super::*;
use crate::{
    identity::{BootTime, Identity},
    remedy::{Heeds, Holder, OptOut, Protected, Remedy},
    report::fixture,
    workload::Kind,
    zombie::{Cause, Died, Zombie},
};

const SECOND: Duration = Duration::from_secs(1);
const DIED: BootTime = BootTime(1_000_000_000_000);
const HOLDER: Identity = Identity { pid: 4700, start: BootTime(4_700_000) };

fn holder() -> Holder {
    Holder {
        identity: Some(HOLDER),
        executable: Some("/usr/bin/app".into()),
        uid: Some(1000),
        heeds: Heeds::Handler,
        opt_out: OptOut::No,
        workload: Some(fixture::never_waited().workload),
        opts_out: Some(false),
        container_init: false,
        protected: None,
    }
}

fn zombie(cause: Cause) -> Zombie {
    Zombie { cause, died: Died::At(DIED), ..fixture::never_waited() }
}

fn rule(causes: &[Cause], steps: &[(Remedy, u64)]) -> Rule {
    Rule {
        name: "rule".into(),
        when: Match { causes: causes.to_vec(), ..Match::default() },
        steps: steps
            .iter()
            .map(|(remedy, after)| Step {
                remedy: *remedy,
                after: SECOND * u32::try_from(*after).unwrap(),
                headroom_below: None,
            })
            .collect(),
        parent_may_miss_status: false,
        allow_interrupted_wait: false,
        may_end_container: false,
        per_minute: None,
    }
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy::new(Terms {
        dry_run: false,
        paused: false,
        per_minute: 60,
        per_holder: 12,
        grace: 10 * SECOND,
        max_pause: SECOND / 500,
        rules,
    })
}

fn case<'a>(zombie: &'a Zombie, holder: &'a Holder) -> Case<'a> {
    Case {
        zombie,
        holder,
        waited: Waited::ForOthers,
        reap_times: Some(ReapTimes { watched: 1_000 * SECOND, longest: SECOND }),
        free: None,
        refused: &[],
    }
}

fn at(age: u64) -> BootTime {
    DIED.plus(Duration::from_secs(age))
}

fn verdict(remedy: Remedy, rule: &Rule, case: Case<'_>, age: u64) -> Result<(), &'static str> {
    allows(remedy, rule, case, Duration::from_secs(age)).map_err(|refusal| {
        assert!(!refusal.to_string().is_empty());
        refusal.as_str()
    })
}

#[test]
fn each_cause_with_each_consent_is_reaped_or_not() {
    let holder = holder();
    for cause in Cause::ALL {
        let zombie = zombie(cause);
        for named in [false, true] {
            for consent in [false, true] {
                let causes: &[Cause] = if named { &[cause] } else { &[] };
                let rule = Rule { parent_may_miss_status: consent, ..rule(causes, &[]) };
                let expected = match cause {
                    Cause::Adopted => Ok(()),
                    Cause::Inherited | Cause::NeverWaited | Cause::Unknown if named && consent => Ok(()),
                    Cause::Inherited | Cause::NeverWaited | Cause::Unknown => Err("needs-consent"),
                    Cause::HeldByTracer
                    | Cause::NamespaceDying
                    | Cause::HolderStopped
                    | Cause::NotificationCoalesced => Err("cause"),
                };
                let told = verdict(Remedy::Reap, &rule, case(&zombie, &holder), 3_600);
                assert_eq!(told, expected, "{cause:?} named {named} consent {consent}");
            }
        }
    }
}

#[test]
fn each_remedy_helps_against_some_causes() {
    let holder = holder();
    let rule = rule(&[], &[]);
    for cause in Cause::ALL {
        let zombie = zombie(cause);
        let of = |remedy| verdict(remedy, &rule, case(&zombie, &holder), 3_600).is_ok();
        let (nudge, autoreap, terminate) =
            (of(Remedy::Nudge), of(Remedy::Autoreap), of(Remedy::TerminateHolder));
        let expected = match cause {
            Cause::HeldByTracer | Cause::NamespaceDying => (false, false, false),
            Cause::HolderStopped => (false, false, true),
            _ => (true, true, true),
        };
        assert_eq!((nudge, autoreap, terminate), expected, "{cause:?}");
        assert!(of(Remedy::Report));
    }
}

#[test]
fn an_adopted_one_is_reaped_only_where_no_wait_was_seen_that_could_return_it() {
    let (zombie, holder) = (zombie(Cause::Adopted), holder());
    for (waited, expected) in [
        (Waited::ForOthers, Ok(())),
        (Waited::Unwatched(SECOND), Err("not-watched")),
        (Waited::ForAny, Err("wait-seen")),
        (Waited::ForIt(4_600), Err("awaited-by-number")),
        (Waited::Unclear, Err("waits-unclear")),
    ] {
        let case = Case { waited, ..case(&zombie, &holder) };
        assert_eq!(verdict(Remedy::Reap, &rule(&[], &[]), case, 3_600), expected, "{waited:?}");
    }
}

#[test]
fn a_never_waited_one_is_reaped_only_long_past_the_longest_time_to_reap() {
    let (zombie, holder) = (zombie(Cause::NeverWaited), holder());
    let rule = Rule { parent_may_miss_status: true, ..rule(&[Cause::NeverWaited], &[]) };
    for (reap_times, age, expected) in [
        (None, 1_000_000, Err("reap-time-unknown")),
        (Some((1_000, 5)), 49, Err("may-still-wait")),
        (Some((1_000, 5)), 50, Ok(())),
        (Some((49, 5)), 1_000, Err("reap-time-unknown")),
        (Some((1_000, 101)), 1_000_000, Err("reap-time-unknown")),
    ] {
        let reap_times = reap_times
            .map(|(watched, longest)| ReapTimes { watched: SECOND * watched, longest: SECOND * longest });
        let case = Case { reap_times, ..case(&zombie, &holder) };
        assert_eq!(verdict(Remedy::Reap, &rule, case, age), expected, "{reap_times:?} at {age}");
    }
    // The rest of its class does not depend on it.
    for cause in [Cause::Inherited, Cause::Unknown] {
        let zombie = self::zombie(cause);
        let rule = Rule { parent_may_miss_status: true, ..self::rule(&[cause], &[]) };
        let case = Case { reap_times: None, waited: Waited::Unwatched(SECOND), ..case(&zombie, &holder) };
        assert_eq!(verdict(Remedy::Reap, &rule, case, 60), Ok(()), "{cause:?}");
    }
}

#[test]
fn who_is_protected_or_has_opted_out_is_left_alone_by_every_remedy() {
    let zombie = zombie(Cause::Adopted);
    let rule = Rule { may_end_container: true, ..rule(&[], &[]) };
    for (change, expected) in [
        (Holder { protected: Some(Protected::HostInit), ..holder() }, "protected"),
        (
            Holder { protected: Some(Protected::Executable("/usr/bin/kubelet".into())), ..holder() },
            "protected",
        ),
        (Holder { opt_out: OptOut::Yes, ..holder() }, "opted-out"),
        (Holder { opt_out: OptOut::Unknown, ..holder() }, "opt-out-unknown"),
    ] {
        for remedy in [Remedy::Nudge, Remedy::Reap, Remedy::Autoreap, Remedy::TerminateHolder] {
            assert_eq!(verdict(remedy, &rule, case(&zombie, &change), 3_600), Err(expected), "{remedy}");
        }
        assert_eq!(verdict(Remedy::Report, &rule, case(&zombie, &change), 3_600), Ok(()));
    }
}

#[test]
fn a_nudge_needs_somebody_who_heeds_it_and_a_reap_a_number() {
    let deaf = Holder { heeds: Heeds::No, ..holder() };
    let zombie = zombie(Cause::Adopted);
    assert_eq!(verdict(Remedy::Nudge, &rule(&[], &[]), case(&zombie, &deaf), 60), Err("not-heeded"));
    let unseen = Zombie { ns_pid: None, ..zombie };
    assert_eq!(verdict(Remedy::Reap, &rule(&[], &[]), case(&unseen, &deaf), 60), Err("pid-unknown"));
}

#[test]
fn a_containers_first_process_is_ended_only_where_the_rule_says_so() {
    let init = Holder { container_init: true, ..holder() };
    let zombie = zombie(Cause::NeverWaited);
    let end =
        |rule: &Rule, holder: &Holder| verdict(Remedy::TerminateHolder, rule, case(&zombie, holder), 60);
    assert_eq!(end(&rule(&[], &[]), &init), Err("container-init"));
    assert_eq!(end(&Rule { may_end_container: true, ..rule(&[], &[]) }, &init), Ok(()));
    assert_eq!(end(&rule(&[], &[]), &holder()), Ok(()));
}

#[test]
fn steps_come_one_after_the_other_each_at_its_age() {
    let policy = policy(vec![rule(
        &[],
        &[(Remedy::Report, 30), (Remedy::Nudge, 60), (Remedy::Reap, 90), (Remedy::TerminateHolder, 3_600)],
    )]);
    let (zombie, holder) = (zombie(Cause::Adopted), holder());
    let mut progress = Progress::default();
    let decide = |progress, age| policy.decide(case(&zombie, &holder), progress, at(age));
    assert_eq!(decide(progress, 30), Decision { again: Some(at(60)), ..Decision::default() });
    let nudge = decide(progress, 60).act.unwrap();
    assert_eq!((nudge.rule, nudge.step, nudge.remedy), (0, 1, Remedy::Nudge));
    progress.pass(0, nudge.step);
    assert_eq!(decide(progress, 61), Decision { again: Some(at(90)), watch: true, ..Decision::default() });
    let reap = decide(progress, 90).act.unwrap();
    assert_eq!(reap.remedy, Remedy::Reap);
    progress.pass(0, reap.step);
    assert_eq!(decide(progress, 90).again, Some(at(3_600)));
    progress.pass(0, 3);
    assert_eq!(decide(progress, 9_000), Decision::default(), "nothing more to do");
    // Found late, the weakest comes first.
    assert_eq!(decide(Progress::default(), 9_000).act.unwrap().remedy, Remedy::Nudge);
}

#[test]
fn a_step_that_is_refused_does_not_stand_in_the_way_of_the_next() {
    let policy = policy(vec![rule(&[], &[(Remedy::Nudge, 60), (Remedy::Reap, 90)])]);
    let (zombie, deaf) = (zombie(Cause::Adopted), Holder { heeds: Heeds::No, ..holder() });
    let decision = policy.decide(case(&zombie, &deaf), Progress::default(), at(60));
    assert_eq!(decision.act, None);
    assert_eq!(decision.refusals[0].1, Refusal::NotHeeded);
    assert_eq!(decision.again, Some(at(90)), "when the next is due, before it is tried again");
    let decision = policy.decide(case(&zombie, &deaf), Progress::default(), at(90));
    assert_eq!(decision.act.unwrap().remedy, Remedy::Reap);
}

#[test]
fn what_is_refused_is_looked_at_ever_more_rarely() {
    let policy = policy(vec![rule(&[], &[(Remedy::Reap, 90)])]);
    let (zombie, holder) = (zombie(Cause::NeverWaited), holder());
    for (age, again) in [(90, 150), (600, 900), (100_000, 103_600)] {
        let decision = policy.decide(case(&zombie, &holder), Progress::default(), at(age));
        assert_eq!((decision.act, decision.again), (None, Some(at(again))), "{age}");
    }
}

#[test]
fn a_holder_that_was_not_watched_for_long_enough_is_looked_at_when_it_was() {
    let policy = policy(vec![rule(&[], &[(Remedy::Reap, 90)])]);
    let (zombie, holder) = (zombie(Cause::Adopted), holder());
    for (left, again) in [(SECOND * 15, 615), (Duration::MAX, 900)] {
        let case = Case { waited: Waited::Unwatched(left), ..case(&zombie, &holder) };
        let decision = policy.decide(case, Progress::default(), at(600));
        assert_eq!((decision.refusals[0].1.as_str(), decision.again), ("not-watched", Some(at(again))));
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_an_age_can_change_which() {
    let old = Rule {
        when: Match { age: Some(600 * SECOND), ..Match::default() },
        ..rule(&[], &[(Remedy::TerminateHolder, 0)])
    };
    let elsewhere = Rule {
        when: Match { kinds: vec![Kind::Host], ..Match::default() },
        ..rule(&[], &[(Remedy::Nudge, 0)])
    };
    let report = rule(&[], &[(Remedy::Report, 0)]);
    let policy = policy(vec![old, elsewhere, report, rule(&[], &[(Remedy::Nudge, 0)])]);
    let (zombie, holder) = (zombie(Cause::Adopted), holder());
    let decide = |age| policy.decide(case(&zombie, &holder), Progress::default(), at(age));
    assert_eq!(decide(60), Decision { again: Some(at(600)), ..Decision::default() });
    assert_eq!(decide(600).act.unwrap().remedy, Remedy::TerminateHolder);
}

#[test]
fn what_a_holder_that_is_stopped_keeps_is_looked_at_again_though_no_rule_is_for_it() {
    let policy = policy(vec![rule(&[Cause::Adopted], &[(Remedy::Reap, 90)])]);
    let holder = holder();
    for cause in Cause::ALL.into_iter().filter(|cause| *cause != Cause::Adopted) {
        let zombie = zombie(cause);
        let decision = policy.decide(case(&zombie, &holder), Progress::default(), at(100));
        let passes = matches!(cause, Cause::HeldByTracer | Cause::HolderStopped);
        assert_eq!((decision.act, decision.again), (None, passes.then_some(at(160))), "{cause:?}");
    }
}

#[test]
fn a_rule_means_whom_all_of_its_keys_fit() {
    let (zombie, holder) = (zombie(Cause::Adopted), holder());
    let subject = Subject { executable: holder.executable.as_ref(), uid: holder.uid };
    let pattern = |text: &str| vec![text.parse::<Pattern>().unwrap()];
    let fits = |when: Match| when.fits(&zombie, subject) == Fit::Yes;
    assert!(fits(Match::default()));
    assert!(fits(Match { kinds: vec![Kind::Host, Kind::Pod], ..Match::default() }));
    assert!(!fits(Match { kinds: vec![Kind::Host], ..Match::default() }));
    for (text, expected) in [("3f2a*", true), ("3f2a", false)] {
        assert_eq!(fits(Match { containers: pattern(text), ..Match::default() }), expected);
    }
    assert!(fits(Match { cgroups: pattern("/kubepods.slice/**"), ..Match::default() }));
    assert!(fits(Match { units: pattern("cri-containerd-*"), pods: pattern("5f1c*"), ..Match::default() }));
    assert!(fits(Match { executables: pattern("/usr/bin/app"), uids: vec![0, 1000], ..Match::default() }));
    assert!(!fits(Match { executables: pattern("/usr/bin/app"), uids: vec![0], ..Match::default() }));
    let unknown = Subject { executable: None, uid: None };
    assert_eq!(Match { executables: pattern("**"), ..Match::default() }.fits(&zombie, unknown), Fit::No);
    assert_eq!(Match { uids: vec![0], ..Match::default() }.fits(&zombie, unknown), Fit::No);
    // A unit's name is no container's id.
    let unit = Zombie {
        workload: crate::workload::Workload { kind: Kind::Unit, ..zombie.workload.clone() },
        ..zombie.clone()
    };
    assert_eq!(Match { containers: pattern("3f2a*"), ..Match::default() }.fits(&unit, subject), Fit::No);
}

#[test]
fn an_unknown_age_counts_from_when_it_was_found() {
    let policy =
        policy(vec![Rule { parent_may_miss_status: true, ..rule(&[Cause::Unknown], &[(Remedy::Reap, 90)]) }]);
    let (old, holder) = (Zombie { died: Died::Before(DIED), ..zombie(Cause::Unknown) }, holder());
    let decide = |age| policy.decide(case(&old, &holder), Progress::default(), at(age));
    assert_eq!((decide(30).act, decide(30).again), (None, Some(at(90))));
    assert!(decide(90).act.is_some());
}

#[test]
fn a_holder_that_is_gone_is_not_acted_on() {
    let policy = policy(vec![rule(&[], &[(Remedy::Nudge, 60)])]);
    let (zombie, gone) = (zombie(Cause::Adopted), Holder { identity: None, ..holder() });
    let decision = policy.decide(case(&zombie, &gone), Progress::default(), at(60));
    assert_eq!((decision.act, &decision.refusals[0].1), (None, &Refusal::HolderGone));
}

#[test]
fn a_holder_is_watched_only_while_its_waits_decide_something() {
    let (adopted, never, holder) = (zombie(Cause::Adopted), zombie(Cause::NeverWaited), holder());
    let opted_out = Holder { opt_out: OptOut::Yes, ..holder.clone() };
    let reaping = policy(vec![rule(&[], &[(Remedy::Nudge, 60), (Remedy::Reap, 90)])]);
    let nudging = policy(vec![rule(&[], &[(Remedy::Nudge, 60)])]);
    let watch = |policy: &Policy, zombie: &Zombie, holder: &Holder, progress, age| {
        policy.decide(case(zombie, holder), progress, at(age)).watch
    };
    let mut nudged = Progress::default();
    nudged.pass(0, 0);
    assert!(watch(&reaping, &adopted, &holder, nudged, 61));
    assert!(watch(&reaping, &adopted, &holder, nudged, 91));
    let mut reaped = nudged;
    reaped.pass(0, 1);
    assert!(!watch(&reaping, &adopted, &holder, reaped, 91), "it is done");
    assert!(!watch(&reaping, &adopted, &opted_out, nudged, 61));
    assert!(!watch(&reaping, &never, &holder, nudged, 61), "nobody has consented");
    assert!(!watch(&nudging, &adopted, &holder, Progress::default(), 30));
}

#[test]
fn a_rule_can_put_a_report_off() {
    let late =
        Rule { when: Match { uids: vec![1000], ..Match::default() }, ..rule(&[], &[(Remedy::Report, 600)]) };
    let policy = policy(vec![late, rule(&[], &[(Remedy::Nudge, 60)])]);
    let zombie = zombie(Cause::Adopted);
    let report_at = |uid| policy.report_at(&zombie, uid, 30 * SECOND);
    assert_eq!(
        (report_at(Some(1000)), report_at(Some(0)), report_at(None)),
        (Some(600 * SECOND), None, None)
    );
}

#[test]
fn a_step_comes_sooner_where_less_is_left_than_it_says_and_the_zombie_may_be_reaped_at_all() {
    let holder = holder();
    let mut rule = rule(&[Cause::Adopted], &[(Remedy::Nudge, 60), (Remedy::Reap, 90)]);
    rule.steps[1].headroom_below = Percent::new(20);
    let policy = policy(vec![rule]);
    let adopted = zombie(Cause::Adopted);
    let of = |free, waited| {
        let case = Case { free, waited, ..case(&adopted, &holder) };
        policy.decide(case, Progress::default(), at(30))
    };
    let act = |free| of(free, Waited::ForOthers).act.map(|act| (act.step, act.remedy));
    assert_eq!(act(Some(0.19)), Some((1, Remedy::Reap)), "the weaker one is not waited for");
    for enough in [Some(0.2), Some(1.0), None] {
        assert_eq!(act(enough), None);
    }
    assert_eq!(of(None, Waited::ForOthers).again, Some(at(60)));
    // It is not done where it were not done later.
    let decision = of(Some(0.0), Waited::ForAny);
    assert_eq!((decision.act, decision.refusals.len()), (None, 1));
    assert_eq!(policy.headroom_thresholds(), [0.2]);
}
