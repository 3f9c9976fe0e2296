//! What the holder is made to do, with its thread standing and its frame laid: waits one by one, a chain of them, or the change of a
//! signal action.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;

use super::{
    attempt::{Attempt, WITHOUT_BLOCKING},
    chain,
    layout::Layout,
    order::Fate,
    ptrace,
    puppet::{Broken, Puppet},
};

impl Attempt<'_> {
    pub(super) fn step(
        &self,
        puppet: &mut Puppet,
        layout: &Layout,
        numbers: &[u32],
        held: &[&OwnedFd],
    ) -> Result<Vec<Fate>, (Broken, Vec<Fate>)> {
        let mut fates = vec![Fate::Untouched; numbers.len()];
        for place in 0..numbers.len() {
            let arguments = [u64::from(numbers[place]), 0, WITHOUT_BLOCKING, 0, 0, 0];
            match puppet.call(layout, &self.order.code, libc::SYS_wait4, arguments) {
                Ok(result) => fates[place] = fate(result, numbers[place]),
                Err(broken) => {
                    // The call may have been made and nobody has seen what it returned: an exec of another thread ends this
                    // one. Whose number is free has been waited for.
                    if held.get(place).is_some_and(|held| !ptrace::is_unwaited(held.as_fd())) {
                        fates[place] = Fate::Reaped;
                    }
                    return Err((broken, fates));
                }
            }
        }
        Ok(fates)
    }

    /// What came of each is to be told when the thread has been let go ([`fates`]); what an error says has been looked at.
    pub(super) fn chain(
        &self,
        puppet: &mut Puppet,
        layout: &Layout,
        numbers: &[u32],
        held: &[&OwnedFd],
    ) -> Result<(), (Broken, Vec<Fate>)> {
        let (Some(first), Some(last)) = (numbers.first(), held.last()) else { return Ok(()) };
        let arguments = [u64::from(*first), 0, WITHOUT_BLOCKING, 0, layout.hold(), 0];
        puppet
            .put(layout, &self.order.code, libc::SYS_wait4, arguments)
            .and_then(|()| chain::run(puppet, layout, numbers.len(), last.as_fd()))
            .map_err(|broken| (broken, fates(held, Fate::Untouched)))
    }

    /// Reads what the holder does at SIGCHLD, and sets it again with or without the flag.
    pub(super) fn autoreap(
        &self,
        puppet: &mut Puppet,
        layout: &Layout,
        wanted: bool,
    ) -> Result<Vec<Fate>, (Broken, Vec<Fate>)> {
        const FLAGS: usize = 8;
        let (memory, code) = (self.place.memory(), &self.order.code);
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
        memory.read(layout.actions(), &mut action).map_err(broken)?;
        let flags = u64::from_le_bytes(action[FLAGS..FLAGS + 8].try_into().unwrap_or_default());
        let flag = u64::from(libc::SA_NOCLDWAIT.unsigned_abs());
        let changed = if wanted { flags | flag } else { flags & !flag };
        if changed == flags {
            return Ok(vec![Fate::Gone]);
        }
        action[FLAGS..FLAGS + 8].copy_from_slice(&changed.to_le_bytes());
        memory.write(layout.actions(), &action).map_err(broken)?;
        let before = layout.actions() + 32;
        let result = act(layout.actions(), before)?;
        if result < 0 {
            return Ok(failed(result));
        }
        let mut replaced = [0; 32];
        memory.read(before, &mut replaced).map_err(broken)?;
        action[FLAGS..FLAGS + 8].copy_from_slice(&flags.to_le_bytes());
        if replaced != action {
            // Another of its threads has set it meanwhile: that one's stays.
            act(before, 0)?;
            return Err((Broken::Signal(0), Vec::new()));
        }
        Ok(vec![Fate::Reaped])
    }
}

/// What came of a chain. What each call of it returned nobody has seen: whose number is free has been waited for. `unwaited` is what the
/// others are: where all calls were made, another round will not take them either.
pub(super) fn fates(held: &[&OwnedFd], unwaited: Fate) -> Vec<Fate> {
    let fate = |held: &&OwnedFd| if ptrace::is_unwaited(held.as_fd()) { unwaited } else { Fate::Reaped };
    held.iter().map(fate).collect()
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
