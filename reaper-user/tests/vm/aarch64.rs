//! What is done in another way on aarch64, or is only there.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use reaper::remedy::inject::Method;

use crate::{
    PATIENCE,
    holder::{Call, Holder},
    random::Random,
    reap::{Hunted, TRACES, assert_undisturbed, by_hand},
    require_vm,
};

/// Signals that are sent while a tracer is at work.
const SIGNALS: usize = 20;

/// A handler that runs ends a wait: it does too where the wait was stopped, and the signal came before it was let go.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_signal_that_comes_while_a_holder_is_traced_ends_its_rest_as_ever() {
    require_vm();
    let mut random = Random::new();
    let (mut sent, mut lost) = (0, 0);
    for round in 0..4 * SIGNALS {
        let call = [Call::Nanosleep, Call::Poll][round % 2];
        let mut hunted = Hunted::start(call);
        let tracer = hunted.tracer(Method::Step);
        hunted.wait_until_traced(&tracer);
        thread::sleep(Duration::from_micros(random.below(u64::try_from(TRACES.as_micros()).expect("short"))));
        let traced = hunted.is_traced();
        hunted.holder.signal();
        let answer = tracer.finish(PATIENCE);
        let deadline = Instant::now() + Duration::from_secs(5);
        while hunted.holder.is_in(call) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let in_vain = hunted.holder.is_in(call);
        let rested = if in_vain { hunted.holder.wake(call) } else { hunted.holder.rested() };
        assert_eq!(rested.returned, -i64::from(libc::EINTR), "{rested:?}");
        assert!(rested.interruptions <= 1 + i64::from(answer.interrupted), "{rested:?}, {answer:?}");
        if traced {
            sent += 1;
            lost += usize::from(in_vain);
        }
        if sent == SIGNALS {
            break;
        }
    }
    println!("{sent} signals while it was traced, {lost} in vain");
    // One that comes when it was let go and is not in its call again yet is handled before it: as after every stop of a debugger's.
    assert!(sent == SIGNALS && lost <= 2, "{lost} of {sent}");
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_holder_with_matrix_registers_in_use_is_left_alone() {
    require_vm();
    let mut holder = Holder::start();
    let leak = holder.leak(7);
    holder.key_of(leak);
    if !holder.matrix_on() {
        println!("this kernel and processor have no SME");
        return;
    }
    holder.rest(Call::Read, Duration::ZERO);
    let event = by_hand(Path::new("/bin/reaper"), &[leak]);
    assert_eq!((&event["outcome"], &event["reason"]), (&"refused".into(), &"matrix-registers".into()));
    assert_eq!(holder.standing(&[leak]), 1);
    assert_undisturbed(Call::Read, holder.wake(Call::Read), Duration::ZERO);
    holder.reap(leak);
}
