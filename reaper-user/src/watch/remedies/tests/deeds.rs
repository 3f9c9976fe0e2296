//! What comes of remedies: effects, refusals, breakers.

use super::*;
use crate::policy::Trip;

#[test]
fn what_is_under_way_when_the_rules_change_says_nothing_of_the_new_ones() {
    let mut machine = Machine::with(terms(&[(Remedy::Nudge, 60)]));
    machine.leak(7, 10);
    machine.look();
    machine.remedies.forget_rules(terms(&[(Remedy::Reap, 90)]));
    for underway in machine.remedies.underway.values_mut() {
        underway.outlive_its_rule();
    }
    machine.leak(7, 0);
    machine.look();
    assert_eq!(machine.remedies.underway.len(), 1, "one at a time");
    machine.conclude(Outcome::NoEffect);
    assert_eq!(machine.run(10), [(Act { rule: 0, step: 0, remedy: Remedy::Reap }, (1..=10).collect())]);
    let breakers = machine.events().into_iter().filter(|event| matches!(event, Event::Breaker(_))).count();
    assert_eq!(breakers, 0);
}

#[test]
fn a_holder_that_is_traced_by_nobody_but_our_own_hand_is_not_refused_for_that() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 1);
    machine.look();
    machine.leak(7, 1);
    machine.traced = true;
    machine.look();
    machine.traced = false;
    machine.conclude(Outcome::Applied);
    assert_eq!(machine.run(10), [(Act { rule: 0, step: 0, remedy: Remedy::Reap }, vec![2])]);
    // Where nobody of ours is at it, somebody else is.
    machine.leak(8, 1);
    machine.traced = true;
    machine.look();
    let is_refused =
        |event: &Event| matches!(event, Event::Remedy(remedy) if remedy.outcome == Outcome::Refused);
    assert_eq!(machine.events().iter().filter(|event| is_refused(event)).count(), 1);
}

#[test]
fn a_breaker_that_opens_lets_thousands_rest_until_it_closes() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 3_000);
    machine.look();
    let looks = machine.looks;
    machine.conclude(Outcome::NoEffect);
    let opened = machine.now;
    let (step, behind, again) = machine.step(3_000);
    assert_eq!((step.standing, behind), (StepStanding::Waiting, Some(3_000 - 256 - 1)));
    assert_eq!(step.reason, Some("breaker-holder".into()));
    assert!(again.unwrap() >= Duration::from_secs(HOUR), "{again:?}");
    assert_eq!(machine.run(HOUR - 1), []);
    // Those that it was done to have it behind them: that there is nothing more for them is seen once.
    assert_eq!(machine.looks, looks + 256);
    machine.now = opened.plus(Duration::from_secs(HOUR));
    assert_eq!(machine.look(), (257..=512).collect::<Vec<_>>(), "one more is tried");
    machine.conclude(Outcome::NoEffect);
    let looks = machine.looks;
    machine.run(2 * HOUR - 1);
    assert_eq!(machine.looks, looks + 256, "twice as long");
}

#[test]
fn a_breaker_that_opens_lets_something_stronger_come_in_its_time() {
    let mut machine = Machine::with(terms(&[(Remedy::Nudge, 60), (Remedy::TerminateHolder, 5_400)]));
    machine.leak(7, 3_000);
    machine.look();
    let looks = machine.looks;
    machine.conclude(Outcome::NoEffect);
    assert_eq!(machine.run(HOUR / 4), []);
    assert_eq!(machine.looks, looks + 3_000, "once, to know when that is");
    machine.now = START.plus(Duration::from_secs(HOUR / 2 + 60));
    machine.look();
    assert_eq!(machine.conclude(Outcome::Applied)[0].0.remedy, Remedy::TerminateHolder);
}

