mod deeds;

use std::collections::BTreeMap;

use super::*;
use crate::{
    policy::{Act, Case, Match, Refusal, Rule, Step, Waited},
    remedy::{Heeds, Holder, OptOut, Protected},
    report::{Event, Outbox, Outcome, Outgoing, OutlookStep, StepStanding, fixture},
    zombie::{Cause, Died, Zombie},
};

const SECOND: Duration = Duration::from_secs(1);
const START: BootTime = BootTime(1_000_000_000_000_000);
const HOUR: u64 = 3_600;

/// A machine with remedies and without a kernel: what a look would show is known here, and each look is counted.
struct Machine {
    remedies: Remedies,
    outbox: Outbox,
    outgoing: Outgoing,
    now: BootTime,
    zombies: BTreeMap<u64, Zombie>,
    /// The holders are seen to be traced.
    traced: bool,
    looks: usize,
    rounds: usize,
}

fn holder(pid: u32) -> Identity {
    Identity { pid, start: BootTime(u64::from(pid)) }
}

fn terms(steps: &[(Remedy, u32)]) -> Terms {
    let rule = Rule {
        name: "orphans".into(),
        when: Match::default(),
        steps: steps
            .iter()
            .map(|(remedy, after)| Step { remedy: *remedy, after: SECOND * *after, headroom_below: None })
            .collect(),
        parent_may_miss_status: false,
        allow_interrupted_wait: false,
        may_end_container: false,
        per_minute: None,
    };
    Terms {
        dry_run: false,
        paused: false,
        per_minute: 60,
        per_holder: 12,
        grace: SECOND,
        max_pause: SECOND / 500,
        rules: vec![rule],
    }
}

impl Machine {
    fn with(terms: Terms) -> Self {
        let (outbox, outgoing) = Outbox::new();
        let remedies = Remedies::idle(terms, Proc::at("/nowhere"), PathBuf::new());
        let (zombies, now) = (BTreeMap::new(), START);
        Self { remedies, outbox, outgoing, now, zombies, traced: false, looks: 0, rounds: 0 }
    }

    /// Orphans of a holder, each a millisecond younger than the one before.
    fn leak(&mut self, pid: u32, number: u64) {
        for _ in 0..number {
            let id = self.zombies.len() as u64 + 1;
            let died = BootTime(START.0 - HOUR * 1_000_000_000 + id * 1_000_000);
            let identity = Identity { pid: 100_000 + u32::try_from(id).unwrap(), start: died };
            let mut zombie = Zombie { identity, died: Died::At(died), ..fixture::never_waited() };
            zombie.cause = Cause::Adopted;
            (zombie.holder.pid, zombie.holder.start) = (pid, Some(holder(pid).start));
            self.zombies.insert(id, zombie);
        }
        // In no order.
        let mut ids: Vec<_> = self.zombies.keys().copied().collect();
        ids.sort_by_key(|id| id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for id in ids {
            self.remedies.add(id, self.zombies[&id].holder.identity(), self.now);
        }
    }

    /// Looks at what is due, and acts.
    fn look(&mut self) -> Vec<u64> {
        let ids = self.remedies.take(self.now);
        self.looks += ids.len();
        self.rounds += 1;
        for id in &ids {
            let zombie = &self.zombies[id];
            let seen = Holder {
                identity: Some(holder(zombie.holder.pid)),
                executable: None,
                uid: None,
                heeds: Heeds::Handler,
                opt_out: OptOut::No,
                workload: Some(zombie.workload.clone()),
                opts_out: Some(false),
                container_init: false,
                protected: self.traced.then_some(Protected::Traced),
            };
            let case = Case {
                zombie,
                holder: &seen,
                waited: Waited::ForOthers,
                reap_times: None,
                free: None,
                refused: &[],
            };
            self.remedies.judge(*id, case, self.now);
        }
        self.remedies.act(self.now, &mut self.outbox);
        ids
    }

    /// What the hand was given; what has come of it is `outcome`, which is known two seconds later.
    fn conclude(&mut self, outcome: Outcome) -> Vec<(Act, Vec<u64>)> {
        let mut done = Vec::new();
        for (_, underway) in std::mem::take(&mut self.remedies.underway) {
            self.now = self.now.max(START).plus(2 * SECOND);
            if outcome == Outcome::Applied {
                for id in &underway.ids {
                    self.release(*id);
                }
            }
            self.remedies.conclude(&underway, outcome, self.now, &mut self.outbox);
            done.push((underway.act, underway.ids));
        }
        done
    }

    fn release(&mut self, id: u64) {
        self.remedies.remove(id);
        self.zombies.remove(&id);
    }

    /// Sleeps until there is something to do, for as long as there is within `seconds` from now, and does it with effect.
    fn run(&mut self, seconds: u64) -> Vec<(Act, Vec<u64>)> {
        let (mut done, end) = (Vec::new(), self.now.plus(Duration::from_secs(seconds)));
        while let Some(next) = self.remedies.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.look();
            done.extend(self.conclude(Outcome::Applied));
        }
        done
    }

