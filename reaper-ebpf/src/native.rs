//! Native stacks: what the kernel side copies of a process that forks, for userspace to unwind.

use crate::Group;

/// Of whom stacks are copied.
pub mod mode {
    /// Nobody.
    pub const OFF: u64 = 0;
    /// Whoever is in a cgroup on probation.
    pub const PROBATION: u64 = 1;
    /// Everybody.
    pub const ALL: u64 = 2;
}

/// Words of a `pt_regs`: <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/asm/ptrace.h>
pub const REGISTERS: usize = 21;

/// Bytes of a stack that are copied: fewer than this, a power of two.
pub const STACK_BYTES: u32 = 32 << 10;

/// Bytes of a page, at whose end a copy may stop.
pub const PAGE: u32 = 4 << 10;

/// The head of a copy in the ring buffer; the bytes from the stack pointer on follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many bytes follow.
    pub bytes: u32,
    /// The process that forked.
    pub forker: u32,
    /// Identity bits of the process that was forked.
    pub child: u64,
    /// The forker's start, ns since boot.
    pub forker_start: u64,
    /// Its cgroups.
    pub group: Group,
    /// The forking thread's registers as it entered the kernel: those that tell where it was, zeros for the rest.
    pub registers: [u64; REGISTERS],
}

/// Where a copy is put together.
#[repr(C)]
pub struct Scratch {
    /// What goes into the ring buffer: the head,
    pub head: Head,
    /// and the stack. A page more than is kept, so that a page that begins inside ends inside.
    pub stack: [u8; (STACK_BYTES + PAGE) as usize],
    /// How far it was looked.
    pub reached: u32,
}

/// Bytes of the ring buffer: userspace is woken at half of it.
pub const RING_BYTES: u32 = 4 << 20;

/// No wake-up sooner than this after the last, ns, unless the ring buffer is half full: as for other stacks.
pub const APART: u64 = crate::interpreter::STACKS_APART;

/// What may be copied in a while: one every so often, ns, and so many at once after a quiet time. Copying costs microseconds,
/// unwinding up to a millisecond: this bounds what a workload that leaks and forks all the time can make it cost.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// One every so often, ns.
    pub apart: u64,
    /// So many at once.
    pub at_once: u64,
}

/// Of one process.
pub const OF_ONE: Pace = Pace { apart: 200_000_000, at_once: 50 };
/// Of all together.
pub const OF_ALL: Pace = Pace { apart: 50_000_000, at_once: 200 };

impl Pace {
    /// The next moment's debt, where one more may be copied `now`: `due` is what this returned the last time.
    #[must_use]
    #[inline(always)]
    pub const fn take(self, due: u64, now: u64) -> Option<u64> {
        let due = if due < now { now } else { due };
        if due - now > self.apart * self.at_once { None } else { Some(due + self.apart) }
    }
}

const _: () = assert!(size_of::<Head>() == 208);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_lets_a_burst_through_and_then_one_at_a_time() {
        const PACE: Pace = Pace { apart: 10, at_once: 3 };
        let (mut due, mut taken) = (0, Vec::new());
        for now in 1_000..1_030 {
            if let Some(next) = PACE.take(due, now) {
                due = next;
                taken.push(now - 1_000);
            }
        }
        assert_eq!(taken, [0, 1, 2, 3, 10, 20]);
        assert!(PACE.take(due, 5_000).is_some());
    }
}