/// The hand refuses whatever it was given; for most of its reasons it has stopped a thread of the holder before.
fn refuse(machine: &mut Machine, word: &'static str) {
    let pauses = if word == "running" { Vec::new() } else { vec![SECOND / 1_000] };
    let deed = Deed { pauses, ..Deed::refused(Refusal::Hand { word, message: word.to_owned() }) };
    let stood = deed.touched();
    let number = only(machine);
    machine.remedies.take_deed(number, deed, machine.now, &mut machine.outbox);
    if stood {
        // Whether the holder survives it is looked for all the same.
        let underway = machine.remedies.underway.remove(&number).unwrap();
        assert_eq!(underway.due(), Some(machine.now.plus(2 * SECOND)));
        assert_eq!(underway.outcome(false, 1), Outcome::HolderDied);
        machine.remedies.conclude(&underway, underway.outcome(true, 0), machine.now, &mut machine.outbox);
    }
}

#[test]
fn what_the_hand_refuses_is_tried_again_with_the_same_and_nothing_else_is_looked_at() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 3_000);
    machine.look();
    let looks = machine.looks;
    refuse(&mut machine, "running");
    let again = machine.now.plus(10 * SECOND);
    // What else waits for the holder could be done now.
    assert!(machine.look().is_empty());
    assert_eq!(machine.remedies.next(), Some(again));
    machine.now = again;
    assert_eq!(machine.look(), (1..=256).collect::<Vec<_>>());
    assert_eq!(machine.looks, looks + 256);
}

/// Lives on for so long; whatever the hand is given to reap it refuses with this word. The first other thing that it was given, and
/// after how long.
fn until_something_stronger(machine: &mut Machine, word: &'static str, long: u64) -> Option<(Remedy, u64)> {
    let (began, end) = (machine.now, machine.now.plus(Duration::from_secs(long)));
    while let Some(next) = machine.remedies.next().filter(|next| *next <= end) {
        machine.now = machine.now.max(next);
        machine.look();
        if machine.remedies.underway.is_empty() {
            continue;
        }
        let remedy = machine.remedies.underway[&only(machine)].act.remedy;
        if remedy != Remedy::Reap {
            return Some((remedy, machine.now.since(began).as_secs()));
        }
        refuse(machine, word);
    }
    None
}

#[test]
fn what_a_filter_does_not_allow_lets_something_stronger_come_in_its_time() {
    // They are an hour old.
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90), (Remedy::TerminateHolder, 5_400)]));
    machine.leak(7, 3_000);
    let came = until_something_stronger(&mut machine, "seccomp-denied", HOUR);
    assert_eq!(came, Some((Remedy::TerminateHolder, HOUR / 2)));
    // What has its time already is not done before it is known that the weaker one is of no use.
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90), (Remedy::TerminateHolder, 100)]));
    machine.leak(7, 1);
    machine.look();
    assert_eq!(machine.remedies.underway[&only(&machine)].act.remedy, Remedy::Reap);
}

#[test]
fn what_was_refused_long_ago_is_tried_again_before_something_stronger() {
    let steps = [(Remedy::Reap, 90), (Remedy::TerminateHolder, 100)];
    let mut machine = Machine::with(Terms { per_minute: 1, ..terms(&steps) });
    machine.leak(7, 1);
    machine.look();
    refuse(&mut machine, "seccomp-denied");
    // The holder may have executed another program since.
    machine.now = machine.now.plus(Duration::from_secs(5 * HOUR));
    machine.look();
    assert_eq!(machine.remedies.underway[&only(&machine)].act.remedy, Remedy::Reap);
}

#[test]
fn that_a_holder_is_busy_for_a_moment_is_no_reason_for_something_stronger() {
    let steps = [(Remedy::Reap, 90), (Remedy::TerminateHolder, 100)];
    let mut machine = Machine::with(terms(&steps));
    machine.leak(7, 600);
    assert_eq!(until_something_stronger(&mut machine, "running", 240), None);
    let mut machine = Machine::with(terms(&steps));
    machine.leak(7, 600);
    let (remedy, after) = until_something_stronger(&mut machine, "running", HOUR).unwrap();
    assert_eq!(remedy, Remedy::TerminateHolder);
    assert!((300..600).contains(&after), "{after} s");
}

