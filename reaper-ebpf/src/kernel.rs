//! Typed reads of kernel structures. The offsets are resolved from the running kernel's BTF before the object
//! is loaded and lie in frozen read-only data, so the verifier knows each as a constant and checks that a member
//! of the right type and size is there.

use core::ffi::c_void;

use aya_ebpf::Global;

macro_rules! offsets {
    ($($(#[doc = $doc:literal])* $name:ident;)*) => {$(
        $(#[doc = $doc])*
        #[unsafe(no_mangle)]
        static $name: Global<u32> = Global::new(0);
    )*};
}

offsets! {
    TASK_PID; TASK_TGID; TASK_REAL_PARENT; TASK_GROUP_LEADER; TASK_START; TASK_SIGNAL; TASK_EXIT_CODE;
    TASK_PARENT_EXEC_ID; TASK_SELF_EXEC_ID; TASK_CGROUPS; TASK_NSPROXY; TASK_MM;
    SIGNAL_LIVE; SIGNAL_FLAGS; SIGNAL_GROUP_EXIT_CODE;
    MM_ARG_START; MM_ARG_END;
    NSPROXY_PID_NS; PID_NS_INUM; PID_NS_CHILD_REAPER;
    CSS_SET_DFL_CGRP; CSS_SET_PIDS; CSS_CGROUP; CGROUP_KN; CGROUP_ROOT; ROOT_HIERARCHY; KN_ID;
    PID_NUMBER;
}

/// Not 0 where the pids controller is on a v1 hierarchy, and then that hierarchy's number.
#[unsafe(no_mangle)]
static PIDS_HIERARCHY: Global<u32> = Global::new(0);

/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/sched/signal.h#L253>
const SIGNAL_GROUP_EXIT: u32 = 0x4;

#[inline(always)]
fn read<T: Copy>(base: *const c_void, offset: &Global<u32>) -> T {
    // SAFETY: `base` is a pointer that the verifier has typed, and it accepts the read only where a member of
    // this size lies at the offset. Volatile, because a read may be neither widened nor moved before a test.
    unsafe { base.byte_add(offset.load() as usize).cast::<T>().read_volatile() }
}

/// A `task_struct`.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const c_void);

impl Task {
    /// The thread's id.
    #[inline(always)]
    pub(crate) fn pid(self) -> u32 {
        read(self.0, &TASK_PID)
    }

    /// The thread group's id.
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        read(self.0, &TASK_TGID)
    }

    /// Its own start, ns since boot.
    #[inline(always)]
    pub(crate) fn start(self) -> u64 {
        read(self.0, &TASK_START)
    }

    /// The thread group's leader, whose start is the process's.
    #[inline(always)]
    pub(crate) fn leader(self) -> Self {
        Self(read(self.0, &TASK_GROUP_LEADER))
    }

    /// The thread that has to wait for it, or another of the same group.
    #[inline(always)]
    pub(crate) fn real_parent(self) -> Self {
        Self(read(self.0, &TASK_REAL_PARENT))
    }

    /// How often the parent had exec'ed when this was forked.
    #[inline(always)]
    pub(crate) fn parent_exec_id(self) -> u32 {
        low(read(self.0, &TASK_PARENT_EXEC_ID))
    }

    /// How often this has exec'ed, its ancestors' counts included.
    #[inline(always)]
    pub(crate) fn exec_id(self) -> u32 {
        low(read(self.0, &TASK_SELF_EXEC_ID))
    }

    /// Threads of its group that have not passed the first half of do_exit.
    #[inline(always)]
    pub(crate) fn live(self) -> u32 {
        read(read(self.0, &TASK_SIGNAL), &SIGNAL_LIVE)
    }

    /// What wait4 will return for its group, by the same rule:
    /// <https://elixir.bootlin.com/linux/v6.12/source/kernel/exit.c#L1177>
    #[inline(always)]
    pub(crate) fn wait_status(self) -> u32 {
        let signal: *const c_void = read(self.0, &TASK_SIGNAL);
        if read::<u32>(signal, &SIGNAL_FLAGS) & SIGNAL_GROUP_EXIT != 0 {
            read(signal, &SIGNAL_GROUP_EXIT_CODE)
        } else {
            read(self.leader().0, &TASK_EXIT_CODE)
        }
    }

    /// Its cgroup's id in the v2 hierarchy.
    #[inline(always)]
    pub(crate) fn cgroup_v2(self) -> u64 {
        let set: *const c_void = read(self.0, &TASK_CGROUPS);
        cgroup_id(read(set, &CSS_SET_DFL_CGRP))
    }

    /// Its cgroup's id in the v1 pids hierarchy, 0 where there is none.
    #[inline(always)]
    pub(crate) fn cgroup_v1(self) -> u64 {
        if PIDS_HIERARCHY.load() == 0 {
            return 0;
        }
        let set: *const c_void = read(self.0, &TASK_CGROUPS);
        cgroup_id(read(read(set, &CSS_SET_PIDS), &CSS_CGROUP))
    }

    /// The inode number of the pid namespace its children are born in, and whether it is that one's first
    /// process. Zero and false where the namespaces are gone.
    #[inline(always)]
    pub(crate) fn pid_namespace(self) -> (u32, bool) {
        let namespaces: *const c_void = read(self.0, &TASK_NSPROXY);
        if namespaces.is_null() {
            return (0, false);
        }
        let namespace: *const c_void = read(namespaces, &NSPROXY_PID_NS);
        let init: *const c_void = read(namespace, &PID_NS_CHILD_REAPER);
        (read(namespace, &PID_NS_INUM), init.addr() == self.0.addr())
    }

    /// Where its command line lies in its own memory: start and length.
    #[inline(always)]
    pub(crate) fn arguments(self) -> (u64, u64) {
        let mm: *const c_void = read(self.0, &TASK_MM);
        let start: u64 = read(mm, &MM_ARG_START);
        let end: u64 = read(mm, &MM_ARG_END);
        (start, end.wrapping_sub(start))
    }
}

/// The id of a `struct cgroup` in its hierarchy.
#[inline(always)]
pub(crate) fn cgroup_id(cgroup: *const c_void) -> u64 {
    read(read(cgroup, &CGROUP_KN), &KN_ID)
}

/// The number of a `struct cgroup`'s hierarchy (0 is v2), where it is one that is recorded.
#[inline(always)]
pub(crate) fn recorded_hierarchy(cgroup: *const c_void) -> Option<u32> {
    let number: u32 = read(read(cgroup, &CGROUP_ROOT), &ROOT_HIERARCHY);
    (number == 0 || number == PIDS_HIERARCHY.load()).then_some(number)
}

/// The number of a `struct pid` in the initial pid namespace.
#[inline(always)]
pub(crate) fn pid_number(pid: *const c_void) -> u32 {
    read(pid, &PID_NUMBER)
}

#[inline(always)]
fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}
