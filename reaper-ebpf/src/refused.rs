//! Forks that were refused with EAGAIN, as the optional hook on the clone path sees them.
//!
//! Every limit on numbers of tasks refuses with that: RLIMIT_NPROC, kernel.threads-max, `pids.max`, and kernel.pid_max too, for
//! which the kernel turns the ENOSPC of its allocator into it. One thing else does: a task of SCHED_DEADLINE may not fork at all, unless
//! its children are to be ordinary ones. Other errors are no matter of limits: ENOMEM is memory, or a pid namespace whose init is gone,
//! and ERESTARTNOINTR is a signal that came first.
//! <https://elixir.bootlin.com/linux/v6.12/source/kernel/fork.c#L2130> (`copy_process`),
//! <https://elixir.bootlin.com/linux/v6.12/source/kernel/pid.c#L232> (`alloc_pid`),
//! <https://elixir.bootlin.com/linux/v6.12/source/kernel/sched/core.c#L4766> (`sched_fork`)
//!
//! Each is counted in a map by [`Who`], and announced ([`crate::notice::REFUSED`]) unless one of the same [`Who`] was within
//! [`APART`] on the same CPU: whoever is told reads the map, and again when that time is over.

use crate::{Group, WORDS, pack};

/// Whose refusals are counted at a time, at most. Small, because each CPU has its own counts.
pub const KEPT: u32 = 256;

/// Those of one are announced no more often than this by a CPU, nanoseconds.
pub const APART: u64 = 1_000_000_000;

/// Whose forks are counted together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Who {
    /// The cgroup's id in the v1 pids hierarchy, or where there is none in v2.
    pub cgroup: u64,
    /// The real user id.
    pub uid: u32,
    /// Not 0 where the child was to be born in another cgroup (CLONE_INTO_CGROUP), whose `pids.max` it is then. A kretprobe does not
    /// see that.
    pub elsewhere: u32,
}

impl Who {
    /// As the map has it.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        let Self { cgroup, uid, elsewhere } = self;
        [cgroup, pack(elsewhere, uid)]
    }

    /// Reads it out of the map.
    #[must_use]
    pub const fn from_words([cgroup, whose]: [u64; 2]) -> Self {
        Self { cgroup, uid: crate::low(whose), elsewhere: crate::high(whose) }
    }
}

/// What one CPU has counted of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Refused forks.
    pub count: u64,
    /// When one was last announced, ns since boot.
    pub announced: u64,
}

/// Who tried, and what limits the kernel itself knew of at that moment: the words of a notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The thread's name.
    pub comm: [u64; 2],
    /// Its cgroups.
    pub group: Group,
    /// The real user id.
    pub uid: u32,
    /// The inode number of the pid namespace that its children are born in.
    pub pid_ns: u32,
    /// Tasks of the user that are held against RLIMIT_NPROC.
    pub processes: u64,
    /// The caller's RLIMIT_NPROC; [`u64::MAX`] where it is unlimited or nothing is held against it.
    pub nproc: u64,
    /// Pids in use in that namespace.
    pub pids: u32,
    /// How many those may be, where the namespace has a number of its own (from Linux 6.14 on); else 0.
    pub pid_max: u32,
    /// See [`Who::elsewhere`].
    pub elsewhere: bool,
    /// The user namespace is not the initial one: limits of those around it may hold, too, which nobody has read.
    pub nested: bool,
}

/// A bit beside [`Refused::pids`], of which there are at most 2²² (`PID_MAX_LIMIT`), for [`Refused::elsewhere`],
const ELSEWHERE: u32 = 1 << 31;
/// and for [`Refused::nested`].
const NESTED: u32 = 1 << 30;

impl Refused {
    /// As a notice has it.
    #[must_use]
    #[inline(always)]
    pub const fn words(self) -> [u64; WORDS] {
        let Self {
            comm: [first, second],
            group,
            uid,
            pid_ns,
            processes,
            nproc,
            pids,
            pid_max,
            elsewhere,
            nested,
        } = self;
        let elsewhere = if elsewhere { ELSEWHERE } else { 0 };
        let nested = if nested { NESTED } else { 0 };
        let pids = pids & !(ELSEWHERE | NESTED) | elsewhere | nested;
        [first, second, group.v2, group.v1, pack(uid, pid_ns), processes, nproc, pack(pids, pid_max)]
    }

    /// Reads it out of a notice.
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        let [first, second, v2, v1, whose, processes, nproc, pids] = words;
        Self {
            comm: [first, second],
            group: Group { v2, v1 },
            uid: crate::high(whose),
            pid_ns: crate::low(whose),
            processes,
            nproc,
            pids: crate::high(pids) & !(ELSEWHERE | NESTED),
            pid_max: crate::low(pids),
            elsewhere: crate::high(pids) & ELSEWHERE != 0,
            nested: crate::high(pids) & NESTED != 0,
        }
    }

    /// Whose it is counted as.
    #[must_use]
    pub const fn who(&self) -> Who {
        let Group { v2, v1 } = self.group;
        Who { cgroup: if v1 == 0 { v2 } else { v1 }, uid: self.uid, elsewhere: self.elsewhere as u32 }
    }
}

const _: () = assert!(size_of::<Who>() == 16);
const _: () = assert!(size_of::<Tally>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_notice_says_is_read_as_it_was_written() {
        let refused = Refused {
            comm: [1, 2],
            group: Group { v2: 3, v1: 4 },
            uid: 5,
            pid_ns: 6,
            processes: 7,
            nproc: u64::MAX,
            pids: 8,
            pid_max: 9,
            elsewhere: true,
            nested: false,
        };
        for refused in [refused, Refused { elsewhere: false, nested: true, ..refused }] {
            assert_eq!(Refused::from_words(refused.words()), refused);
            assert_eq!(Who::from_words(refused.who().words()), refused.who());
        }
    }

    #[test]
    fn it_is_counted_by_the_hierarchy_that_counts_pids() {
        let of = |v1| Refused { group: Group { v2: 3, v1 }, uid: 5, ..Refused::default() }.who();
        assert_eq!([of(4), of(0)].map(|who| (who.cgroup, who.uid)), [(4, 5), (3, 5)]);
    }
}