#[test]
fn what_is_refused_when_the_rules_have_changed_says_nothing_of_the_new_ones() {
    let steps = [(Remedy::Reap, 90), (Remedy::TerminateHolder, 100)];
    let mut machine = Machine::with(terms(&steps));
    machine.leak(7, 1);
    machine.look();
    let number = only(&machine);
    machine.remedies.forget_rules(terms(&steps));
    machine.leak(7, 0);
    let deed = Deed::refused(Refusal::Hand { word: "not-permitted", message: String::new() });
    machine.remedies.take_deed(number, deed, machine.now, &mut machine.outbox);
    assert_eq!(machine.remedies.next(), Some(machine.now), "SIGHUP tries at once");
    machine.look();
    assert_eq!(machine.remedies.underway[&only(&machine)].act.remedy, Remedy::Reap);
}

#[test]
fn what_waits_for_a_stronger_step_is_looked_at_when_little_is_left() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90), (Remedy::TerminateHolder, 24 * 3_600)]));
    machine.leak(7, 1);
    machine.look();
    refuse(&mut machine, "seccomp-denied");
    assert_eq!(machine.look(), [1]);
    assert!(machine.look().is_empty());
    let later = machine.now.plus(10 * SECOND);
    assert!(machine.remedies.next().unwrap() > later);
    machine.remedies.bring_forward(&[1], later);
    machine.now = later;
    assert_eq!(machine.look(), [1]);
}

#[test]
fn a_filter_that_does_not_allow_it_is_met_ever_more_rarely_however_many_zombies_come() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 1);
    let end = machine.now.plus(Duration::from_secs(24 * HOUR));
    let mut stops = 0;
    while machine.now < end {
        // One more every ten minutes.
        machine.leak(7, 1);
        let until = machine.now.plus(Duration::from_secs(600));
        while let Some(next) = machine.remedies.next().filter(|next| *next <= until) {
            machine.now = machine.now.max(next);
            machine.look();
            if !machine.remedies.underway.is_empty() {
                stops += 1;
                refuse(&mut machine, "seccomp-denied");
            }
        }
        machine.now = until;
    }
    assert!((24..=30).contains(&stops), "{stops} a day");
    assert_eq!(
        machine.remedies.open_breakers(machine.now).len(),
        0,
        "nothing was done, so nothing was in vain"
    );
    let (step, ..) = machine.step(1);
    assert_eq!((step.standing, step.reason), (StepStanding::Refused, Some("seccomp-denied".into())));
    // Another holder is not kept from it, and another configuration tries again.
    machine.leak(8, 1);
    machine.look();
    assert_eq!(machine.conclude(Outcome::Applied).len(), 1);
    machine.remedies.forget_rules(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 0);
    machine.look();
    refuse(&mut machine, "seccomp-denied");
    // What else waits for the holder is looked at now.
    assert!(machine.look().is_empty());
    assert_eq!(machine.remedies.next(), Some(machine.now.plus(60 * SECOND)), "as the first time");
}

#[test]
fn what_was_begun_before_a_breaker_opened_and_works_does_not_close_it() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(1, 300);
    machine.leak(2, 300);
    machine.look();
    let mut outcomes = [Outcome::HolderDied, Outcome::Applied].into_iter();
    for (_, underway) in std::mem::take(&mut machine.remedies.underway) {
        machine.now = machine.now.plus(2 * SECOND);
        let outcome = outcomes.next().unwrap();
        machine.remedies.conclude(&underway, outcome, machine.now, &mut machine.outbox);
    }
    assert_eq!(machine.remedies.open_breakers(machine.now).len(), 1);
    assert_eq!(machine.run(HOUR / 2), [], "the rule only reports");
}

