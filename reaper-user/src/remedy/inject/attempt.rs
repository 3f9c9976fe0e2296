//! One stop of one thread: everything that has to be looked at is looked at before a register is changed, and whatever
//! happens then the thread is left as it was found.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    arch::{self, Blocked},
    calls,
    layout::{self, Layout},
    maps::Maps,
    order::{Answer, Fate, Order},
    outcome::{
        Outcome, another_architecture, broken_before, gone, kernel, no_instruction, refused_place, strict,
        tracer, unreadable_filters,
    },
    permission,
    place::{MainStack, NoPlace, Place as FramePlace},
    ptrace,
    puppet::{Broken, Puppet, Stands},
    rest::{self, Rest},
    seccomp::Filters,
    threads::{Place, Seccomp, Thread},
    verify::{is_in_call, is_there},
};

/// `WNOHANG | __WALL`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/wait.h>
pub(super) const WITHOUT_BLOCKING: u64 = 1 | 0x4000_0000;

/// The word for a zombie that was waited for meanwhile.
pub const NO_ZOMBIE: &str = "no-zombie";

/// What the holder is made to do in one stop.
pub enum Step<'a> {
    /// To wait for these.
    Reap {
        /// Their numbers in the holder's pid namespace.
        numbers: Vec<u32>,
        /// Their descriptors, which say whether the numbers are theirs still.
        held: Vec<&'a OwnedFd>,
        /// Call by call.
        stepwise: bool,
    },
    /// To have its children released by the kernel, or no longer.
    Autoreap(bool),
}

/// A thread that stands where it can be used.
struct Found {
    puppet: Puppet,
    /// Since when, where it has run to a call before.
    at: Option<Instant>,
    /// How long it had stood before that.
    stood: Duration,
    /// The call that it was about to make then.
    call: Option<(i64, [u64; 6])>,
}

/// What is known before the stop.
pub struct Attempt<'a> {
    /// What is to be done.
    pub order: &'a Order,
    /// The thread that is stopped.
    pub thread: &'a Thread,
    /// Where the frame goes.
    pub place: &'a FramePlace,
    /// The holder's, in /proc.
    pub directory: &'a Path,
    /// The main thread's stack pointer, where another thread is stopped.
    pub main: Option<MainStack>,
    /// The main thread, where it is there still.
    pub main_thread: Option<&'a Thread>,
}

