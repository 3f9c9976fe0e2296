//! Typed reads of kernel structures. The offsets are resolved from the running kernel's BTF and put into the
//! instructions before the object is loaded (see [`member`]), and the verifier checks that a member of the right type
//! and size is there.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
use reaper_ebpf::{Group, interpreter::Executable, member};

/// Not 0 where the pids controller is on a v1 hierarchy, and then that hierarchy's number.
#[unsafe(no_mangle)]
static PIDS_HIERARCHY: Global<u32> = Global::new(0);

/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/sched/signal.h#L253>
const SIGNAL_GROUP_EXIT: u32 = 0x4;

#[inline(always)]
pub(crate) fn read<T: Copy>(base: *const c_void, member: i16) -> T {
    // SAFETY: `base` is a pointer that the verifier has typed, and it accepts the read only where a member of
    // this size lies at the offset. Volatile, because a read may be neither widened nor moved before a test.
    unsafe { base.wrapping_byte_offset(isize::from(member)).cast::<T>().read_volatile() }
}

/// The same where the verifier takes the pointer for a number: by the helper that cannot fault, which kernels in
/// lockdown=confidentiality refuse. None where nothing is there.
#[inline(always)]
pub(crate) fn peek<T: Copy>(base: *const c_void, member: i16) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    #[expect(clippy::cast_possible_truncation, reason = "four or eight bytes")]
    let size = size_of::<T>() as u32;
    let at = base.wrapping_byte_offset(isize::from(member));
    // SAFETY: the helper writes as many bytes as the value has, zeros where it fails, and reads nothing that is not there.
    let (refused, value) =
        unsafe { (bpf_probe_read_kernel(value.as_mut_ptr().cast(), size, at), value.assume_init()) };
    (refused == 0).then_some(value)
}

/// Whether the pids controller is on a v1 hierarchy.
#[inline(always)]
pub(crate) fn pids_are_in_v1() -> bool {
    PIDS_HIERARCHY.load() != 0
}

/// A `task_struct`.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const c_void);

impl Task {
    /// The thread's id.
    #[inline(always)]
    pub(crate) fn pid(self) -> u32 {
        read(self.0, member::TASK_PID)
    }