    fn step(&self, id: u64) -> (OutlookStep, Option<u64>, Option<Duration>) {
        let zombie = fixture::shown(&self.zombies[&id]);
        let outlook = self.remedies.outlook(id, &zombie, true, self.now);
        let step = outlook.steps.into_iter().next_back().unwrap();
        (step, outlook.queued_behind, outlook.again_seconds.map(|seconds| seconds.0))
    }

    /// The events so far.
    fn events(mut self) -> Vec<Event> {
        drop(self.outbox);
        std::iter::from_fn(|| self.outgoing.take()).collect()
    }
}

#[test]
fn of_thousands_that_wait_for_a_limit_only_those_are_looked_at_whose_turn_it_is_the_oldest_first() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 3_000);
    let began = machine.now;
    let done = machine.run(HOUR);
    assert!(machine.zombies.is_empty());
    assert_eq!(done.len(), 12);
    let order: Vec<_> = done.into_iter().flat_map(|(_, ids)| ids).collect();
    assert_eq!(order, (1..=3_000).collect::<Vec<_>>());
    // Each one when it is due, and once more when it is its turn.
    assert_eq!(machine.looks, 3_000 + (3_000 - 256));
    assert!(machine.rounds <= 3 * 12, "{} wake-ups", machine.rounds);
    let took = machine.now.since(began);
    assert!((50 * SECOND..60 * SECOND).contains(&took), "12 a minute: {took:?}");
}

#[test]
fn a_limit_of_the_machine_is_shared_by_turns_and_no_holder_is_left_out() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    for pid in 1..=100 {
        machine.leak(pid, 30);
    }
    let done = machine.run(HOUR);
    let mut holders: Vec<_> = done.iter().map(|(_, ids)| ids[0] / 30).collect();
    // These came at once.
    holders[..10].sort_unstable();
    assert_eq!(holders, (0..100).collect::<Vec<_>>(), "one act each, that of the oldest first");
    assert!(machine.looks <= 2 * 3_000, "{} looks", machine.looks);
    assert!(machine.rounds <= 3 * 100, "{} wake-ups", machine.rounds);
}

#[test]
fn a_holder_that_leaks_on_does_not_keep_others_from_their_turn() {
    let mut terms = terms(&[(Remedy::Reap, 90)]);
    (terms.per_minute, terms.per_holder) = (6, 6);
    let mut machine = Machine::with(terms);
    machine.leak(1, 600);
    machine.leak(2, 1);
    let mut served = Vec::new();
    while !served.contains(&2) && served.len() < 10 {
        for (_, ids) in machine.run(15) {
            served.push(if ids.contains(&601) { 2 } else { 1 });
        }
        machine.zombies.insert(10_000 + served.len() as u64, {
            let mut young = machine.zombies.values().next_back().unwrap().clone();
            (young.died, young.holder.pid) = (Died::At(machine.now), 1);
            young.identity.start = machine.now;
            young
        });
        machine.remedies.add(10_000 + served.len() as u64, holder(1), machine.now);
    }
    assert_eq!(served, [1, 1, 1, 2]);
}