impl Attempt<'_> {
    /// Stops the thread, makes it do the step, lets it go.
    pub fn run(&self, step: &Step<'_>, answer: &mut Answer) -> Outcome {
        let tid = self.thread.tid;
        if self.thread.seccomp() == Some(Seccomp::Strict) {
            return strict(tid);
        }
        // A main thread that has ended shows none.
        let Some(mut maps) = Maps::open(&self.directory.join("task").join(tid.to_string())) else {
            return gone(tid);
        };
        // What it is in then can only be told by what it was seen in.
        let blocked = self.thread.blocked();
        if arch::PREPARES_RESTARTS && blocked.is_none() {
            return user_code(tid);
        }
        if let Err(error) = ptrace::seize(tid) {
            return self.not_seized(error);
        }
        let began = Instant::now();
        let mut found = match self.find(tid, blocked) {
            Ok(found) => found,
            Err(outcome) => {
                match outcome {
                    // If it has stood at all, then when it was let go.
                    Outcome::Refused("no-stop", _) => answer.pauses.push(Duration::ZERO),
                    // It has stood, for as long as it took to see that.
                    Outcome::Refused(..) => answer.pauses.push(began.elapsed()),
                    _ => {}
                }
                return outcome;
            }
        };
        let began = found.at.unwrap_or(began);
        let outcome = self.work(step, &mut found.puppet, &mut maps, answer);
        let Found { puppet, call, stood, .. } = found;
        let stands = puppet.left.map_or_else(|| began.elapsed(), |left| left - began);
        answer.pauses.push(stood + stands);
        answer.late += u32::from(puppet.late);
        // A call that is let go at its entry begins with the mark that a signal may be there.
        let unlucky = call.is_some_and(|(call, arguments)| rest::expected(call, arguments) == Rest::Timed)
            && matches!(outcome, Outcome::Refused(..) | Outcome::Elsewhere(..));
        answer.interrupted += u32::from(puppet.rest == Rest::Timed || unlucky);
        outcome
    }

    /// Brings the thread to stand in a call, or at the entry of one. What an error says has been let go.
    fn find(&self, tid: u32, blocked: Option<Blocked>) -> Result<Found, Outcome> {
        let let_go = |outcome| {
            let _gone = ptrace::detach(tid, 0);
            Err(outcome)
        };
        let main = self.order.holder.pid;
        let broken = |broken: Broken| {
            let ended = broken == Broken::Ended && tid != main;
            broken_before(tid, ended.then(|| Puppet::let_executed_go(main)).flatten().unwrap_or(broken))
        };
        let stands = Puppet::stop(tid).map_err(broken)?;
        let since = Instant::now();
        let registers = match ptrace::registers(tid).map_err(|error| broken(error.into()))? {
            Some(registers) if registers.is_native() => {
                registers.stopped(blocked, |address| is_there(tid, address, arch::ENTER))
            }
            _ => return let_go(another_architecture()),
        };
        // Only now it can neither get a filter nor be another thread.
        let filters = match self.thread.seccomp() {
            Some(Seccomp::Off) => Ok(Filters::default()),
            Some(Seccomp::Filters) => Filters::of(tid),
            Some(Seccomp::Strict) => return let_go(strict(tid)),
            None => return let_go(gone(tid)),
        };
        if ptrace::dispatches_calls(tid) {
            let why = "it has its system calls dispatched to itself".to_owned();
            return let_go(Outcome::Refused("call-dispatch", why));
        }
        for extra in arch::EXTRAS {
            if ptrace::set(tid, extra.note).is_ok_and(|bytes| (extra.is_on)(&bytes)) {
                return let_go(Outcome::Refused(extra.word, extra.why.to_owned()));
            }
        }
        let in_call = is_in_call(tid, &registers);
        let filters = match filters {
            Ok(filters) => filters,
            Err(error) => {
                if in_call {
                    // What they say of going on is not known: better late than killed.
                    let mut puppet = Puppet::take(tid, registers, false, Filters::default());
                    puppet.begin_anew();
                    puppet.leave(0);
                    return Err(unreadable_filters(error));
                }
                return let_go(unreadable_filters(error));
            }
        };
        if in_call {
            let puppet = Puppet::take(tid, registers, false, filters);
            return Ok(Found { puppet, at: None, stood: Duration::ZERO, call: None });
        }
        // Not in its own code: the kernel would not abort what must not be interrupted there (rseq).
        // At the entry of a call some architectures do not show all registers.
        if arch::PREPARES_RESTARTS || stands == Stands::WithItsGroup {
            return let_go(user_code(tid));
        }
        let asked = Puppet::take(tid, registers, false, filters.clone());
        if let Err(outcome) = self.ask_filters(&asked) {
            return let_go(outcome);
        }
        let stood = since.elapsed();
        if !Puppet::run_to_call(tid).map_err(broken)? {
            return let_go(user_code(tid));
        }
        let at = Some(Instant::now());
        let registers = ptrace::registers(tid).map_err(|error| broken(error.into()))?;
        let Some(registers) = registers.filter(|registers| is_in_call(tid, registers)) else {
            return let_go(another_architecture());
        };
        let number = registers.call().and_then(|number| i64::try_from(number).ok());
        let call = number.map(|number| (number, registers.arguments()));
        Ok(Found { puppet: Puppet::take(tid, registers, true, filters), at, stood, call })
    }

    /// With the thread standing: what must hold is verified, the frame laid, the calls made, the thread let go.
    fn work(&self, step: &Step<'_>, puppet: &mut Puppet, maps: &mut Maps, answer: &mut Answer) -> Outcome {
        match self.prepare(step, puppet, maps) {
            Ok((layout, chained)) => self.act(step, puppet, &layout, chained, answer),
            Err(outcome) => {
                puppet.leave(0);
                outcome
            }
        }
    }

    fn prepare(&self, step: &Step<'_>, puppet: &Puppet, maps: &mut Maps) -> Result<(Layout, bool), Outcome> {
        let order = self.order;
        if puppet.rest == Rest::Timed && !order.allow_interrupted_wait {
            // It has been interrupted, which nobody has allowed: not once more.
            return Err(Outcome::Refused(
                "timed-wait",
                format!("thread {} was in a wait that ends early", puppet.tid),
            ));
        }
        let code = &order.code;
        let chained = matches!(step, Step::Reap { stepwise: false, .. })
            && code.pop_first.is_some()
            && code.pop_number.is_some();
        self.verify_code(maps)?;
        if arch::PREPARES_RESTARTS && code.call == Some(puppet.entered_at()) {
            // The kernel would take the call that it is made to make for its own, made again.
            return Err(no_instruction());
        }
        self.ask_filters(puppet)?;
        let context = puppet.context().map_err(|error| kernel("its registers", error))?;
        let context = context.ok_or_else(|| {
            Outcome::Refused("no-vectors", "its vector registers cannot be read as a whole".to_owned())
        })?;
        let main = match self.main {
            None => MainStack::Stands(puppet.stack()),
            // It may have moved since.
            Some(_) => main_stack(self.main_thread)
                .ok_or_else(|| Outcome::Elsewhere("running", "its main thread began to run".to_owned()))?,
        };
        // Of the others none has its own stack there.
        if self.main.is_some() && self.place.is_low(puppet.stack()) {
            return Err(refused_place(&NoPlace::Unwinding));
        }
        let (at, start) = (self.place.at(), order.holder.start_ticks);
        let layout = match step {
            Step::Reap { numbers, .. } if chained => layout::chain(at, start, code, &context, numbers),
            _ => layout::single(at, start, code, &context),
        };
        let mut layout = layout.ok_or_else(no_instruction)?;
        let bytes = self.place.check(layout.bytes.len() as u64, main).map_err(|no| refused_place(&no))?;
        layout.extend_to(bytes);
        if let Step::Reap { held, .. } = step
            && !held.iter().all(|held| ptrace::is_unwaited(held.as_fd()))
        {
            // Somebody else of the holder's threads waits for them at this moment.
            return Err(Outcome::Refused(NO_ZOMBIE, "one of them is no zombie any more".to_owned()));
        }
        Ok((layout, chained))
    }

    fn act(
        &self,
        step: &Step<'_>,
        puppet: &mut Puppet,
        layout: &Layout,
        chained: bool,
        answer: &mut Answer,
    ) -> Outcome {
        let tid = puppet.tid;
        let memory = self.place.memory();
        if let Err(error) = memory.write(layout.at, &layout.bytes) {
            puppet.leave(0);
            return kernel("writing into its stack", error);
        }
        answer.laid = true;
        // From here on the tracer may die at any moment.
        let done = match step {
            Step::Reap { numbers, held, .. } if chained => {
                self.chain(puppet, layout, numbers, held).map(|()| Vec::new())
            }
            Step::Reap { numbers, held, .. } => self.step(puppet, layout, numbers, held),
            Step::Autoreap(wanted) => self.autoreap(puppet, layout, *wanted),
        };
        let (broken, mut fates) = match done {
            Ok(fates) => (None, fates),
            Err((broken, fates)) => (Some(broken), fates),
        };
        let signal = match broken {
            None | Some(Broken::Stuck | Broken::Fault(_)) => 0,
            Some(Broken::Signal(signal)) => signal,
            // It runs, or is gone.
            Some(Broken::Left) if chained => {
                answer.fell_through += 1;
                answer.interrupted += u32::from(puppet.would_be_interrupted());
                return Outcome::Done(fates);
            }
            Some(Broken::Ended | Broken::Executed) => return Outcome::Done(fates),
            // It has what it was given, and falls into its frame when this process ends.
            Some(Broken::NoStop | Broken::Left | Broken::Kernel(_)) => {
                answer.interrupted += u32::from(puppet.would_be_interrupted());
                let why = format!("thread {tid} did not come back in time");
                return Outcome::Partly(fates, "no-stop", why);
            }
        };
        // Nobody is in the frame any more once its own registers are back.
        let in_use = layout.in_use();
        let orderly = matches!(broken, None | Some(Broken::Signal(0)));
        let back = puppet.leave_after(signal, orderly, || {
            let _gone = memory.write(in_use, &layout::DONE.to_le_bytes());
        });
        // Not before: the thread does not stand still for it.
        if let (None, Step::Reap { held, .. }) = (broken, step)
            && chained
        {
            fates = calls::fates(held, Fate::Failed(0));
        }
        match broken {
            _ if !back => Outcome::Partly(fates, "failed", format!("thread {tid} could not be put back")),
            Some(Broken::Stuck) => {
                let why = "it stands and does not run: its cgroup may be frozen".to_owned();
                Outcome::Partly(fates, "no-run", why)
            }
            Some(Broken::Fault(signal)) => {
                let why = format!("what it was made to do raised signal {signal}");
                Outcome::Partly(fates, "fault", why)
            }
            // With the next stop.
            Some(Broken::Signal(_)) if fates.is_empty() => {
                Outcome::Elsewhere("signal", format!("a signal came for thread {tid}"))
            }
            _ => Outcome::Done(fates),
        }
    }

    fn not_seized(&self, error: Errno) -> Outcome {
        let tid = self.thread.tid;
        match error {
            Errno::SRCH => gone(tid),
            // It is ending.
            Errno::PERM
                if !self
                    .thread
                    .stat()
                    .is_some_and(|stat| matches!(stat.state, b'R' | b'S' | b'T' | b'D' | b't')) =>
            {
                gone(tid)
            }
            Errno::PERM if tracer(self.directory).is_some_and(|tracer| tracer != 0) => {
                Outcome::Refused("traced", "a debugger is attached to it".to_owned())
            }
            Errno::PERM | Errno::ACCESS => {
                Outcome::Refused("not-permitted", permission::reason(self.directory))
            }
            error => kernel("tracing it", error),
        }
    }
}

/// It cannot be told what it does.
fn user_code(tid: u32) -> Outcome {
    Outcome::Elsewhere("user-code", format!("thread {tid} makes no call, or none that can be told"))
}

/// Where the main thread's stack pointer is, where that can be known without stopping it.
pub fn main_stack(main: Option<&Thread>) -> Option<MainStack> {
    let main = main?;
    match main.place() {
        Some(Place::Blocked { stack, .. }) => Some(MainStack::Blocked(stack)),
        Some(Place::Running) => None,
        None => main.stat().is_none_or(|stat| matches!(stat.state, b'Z' | b'X')).then_some(MainStack::Ended),
    }
}
