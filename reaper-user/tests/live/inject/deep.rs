//! A holder that rests low in its main thread's stack, near the place of the frame: it is made to wait again and again, and not while
//! a frame that a tracer has left is in use.

use super::{
    controls::{careless, has_died},
    hand::{Hand, Wish},
    holder::{Holder, Thread},
    round::{Expect, Round},
    states,
};
use crate::support::{machine, rounds, signal};

/// Zombies of an order: call by call, and by a chain.
const ZOMBIES: [usize; 3] = [1, 5, 40];

fn holder() -> Holder {
    Holder::start(Thread::Main, &["tiles", "deep"])
}

#[test]
fn a_thread_that_rests_low_in_its_stack_is_made_to_wait_again_and_again() {
    let _machine = machine();
    let (mut holder, mut hand) = (holder(), Hand::default());
    for state in ["read", "nanosleep", "pselect6", "futex"] {
        let round = Round { state: states::named(state), signal: None };
        for number in 0..rounds(4, 200) {
            let zombies = holder.pile(ZOMBIES[number % 3]);
            let act = |holder: &Holder| hand.reap(holder, &zombies, Wish::new());
            let (came, verdict) = round.run(&mut holder, act, |_| Expect::MayEndEarly);
            assert_eq!((came.reaped, &came.refusal), (zombies.len(), &None), "{state} {number}: {came:?}");
            assert!(verdict.faults.is_empty(), "{state} {number}: {:#?}", verdict.faults);
        }
    }
    assert!(holder.settle().1.is_empty());
}

#[test]
fn a_frame_in_use_is_left_alone_and_is_no_hindrance_when_it_is_not_any_more() {
    let _machine = machine();
    let (mut holder, mut hand) = (holder(), Hand::default());
    let mut again = Vec::new();
    for state in ["read", "futex", "nanosleep"] {
        let round = Round { state: states::named(state), signal: None };
        for number in 0..rounds(3, 50) {
            let zombies = holder.pile(ZOMBIES[number % 3]);
            let act = |holder: &Holder| {
                // It stays where its tracer leaves it: in the frame.
                signal(holder.pid, libc::SIGSTOP);
                holder.until("it is stopped", |this| this.state(this.tid) == Some('T'));
                let output = careless(holder, "dies");
                assert!(has_died(&output), "{}", String::from_utf8_lossy(&output.stderr));
                holder.until("it is stopped again", |this| this.state(this.tid) == Some('T'));
                let came = hand.reap(holder, &zombies, Wish::new());
                signal(holder.pid, libc::SIGCONT);
                came
            };
            let (came, verdict) = round.run(&mut holder, act, |_| Expect::MayEndEarly);
            assert_eq!((came.refusal.as_deref(), came.reaped), (Some("unwinding"), 0), "{state} {number}");
            assert!(verdict.faults.is_empty(), "{state} {number}: {:#?}", verdict.faults);
            assert_eq!(holder.standing(&zombies), zombies.len());
            again.extend(zombies);
            // Nobody says that it was done with: that it is shows where the thread is.
            let (came, verdict) = round.run(
                &mut holder,
                |holder| hand.reap(holder, &again, Wish::new()),
                |_| Expect::MayEndEarly,
            );
            assert_eq!((came.reaped, &came.refusal), (again.len(), &None), "{state} {number}: {came:?}");
            assert!(verdict.faults.is_empty(), "{state} {number}: {:#?}", verdict.faults);
            again.clear();
        }
    }
    assert!(holder.settle().1.is_empty());
}