#[test]
fn whoever_is_gone_stands_in_no_queue() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 3_000);
    machine.look();
    let looks = machine.looks;
    // The holder has waited for them, all but the youngest ones.
    for id in 257..=2_990 {
        machine.release(id);
    }
    assert_eq!(machine.remedies.agenda.place(2_991).map(|(_, before)| before), Some(0));
    assert_eq!(machine.conclude(Outcome::Applied)[0].1.len(), 256);
    assert_eq!(machine.run(HOUR)[0].1, (2_991..=3_000).collect::<Vec<_>>());
    assert_eq!(machine.looks, looks + 10);
    assert_eq!((machine.remedies.next(), machine.remedies.agenda.holders().len()), (None, 0));
}

#[test]
fn while_something_is_done_to_a_holder_the_rest_waits_for_that_alone() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 3_000);
    machine.look();
    let looks = machine.looks;
    assert_eq!(machine.remedies.underway.len(), 1);
    machine.now = machine.now.plus(60 * SECOND);
    assert_eq!(machine.look(), [0_u64; 0]);
    assert_eq!((machine.looks, machine.remedies.next()), (looks, None), "until it is known what came of it");
    let (step, behind, _) = machine.step(257 + 600);
    assert_eq!((step.standing, behind), (StepStanding::Waiting, Some(600)));
    assert_eq!(step.reason, Some("limited-at-once".into()));
}

#[test]
fn it_is_told_what_a_zombie_waits_for_and_when_about_its_turn_comes() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 3_000);
    machine.look();
    machine.conclude(Outcome::Applied);
    machine.look();
    machine.conclude(Outcome::Applied);
    machine.look();
    let (step, behind, again) = machine.step(3_000);
    assert_eq!((step.standing, behind), (StepStanding::Waiting, Some(3_000 - 2 * 256 - 1)));
    assert_eq!(step.reason, Some("limited-holder".into()));
    assert!(step.message.unwrap().as_str().contains("remedy.per_holder"));
    // One act each five seconds, two of them at once in the beginning, four seconds ago.
    assert_eq!(again, Some(SECOND + 9 * 5 * SECOND));
    // The last ones are for the last act.
    assert_eq!(machine.run(HOUR).pop().unwrap().1.last(), Some(&3_000));
}

#[test]
fn another_configuration_looks_at_each_once_and_the_limits_hold_on() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 3_000);
    for _ in 0..2 {
        machine.look();
        machine.conclude(Outcome::Applied);
    }
    let (looks, left) = (machine.looks, 3_000 - 2 * 256);
    machine.remedies.forget_rules(terms(&[(Remedy::Nudge, 60), (Remedy::Reap, 7_200)]));
    assert_eq!((machine.remedies.next(), machine.remedies.agenda.place(3_000)), (None, None));
    machine.leak(7, 0);
    machine.look();
    assert_eq!((machine.looks, machine.remedies.underway.len()), (looks + left, 0));
    machine.look();
    assert_eq!(
        machine.remedies.next(),
        Some(START.plus(5 * SECOND)),
        "when this holder may be touched again"
    );
    let nudged = machine.run(60);
    assert!(nudged.iter().all(|(act, ids)| act.remedy == Remedy::Nudge && ids.len() <= 256));
    assert_eq!(nudged.iter().map(|(_, ids)| ids.len()).sum::<usize>(), left);
    assert_eq!(machine.looks, looks + 2 * left, "once each, and at its turn");
    // Without rules nothing is left to look at.
    machine.remedies.forget_rules(Terms { rules: Vec::new(), ..terms(&[]) });
    machine.leak(8, 100);
    assert_eq!((machine.remedies.next(), machine.look()), (None, Vec::new()));
}

