//! Injectors that get one thing wrong, made of the pieces that reaper's own is made of (the example `careless`): the checks find
//! each of them. A matrix that cannot fail proves nothing.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command, Output},
};

use super::{
    done::{Done, End},
    each,
    holder::{Holder, Thread},
    round::{Expect, Round, Signal, Verdict},
    states::{self, State},
};
use crate::support::{built_example, machine, rounds, run_briefly};

const AT_ONCE: usize = 4;

/// Rests of which each is gone on with in another way: by the call itself, by another call, and by neither.
const RESTS: [&str; 4] = ["read", "futex", "nanosleep", "epoll-wait"];

/// Lets it make its mistake. One that finds no processor in time leaves the holder alone, and is started again.
pub(super) fn careless(holder: &Holder, how: &str) -> Output {
    let run = || {
        let mut careless = Command::new(built_example("careless"));
        careless.arg(holder.pid.to_string()).arg(holder.tid.to_string()).args(how.split(' '));
        run_briefly(&mut careless)
    };
    let in_vain = |output: &Output| output.stderr.starts_with(b"Error: NoStop");
    let mut output = run();
    for _ in 0..10 {
        if !in_vain(&output) {
            break;
        }
        output = run();
    }
    output
}

/// It did what it was told to and was killed then.
pub(super) fn has_died(output: &Output) -> bool {
    output.status.signal() == Some(libc::SIGKILL)
}

/// Rounds in this state with one that makes this mistake; in those that count all of the extended state is in use.
fn tried(state: State, how: &str, dies: bool) -> Vec<Verdict> {
    let round = Round { state, signal: None };
    (0..rounds(3, 20))
        .map(|_| {
            // Another one each time: what is lost of one stays lost, protection keys for one.
            let mut holder = Holder::start(Thread::Main, &["tiles"]);
            let how = how.replace("SECTION", &format!("{} {}", holder.code.section.0, holder.code.section.1));
            let (_, quiet) = round.run(&mut holder, |_| (), |()| Expect::Exact);
            assert!(quiet.faults.is_empty(), "{:?}", quiet.faults);
            let act = |holder: &Holder| {
                let output = careless(holder, &how);
                assert!(
                    if dies { has_died(&output) } else { output.status.success() },
                    "{how}: {} {}",
                    output.status,
                    String::from_utf8_lossy(&output.stderr)
                );
            };
            let (_, verdict) = round.run(&mut holder, act, |()| Expect::MayEndEarly);
            verdict
        })
        .collect()
}

/// All of them are as said.
fn assert_all(verdicts: &[Verdict], what: &str, is_so: impl Fn(&Verdict) -> bool) {
    let odd: Vec<_> = verdicts.iter().filter(|verdict| !is_so(verdict)).collect();
    assert!(odd.is_empty() && !verdicts.is_empty(), "{what}: {odd:#?}");
}

#[test]
fn a_holder_without_a_frame_dies_with_its_tracer() {
    let _machine = machine();
    let runs: Vec<_> = RESTS.iter().flat_map(|rest| vec![*rest; rounds(3, 20)]).collect();
    let lived = each(AT_ONCE, runs, |rest| {
        let mut holder = Holder::start(Thread::Main, &[]);
        holder.order(&format!("once {rest} 10000"));
        assert_eq!(holder.line(super::holder::PATIENCE).as_deref(), Some("resting"));
        holder.until_in_call();
        assert!(has_died(&careless(&holder, "dies-without-frame")));
        let ended = holder.ended();
        (ended.signal() != Some(libc::SIGSEGV)).then(|| format!("{rest}: {ended}"))
    });
    assert!(lived.iter().all(Option::is_none), "{lived:?}");
}

#[test]
fn a_holder_with_a_frame_outlives_its_tracer() {
    let _machine = machine();
    for verdicts in each(AT_ONCE, RESTS.into(), |rest| tried(states::named(rest), "dies", true)) {
        assert_all(&verdicts, "something differs", |verdict| verdict.faults.is_empty());
    }
}

#[test]
fn a_frame_with_the_image_from_before_avx_is_found() {
    let _machine = machine();
    for verdicts in each(AT_ONCE, vec!["read", "nanosleep"], |rest| {
        tried(states::named(rest), "dies-with-legacy-image", true)
    }) {
        let lost = |done: &Done| done.names("ymm") || done.names("zmm-high");
        assert_all(&verdicts, "nothing is lost", |verdict| lost(&verdict.done));
    }
}

#[test]
fn a_call_that_is_made_again_whatever_happens_loses_its_wake_up() {
    let _machine = machine();
    let number = Signal::Plain.number();
    let end = |how: &str| tried(states::named("epoll-wait"), &format!("{how} {number}"), false);
    assert_all(&end("signals"), "the signal is not heeded", |Verdict { done, .. }| {
        done.handled == 1 && done.end == End::Interrupted
    });
    assert_all(&end("signals-and-insists"), "the wake-up is not lost", |Verdict { done, .. }| {
        done.handled == 1 && done.end == End::Whole
    });
}

/// Rests in a handler on the alternative stack, and has another signal while its thread is in what a tracer that died has left: what
/// came of the round, and how it ended where it did.
fn signalled_in_a_handler(how: &str) -> Result<Verdict, std::process::ExitStatus> {
    let mut holder = Holder::start(Thread::Main, &["handler"]);
    let round = Round { state: states::named("read"), signal: None };
    round.begin(&mut holder);
    let output = careless(&holder, &format!("{how} {}", Signal::Plain.number()));
    assert!(has_died(&output), "{how}: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
    // The handler interrupts the call or runs before it is made again.
    holder.order("release");
    match holder.done(super::holder::PATIENCE) {
        Some(done) => Ok(round.judge(done, Expect::MayEndEarly)),
        None => Err(holder.ended()),
    }
}

#[test]
fn a_signal_while_a_frame_is_orphaned_is_handled_where_it_does_no_harm() {
    let _machine = machine();
    for _ in 0..rounds(3, 20) {
        let verdict = signalled_in_a_handler("dies-signalling").expect("it has died");
        assert!(verdict.faults.is_empty() && verdict.done.handled == 1, "{verdict:#?}");
    }
}

#[test]
fn a_handler_that_runs_over_the_one_in_which_the_thread_rests_is_found() {
    let _machine = machine();
    for _ in 0..rounds(1, 20) {
        let ended = signalled_in_a_handler("dies-signalling-unmasked");
        assert!(ended.as_ref().is_err_and(|ended| ended.signal().is_some()), "{ended:?}");
    }
}

#[test]
fn a_restartable_section_that_is_torn_is_found() {
    let _machine = machine();
    let verdicts = tried(states::RSEQ, "interrupts SECTION", false);
    assert_all(&verdicts, "no section is torn", |verdict| verdict.done.names("torn"));
}
