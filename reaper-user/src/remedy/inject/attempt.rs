//! One stop of one thread: everything that has to be looked at is looked at before a register is changed, and whatever
//! happens then the thread is left as it was found.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::Instant,
};

use rustix::io::Errno;

use super::{
    arch, chain,
    layout::{self, Layout},
    maps::Maps,
    order::{Answer, Fate, Order},
    place::{MainStack, Place as FramePlace},
    ptrace,
    puppet::{Broken, Puppet},
    rest::Rest,
    threads::{Place, Seccomp, Thread},
    work::no_place,
};

/// `WNOHANG | __WALL`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/wait.h>
const WITHOUT_BLOCKING: u64 = 1 | 0x4000_0000;

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

/// What came of a stop.
pub enum Outcome {
    /// The step is done, or what the fates say of it.
    Done(Vec<Fate>),
    /// Another thread or another moment may be better.
    Elsewhere(&'static str, String),
    /// Not with this holder.
    Refused(&'static str, String),
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
        let filtered = match self.thread.seccomp() {
            Some(Seccomp::Off) => false,
            Some(Seccomp::Filters) => true,
            Some(Seccomp::Strict) => {
                return Outcome::Refused("seccomp-strict", format!("thread {tid} is in strict mode"));
            }
            None => return Outcome::Elsewhere("gone", format!("thread {tid} has ended")),
        };
        // A main thread that has ended shows none.
        let Some(mut maps) = Maps::open(&self.directory.join("task").join(tid.to_string())) else {
            return Outcome::Elsewhere("gone", format!("thread {tid} has ended"));
        };
        if let Err(error) = ptrace::seize(tid) {
            return self.not_seized(error);
        }
        let mut began = Instant::now();
        let mut stopped = || -> Result<(arch::Registers, bool), Broken> {
            Puppet::stop(tid)?;
            let registers = ptrace::registers(tid)?.ok_or(Broken::Left)?;
            if registers.is_native() && registers.call().is_none() {
                // Not in its own code: the kernel would not abort what must not be interrupted there (rseq).
                let caught = Puppet::run_to_call(tid)?;
                began = Instant::now();
                return Ok((ptrace::registers(tid)?.ok_or(Broken::Left)?, caught));
            }
            Ok((registers, false))
        };
        let (registers, at_entry) = match stopped() {
            Ok(stopped) => stopped,
            Err(broken) => return broken_before(tid, broken),
        };
        if !registers.is_native() {
            let _gone = ptrace::detach(tid, 0);
            return Outcome::Refused("arch-32bit", "it runs code for another architecture".to_owned());
        }
        if registers.call().is_none() {
            let _gone = ptrace::detach(tid, 0);
            return Outcome::Elsewhere("user-code", format!("thread {tid} makes no call"));
        }
        let mut puppet = match Puppet::take(tid, registers, at_entry, filtered) {
            Ok(puppet) => puppet,
            Err(error) => return unreadable_filters(error),
        };
        let outcome = self.work(step, &mut puppet, &registers, &mut maps);
        answer.pauses.push(puppet.left.map_or_else(|| began.elapsed(), |left| left - began));
        answer.late += u32::from(puppet.late);
        answer.interrupted += u32::from(puppet.rest == Rest::Timed);
        answer.fell_through += u32::from(matches!(outcome, Outcome::Elsewhere("fell-through", _)));
        outcome
    }

    /// With the thread standing: what must hold is verified, the frame laid, the calls made, the thread let go.
    fn work(
        &self,
        step: &Step<'_>,
        puppet: &mut Puppet,
        registers: &arch::Registers,
        maps: &mut Maps,
    ) -> Outcome {
        match self.prepare(step, puppet, registers, maps) {
            Ok((layout, chained)) => self.act(step, puppet, &layout, chained),
            Err(outcome) => {
                puppet.leave(0);
                outcome
            }
        }
    }

    fn prepare(
        &self,
        step: &Step<'_>,
        puppet: &Puppet,
        registers: &arch::Registers,
        maps: &mut Maps,
    ) -> Result<(Layout, bool), Outcome> {
        let order = self.order;
        if puppet.rest == Rest::Timed && !order.allow_interrupted_wait {
            return Err(Outcome::Elsewhere(
                "timed-wait",
                format!("thread {} was in a wait that ends early", puppet.tid),
            ));
        }
        let code = &order.code;
        let chained = matches!(step, Step::Reap { stepwise: false, .. })
            && code.pop_first.is_some()
            && code.pop_number.is_some();
        self.verify_code(maps, registers)?;
        self.ask_filters(puppet, chained)?;
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
        if self.place.is_near(puppet.stack()) {
            let Outcome::Refused(word, message) = refused_place(&super::place::NoPlace::Unwinding) else {
                return Err(Outcome::Elsewhere("unwinding", String::new()));
            };
            return Err(Outcome::Refused(word, message));
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

    fn act(&self, step: &Step<'_>, puppet: &mut Puppet, layout: &Layout, chained: bool) -> Outcome {
        let pid = self.order.holder.pid;
        if let Err(error) = ptrace::write(pid, layout.at, &layout.bytes) {
            puppet.leave(0);
            return kernel("writing into its stack", error);
        }
        // From here on the tracer may die at any moment.
        let done = match step {
            Step::Reap { numbers, held, .. } if chained => self.chain(puppet, layout, numbers, held),
            Step::Reap { numbers, .. } => self.step(puppet, layout, numbers),
            Step::Autoreap(wanted) => self.autoreap(puppet, layout, *wanted),
        };
        // Nobody is in the frame any more once its own registers are back.
        let in_use = layout.in_use();
        let done_with = || {
            let _gone = ptrace::write(pid, in_use, &0_u64.to_le_bytes());
        };
        match done {
            Ok(fates) => {
                puppet.leave_after(0, done_with);
                Outcome::Done(fates)
            }
            Err((Broken::Signal(signal), fates)) => {
                puppet.leave_after(signal, done_with);
                Outcome::Done(fates)
            }
            Err((Broken::Stuck, _)) => {
                puppet.leave_after(0, done_with);
                Outcome::Refused("no-run", "it stands and does not run: its cgroup may be frozen".to_owned())
            }
            Err((Broken::Left, fates)) if chained => {
                if fates.iter().any(|fate| *fate != Fate::Untouched) {
                    return Outcome::Done(fates);
                }
                Outcome::Elsewhere("fell-through", "it was left before it was done".to_owned())
            }
            Err((broken, _)) => broken_before(puppet.tid, broken),
        }
    }

    fn step(
        &self,
        puppet: &mut Puppet,
        layout: &Layout,
        numbers: &[u32],
    ) -> Result<Vec<Fate>, (Broken, Vec<Fate>)> {
        let mut fates = vec![Fate::Untouched; numbers.len()];
        for place in 0..numbers.len() {
            let arguments = [u64::from(numbers[place]), 0, WITHOUT_BLOCKING, 0, 0, 0];
            match puppet.call(layout, &self.order.code, libc::SYS_wait4, arguments) {
                Ok(result) => fates[place] = fate(result, numbers[place]),
                Err(broken) => return Err((broken, fates)),
            }
        }
        Ok(fates)
    }

    fn chain(
        &self,
        puppet: &Puppet,
        layout: &Layout,
        numbers: &[u32],
        held: &[&OwnedFd],
    ) -> Result<Vec<Fate>, (Broken, Vec<Fate>)> {
        let first = numbers.first().copied().unwrap_or_default();
        let arguments = [u64::from(first), 0, WITHOUT_BLOCKING, 0, layout.hold(), 0];
        let ran = puppet
            .put(layout, &self.order.code, libc::SYS_wait4, arguments)
            .and_then(|()| chain::run(puppet, layout, numbers.len()));
        // What each call returned nobody has seen: whose number is free has been waited for.
        let fates = || {
            held.iter()
                .map(|held| if ptrace::is_unwaited(held.as_fd()) { Fate::Untouched } else { Fate::Reaped })
                .collect()
        };
        match ran {
            Ok(()) => {
                let all: Vec<Fate> = fates();
                // All calls were made: one that is there still will not be taken by another round.
                Ok(all
                    .into_iter()
                    .map(|fate| if fate == Fate::Untouched { Fate::Failed(0) } else { fate })
                    .collect())
            }
            Err(broken) => Err((broken, fates())),
        }
    }

    /// Reads what the holder does at SIGCHLD, and sets it again with or without the flag.
    fn autoreap(
        &self,
        puppet: &mut Puppet,
        layout: &Layout,
        wanted: bool,
    ) -> Result<Vec<Fate>, (Broken, Vec<Fate>)> {
        const FLAGS: usize = 8;
        let (pid, code) = (self.order.holder.pid, &self.order.code);
        let mut act = |new: u64, old: u64| {
            let arguments = [libc::SIGCHLD.unsigned_abs().into(), new, old, 8, 0, 0];
            let result = puppet.call(layout, code, libc::SYS_rt_sigaction, arguments);
            result.map_err(|broken| (broken, Vec::new()))
        };
        let failed = |result: i64| vec![Fate::Failed(i32::try_from(-result).unwrap_or(i32::MAX))];
        let result = act(0, layout.actions())?;
        if result < 0 {
            return Ok(failed(result));
        }
        let mut action = [0; 32];
        let broken = |error: Errno| (Broken::from(error), Vec::new());
        ptrace::read(pid, layout.actions(), &mut action).map_err(broken)?;
        let flags = u64::from_le_bytes(action[FLAGS..FLAGS + 8].try_into().unwrap_or_default());
        let flag = u64::from(libc::SA_NOCLDWAIT.unsigned_abs());
        let changed = if wanted { flags | flag } else { flags & !flag };
        if changed == flags {
            return Ok(vec![Fate::Gone]);
        }
        action[FLAGS..FLAGS + 8].copy_from_slice(&changed.to_le_bytes());
        ptrace::write(pid, layout.actions(), &action).map_err(broken)?;
        let result = act(layout.actions(), 0)?;
        Ok(if result < 0 { failed(result) } else { vec![Fate::Reaped] })
    }

    /// The instructions are where they were found, in memory that is executable; and the thread has entered the kernel as 64-bit
    /// programs do.
    fn verify_code(&self, maps: &mut Maps, registers: &arch::Registers) -> Result<(), Outcome> {
        let code = &self.order.code;
        let pid = self.order.holder.pid;
        let is_there = |address: u64, bytes: &[u8]| {
            let mut there = vec![0; bytes.len()];
            ptrace::read(pid, address, &mut there).is_ok() && there == bytes
        };
        if !is_there(registers.entered_at(), arch::ENTER) {
            return Err(Outcome::Refused(
                "arch-32bit",
                "it has entered the kernel in another way".to_owned(),
            ));
        }
        if code.call.is_none() || code.sigreturn.is_none() && code.pop_number.is_none() {
            return Err(no_instruction());
        }
        let stack = self.place.stack();
        let of_stack = maps.at(stack.start);
        if !of_stack.is_some_and(|mapping| mapping.start == stack.start && mapping.is_private_memory()) {
            return Err(Outcome::Elsewhere("no-room", "its main stack has changed".to_owned()));
        }
        for (address, alternatives) in code.wanted() {
            let executable = maps.at(address).is_some_and(|mapping| mapping.is_executable());
            if !executable || !alternatives.iter().any(|bytes| is_there(address, bytes)) {
                return Err(no_instruction());
            }
        }
        Ok(())
    }

    /// Every call that would run is allowed by the thread's filters.
    fn ask_filters(&self, puppet: &Puppet, chained: bool) -> Result<(), Outcome> {
        let code = &self.order.code;
        let call = code.call.unwrap_or_default();
        let sigreturn = code.sigreturn.unwrap_or(call);
        let wait = [1, 0, WITHOUT_BLOCKING, 0, 0, 0];
        let mut calls = vec![(libc::SYS_rt_sigreturn, sigreturn, [0; 6])];
        match self.order.task {
            super::order::Task::Reap(_) => calls.push((libc::SYS_wait4, call, wait)),
            super::order::Task::Autoreap(_) => {
                calls.push((
                    libc::SYS_rt_sigaction,
                    call,
                    [libc::SIGCHLD.unsigned_abs().into(), 1, 0, 8, 0, 0],
                ));
            }
        }
        if chained {
            calls.push((arch::HOLD, call, [0, 0, WITHOUT_BLOCKING, 0, 1, 0]));
        }
        for (number, at, arguments) in calls {
            puppet.allows(number, at, arguments).map_err(|denied| {
                Outcome::Refused("seccomp-denied", format!("its seccomp filters do not allow it: {denied}"))
            })?;
        }
        Ok(())
    }

    fn not_seized(&self, error: Errno) -> Outcome {
        let tid = self.thread.tid;
        match error {
            Errno::SRCH => Outcome::Elsewhere("gone", format!("thread {tid} has ended")),
            Errno::PERM if tracer(self.directory).is_some_and(|tracer| tracer != 0) => {
                Outcome::Refused("traced", "a debugger is attached to it".to_owned())
            }
            Errno::PERM | Errno::ACCESS => Outcome::Refused("not-permitted", not_permitted(self.directory)),
            error => kernel("tracing it", error),
        }
    }
}

/// What a wait returned.
fn fate(result: i64, number: u32) -> Fate {
    const NO_CHILD: i64 = -(libc::ECHILD as i64);
    match result {
        result if result == i64::from(number) => Fate::Reaped,
        NO_CHILD => Fate::Gone,
        result => Fate::Failed(i32::try_from(-result).unwrap_or(0)),
    }
}

/// Where the main thread's stack pointer is, where that can be known without stopping it.
pub fn main_stack(main: Option<&Thread>) -> Option<MainStack> {
    let Some(main) = main else { return Some(MainStack::Ended) };
    match main.place() {
        Some(Place::Blocked { stack, .. }) => Some(MainStack::Blocked(stack)),
        Some(Place::Running) => None,
        None => Some(MainStack::Ended),
    }
}

fn refused_place(no: &super::place::NoPlace) -> Outcome {
    let (word, message) = no_place(no).refusal.unwrap_or_default();
    match word.as_str() {
        "unwinding" => Outcome::Refused("unwinding", message),
        _ => Outcome::Refused("no-room", message),
    }
}

fn no_instruction() -> Outcome {
    Outcome::Refused("no-instruction", "its code has no instruction that could be used".to_owned())
}

fn kernel(what: &str, error: Errno) -> Outcome {
    Outcome::Elsewhere("failed", format!("{what}: {}", std::io::Error::from(error)))
}

fn unreadable_filters(error: Errno) -> Outcome {
    let why = std::io::Error::from(error);
    let message = format!(
        "its seccomp filters could not be read: {why} (CAP_SYS_ADMIN, and no filter on reaper itself, are needed)"
    );
    Outcome::Refused("seccomp-unreadable", message)
}

fn broken_before(tid: u32, broken: Broken) -> Outcome {
    match broken {
        Broken::Ended => Outcome::Elsewhere("gone", format!("thread {tid} has ended")),
        Broken::NoStop => Outcome::Refused("no-stop", format!("thread {tid} did not stop in time")),
        Broken::Kernel(error) => kernel("tracing it", error),
        Broken::Signal(_) | Broken::Stuck | Broken::Left => {
            Outcome::Refused("no-stop", format!("thread {tid} could not be brought to stand"))
        }
    }
}

fn tracer(directory: &Path) -> Option<u32> {
    let status = fs::read_to_string(directory.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()
}

/// Who has said no: a policy of the machine's, of the holder's profile, or the kernel for want of a capability.
fn not_permitted(directory: &Path) -> String {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if scope.trim() == "3" {
        return "kernel.yama.ptrace_scope is 3: nobody may trace; set it to 2 or less and restart the machine".to_owned();
    }
    let profile = fs::read_to_string(directory.join("attr/current")).unwrap_or_default();
    let profile = profile.trim_end_matches(['\0', '\n']);
    if !profile.is_empty() && !profile.starts_with("unconfined") {
        return format!(
            "the security module does not let it be traced (its profile: {}): allow `ptrace (tracedby)` by reaper's own \
             profile there, and `ptrace (trace)` of it in reaper's",
            crate::text::Untrusted::from(profile)
        );
    }
    "it may not be traced: CAP_SYS_PTRACE over its user namespace is missing, or a security module says no"
        .to_owned()
}