#[test]
fn when_a_holder_is_gone_its_zombies_are_looked_at_once_and_wait_for_the_next_ones_limits() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 3_000);
    machine.look();
    machine.conclude(Outcome::Applied);
    let looks = machine.looks;
    for zombie in machine.zombies.values_mut() {
        (zombie.holder.pid, zombie.holder.start) = (9, Some(holder(9).start));
    }
    let done = machine.run(HOUR);
    assert_eq!(done.iter().map(|(_, ids)| ids.len()).sum::<usize>(), 3_000 - 256);
    // The first batch shows it; then all others at once; then each at its turn, but for those that were acted on then.
    let left = 3_000 - 256;
    assert!(machine.looks <= looks + 2 * left, "{} looks", machine.looks - looks);
    assert!(machine.zombies.is_empty());
}

#[test]
fn the_end_of_a_holder_is_noticed_also_where_no_rule_was_for_its_zombies() {
    let mut terms = terms(&[(Remedy::Reap, 90)]);
    terms.rules[0].when.causes = vec![Cause::Adopted];
    let mut machine = Machine::with(terms);
    machine.leak(7, 3_000);
    for zombie in machine.zombies.values_mut() {
        zombie.cause = Cause::NeverWaited;
    }
    machine.look();
    assert_eq!((machine.remedies.next(), machine.looks), (None, 3_000));
    let later = machine.now.plus(SOON);
    machine.remedies.agenda.look_after_the_dead(machine.now, |_| true);
    assert_eq!(machine.remedies.next(), None);
    for _ in 0..10 {
        machine.remedies.agenda.look_after_the_dead(machine.now, |of| of != holder(7));
        assert_eq!(machine.remedies.next(), Some(later), "once, however often that is asked");
    }
    for zombie in machine.zombies.values_mut() {
        (zombie.holder.pid, zombie.holder.start, zombie.cause) = (9, Some(holder(9).start), Cause::Adopted);
    }
    machine.run(HOUR);
    assert!(machine.zombies.is_empty());
    assert_eq!(machine.looks, 3_000 + 3_000 + (3_000 - 256));
}

#[test]
fn a_dry_run_goes_at_the_pace_of_a_real_one() {
    let mut machine = Machine::with(Terms { dry_run: true, ..terms(&[(Remedy::Reap, 90)]) });
    machine.leak(7, 3_000);
    let began = machine.now;
    machine.run(HOUR);
    assert!(machine.now.since(began) >= 50 * SECOND);
    // When it is due, at its turn, and to see that nothing more is to be done.
    assert_eq!(machine.looks, 3_000 + (3_000 - 256) + 3_000);
    let planned: Vec<_> = machine.events();
    assert_eq!(planned.len(), 12);
}

#[test]
fn what_will_not_be_answered_is_asked_again() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 10);
    assert_eq!(machine.remedies.take(machine.now).len(), 10);
    assert_eq!((machine.remedies.take(machine.now).len(), machine.remedies.next()), (0, None));
    machine.remedies.ask_again(machine.now);
    assert_eq!(machine.remedies.next(), Some(machine.now.plus(SOON)));
    machine.now = machine.now.plus(SOON);
    assert_eq!(machine.look().len(), 10);
}

#[test]
fn what_a_look_did_not_show_is_looked_at_again_and_what_comes_late_of_another_look_is_not_waited_for() {
    let mut machine = Machine::with(terms(&[(Remedy::Reap, 90)]));
    machine.leak(7, 10);
    machine.remedies.take(machine.now);
    let agenda = &machine.remedies.agenda;
    let hung = agenda.look();
    assert!(agenda.is_asking(hung));
    machine.remedies.ask_again(machine.now);
    machine.now = machine.now.plus(SOON);
    let ids = machine.remedies.take(machine.now);
    let agenda = &machine.remedies.agenda;
    assert!(!agenda.is_asking(hung) && agenda.is_asking(agenda.look()));
    // It ends without a word of any of them.
    machine.remedies.act(machine.now, &mut machine.outbox);
    assert_eq!(machine.remedies.next(), Some(machine.now.plus(SOON)));
    machine.now = machine.now.plus(SOON);
    assert_eq!(machine.look(), ids);
    assert_eq!(machine.remedies.next(), None, "those that were judged are not");
}
