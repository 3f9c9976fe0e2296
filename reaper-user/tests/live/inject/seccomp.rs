//! Holders under seccomp filters: whatever a filter says of the calls that would be made is found out without making them.

use super::{
    hand::{Came, Hand, Wish},
    holder::{Holder, Thread},
    round::{Expect, Round},
    states,
};
use crate::support::{machine, rounds};

/// Lets a holder rest under a filter, and has its zombies waited for: what came of it in each round in which the call was still on.
fn under(filter: &str, state: &str, expect: Expect) -> Vec<Came> {
    let mut holder = Holder::start(Thread::Main, &["tiles"]);
    holder.ask(&format!("seccomp {filter}"), "filtered");
    let mut hand = Hand::default();
    let round = Round { state: states::named(state), signal: None };
    let mut all = Vec::new();
    for number in 0..rounds(6, 200) {
        let zombies = holder.pile([1, 5][number % 2]);
        let (came, verdict) =
            round.run(&mut holder, |holder| hand.reap(holder, &zombies, Wish::new()), |_| expect);
        assert!(
            verdict.faults.is_empty(),
            "{filter} {state}: {:#?} {came:?} {}",
            verdict.faults,
            came.message
        );
        assert_eq!(came.reaped + holder.standing(&zombies), zombies.len(), "{filter} {state}: {came:?}");
        if verdict.inside {
            all.push(came);
        }
    }
    // Its own children it waits for with a call of its own, which such a filter would kill it for.
    assert!(holder.lives());
    assert!(!all.is_empty(), "{filter} {state}: the call was always over before");
    all
}

#[test]
fn under_filters_that_allow_it_zombies_are_waited_for() {
    let _machine = machine();
    for filter in ["allow", "log"] {
        for state in ["nanosleep", "read", "futex"] {
            for came in under(filter, state, Expect::Exact) {
                assert_eq!((came.reaped > 0, &came.refusal), (true, &None), "{filter} {state}: {came:?}");
            }
        }
    }
}

#[test]
fn under_filters_that_do_not_it_is_refused_and_nothing_else_happens() {
    let _machine = machine();
    for filter in ["errno", "kill", "trap", "notify", "kill-sigreturn", "kill-wall"] {
        for state in ["nanosleep", "read"] {
            for came in under(filter, state, Expect::Exact) {
                assert_eq!(came.refusal.as_deref(), Some("seccomp-denied"), "{filter} {state}: {came:?}");
                // It has stood still, and that is all.
                assert!(!came.laid && !came.pauses.is_empty(), "{filter} {state}: {came:?}");
                assert_eq!(came.reaped, 0, "{filter} {state}: {came:?}");
            }
        }
    }
}

#[test]
fn a_filter_that_kills_whoever_goes_on_by_another_call_kills_nobody() {
    let _machine = machine();
    for state in ["nanosleep", "poll-timed", "futex-relative", "clock-nanosleep-relative"] {
        let all = under("kill-restart", state, Expect::MayBeLate);
        for came in &all {
            assert_eq!((came.reaped > 0, &came.refusal), (true, &None), "{state}: {came:?}");
            assert!(came.late > 0, "its call was made again, which is said: {state}: {came:?}");
        }
    }
    for came in under("kill-restart", "read", Expect::Exact) {
        assert_eq!((came.reaped > 0, came.late, &came.refusal), (true, 0, &None), "{came:?}");
    }
}