    /// The thread group's id.
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        read(self.0, member::TASK_TGID)
    }

    /// Its own start, ns since boot.
    #[inline(always)]
    pub(crate) fn start(self) -> u64 {
        read(self.0, member::TASK_START)
    }

    /// The thread group's leader, whose start is the process's.
    #[inline(always)]
    pub(crate) fn leader(self) -> Self {
        Self(read(self.0, member::TASK_GROUP_LEADER))
    }

    /// The thread that has to wait for it, or another of the same group.
    #[inline(always)]
    pub(crate) fn real_parent(self) -> Self {
        Self(read(self.0, member::TASK_REAL_PARENT))
    }

    /// How often the parent had exec'ed when this was forked.
    #[inline(always)]
    pub(crate) fn parent_exec_id(self) -> u32 {
        low(read(self.0, member::TASK_PARENT_EXEC_ID))
    }

    /// How often this has exec'ed, its ancestors' counts included.
    #[inline(always)]
    pub(crate) fn exec_id(self) -> u32 {
        low(read(self.0, member::TASK_SELF_EXEC_ID))
    }

    /// Threads of its group that have not passed the first half of do_exit.
    #[inline(always)]
    pub(crate) fn live(self) -> u32 {
        read(read(self.0, member::TASK_SIGNAL), member::SIGNAL_LIVE)
    }

    /// Whether it has passed the second half of do_exit, which is long after the exit hook.
    #[inline(always)]
    pub(crate) fn has_exited(self) -> bool {
        read::<u32>(self.0, member::TASK_EXIT_STATE) != 0
    }

    /// What wait4 will return for its group, by the same rule:
    /// <https://elixir.bootlin.com/linux/v6.12/source/kernel/exit.c#L1177>
    #[inline(always)]
    pub(crate) fn wait_status(self) -> u32 {
        let signal: *const c_void = read(self.0, member::TASK_SIGNAL);
        if read::<u32>(signal, member::SIGNAL_FLAGS) & SIGNAL_GROUP_EXIT != 0 {
            read(signal, member::SIGNAL_GROUP_EXIT_CODE)
        } else {
            read(self.leader().0, member::TASK_EXIT_CODE)
        }
    }

    /// Its cgroup's id in the v2 hierarchy.
    #[inline(always)]
    pub(crate) fn cgroup_v2(self) -> u64 {
        let set: *const c_void = read(self.0, member::TASK_CGROUPS);
        cgroup_id(read(set, member::CSS_SET_DFL_CGRP))
    }

    /// Its cgroup's id in the v1 pids hierarchy, 0 where there is none.
    #[inline(always)]
    pub(crate) fn cgroup_v1(self) -> u64 {
        if !pids_are_in_v1() {
            return 0;
        }
        let set: *const c_void = read(self.0, member::TASK_CGROUPS);
        cgroup_id(read(read(set, member::CSS_SET_PIDS), member::CSS_CGROUP))
    }

    /// Its cgroups.
    #[inline(always)]
    pub(crate) fn group(self) -> Group {
        Group { v2: self.cgroup_v2(), v1: self.cgroup_v1() }
    }

    /// The inode number of the pid namespace its children are born in, and whether it is that one's first
    /// process. The namespace is its own until it calls unshare. Zero and false where the namespaces are gone.
    #[inline(always)]
    pub(crate) fn pid_namespace(self) -> (u32, bool) {
        let namespaces: *const c_void = read(self.0, member::TASK_NSPROXY);
        if namespaces.is_null() {
            return (0, false);
        }
        let namespace: *const c_void = read(namespaces, member::NSPROXY_PID_NS);
        let init: *const c_void = read(namespace, member::PID_NS_CHILD_REAPER);
        (read(namespace, member::PID_NS_INUM), init.addr() == self.0.addr())
    }

    /// Whether anybody is on this thread's own list of children, zombies included.
    #[inline(always)]
    pub(crate) fn has_children(self) -> bool {
        let first: *const c_void = read(self.0, member::TASK_CHILDREN);
        first.addr() != self.0.wrapping_byte_offset(isize::from(member::TASK_CHILDREN)).addr()
    }

    /// Its name.
    #[inline(always)]
    pub(crate) fn comm(self) -> [u64; 2] {
        [read(self.0, member::TASK_COMM), read(self.0, member::TASK_COMM_REST)]
    }

    /// What `pthread_self` returns in it: the C library sets it once, when it makes the thread. Of a child that a fork has
    /// just made, it is the forking thread's.
    #[inline(always)]
    pub(crate) fn thread_pointer(self) -> u64 {
        read(self.0, member::TASK_THREAD_POINTER)
    }

    /// Its memory, as a number.
    #[inline(always)]
    pub(crate) fn memory(self) -> usize {
        read::<*const c_void>(self.0, member::TASK_MM).addr()
    }

    /// Where its program's code begins.
    #[inline(always)]
    pub(crate) fn code(self) -> u64 {
        read(read(self.0, member::TASK_MM), member::MM_START_CODE)
    }

    /// The file that it executes; all zeros where there is none.
    #[inline(always)]
    pub(crate) fn executable(self) -> Executable {
        let file: *const c_void = read(read(self.0, member::TASK_MM), member::MM_EXE_FILE);
        let inode: *const c_void = read(file, member::FILE_INODE);
        Executable {
            inode: read(inode, member::INODE_NUMBER),
            device: read(read(inode, member::INODE_SB), member::SB_DEVICE),
            generation: read(inode, member::INODE_GENERATION),
            size: read(inode, member::INODE_SIZE),
        }
    }

    /// Where its command line lies in its own memory: start and length.
    #[inline(always)]
    pub(crate) fn arguments(self) -> (u64, u64) {
        let mm: *const c_void = read(self.0, member::TASK_MM);
        let start: u64 = read(mm, member::MM_ARG_START);
        let end: u64 = read(mm, member::MM_ARG_END);
        (start, end.wrapping_sub(start))
    }
}

/// The id of a `struct cgroup` in its hierarchy.
#[inline(always)]
pub(crate) fn cgroup_id(cgroup: *const c_void) -> u64 {
    read(read(cgroup, member::CGROUP_KN), member::KN_ID)
}

/// The number of a `struct cgroup`'s hierarchy (0 is v2), where it is one that is recorded.
#[inline(always)]
pub(crate) fn recorded_hierarchy(cgroup: *const c_void) -> Option<u32> {
    let number: u32 = read(read(cgroup, member::CGROUP_ROOT), member::ROOT_HIERARCHY);
    (number == 0 || number == PIDS_HIERARCHY.load()).then_some(number)
}

/// The number of a `struct pid` in the initial pid namespace.
#[inline(always)]
pub(crate) fn pid_number(pid: *const c_void) -> u32 {
    read(pid, member::PID_NUMBER)
}

#[inline(always)]
fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}
