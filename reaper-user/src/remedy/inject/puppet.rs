//! A thread that stands, with what it takes to let it go as if nothing had been; and the calls that it is made to make one
//! by one.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{
    arch::{self, Registers},
    code::Code,
    layout::{Context, Layout},
    ptrace::{self, Stop},
    rest::{self, Rest},
    seccomp::{Call, Filters},
};

/// How long a thread may take to stop.
pub const STOPS: Duration = Duration::from_millis(20);

/// How long it may take to make a call that does not block, once it was told to: it may have to wait for a processor, and nothing
/// is gained by giving up.
const CALLS: Duration = Duration::from_millis(250);

/// Stops that a thread may be in of its own group's, before it makes its call.
const GROUP_STOPS: u32 = 3;

/// A thread that stands.
#[derive(Debug)]
pub struct Puppet {
    /// Its id.
    pub tid: u32,
    /// As it was found, and as it is to be left: what the kernel has already made of an interrupted call is undone.
    saved: Registers,
    /// As it was found.
    found: Registers,
    /// It stands at the entry into a call, which it has not made yet.
    at_entry: bool,
    /// Its registers have been changed.
    touched: bool,
    /// What kind of rest it was stopped in.
    pub rest: Rest,
    /// When it was let go.
    pub left: Option<Instant>,
    /// Its call is begun anew, because it may not be gone on with.
    pub late: bool,
    filters: Filters,
    /// Its own signal mask, where others are kept from it meanwhile.
    mask: Option<u64>,
    /// By which instruction, with which stack and link it makes calls.
    calls_by: (u64, u64, u64),
}

/// Signals that are raised by what a thread does itself: one of them that is blocked ends the program.
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/signal.c> (`force_sig_info_to_task`)
const OWN_FAULTS: [i32; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP, libc::SIGFPE, libc::SIGSYS];

/// How a thread came to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// Wherever it was.
    Somewhere,
    /// With all of its group: somebody has stopped them.
    WithItsGroup,
    /// At the entry of a call.
    AtACall,
}

/// Why a thread could not be brought to stand, or to make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It has ended.
    Ended,
    /// It has executed another program, and was let go.
    Executed,
    /// It has not stopped in time: it is traced still, until this process ends.
    NoStop,
    /// This signal is to be delivered to it, with its own registers.
    Signal(i32),
    /// The kernel answers what it was made to do with this signal: it is not the program's.
    Fault(i32),
    /// It stands again and has not made the call.
    Stuck,
    /// It stands and has left what it was to do.
    Left,
    /// The kernel refused.
    Kernel(Errno),
}

impl From<Errno> for Broken {
    fn from(error: Errno) -> Self {
        // The thread is gone, or runs: which cannot be while it is traced and stands.
        if error == Errno::SRCH { Self::Ended } else { Self::Kernel(error) }
    }
}

/// A signal that comes while it does what it was told to.
pub fn broken_by(tid: u32, signal: i32) -> Broken {
    if ptrace::is_own_fault(tid, signal) { Broken::Fault(signal) } else { Broken::Signal(signal) }
}

/// Keeps all signals from a thread that what it does itself does not raise, until its own mask is set again, which is returned. Its
/// registers lead into the frame by now, and the frame has that mask: also where the tracer dies, it has it back with the rest.
///
/// - A handler would run on the thread's alternative stack from the top if the stack pointer is elsewhere, as it is now. A thread that
///   was on that stack, because it rests in a handler itself, has what it goes back to there.
/// - Where its call is only known again when it is let go (aarch64), a handler before that leaves nobody to tell whether it ends the
///   call.
///
/// What comes meanwhile waits, and is handled in the thread's own state. Between this and the change of the registers, before and
/// after, a tracer may die without it: a microsecond or two each time, in which the first of these remains. The other way round the
/// thread would be left without its signals for ever.
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/signal.c> (`sigsp`)
fn keep_signals_away(tid: u32) -> Result<u64, Errno> {
    let mask = ptrace::signal_mask(tid)?;
    let faults = OWN_FAULTS.iter().fold(0, |set, signal| set | 1_u64 << (signal - 1));
    ptrace::set_signal_mask(tid, !faults | mask)?;
    Ok(mask)
}

impl Puppet {
    /// Stops a thread that has been seized. Signals that are about to be delivered to it are.
    pub fn stop(tid: u32) -> Result<Stands, Broken> {
        ptrace::interrupt(tid)?;
        let deadline = Instant::now() + STOPS;
        loop {
            match ptrace::stop(tid, deadline)? {
                None => return Err(Broken::NoStop),
                Some(Stop::Event) => return Ok(Stands::Somewhere),
                Some(Stop::Group) => return Ok(Stands::WithItsGroup),
                Some(Stop::Call) => return Ok(Stands::AtACall),
                Some(Stop::Ended) => return Err(Broken::Ended),
                Some(Stop::Executed) => return Err(Self::executed(tid)),
                Some(Stop::Signal(signal)) => ptrace::resume(tid, signal)?,
                Some(Stop::Other(_)) => ptrace::resume(tid, 0)?,
            }
        }
    }

