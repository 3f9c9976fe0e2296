//! The holder itself: it says nothing wrong when nobody interferes, what the manual says when a debugger attaches, and finds
//! whatever is wrong. A matrix that cannot fail proves nothing.

use std::process::Command;

use super::{
    done::{Done, End},
    each,
    holder::{Holder, Thread},
    programs,
    round::{Expect, Round, Signal},
    states::{self, Class, State},
};
use crate::support::{machine, run_briefly};

const AT_ONCE: usize = 8;

/// Where the extended state has its parts, by CPUID leaf 13; the legacy part and the one of AVX are at the same place everywhere.
const ST: u64 = 32;
const XMM: u64 = 160;
const YMM: u64 = 576;
const MXCSR: u64 = 24;
const CONTROL: u64 = 0;

/// Lets the debugger do one thing to the thread that rests.
fn debug(holder: &Holder, action: &str) -> String {
    let mut debugger = Command::new(programs::debugger());
    let output = run_briefly(debugger.arg(holder.tid.to_string()).args(action.split(' ')));
    assert!(output.status.success(), "{action}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn all() -> Vec<(State, Thread, Option<Signal>)> {
    let threads = [Thread::Main, Thread::Beside, Thread::Other, Thread::Small, Thread::Alone];
    let signals = [None, Some(Signal::Plain), Some(Signal::Restarting)];
    states::in_calls()
        .chain([states::VFORK, states::USER])
        .flat_map(|state| threads.map(|thread| signals.map(|signal| (state, thread, signal))))
        .flatten()
        .collect()
}

/// Runs a round of each in a fresh holder, and returns all that was wrong.
fn rounds_of(
    cells: Vec<(State, Thread, Option<Signal>)>,
    act: impl Fn(&Holder, &State) + Sync,
    expect: impl Fn(&State) -> Expect + Sync,
) {
    let wrong: Vec<String> = each(AT_ONCE, cells, |(state, thread, signal)| {
        let mut holder = Holder::start(thread, if thread == Thread::Alone { &[] } else { &["tiles"] });
        let round = Round { state, signal };
        let mut tried = || round.run(&mut holder, |holder| act(holder, &state), |()| expect(&state)).1;
        let mut verdict = tried();
        for _ in 0..5 {
            if verdict.inside {
                break;
            }
            verdict = tried();
        }
        let mut wrong = verdict.faults;
        wrong.extend(verdict.late.then(|| format!("late: {}", verdict.done.line)));
        wrong.extend(verdict.unheeded.then(|| format!("unheeded: {}", verdict.done.line)));
        wrong.extend(verdict.expired.then(|| format!("EINTR: {}", verdict.done.line)));
        wrong.extend(holder.settle().1);
        wrong.into_iter().map(|what| format!("{thread:?} {signal:?} {what}")).collect::<Vec<_>>()
    })
    .concat();
    // The machine may be busy for once, and a signal may come before the call that it was meant for.
    let serious =
        wrong.iter().filter(|what| !what.contains("late: ") && !what.contains("unheeded: ")).count();
    assert!(serious == 0 && wrong.len() < 5, "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_holder_that_is_left_alone_finds_nothing_wrong() {
    let _machine = machine();
    rounds_of(all(), |_, _| (), |_| Expect::Exact);
}

#[test]
fn a_debugger_that_attaches_changes_what_the_manual_says_and_nothing_else() {
    let _machine = machine();
    let _built = programs::debugger();
    let act = |holder: &Holder, state: &State| {
        if state.class == Class::Vfork {
            assert_eq!(debug(holder, "attach 20"), "no-stop");
        } else {
            assert_eq!(debug(holder, "attach"), "stopped", "{state:?}");
        }
    };
    // https://man7.org/linux/man-pages/man7/signal.7.html, "Interruption of system calls … by stop signals"
    let expect = |state: &State| match state.class {
        Class::Untimed | Class::Timed => Expect::EndsEarly,
        Class::Exact | Class::Vfork | Class::User => Expect::Exact,
    };
    rounds_of(all(), act, expect);
}

/// A round in `state` in which the debugger does this, and what is to be found.
fn finds(state: &str, action: &str, is_found: impl Fn(&Done) -> bool) -> Option<String> {
    let mut holder = Holder::start(Thread::Main, &["tiles"]);
    let state = match state {
        "user-code" => states::USER,
        "rseq" => states::RSEQ,
        name => states::named(name),
    };
    let round = Round { state, signal: None };
    let action = action.replace("CALL", &(holder.code.behind - 2).to_string());
    let action = action.replace("SECTION", &format!("{} {}", holder.code.section.0, holder.code.section.1));
    // All parts of the extended state are in use in every second round only.
    let act = |holder: &Holder| drop(debug(holder, &action));
    let (_, first) = round.run(&mut holder, |_| (), |()| Expect::Exact);
    assert!(first.faults.is_empty(), "{:?}", first.faults);
    let ((), verdict) = round.run(&mut holder, act, |()| Expect::Exact);
    (!is_found(&verdict.done))
        .then(|| format!("{action} is not found in {}: {}", state.name, verdict.done.line))
}

#[test]
fn every_register_that_is_changed_is_found() {
    let _machine = machine();
    let registers = [
        "rbx", "rdx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r12", "r13", "r14", "r15", "eflags", "gs_base",
    ];
    let missed = each(AT_ONCE, registers.into(), |register| {
        let name = match register {
            "eflags" => "flags",
            "gs_base" => "gs-base",
            other => other,
        };
        finds("read", &format!("register {register}"), |done| done.names(name))
    });
    assert!(missed.iter().all(Option::is_none), "{missed:#?}");
}

#[test]
fn every_part_of_the_extended_state_that_is_changed_is_found() {
    let _machine = machine();
    let holder = Holder::start(Thread::Main, &["tiles"]);
    let parts: Vec<&str> = holder.components.split(',').collect();
    println!("checked here: {}", holder.components);
    let mut places = vec![("fcw", CONTROL + 1), ("st", ST), ("mxcsr", MXCSR), ("xmm", XMM), ("ymm", YMM)];
    places[0].1 = CONTROL;
    // Their places are the processor's: asked of it as the holder does.
    for (name, number) in [("opmask", 5), ("zmm-high", 6), ("zmm16-31", 7), ("tiledata", 18)] {
        if parts.contains(&name) {
            places.push((name, extended_state_offset(number)));
        } else {
            println!("{name}: not on this processor");
        }
    }
    let missed = each(AT_ONCE, places, |(name, offset)| {
        finds("read", &format!("image {offset}"), |done| done.names(name))
    });
    assert!(missed.iter().all(Option::is_none), "{missed:#?}");
}

/// Where a component begins in the standard format.
fn extended_state_offset(component: u32) -> u64 {
    core::arch::x86_64::__cpuid_count(0xd, component).ebx.into()
}

#[test]
fn whatever_else_injectors_have_got_wrong_is_found() {
    let _machine = machine();
    let plain = libc::SIGUSR1;
    type Case = (&'static str, String, fn(&Done) -> bool);
    let cases: Vec<Case> = vec![
        // A frame whose image has 512 bytes.
        ("read", "legacy".into(), |done| done.names("ymm") || done.names("zmm-high")),
        ("read", "mask".into(), |done| done.names("mask")),
        ("ppoll", "mask".into(), |done| done.names("mask")),
        ("read", "memory -8".into(), |done| done.names("red-zone")),
        ("read", "memory -128".into(), |done| done.names("red-zone")),
        ("read", "memory 0".into(), |done| done.names("stack")),
        ("read", "result -4".into(), |done| done.end == End::Interrupted),
        // Restarted though a handler runs: the wake-up is lost.
        ("epoll-wait", format!("result -513 {plain}"), |done| done.handled == 1 && done.end == End::Whole),
        // The kernel's own mark reaches the program.
        ("nanosleep", "continue CALL".into(), |done| done.line.contains("result=-516")),
        // Another stack for signals.
        ("read", format!("call CALL {} 0 0", libc::SYS_sigaltstack), |done| done.differences.is_empty()),
        ("rseq", "section SECTION CALL".into(), |done| done.names("torn")),
        ("user-code", "register rbx".into(), |done| done.names("rbx")),
    ];
    let missed = each(AT_ONCE, cases, |(state, action, is_found)| finds(state, &action, is_found));
    assert!(missed.iter().all(Option::is_none), "{missed:#?}");
}
