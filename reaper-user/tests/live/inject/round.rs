//! One round: the holder rests, something is done to it, and what it says is held against what the kernel promises.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    done::{Done, End},
    holder::{Holder, PATIENCE, is_traced},
    states::{Class, Heeds, State},
};
use crate::support::signal;

/// How long a timed call waits. Whatever is done to it is done at half time, so that one that was begun anew is late by half of it.
pub(super) const SPAN: Duration = Duration::from_millis(240);

/// What counts as late: far more than a busy machine takes, less than what a restart costs.
const LATE: Duration = Duration::from_millis(80);

/// How long a signal has to interrupt a call, before it is said to have come before the call.
const HEEDED: Duration = Duration::from_secs(2);

/// A signal that comes during the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// With a handler.
    Plain,
    /// With a handler that was set with `SA_RESTART`.
    Restarting,
}

impl Signal {
    pub(super) const fn number(self) -> i32 {
        match self {
            Self::Plain => libc::SIGUSR1,
            Self::Restarting => libc::SIGURG,
        }
    }

    /// Whether it makes a call end with EINTR.
    const fn interrupts(self, state: &State) -> bool {
        match state.heeds {
            Heeds::Always => true,
            Heeds::UnlessRestarted => matches!(self, Self::Plain),
            Heeds::Never => false,
        }
    }
}

/// What the call may come to, beside what signals do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// It goes on as if nothing had been.
    Exact,
    /// It ends with EINTR, or goes on.
    MayEndEarly,
    /// It ends with EINTR.
    EndsEarly,
    /// It goes on, and may be late by as long as it had waited.
    MayBeLate,
}

/// What is to be tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) state: State,
    pub(super) signal: Option<Signal>,
}

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    /// What the holder says.
    pub(super) done: Done,
    /// Everything that is not as it should be.
    pub(super) faults: Vec<String>,
    /// It ended much later than it should have.
    pub(super) late: bool,
    /// The signal was handled, and the call went on all the same: it came before the call was entered (again).
    pub(super) unheeded: bool,
    /// The call was still on when what was done was done.
    pub(super) inside: bool,
    /// The signal came while the thread was traced.
    pub(super) traced: bool,
    /// It ended with EINTR, though it should not have, but when its time was up: the thread was on its way out of the call, which
    /// nobody who looks at it can tell from its running elsewhere.
    pub(super) expired: bool,
}

impl Round {
    /// Lets the holder rest, does it, and judges what the holder says by what `expect` makes of what was done. The signal is sent as
    /// soon as the thread is seen to be traced, or else afterwards.
    pub(super) fn run<T>(
        self,
        holder: &mut Holder,
        act: impl FnOnce(&Holder) -> T,
        expect: impl FnOnce(&T) -> Expect,
    ) -> (T, Verdict) {
        let asked = Instant::now();
        let begun = self.begin(holder);
        if self.state.timed {
            thread::sleep((SPAN / 2).saturating_sub(begun.elapsed()));
        }
        let acted = AtomicBool::new(false);
        let (came, in_time, traced) = thread::scope(|scope| {
            let (holder, acted) = (&*holder, &acted);
            let (pid, tid) = (holder.pid, holder.tid);
            let sender = self.signal.map(|kind| scope.spawn(move || send_when_traced(pid, tid, kind, acted)));
            let came = act(holder);
            // One that had ended by itself then did so before it was stopped, or after.
            let in_time = asked.elapsed() < SPAN;
            acted.store(true, Ordering::Relaxed);
            (came, in_time, sender.is_some_and(|sender| sender.join().unwrap()))
        });
        // Before the signal, where that is still to come.
        let inside = traced || self.state.class == Class::User || holder.is_in_call();
        if let Some(signal) = self.signal.filter(|_| !traced) {
            send(holder.pid, signal);
        }
        let done = self.end(holder);
        let mut expected = expect(&came);
        if self.state.timed && expected == Expect::EndsEarly && !in_time {
            expected = Expect::MayEndEarly;
        }
        let mut verdict = self.judge(done, expected);
        if self.signal.is_some() {
            holder.sent += 1;
            let (sent, handled) = (holder.sent, holder.signals());
            if sent != handled {
                verdict
                    .faults
                    .push(format!("{sent} signals were sent and {handled} handled: {}", verdict.done.line));
                holder.sent = handled;
            }
        }
        // Only a stop or a signal ends a call so.
        verdict.inside = inside || verdict.done.end == End::Interrupted;
        verdict.unheeded &= inside;
        verdict.traced = traced;
        (came, verdict)
    }

