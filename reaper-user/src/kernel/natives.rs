//! Native stacks at forks, as the kernel side copies them.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use aya::{
    Btf, Ebpf,
    maps::{Array, HashMap, MapData, RingBuf},
};
use reaper_ebpf::{
    Group,
    interpreter::stage,
    native::{Head, REGISTERS, mode},
};

use super::{Kernel, KernelError, attach, census, map};
use crate::identity::{BootTime, Identity};

/// The stage that follows the fork program.
const NATIVE: (&str, &str) = ("fork_native", "sched_process_fork");

/// Of whom native stacks are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copying {
    /// Whoever is in a cgroup on probation.
    Probation,
    /// Everybody.
    All,
}

/// A copy.
#[derive(Clone, Debug)]
pub struct Copied {
    /// Identity bits of the process that was forked.
    pub child: u64,
    /// Who forked it.
    pub forker: Identity,
    /// That one's cgroups.
    pub group: Group,
    /// `struct pt_regs`, as far as it tells where the thread was.
    pub registers: [u64; REGISTERS],
    /// From the stack pointer on.
    pub stack: Vec<u8>,
}

/// The kernel side's end of it, for whoever reads.
pub struct Natives(RingBuf<MapData>);

/// The kernel side's end of it, for whoever says of whom.
pub(super) struct Copies {
    mode: Array<MapData, u64>,
    probation: HashMap<MapData, [u64; 2], u64>,
    /// Of those that are on probation and of nobody else.
    by_probation: bool,
}

impl Copies {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let (mode, probation) = (map(ebpf, "COPYING")?, map(ebpf, "PROBATION")?);
        Ok(Self { mode, probation, by_probation: false })
    }

    fn set(&mut self, mode: u64) -> Result<(), KernelError> {
        self.mode.set(0, mode, 0).map_err(|error| KernelError::map("COPYING", error))
    }
}

/// Loads the program. Nothing else needs it.
pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), KernelError> {
    let (name, tracepoint) = NATIVE;
    attach::tracing_program(ebpf, name)?
        .load(tracepoint, btf)
        .map_err(|error| KernelError::program(name, error))
}

impl Kernel {
    /// Why no native stacks can be copied, where they cannot.
    #[must_use]
    pub const fn no_natives(&self) -> Option<&KernelError> {
        self.no_natives.as_ref()
    }

    /// Begins to copy them. Once.
    pub fn natives(&mut self, copying: Copying) -> Result<Natives, KernelError> {
        let Self { ebpf, stages, copies, .. } = self;
        let mut natives = Natives(map(ebpf, "NATIVES")?);
        // An earlier daemon's.
        let known: Vec<_> = copies.probation.keys().flatten().collect();
        for group in known {
            let _gone = copies.probation.remove(&group);
        }
        while natives.0.next().is_some() {}
        let (name, _) = NATIVE;
        stages.follow_forks(ebpf, stage::NATIVE, name)?;
        copies.by_probation = copying == Copying::Probation;
        copies.set(match copying {
            Copying::Probation => mode::OFF,
            Copying::All => mode::ALL,
        })?;
        Ok(natives)
    }

    /// Ends it, and with it that of Python's stacks: nobody reads any more.
    pub fn take_no_stacks(&mut self) -> Result<(), KernelError> {
        self.copies.by_probation = false;
        self.copies.set(mode::OFF)?;
        self.stages.clear_forks()
    }

    /// Copies native stacks of those in these cgroups, once that is settled. False where there is no room.
    pub fn copy_in(&mut self, group: Group) -> bool {
        self.copies.probation.insert([group.v2, group.v1], 0, 0).is_ok()
    }

    /// Does so no longer.
    pub fn copy_no_longer_in(&mut self, group: Group) {
        // It was never there where there was no room.
        let _gone = self.copies.probation.remove(&[group.v2, group.v1]);
    }

    /// Says whether any are on probation. Where none are, nobody's cgroups are looked up: every fork on the machine pays for that.
    pub fn settle_copies(&mut self, any: bool) -> Result<(), KernelError> {
        if self.copies.by_probation {
            self.copies.set(if any { mode::PROBATION } else { mode::OFF })?;
        }
        Ok(())
    }
}

impl Natives {
    /// Takes out all that is there, and shows it.
    pub fn each(&mut self, mut visit: impl FnMut(Copied)) {
        while let Some(bytes) = self.0.next() {
            match read(&bytes) {
                Some(copied) => visit(copied),
                None => tracing::warn!(length = bytes.len(), "an unknown entry from the kernel side"),
            }
        }
    }
}

impl AsFd for Natives {
    fn as_fd(&self) -> BorrowedFd<'_> {
        #![expect(unsafe_code, reason = "aya shows a ring buffer's descriptor only as a number")]
        // SAFETY: the descriptor is the map's, which the ring buffer owns for as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

fn read(bytes: &[u8]) -> Option<Copied> {
    let (head, stack) = bytes.split_first_chunk::<{ size_of::<Head>() }>()?;
    let [lengths, child, start, v2, v1, registers @ ..]: [u64; size_of::<Head>() / 8] = census::words(head);
    let stack = stack.get(..super::low(lengths) as usize)?;
    let forker = Identity { pid: super::high(lengths), start: BootTime(start) };
    Some(Copied { child, forker, group: Group { v2, v1 }, registers, stack: stack.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_as_long_as_its_head_says_and_no_longer() {
        let mut bytes = vec![0; size_of::<Head>() + 16];
        bytes[..8].copy_from_slice(&[3, 0, 0, 0, 42, 0, 0, 0]);
        bytes[8] = 7;
        (bytes[24], bytes[32], bytes[40]) = (3, 4, 15);
        bytes[size_of::<Head>()..][..3].copy_from_slice(b"abc");
        let copied = read(&bytes).unwrap();
        assert_eq!((copied.child, copied.forker.pid, copied.registers[0]), (7, 42, 15));
        assert_eq!((copied.group, &*copied.stack), (Group { v2: 3, v1: 4 }, b"abc".as_slice()));
        bytes[0] = 17;
        assert!(read(&bytes).is_none() && read(&bytes[..100]).is_none());
    }
}
