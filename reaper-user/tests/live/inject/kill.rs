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
    let tallies =
        each(AT_ONCE, seeds, |(state, seed)| kill(state, seed, &["tiles"], When::Ever, rounds(17, 167)));
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
/// rests in. Signals are kept away from what the tracer leaves, but for a moment on either side: registers and mask are two calls, and one that is
/// killed between them leaves the handler unguarded (reaper-user/src/remedy/inject/puppet.rs). So it is killed where the mask is
/// seen to be set.
#[test]
fn a_tracer_that_is_killed_leaves_a_holder_as_it_was_that_rests_in_a_handler_on_its_alternative_stack() {
    let _machine = machine();
    let mut random = Random::new();
    let seeds: Vec<_> =
        ["nanosleep", "read", "futex"].iter().map(|state| (*state, random.below(u64::MAX))).collect();
    let tallies =
        each(AT_ONCE, seeds, |(state, seed)| kill(state, seed, &["handler"], When::Guarded, rounds(10, 100)));
    println!("killed, killed while it was traced, rounds: {tallies:?}");
    let killed: usize = tallies.iter().map(|(killed, ..)| killed).sum();
    assert!(killed >= rounds(30, 300), "{killed} were killed");
}

/// The rounds of one state: tracers that were killed, those of them while the holder was traced, rounds.
fn kill(state: &str, seed: u64, options: &[&str], when: When, wanted: usize) -> (usize, usize, usize) {
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
                let came = kill_one(&mut hand, holder, &zombies, wish, when, after);
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

/// When a tracing process is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// At any moment.
    Ever,
    /// While signals are kept from the holder's thread.
    Guarded,
}

/// Whether the signals that are queued are kept from the holder's thread now. The tracing process is stopped and stays as it is.
fn is_guarded(holder: &Holder, tracer: u32) -> bool {
    signal(tracer, libc::SIGSTOP);
    let deadline = Instant::now() + PATIENCE;
    // Where it has ended there is no such file, or it is a zombie.
    let field = |path: &str, name: &str| {
        let status = std::fs::read_to_string(path).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    while let Some(state) = field(&format!("/proc/{tracer}/status"), "State:") {
        match state.chars().next() {
            Some('T') => {
                let blocked = field(&format!("/proc/{}/task/{}/status", holder.pid, holder.tid), "SigBlk:");
                let blocked = blocked.and_then(|blocked| u64::from_str_radix(&blocked, 16).ok());
                return blocked
                    .is_some_and(|blocked| blocked >> (libc::SIGRTMIN() + SIGNAL_QUEUED - 1) & 1 == 1);
            }
            Some('Z' | 'X') => return false,
            _ => assert!(Instant::now() < deadline, "{tracer} does not stop: {state}"),
        }
    }
    false
}

/// Starts one tracing process and kills it that long after the holder is seen to be traced. `Err` where it was quicker.
fn kill_one(
    hand: &mut Hand,
    holder: &Holder,
    zombies: &[Zombie],
    wish: Wish,
    when: When,
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
    if when == When::Guarded && !is_guarded(holder, pid) {
        signal(pid, libc::SIGCONT);
        return Err(came(tracer.finish(PATIENCE)));
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