#[test]
fn what_touched_the_holder_before_it_came_to_a_refusal_has_its_effect_looked_for_and_opens_the_breaker() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 10);
    let died = || Refusal::Hand { word: "tracer-died", message: "it died".to_owned() };
    let late = || Refusal::Hand { word: "out-of-time", message: "it took too long".to_owned() };
    for deed in [
        Deed::refused(died()),
        Deed { laid: true, pauses: vec![SECOND / 1_000], ..Deed::refused(late()) },
        Deed { signals: vec!["SIGTERM"], ..Deed::refused(Refusal::NoZombie) },
        Deed { taken: vec![(holder(1), Ok(()))], ..Deed::refused(late()) },
    ] {
        machine.remedies.underway.clear();
        machine.remedies.forget_rules(terms(&[(Remedy::Reap, 90)]));
        machine.leak(7, 0);
        machine.look();
        let number = *machine.remedies.underway.keys().next().unwrap();
        machine.remedies.take_deed(number, deed.clone(), machine.now, &mut machine.outbox);
        assert_eq!(machine.remedies.next(), Some(machine.now.plus(2 * SECOND)), "{deed:?}");
        assert_eq!(machine.conclude(Outcome::NoEffect).len(), 1, "{deed:?}");
        assert_eq!(machine.remedies.open_breakers(machine.now).len(), 1, "{deed:?}");
        assert_eq!(machine.remedies.agenda.place(10).map(|(_, before)| before), Some(9), "it is not done");
        machine.now = machine.now.plus(60 * SECOND);
    }
    assert!(machine.events().iter().all(|event| matches!(event, Event::Breaker(_))), "nothing was refused");
}

#[test]
fn autoreap_that_came_to_a_refusal_is_not_done() {
    let mut machine = Machine::with(terms(&[(Remedy::Autoreap, 90)]));
    machine.leak(7, 10);
    machine.look();
    let number = *machine.remedies.underway.keys().next().unwrap();
    assert_eq!(machine.remedies.underway[&number].outcome(true, 0), Outcome::Applied);
    let failed = Refusal::Hand { word: "not-taken", message: "it failed".to_owned() };
    let deed = Deed { laid: true, pauses: vec![SECOND / 1_000], ..Deed::refused(failed) };
    machine.remedies.take_deed(number, deed, machine.now, &mut machine.outbox);
    assert_eq!(machine.remedies.underway[&number].outcome(true, 1), Outcome::NoEffect);
}

#[test]
fn a_holder_that_waits_for_all_when_it_is_asked_to_end_need_not() {
    let mut machine = Machine::with(terms(&[(Remedy::TerminateHolder, 90)]));
    machine.leak(7, 10);
    machine.look();
    let underway = machine.remedies.underway.values().next().unwrap();
    let outcomes = [(true, 9), (true, 10), (false, 0)].map(|(lives, gone)| underway.outcome(lives, gone));
    assert_eq!(outcomes, [Outcome::NoEffect, Outcome::Applied, Outcome::Applied]);
}

/// The only order that the hand has.
fn only(machine: &Machine) -> u64 {
    let numbers: Vec<_> = machine.remedies.underway.keys().copied().collect();
    assert_eq!(numbers.len(), 1);
    numbers[0]
}

#[test]
fn what_the_hand_has_not_begun_is_taken_back_when_the_rules_are_read_again_and_decided_by_those() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 10);
    machine.look();
    let number = only(&machine);
    let warrant = machine.remedies.underway[&number].warrant.clone();
    assert_eq!(warrant.check(), Ok(()));
    machine.remedies.forget_rules(Terms { paused: true, ..terms(&[(Remedy::Reap, 90)]) });
    assert_eq!(warrant.check(), Err(Refusal::Withdrawn));
    machine.leak(7, 0);
    machine.look();
    // The hand comes to it.
    machine.remedies.take_deed(number, Deed::refused(Refusal::Withdrawn), machine.now, &mut machine.outbox);
    assert_eq!(machine.run(HOUR), []);
    assert_eq!(machine.zombies.len(), 10);
    let events = machine.events();
    let told =
        |event: &Event| matches!(event, Event::Remedy(remedy) if remedy.reason == Some("paused".into()));
    assert!(events.len() == 1 && told(&events[0]), "{events:?}");
}

