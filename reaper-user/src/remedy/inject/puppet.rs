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

/// How long a thread may take to stop, and to make a call that does not block.
pub const STOPS: Duration = Duration::from_millis(20);

/// Stops that a thread may be in of its own group's, before it makes its call.
const GROUP_STOPS: u32 = 3;

/// A thread that stands.
#[derive(Debug)]
pub struct Puppet {
    /// Its id.
    pub tid: u32,
    /// As it was found, and as it is to be left: what the kernel has already made of an interrupted call is undone.
    saved: Registers,
    /// It stands at the entry into a call, which it has not made yet.
    at_entry: bool,
    /// What kind of rest it was stopped in.
    pub rest: Rest,
    /// When it was let go.
    pub left: Option<Instant>,
    /// Its call is begun anew, because it may not be gone on with.
    pub late: bool,
    filters: Filters,
}

/// Why a thread could not be brought to stand, or to make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It has ended.
    Ended,
    /// It has not stopped in time: it is traced still, until this process ends.
    NoStop,
    /// This signal is to be delivered to it, with its own registers.
    Signal(i32),
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

impl Puppet {
    /// Stops a thread that has been seized. Signals that are about to be delivered to it are.
    pub fn stop(tid: u32) -> Result<(), Broken> {
        ptrace::interrupt(tid)?;
        let deadline = Instant::now() + STOPS;
        loop {
            match ptrace::stop(tid, deadline)? {
                None => return Err(Broken::NoStop),
                Some(Stop::Event) => return Ok(()),
                Some(Stop::Ended) => return Err(Broken::Ended),
                Some(Stop::Signal(signal)) => ptrace::resume(tid, signal)?,
                Some(Stop::Call | Stop::Other(_)) => ptrace::resume(tid, 0)?,
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
                None => return Self::stop(tid).map(|()| false),
                Some(Stop::Call) => return Ok(true),
                Some(Stop::Ended) => return Err(Broken::Ended),
                Some(Stop::Signal(number)) => signal = number,
                Some(Stop::Event | Stop::Other(_)) => {}
            }
        }
    }

    /// Takes a thread that stands in a call, as `registers` say, or at the entry of one.
    ///
    /// Its filters are read where it has any: from here on it is known how it is to be left.
    pub fn take(tid: u32, registers: Registers, at_entry: bool, filtered: bool) -> Result<Self, Errno> {
        let number = registers.call().unwrap_or(u64::MAX);
        let mut this = Self {
            tid,
            saved: registers,
            at_entry,
            rest: Rest::Exact,
            left: None,
            late: false,
            filters: Filters::default(),
        };
        if at_entry {
            this.saved = registers.to_be_reissued();
        } else {
            this.rest = rest::stopped(number, registers.arguments(), registers.result());
            if this.rest == Rest::Untimed {
                this.saved = registers.to_be_restarted();
            }
        }
        if filtered {
            match Filters::of(tid) {
                Ok(filters) => this.filters = filters,
                // Better late than killed by a filter that cannot be read.
                Err(error) => {
                    this.begin_anew();
                    this.leave(0);
                    return Err(error);
                }
            }
            let from = registers.entered_at();
            if this.allows(libc::SYS_restart_syscall, from, [0; 6]).is_err() {
                this.begin_anew();
            }
        }
        Ok(this)
    }

    /// A call that is gone on with by another call is made again from its start instead: with its whole time.
    fn begin_anew(&mut self) {
        if self.saved.call().is_some() && self.saved.result() == arch::RESTART_BLOCK {
            self.saved = self.saved.to_be_reissued();
            self.late = true;
        }
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
        let registers = self.saved.on_its_own();
        Ok(vectors.map(|vectors| Context { registers, vectors, mask }))
    }

    /// Its stack pointer.
    pub const fn stack(&self) -> u64 {
        self.saved.stack()
    }

    /// Puts a first call into its registers, to be made when it runs.
    pub fn put(&self, layout: &Layout, code: &Code, call: i64, arguments: [u64; 6]) -> Result<(), Broken> {
        let (number, at) = (call.unsigned_abs(), code.call.ok_or(Broken::Left)?);
        let registers = if self.at_entry {
            self.saved.calling_instead(number, arguments, at, layout.stack)
        } else {
            self.saved.calling(number, arguments, at, layout.stack)
        };
        Ok(ptrace::set_registers(self.tid, &registers)?)
    }

    /// Makes it make one call, and says what that returned. It stands again, at the exit from it.
    pub fn call(
        &mut self,
        layout: &Layout,
        code: &Code,
        call: i64,
        arguments: [u64; 6],
    ) -> Result<i64, Broken> {
        self.put(layout, code, call, arguments)?;
        if !std::mem::take(&mut self.at_entry) {
            self.to_call()?;
        }
        self.to_call()?;
        let registers = ptrace::registers(self.tid)?.ok_or(Broken::Left)?;
        Ok(registers.result())
    }

    fn to_call(&self) -> Result<(), Broken> {
        let deadline = Instant::now() + STOPS;
        for _ in 0..=GROUP_STOPS {
            ptrace::resume_to_call(self.tid, 0)?;
            match ptrace::stop(self.tid, deadline)? {
                Some(Stop::Call) => return Ok(()),
                Some(Stop::Signal(signal)) => return Err(Broken::Signal(signal)),
                Some(Stop::Ended) => return Err(Broken::Ended),
                // It stops with its group; once more.
                Some(Stop::Event | Stop::Other(_)) => {}
                None => {
                    Self::stop(self.tid)?;
                    return Err(Broken::Stuck);
                }
            }
        }
        Err(Broken::Stuck)
    }

    /// Lets it go as it was found, with a signal that is due to it (0 for none). Only ending the trace makes the kernel go on
    /// with an interrupted call: letting it run would hand the program the kernel's own marks for that.
    /// <https://elixir.bootlin.com/linux/v6.12/source/kernel/ptrace.c> (`__ptrace_unlink`)
    pub fn leave(&mut self, signal: i32) {
        self.leave_after(signal, || ());
    }

    /// The same, with something to be done when its own registers are back and it still stands.
    pub fn leave_after(&mut self, signal: i32, last: impl FnOnce()) {
        // Where one of them fails the thread is gone, and there is nobody to be told.
        if ptrace::set_registers(self.tid, &self.saved).is_ok() {
            last();
            let _gone = ptrace::detach(self.tid, signal);
        }
        self.left = Some(Instant::now());
    }
}