    /// Lets a thread that stands in its own code run to its next call; true where it stands at one in time. Otherwise it has
    /// been stopped again.
    pub fn run_to_call(tid: u32) -> Result<bool, Broken> {
        let deadline = Instant::now() + STOPS;
        let mut signal = 0;
        loop {
            ptrace::resume_to_call(tid, signal)?;
            signal = 0;
            match ptrace::stop(tid, deadline)? {
                None => return Self::stop(tid).map(|stands| stands == Stands::AtACall),
                Some(Stop::Call) => return Ok(true),
                // Somebody has stopped all of them: it is not to run.
                Some(Stop::Group) => return Ok(false),
                Some(Stop::Ended) => return Err(Broken::Ended),
                Some(Stop::Executed) => return Err(Self::executed(tid)),
                Some(Stop::Signal(number)) => signal = number,
                Some(Stop::Event | Stop::Other(_)) => {}
            }
        }
    }

    /// Nothing that is known of it holds any more.
    fn executed(tid: u32) -> Broken {
        let _gone = ptrace::detach(tid, 0);
        Broken::Executed
    }

    /// Lets a thread go that has become the main thread of its process, by executing another program: it stands, and is traced by
    /// that number. Nothing where it has not.
    /// <https://man7.org/linux/man-pages/man2/ptrace.2.html> ("execve(2) under ptrace")
    pub fn let_executed_go(main: u32) -> Option<Broken> {
        match ptrace::stop(main, Instant::now() + STOPS) {
            Ok(Some(Stop::Executed)) => Some(Self::executed(main)),
            _ => None,
        }
    }

    /// Takes a thread that stands in a call, as `registers` say, or at the entry of one, with its filters.
    #[must_use]
    pub fn take(tid: u32, registers: Registers, at_entry: bool, filters: Filters) -> Self {
        let number = registers.call().unwrap_or(u64::MAX);
        let rest = if at_entry {
            Rest::Exact
        } else {
            rest::stopped(number, registers.arguments(), registers.result())
        };
        let mut this = Self {
            tid,
            saved: registers,
            found: registers,
            at_entry,
            touched: false,
            rest,
            left: None,
            late: false,
            filters,
            mask: None,
            calls_by: (0, 0, 0),
        };
        if rest == Rest::Untimed {
            this.saved = registers.to_be_restarted();
        }
        // Better late than killed by a filter.
        if this.allows(libc::SYS_restart_syscall, registers.entered_at(), [0; 6]).is_err() {
            this.begin_anew();
        }
        this
    }

    /// A call that is gone on with by another call is made again instead, with its whole time; unless a handler runs.
    pub fn begin_anew(&mut self) {
        if self.saved.call().is_some() && self.saved.result() == arch::RESTART_BLOCK {
            self.saved = self.saved.to_be_restarted();
            self.late = true;
        }
    }

    /// Whether its wait ends early where its tracer dies now.
    #[must_use]
    pub const fn would_be_interrupted(&self) -> bool {
        self.saved.call().is_some() && self.saved.result() == arch::RESTART_BLOCK
    }

    /// Whether its filters allow it a call by the instruction at `at`.
    pub fn allows(&self, call: i64, at: u64, arguments: [u64; 6]) -> Result<(), super::seccomp::Denied> {
        let number = call.unsigned_abs();
        let from = at + arch::ENTER.len() as u64;
        self.filters.allow(&Call { number, from, arguments })
    }

    /// The state that it falls back into where its tracer dies.
    pub fn context(&self) -> Result<Option<Context>, Errno> {
        let vectors = arch::vectors_in_frame(ptrace::vectors(self.tid)?);
        let mask = ptrace::signal_mask(self.tid)?;
        let registers = if self.at_entry { self.saved.to_be_reissued() } else { self.saved.on_its_own() };
        Ok(vectors.map(|vectors| Context { registers, vectors, mask }))
    }

    /// Where the instruction is that it has made its call by.
    pub const fn entered_at(&self) -> u64 {
        self.saved.entered_at()
    }

    /// Its stack pointer.
    pub const fn stack(&self) -> u64 {
        self.saved.stack()
    }

    /// Puts a first call into its registers, to be made when it runs.
    pub fn put(
        &mut self,
        layout: &Layout,
        code: &Code,
        call: i64,
        arguments: [u64; 6],
    ) -> Result<(), Broken> {
        let (number, at) = (call.unsigned_abs(), code.call.ok_or(Broken::Left)?);
        let (stack, link) = (layout.stack, code.sigreturn.unwrap_or_default());
        self.calls_by = (at, stack, link);
        let registers = if self.at_entry {
            let inside = self.saved.calling_instead(number, arguments, at, stack, link);
            // Its own call is made when it is let go.
            self.saved = self.saved.to_be_reissued();
            self.at_entry = false;
            inside
        } else {
            self.saved.calling(number, arguments, at, stack, link)
        };
        self.touched = true;
        ptrace::set_registers(self.tid, &registers)?;
        if self.mask.is_none() {
            self.mask = Some(keep_signals_away(self.tid)?);
        }
        Ok(())
    }