#[test]
fn when_a_holder_dies_of_it_nobody_else_is_touched_by_that_rule_from_that_moment_on() {
    for seen in ["before the hand is done", "before the effect is looked for", "after that"] {
        let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
        machine.leak(1, 1);
        machine.look();
        let number = only(&machine);
        let done = |machine: &mut Machine| {
            let deed = Deed { pauses: vec![SECOND / 1_000], ..Deed::default() };
            machine.remedies.take_deed(number, deed, machine.now, &mut machine.outbox);
        };
        let dies =
            |machine: &mut Machine| machine.remedies.see_death(number, machine.now, &mut machine.outbox);
        match seen {
            "before the hand is done" => dies(&mut machine),
            "before the effect is looked for" => done(&mut machine),
            _ => machine.remedies.survive(number, machine.now.plus(10 * SECOND)),
        }
        // Another one's order waits for the hand meanwhile.
        machine.leak(2, 1);
        machine.look();
        let other = *machine.remedies.underway.keys().max().unwrap();
        let warrant = machine.remedies.underway[&other].warrant.clone();
        assert!(other != number && warrant.check().is_ok());
        match seen {
            "before the hand is done" => done(&mut machine),
            _ => dies(&mut machine),
        }
        let opened = machine.remedies.open_breakers(machine.now);
        assert_eq!((opened.len(), opened[0].reason), (1, Trip::HolderDied), "{seen}");
        assert_eq!(warrant.check(), Err(Refusal::Withdrawn), "{seen}");
        machine.remedies.take_deed(
            other,
            Deed::refused(Refusal::Withdrawn),
            machine.now,
            &mut machine.outbox,
        );
        machine.leak(3, 1);
        let until = machine.now.plus(30 * 60 * SECOND);
        while let Some(next) = machine.remedies.agenda.next().filter(|next| *next < until) {
            machine.now = machine.now.max(next);
            machine.look();
            assert!(machine.remedies.underway.keys().all(|of| *of == number), "{seen}");
        }
        // What is concluded about it in the end does not open it once more, for twice as long.
        if let Some(underway) = machine.remedies.underway.remove(&number) {
            machine.remedies.conclude(&underway, Outcome::HolderDied, machine.now, &mut machine.outbox);
        }
        let breakers = machine.events().into_iter().filter(|event| matches!(event, Event::Breaker(_)));
        assert_eq!(breakers.count(), 1, "{seen}");
    }
}

#[test]
fn who_ends_before_anything_was_done_to_it_has_not_died_of_it() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(1, 1);
    machine.look();
    let number = only(&machine);
    machine.remedies.see_death(number, machine.now, &mut machine.outbox);
    let gone = Deed::refused(Refusal::HolderGone);
    machine.remedies.take_deed(number, gone, machine.now, &mut machine.outbox);
    assert_eq!(machine.remedies.open_breakers(machine.now).len(), 0);
}

#[test]
fn what_was_taken_back_after_it_was_begun_is_not_blamed_for_its_effect() {
    let mut machine = Machine::with(terms(&[(Remedy::TerminateHolder, 90)]));
    machine.leak(7, 1);
    machine.look();
    let deed = Deed { signals: vec!["SIGTERM"], ..Deed::refused(Refusal::Withdrawn) };
    let number = only(&machine);
    machine.remedies.take_deed(number, deed, machine.now, &mut machine.outbox);
    assert_eq!(machine.remedies.underway[&number].outcome(true, 0), Outcome::NoEffect);
    machine.conclude(Outcome::NoEffect);
    assert_eq!(machine.remedies.open_breakers(machine.now).len(), 0);
}