    /// Lets the holder rest; when it began to.
    pub(super) fn begin(self, holder: &mut Holder) -> Instant {
        let said = holder.ask(&format!("once {} {}", self.state.name, SPAN.as_millis()), "resting");
        assert!(said.is_empty(), "{said}");
        let begun = Instant::now();
        match self.state.class {
            // Not in the call by which it has said so.
            Class::User => {
                let before = holder.ran();
                holder.until("it runs its own code", |this| this.ran() > before);
            }
            _ => holder.until_in_call(),
        }
        begun
    }

    /// Waits for the end of the call, or releases it where nothing else ends it.
    fn end(self, holder: &mut Holder) -> Done {
        if !self.state.timed {
            if self.signal.is_some_and(|signal| signal.interrupts(&self.state))
                && let Some(done) = holder.done(HEEDED)
            {
                return done;
            }
            holder.order("release");
        }
        self.must_end(holder)
    }

    fn must_end(self, holder: &mut Holder) -> Done {
        let done = holder.done(PATIENCE);
        done.unwrap_or_else(|| {
            let alive = holder.lives();
            panic!("{self:?} does not end, alive: {alive}, {}", holder.status())
        })
    }

    pub(super) fn judge(self, done: Done, expect: Expect) -> Verdict {
        let Self { state, signal } = self;
        let mut faults = Vec::new();
        let mut fault = |what: &str| faults.push(format!("{what}: {}", done.line));
        if !done.differences.is_empty() {
            fault("something differs");
        }
        let interrupts = signal.is_some_and(|signal| signal.interrupts(&state));
        // One that came after the call has not.
        let interrupted = interrupts && done.handled > 0;
        let expired = (done.end, expect, interrupted) == (End::Interrupted, Expect::Exact, false)
            && state.class == Class::Timed
            && done.took >= SPAN;
        match (done.end, expect) {
            (End::Other, _) => fault("another result"),
            (End::Interrupted, Expect::Exact | Expect::MayBeLate) if !interrupted && !expired => {
                fault("EINTR");
            }
            (End::Whole, Expect::EndsEarly) if state.timed => fault("no EINTR"),
            _ => {}
        }
        let late = Duration::from_nanos(done.late.try_into().unwrap_or(0)) > LATE;
        if done.end == End::Whole
            && state.timed
            && -done.late > i64::try_from(state.grain.as_nanos()).unwrap()
        {
            fault("too early");
        }
        if let (End::Interrupted, Some(left)) = (done.end, done.left)
            && left > Duration::ZERO
            // Of what is left it says microseconds in places.
            && done.took + left + Duration::from_millis(1) < SPAN
        {
            fault("less is left than should be");
        }
        let unheeded = interrupted && done.end == End::Whole;
        let late = late && done.end == End::Whole && (state.timed || !interrupts);
        Verdict { done, faults, late, unheeded, inside: false, traced: false, expired }
    }
}

/// True where it was sent while the thread was traced; false where it has not been sent.
fn send_when_traced(pid: u32, tid: u32, kind: Signal, acted: &AtomicBool) -> bool {
    while !acted.load(Ordering::Relaxed) {
        if is_traced(pid, tid) {
            send(pid, kind);
            return true;
        }
        thread::yield_now();
    }
    false
}

/// Sends one to a holder.
pub(super) fn send(pid: u32, kind: Signal) {
    signal(pid, kind.number());
}