    /// Makes it make one call, and says what that returned. It stands again, at the exit from it.
    pub fn call(
        &mut self,
        layout: &Layout,
        code: &Code,
        call: i64,
        arguments: [u64; 6],
    ) -> Result<i64, Broken> {
        let inside = self.at_entry;
        self.put(layout, code, call, arguments)?;
        if !inside {
            self.to_call()?;
        }
        self.to_call()?;
        let registers = ptrace::registers(self.tid)?.ok_or(Broken::Left)?;
        Ok(registers.result())
    }

    fn to_call(&self) -> Result<(), Broken> {
        let deadline = Instant::now() + CALLS;
        for _ in 0..=GROUP_STOPS {
            ptrace::resume_to_call(self.tid, 0)?;
            match ptrace::stop(self.tid, deadline)? {
                Some(Stop::Call) => return Ok(()),
                Some(Stop::Signal(signal)) => return Err(broken_by(self.tid, signal)),
                Some(Stop::Ended) => return Err(Broken::Ended),
                // It has left its calls, and made one of its own.
                Some(Stop::Executed) => return Err(Self::executed(self.tid)),
                // It stops with its group; once more.
                Some(Stop::Event | Stop::Group | Stop::Other(_)) => {}
                None => {
                    return match Self::stop(self.tid)? {
                        Stands::AtACall => Ok(()),
                        Stands::Somewhere | Stands::WithItsGroup => Err(Broken::Stuck),
                    };
                }
            }
        }
        Err(Broken::Stuck)
    }

    /// Lets it go as it was found, with a signal that is due to it (0 for none). Only ending the trace makes the kernel go on
    /// with an interrupted call: letting it run would hand the program the kernel's own marks for that.
    /// <https://elixir.bootlin.com/linux/v6.12/source/kernel/ptrace.c> (`__ptrace_unlink`)
    pub fn leave(&mut self, signal: i32) -> bool {
        self.leave_after(signal, true, || ())
    }

    /// The same, with something to be done when its own registers are back and it still stands. `orderly`: it stands where its last
    /// call has ended. False where the registers could not be put back: it stands and is traced until this process ends, and
    /// then falls into its frame.
    pub fn leave_after(&mut self, signal: i32, orderly: bool, last: impl FnOnce()) -> bool {
        let mut signal = signal;
        let back = self.put_back(&mut signal, orderly).is_ok();
        if back {
            last();
        }
        if back || !self.touched {
            // Where that fails the thread is gone, and there is nobody to be told.
            let _gone = ptrace::detach(self.tid, signal);
        }
        self.left = Some(Instant::now());
        back
    }

    fn put_back(&mut self, signal: &mut i32, orderly: bool) -> Result<(), Errno> {
        // At the entry of a call that is still its own: a filter is asked about whatever the registers say then.
        if self.at_entry && !self.touched {
            return Ok(());
        }
        if !arch::PREPARES_RESTARTS {
            self.give_signals_back()?;
            return ptrace::set_registers(self.tid, &self.saved);
        }
        if !self.touched {
            // The kernel goes on with its call, or has ended it.
            let ended = self.late || self.rest == Rest::Untimed;
            if ended {
                self.rest = Rest::Timed;
            }
            if !self.late {
                return Ok(());
            }
            self.late = false;
            return ptrace::set_registers(self.tid, &self.found.interrupted());
        }
        let mut registers = self.saved;
        if *signal != 0 || !orderly || !self.close(signal) {
            registers = registers.by_hand();
            ptrace::forget_call(self.tid)?;
        }
        self.give_signals_back()?;
        ptrace::set_registers(self.tid, &registers)
    }

    /// Before its own registers are: whoever dies in between has left it on its way into the frame, which has the mask too.
    fn give_signals_back(&mut self) -> Result<(), Errno> {
        match self.mask.take() {
            Some(mask) => ptrace::set_signal_mask(self.tid, mask),
            None => Ok(()),
        }
    }

    /// Makes it make its last call, behind which the kernel takes what its registers say for its own call's end.
    fn close(&self, signal: &mut i32) -> bool {
        let (at, stack, link) = self.calls_by;
        let Some(registers) = self.saved.closing(at, stack, link) else { return true };
        // Its first argument may be anything, and is not to be taken for the end of the call before.
        let ready = ptrace::forget_call(self.tid).and_then(|()| ptrace::set_registers(self.tid, &registers));
        let done = ready.map_err(Broken::from).and_then(|()| self.to_call()).and_then(|()| self.to_call());
        if let Err(Broken::Signal(number)) = done {
            *signal = number;
        }
        done.is_ok()
    }
}
