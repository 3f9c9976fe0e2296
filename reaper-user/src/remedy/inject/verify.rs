//! What must hold when a thread stands, before anything of it is changed: its instructions, its memory, its filters.

use super::{
    arch,
    attempt::{Attempt, WITHOUT_BLOCKING},
    maps::Maps,
    order::Task,
    outcome::{Outcome, executed, no_instruction},
    ptrace,
    puppet::Puppet,
};

impl Attempt<'_> {
    /// The instructions are where they were found, in memory that is executable.
    pub(super) fn verify_code(&self, maps: &mut Maps) -> Result<(), Outcome> {
        let code = &self.order.code;
        let tid = self.thread.tid;
        if code.call.is_none() || code.sigreturn.is_none() && code.pop_number.is_none() {
            return Err(no_instruction());
        }
        // What the thread would run it has now; what is written goes into the memory that was looked at. They are one, unless that
        // has ended with the program that it was of.
        if self.place.memory().read(code.call.unwrap_or_default(), &mut [0]).is_err() {
            return Err(executed());
        }
        let stack = self.place.stack();
        let of_stack = maps.at(stack.start);
        if !of_stack.is_some_and(|mapping| mapping.start == stack.start && mapping.is_private_memory()) {
            return Err(Outcome::Elsewhere("no-room", "its main stack has changed".to_owned()));
        }
        let wanted: Vec<_> = code.wanted().collect();
        let mut there = Vec::with_capacity(wanted.len());
        for (address, alternatives) in &wanted {
            let mapping = maps.at(*address).filter(|mapping| mapping.is_executable());
            let end = mapping.ok_or_else(no_instruction)?.end;
            let longest = alternatives.iter().map(|bytes| bytes.len()).max().unwrap_or(0);
            // What is wanted may be the last of its mapping, and shorter.
            let length = usize::try_from(end - address).map_or(longest, |left| left.min(longest));
            there.push((*address, vec![0; length]));
        }
        ptrace::read_pieces(tid, &mut there).map_err(|_| no_instruction())?;
        for ((_, alternatives), (_, there)) in wanted.iter().zip(&there) {
            if !alternatives.iter().any(|bytes| there.starts_with(bytes)) {
                return Err(no_instruction());
            }
        }
        Ok(())
    }

    /// Every call that would run is allowed by the thread's filters.
    pub(super) fn ask_filters(&self, puppet: &Puppet) -> Result<(), Outcome> {
        let code = &self.order.code;
        let call = code.call.unwrap_or_default();
        let wait = [1, 0, WITHOUT_BLOCKING, 0, 0, 0];
        let mut calls: Vec<_> = match code.sigreturn {
            // The call is the trampoline's last instruction, in either form of it.
            Some(at) => {
                arch::SIGRETURN_CALLS.map(|into| (libc::SYS_rt_sigreturn, at + into, [0; 6])).to_vec()
            }
            None => vec![(libc::SYS_rt_sigreturn, call, [0; 6])],
        };
        match self.order.task {
            Task::Reap(_) => calls.push((libc::SYS_wait4, call, wait)),
            Task::Autoreap(_) => {
                calls.push((
                    libc::SYS_rt_sigaction,
                    call,
                    [libc::SIGCHLD.unsigned_abs().into(), 1, 0, 8, 0, 0],
                ));
            }
        }
        calls.extend(arch::CLOSING.map(|number| (number, call, [0; 6])));
        if code.pop_first.is_some() {
            calls.push((arch::HOLD, call, [0, 0, WITHOUT_BLOCKING, 0, 1, 0]));
        }
        for (number, at, arguments) in calls {
            puppet.allows(number, at, arguments).map_err(|denied| {
                Outcome::Refused("seccomp-denied", format!("its seccomp filters do not allow it: {denied}"))
            })?;
        }
        Ok(())
    }
}

/// Whether a thread stands in a call that it has made by the usual instruction. One that is about to run a signal's handler has
/// the call's number still, and is somewhere else.
pub(super) fn is_in_call(tid: u32, registers: &arch::Registers) -> bool {
    registers.call().is_some() && is_there(tid, registers.entered_at(), arch::ENTER)
}

/// Whether these bytes are there. Memory is reached by the thread: a main thread that has ended has none.
pub(super) fn is_there(tid: u32, address: u64, bytes: &[u8]) -> bool {
    let mut there = vec![0; bytes.len()];
    ptrace::read(tid, address, &mut there).is_ok() && there == bytes
}
