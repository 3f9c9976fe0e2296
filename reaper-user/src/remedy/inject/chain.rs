//! A chain of calls: the holder makes them one after the other on its own, without its tracer, and then waits for it.

use std::{
    os::fd::BorrowedFd,
    thread,
    time::{Duration, Instant},
};

use super::{
    layout::Layout,
    ptrace::{self, Stop},
    puppet::{Broken, Puppet, broken_by},
};

/// What a call takes, at most on a machine that does nothing else: after so long it is looked whether all have been made, where the
/// kernel has not told.
const CALL: Duration = Duration::from_micros(8);

/// And what it takes to get there.
const BEGINNING: Duration = Duration::from_micros(20);

/// So often it is looked ever sooner: it cannot take much longer.
const SOON: u32 = 8;

/// Later ever more rarely, for each look is one more interruption of a thread that has no processor; but well within what the chain's
/// end waits for its tracer.
const RARELY: Duration = Duration::from_millis(5);

/// How long a chain may take in all. It is longer on a machine that has no processor for it.
const TAKES: Duration = Duration::from_millis(250);

/// Runs the chain that has been put into the thread, whose last wait is for `last`. It stands again, with all waits made, or as the
/// error says.
///
/// That the last zombie is gone wakes this process up. Where both are on one processor, it comes to run on the thread's way out of
/// that wait or when the thread rests: one look is enough, nearly always.
pub(super) fn run(
    puppet: &Puppet,
    layout: &Layout,
    calls: usize,
    last: BorrowedFd<'_>,
) -> Result<(), Broken> {
    let tid = puppet.tid;
    let deadline = Instant::now() + TAKES;
    let mut pause = BEGINNING + CALL * u32::try_from(calls).unwrap_or(u32::MAX);
    let (mut told, mut looks) = (false, 0);
    ptrace::resume(tid, 0)?;
    loop {
        if told {
            // Another of its threads has waited for the last one: this one is to come to its own waits.
            thread::sleep(pause);
        } else {
            told = ptrace::await_release(last, pause);
        }
        looks += 1;
        pause = if looks < SOON { (pause / 2).max(BEGINNING) } else { (pause * 2).min(RARELY) };
        ptrace::interrupt(tid)?;
        let Some(stop) = ptrace::stop(tid, Instant::now() + TAKES)? else {
            return Err(Broken::NoStop);
        };
        match stop {
            Stop::Ended => return Err(Broken::Ended),
            Stop::Executed => {
                // By its own doing: it had left the chain.
                let _gone = ptrace::detach(tid, 0);
                return Err(Broken::Left);
            }
            Stop::Event | Stop::Group | Stop::Call | Stop::Other(_) => {}
            Stop::Signal(signal) => {
                let registers = ptrace::registers(tid)?.ok_or(Broken::Left)?;
                if layout.holds(registers.stack()) {
                    return Err(broken_by(tid, signal));
                }
                // It is about to be delivered to the program itself.
                let _gone = ptrace::detach(tid, signal);
                return Err(Broken::Left);
            }
        }
        let registers = ptrace::registers(tid)?.ok_or(Broken::Left)?;
        if !layout.holds(registers.stack()) {
            // Not a register of it may be touched: they are the program's own.
            let _gone = ptrace::detach(tid, 0);
            return Err(Broken::Left);
        }
        let (stack, call) = (registers.stack(), registers.call());
        if layout.has_waited(stack, call == Some(libc::SYS_wait4.unsigned_abs())) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Broken::Stuck);
        }
        ptrace::resume(tid, 0)?;
    }
}
