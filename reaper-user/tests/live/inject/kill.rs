//! The tracing process is killed at random moments while it works. The holder then goes on from the frame that it was given: no
//! register differs, nothing stays stopped, and signals that come meanwhile are handled once each and in order.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    each,
    hand::{Came, Hand, Wish, came},
    holder::{Holder, PATIENCE, Thread, Zombie, is_traced},
    round::{Expect, Round},
    states,
};
use crate::support::{Random, machine, queue, rounds, signal};

const STATES: [&str; 6] = ["nanosleep", "futex", "read", "poll-timed", "wait4", "epoll-wait"];

/// Holders at once: each tracing process is to have a processor now and then.
const AT_ONCE: usize = 3;

/// Queued signals of one round.
const QUEUED: usize = 16;

/// The kernel's limit for one user is in the thousands: they must be taken before more come.
const SIGNAL_QUEUED: i32 = 8;

/// After a death the frame is done with, and another may be laid.
const COOLS: Duration = Duration::from_millis(100);

#[test]
fn a_tracer_that_is_killed_at_any_moment_leaves_the_holder_as_it_was() {
    let _machine = machine();
    let mut random = Random::new();
    let seeds: Vec<_> = STATES.iter().map(|state| (*state, random.below(u64::MAX))).collect();
    let tallies = each(AT_ONCE, seeds, |(state, seed)| kill(state, seed, &["tiles"], rounds(17, 167)));
    let (mut killed, mut inside) = (0, 0);
    for (state, (kills, in_frame, rounds)) in STATES.iter().zip(&tallies) {
        println!(
            "{state:<12} {rounds:>5} rounds, {kills:>5} tracers killed, {in_frame:>5} while it was traced"
        );
        killed += kills;
        inside += in_frame;
    }
    assert!(killed >= rounds(100, 1_000), "{killed} were killed");
    // The rest came between a look and the kill.
    assert!(inside * 3 >= killed, "{inside} of {killed} while the holder was traced: that shows little");
}

/// A signal comes while the thread is in what its tracer has left: had it a handler then, that would run over the one that the thread
/// rests in.
#[test]
fn a_tracer_that_is_killed_leaves_a_holder_as_it_was_that_rests_in_a_handler_on_its_alternative_stack() {
    let _machine = machine();
    let mut random = Random::new();
    let seeds: Vec<_> =
        ["nanosleep", "read", "futex"].iter().map(|state| (*state, random.below(u64::MAX))).collect();
    let tallies = each(AT_ONCE, seeds, |(state, seed)| kill(state, seed, &["handler"], rounds(10, 100)));
    println!("killed, killed while it was traced, rounds: {tallies:?}");
    let killed: usize = tallies.iter().map(|(killed, ..)| killed).sum();
    let inside: usize = tallies.iter().map(|(_, inside, _)| inside).sum();
    assert!(killed >= rounds(30, 300) && inside * 3 >= killed, "{inside} of {killed}: that shows little");
}

/// The rounds of one state: tracers that were killed, those of them while the holder was traced, rounds.
fn kill(state: &str, seed: u64, options: &[&str], wanted: usize) -> (usize, usize, usize) {
    let mut random = Random::of(seed);
    let mut holder = Holder::start(Thread::Main, options);
    let mut hand = Hand::default();
    let round = Round { state: states::named(state), signal: None };
    let (mut killed, mut inside, mut sent) = (0, 0, 0);
    let mut count = 0;
    while killed < wanted && count < wanted * 20 {
        let number = count;
        count += 1;
        let zombies = holder.pile([1, 3, 6][number % 3]);
        let wish = Wish { patience: Duration::from_millis(100), ..Wish::new() };
        let after = Duration::from_micros(random.below(120));
        let act = |holder: &Holder| {
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                let (pid, from) = (holder.pid, sent);
                let done = &done;
                let sender = scope.spawn(move || send(pid, from, done));
                let came = kill_one(&mut hand, holder, &zombies, wish, after);
                done.store(true, Ordering::Relaxed);
                sent = sender.join().unwrap();
                came
            })
        };
        // Of a call that only the kernel can go on with a death makes an interrupted one.
        let (outcome, verdict) = round.run(&mut holder, act, |_| Expect::MayEndEarly);
        assert!(verdict.faults.is_empty(), "{state}: {:#?}", verdict.faults);
        let outcome_died = outcome.is_ok();
        match outcome {
            Ok(traced) => {
                killed += 1;
                inside += usize::from(traced);
            }
            Err(came) => assert!(
                matches!(
                    came.refusal.as_deref(),
                    None | Some("unwinding" | "no-stop" | "timed-wait" | "user-code")
                ),
                "{state}: {came:?}"
            ),
        }
        assert_eq!(verdict.done.out_of_order, 0, "{state}: {}", verdict.done.line);
        if outcome_died {
            thread::sleep(COOLS);
        }
        assert!(!is_traced(holder.pid, holder.tid) && holder.state(holder.tid) != Some('t'));
    }
    // The next round says how many there were.
    let (_, verdict) = round.run(&mut holder, |_| (), |()| Expect::Exact);
    assert!(verdict.faults.is_empty(), "{state}: {:#?}", verdict.faults);
    assert_eq!((verdict.done.queued, verdict.done.out_of_order), (sent, 0), "{state}: {}", verdict.done.line);
    let (_, wrong) = holder.settle();
    assert!(wrong.is_empty(), "{state}: {wrong:?}");
    (killed, inside, count)
}

/// Starts one tracing process and kills it that long after the holder is seen to be traced. `Err` where it was quicker.
fn kill_one(
    hand: &mut Hand,
    holder: &Holder,
    zombies: &[Zombie],
    wish: Wish,
    after: Duration,
) -> Result<bool, Came> {
    let tracer = hand.start(holder, zombies, wish)?;
    let pid = tracer.pid();
    let deadline = Instant::now() + PATIENCE;
    // It traces, or has come to its end.
    while !is_traced(holder.pid, holder.tid) && std::path::Path::new(&format!("/proc/{pid}/exe")).exists() {
        if Instant::now() > deadline || std::fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            break;
        }
    }
    let until = Instant::now() + after;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    let traced = is_traced(holder.pid, holder.tid);
    signal(pid, libc::SIGKILL);
    let came = came(tracer.finish(PATIENCE));
    match came.refusal.as_deref() {
        Some("tracer-died") => Ok(traced),
        _ => Err(came),
    }
}

/// Sends queued signals, each with the number after the one before, until it is done and as many were sent as are to be.
fn send(pid: u32, from: u64, done: &AtomicBool) -> u64 {
    let mut number = from;
    while number < from + QUEUED as u64 {
        queue(pid, libc::SIGRTMIN() + SIGNAL_QUEUED, i32::try_from(number).unwrap());
        number += 1;
        if !done.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_micros(150));
        }
    }
    number
}
