//! Every state in which a thread can rest, in every kind of thread, with and without a signal that comes meanwhile.

use std::time::Duration;

use reaper::remedy::inject::Method;

use super::{
    each,
    hand::{Hand, Wish},
    holder::{Holder, Thread},
    round::{Expect, Round, Signal},
    states::{self, Class, State},
    tally::{Tally, report},
};
use crate::support::{machine, rounds};

/// Holders at once. They sleep most of the time.
const AT_ONCE: usize = 8;

const THREADS: [Thread; 4] = [Thread::Main, Thread::Other, Thread::Small, Thread::Alone];

/// Zombies of a round: call by call, and by a chain.
const ZOMBIES: [usize; 3] = [1, 5, 2];

/// A state of a thread, and what is asked for.
#[derive(Clone, Copy, Debug)]
struct Cell {
    state: State,
    thread: Thread,
    signal: Option<Signal>,
    wish: Wish,
    /// The word for why nothing is done, where nothing is to be done.
    refusal: Option<&'static str>,
    /// What a call may come to.
    expect: Expect,
    rounds: usize,
}

impl Cell {
    fn of(state: State, thread: Thread, signal: Option<Signal>) -> Self {
        let (refusal, expect) = match state.class {
            Class::Exact | Class::Untimed => (None, Expect::Exact),
            Class::Timed => (Some("timed-wait"), Expect::Exact),
            Class::Vfork => (Some("vfork"), Expect::Exact),
            Class::User => (Some("user-code"), Expect::Exact),
        };
        Self { state, thread, signal, wish: Wish::new(), refusal, expect, rounds: rounds(10, 200) }
    }

    /// With a wait that may end early.
    fn allowed(self) -> Self {
        let wish = Wish { allow_interrupted_wait: true, ..self.wish };
        Self { wish, refusal: None, expect: Expect::EndsEarly, ..self }
    }

    fn name(&self) -> String {
        let signal = match self.signal {
            None => "",
            Some(Signal::Plain) => " signal",
            Some(Signal::Restarting) => " SA_RESTART",
        };
        let allowed = if self.wish.allow_interrupted_wait { " allowed" } else { "" };
        format!("{} {}{signal}{allowed}", self.state.name, self.thread.as_str())
    }

    /// All of its rounds, in a holder of its own.
    fn run(self, number: usize) -> Tally {
        let mut tally = Tally::new(self.name());
        let mut hand = Hand::default();
        // Every second one has tiles too; handlers of every fourth run on the stack of the thread.
        let options: &[&str] = [&["tiles"][..], &[], &["tiles"], &["no-stack"]][number % 4];
        let mut holder = Holder::start(self.thread, options);
        let round = Round { state: self.state, signal: self.signal };
        for attempt in 0..self.rounds * 3 {
            if tally.rounds == self.rounds {
                break;
            }
            let zombies = holder.pile(ZOMBIES[attempt % ZOMBIES.len()]);
            let (came, verdict) = round.run(
                &mut holder,
                |holder| hand.reap(holder, &zombies, self.wish),
                |came| {
                    if came.fell_through > 0 {
                        // It went on from its frame, as after a tracer's death.
                        Expect::MayEndEarly
                    } else if came.reaped > 0 || self.expect == Expect::Exact {
                        self.expect
                    } else {
                        Expect::MayEndEarly
                    }
                },
            );
            let standing = holder.standing(&zombies);
            tally.add(verdict, &came, zombies.len(), standing, self.signal.is_some());
        }
        let (_, wrong) = holder.settle();
        tally.faults.extend(wrong.into_iter().map(|what| format!("its own children: {what}")));
        self.check(&mut tally);
        tally
    }

    fn check(&self, tally: &mut Tally) {
        let done = match self.refusal {
            None => tally.reaped,
            Some(word) => {
                // On a busy machine it may not even come to a stop.
                let refused =
                    [word, "no-stop"].iter().filter_map(|word| tally.refused.get(*word)).sum::<usize>();
                // With a signal the thread comes out of its rest by itself: it may be caught at the call by which its handler returns,
                // which changes nothing else.
                if self.signal.is_some() {
                    refused + tally.reaped
                } else {
                    if tally.zombies > 0 {
                        tally.faults.push(format!("{} were reaped", tally.zombies));
                    }
                    refused
                }
            }
        };
        // A thread may be on its way when it is looked for.
        if done * 10 < tally.rounds * 9 || tally.rounds == 0 {
            tally.faults.push(format!("{done} of {} were as they should be: {tally}", tally.rounds));
        }
    }
}

fn run(at_once: usize, cells: Vec<Cell>) {
    let tallies = each(at_once, cells.into_iter().enumerate().collect(), |(number, cell)| cell.run(number));
    report(&tallies);
}

fn cells(states: impl IntoIterator<Item = State>) -> Vec<Cell> {
    let signals = [None, Some(Signal::Plain), Some(Signal::Restarting)];
    let each = |state| THREADS.map(|thread| signals.map(|signal| Cell::of(state, thread, signal)));
    states.into_iter().flat_map(each).flatten().collect()
}

#[test]
fn calls_that_can_go_on_go_on_exactly() {
    let _machine = machine();
    run(AT_ONCE, cells(states::EXACT.into_iter().chain(states::UNTIMED)));
}

#[test]
fn timed_waits_are_left_alone_unless_that_is_allowed() {
    let _machine = machine();
    let refused = cells(states::TIMED);
    run(AT_ONCE, refused.iter().copied().chain(refused.iter().map(|cell| cell.allowed())).collect());
}

#[test]
fn whoever_cannot_be_stopped_in_a_call_is_left_alone() {
    let _machine = machine();
    run(AT_ONCE, cells([states::VFORK]));
    // These need a processor each.
    let short = |cell: &Cell| Cell { rounds: rounds(3, 200), ..*cell };
    run(2, cells([states::USER, states::RSEQ]).iter().map(short).collect());
}

#[test]
fn a_thread_that_goes_on_exactly_is_taken_before_one_in_a_timed_wait() {
    let _machine = machine();
    let cells = states::TIMED.map(|state| Cell { refusal: None, ..Cell::of(state, Thread::Beside, None) });
    run(AT_ONCE, cells.into());
}

#[test]
fn whichever_way_the_calls_are_made_they_leave_no_trace() {
    let _machine = machine();
    let methods = [Method::Step, Method::Chain];
    let states =
        ["nanosleep", "pselect6", "futex", "read", "wait4", "rt-sigsuspend", "epoll-wait", "io-uring-enter"];
    let cells = states.iter().flat_map(|name| {
        methods.map(|method| {
            let cell = Cell::of(states::named(name), Thread::Main, None);
            Cell { wish: Wish { method, patience: Duration::from_millis(100), ..cell.wish }, ..cell }
        })
    });
    run(AT_ONCE, cells.collect());
}
