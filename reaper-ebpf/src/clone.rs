//! The return of the kernel's function that makes a process or thread: forks that were refused with EAGAIN, by whatever limit.
//! See [`refused`] for which errors those are and why no others.
//!
//! Optional, and attached as long as the daemon runs: [`refused_fexit`] where the kernel lets functions be hooked that way,
//! [`refused_fexit_plain`] where it has no typed current task for that (before 5.11), else [`refused_kretprobe`]. A fork that
//! succeeds leaves each at its first comparison.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA},
    helpers::generated::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf,
        bpf_get_current_uid_gid, bpf_ktime_get_boot_ns,
    },
    macros::{fexit, kretprobe},
    programs::{FExitContext, RetProbeContext},
};
use reaper_ebpf::{
    Group, Notice, counter, member, notice,
    refused::{APART, Refused, Tally},
};

use crate::{
    kernel::{peek, pids_are_in_v1, read},
    maps::{NOTICES, REFUSED, count},
    notice::send,
};

const EAGAIN: i64 = 11;

/// Not 0 where a user's tasks are counted in `struct ucounts` (from Linux 5.14 on), not in `struct user_struct`.
#[unsafe(no_mangle)]
static UCOUNTS: Global<u32> = Global::new(0);

/// Not 0 where each pid namespace has its own `pid_max`.
#[unsafe(no_mangle)]
static OWN_PID_MAX: Global<u32> = Global::new(0);

/// `pid_t kernel_clone(struct kernel_clone_args *)`: the result comes behind the one argument.
#[fexit(function = "kernel_clone")]
fn refused_fexit(ctx: FExitContext) {
    if i64::from(ctx.arg::<i32>(1)) == -EAGAIN {
        // SAFETY: a helper without arguments; there always is a current task.
        let task = unsafe { bpf_get_current_task_btf() }.cast_const().cast();
        heed::<Typed>(task, goes_elsewhere(ctx.arg(0)));
    }
}

#[fexit(function = "kernel_clone")]
fn refused_fexit_plain(ctx: FExitContext) {
    if i64::from(ctx.arg::<i32>(1)) == -EAGAIN {
        heed::<Untyped>(current(), goes_elsewhere(ctx.arg(0)));
    }
}

/// `struct task_struct *copy_process(...)`, which `kernel_clone` calls: of functions that may be awaited a kretprobe has few at a
/// time, and the outer one waits for the child of a vfork.
#[kretprobe(function = "copy_process")]
fn refused_kretprobe(ctx: RetProbeContext) {
    if read::<i64>(ctx.as_ptr(), member::REGS_RESULT) == -EAGAIN {
        // What it was called with is not there any more.
        heed::<Untyped>(current(), false);
    }
}

/// Whether the child was to be born in another cgroup, whose `pids.max` it is then. Of version 1 nobody can ask that.
#[inline(always)]
fn goes_elsewhere(arguments: *const c_void) -> bool {
    /// Of linux/sched.h.
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    // The flags come first: <https://elixir.bootlin.com/linux/v6.12/source/include/linux/sched/task.h#L22>
    // SAFETY: the verifier has typed the pointer, and a read through it cannot fault.
    !pids_are_in_v1() && (unsafe { arguments.cast::<u64>().read_volatile() }) & CLONE_INTO_CGROUP != 0
}

#[inline(always)]
fn current() -> *const c_void {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_task() as *const c_void }
}

/// How members of the kernel's structures are read.
trait Look {
    /// None where it cannot be.
    fn at<T: Copy>(base: *const c_void, member: i16) -> Option<T>;
}

/// From pointers that the verifier has typed.
struct Typed;

impl Look for Typed {
    #[inline(always)]
    fn at<T: Copy>(base: *const c_void, member: i16) -> Option<T> {
        Some(read(base, member))
    }
}

/// From pointers that are numbers to it.
struct Untyped;

impl Look for Untyped {
    #[inline(always)]
    fn at<T: Copy>(base: *const c_void, member: i16) -> Option<T> {
        peek(base, member)
    }
}

#[inline(always)]
fn heed<L: Look>(task: *const c_void, elsewhere: bool) {
    if note::<L>(task, elsewhere).is_none() {
        count(counter::REFUSED_LOST);
    }
}

/// Counts it, and announces it where that is due. None where something could not be read or found no room.
#[inline(always)]
fn note<L: Look>(task: *const c_void, elsewhere: bool) -> Option<()> {
    let group = group::<L>(task)?;
    // SAFETY: a helper without arguments.
    let uid = (unsafe { bpf_get_current_uid_gid() } & 0xffff_ffff) as u32;
    let refused = Refused { group, uid, elsewhere, ..Refused::default() };
    let tally = tally(refused)?;
    // SAFETY: a helper without arguments, and a per-CPU value: its only writer, for a program is not run inside itself.
    let now = unsafe {
        (*tally).count += 1;
        let (now, announced) = (bpf_ktime_get_boot_ns(), (*tally).announced);
        if announced != 0 && now.wrapping_sub(announced) < APART {
            return Some(());
        }
        now
    };
    // Releases need the room more: those that are not announced are found in the map.
    if NOTICES.query(u64::from(BPF_RB_AVAIL_DATA)) > u64::from(notice::RING_BYTES) / 2 {
        return Some(());
    }
    announce::<L>(task, refused, now)?;
    // SAFETY: as above.
    unsafe { (*tally).announced = now };
    Some(())
}

/// This CPU's counts of whose forks these are.
#[inline(always)]
fn tally(refused: Refused) -> Option<*mut Tally> {
    let who = refused.who();
    if let Some(tally) = REFUSED.get_ptr_mut(who) {
        return Some(tally);
    }
    // Another CPU may have been faster.
    let _there: Result<(), i32> = REFUSED.insert(who, Tally::default(), u64::from(BPF_NOEXIST));
    REFUSED.get_ptr_mut(who)
}

/// Says who tried. None where something could not be read.
#[inline(always)]
fn announce<L: Look>(task: *const c_void, refused: Refused, time: u64) -> Option<()> {
    let start = L::at(L::at(task, member::TASK_GROUP_LEADER)?, member::TASK_START)?;
    let mut comm = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: a helper without arguments, and one that writes as many bytes as it is told, zeros where it fails.
    let (comm, current) = unsafe {
        bpf_get_current_comm(comm.as_mut_ptr().cast(), 16);
        (comm.assume_init(), bpf_get_current_pid_tgid())
    };
    let (processes, nproc, nested) = nproc::<L>(task, refused.uid)?;
    let (pid_ns, pids, pid_max) = pids::<L>(task)?;
    let words = Refused { comm, pid_ns, processes, nproc, pids, pid_max, nested, ..refused }.words();
    let number = (current >> 32) as u32;
    // Where there is no room for it, that is counted there.
    send(Notice { kind: notice::REFUSED, number, id: start, time, words }, counter::REFUSED_LOST);
    Some(())
}

/// The cgroups of a task.
#[inline(always)]
fn group<L: Look>(task: *const c_void) -> Option<Group> {
    let set = L::at(task, member::TASK_CGROUPS)?;
    let id = |cgroup| L::at(L::at(cgroup, member::CGROUP_KN)?, member::KN_ID);
    let v2 = id(L::at(set, member::CSS_SET_DFL_CGRP)?)?;
    let v1 =
        if pids_are_in_v1() { id(L::at(L::at(set, member::CSS_SET_PIDS)?, member::CSS_CGROUP)?)? } else { 0 };
    Some(Group { v2, v1 })
}

/// How many tasks the user has, how many it may have by RLIMIT_NPROC, where any are held against it, and whether its user namespace is
/// not the initial one:
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/fork.c#L2255>
#[inline(always)]
fn nproc<L: Look>(task: *const c_void, uid: u32) -> Option<(u64, u64, bool)> {
    /// CAP_SYS_ADMIN and CAP_SYS_RESOURCE, of which those in the initial user namespace count.
    const EXEMPT: u32 = 1 << 21 | 1 << 24;
    let credentials: *const c_void = L::at(task, member::TASK_REAL_CRED)?;
    // To a kernel built with clang it is one that may be null.
    if credentials.is_null() {
        return None;
    }
    let processes = if UCOUNTS.load() == 0 {
        u64::from(L::at::<u32>(L::at(credentials, member::CRED_USER)?, member::USER_PROCESSES)?)
    } else {
        L::at(L::at(credentials, member::CRED_UCOUNTS)?, member::UCOUNTS_PROCESSES)?
    };
    let limit = L::at(L::at(task, member::TASK_SIGNAL)?, member::SIGNAL_NPROC)?;
    let level: u32 = L::at(L::at(credentials, member::CRED_USER_NS)?, member::USER_NS_LEVEL)?;
    let capabilities: u32 = L::at(credentials, member::CRED_CAPABILITIES)?;
    let exempt = uid == 0 || level == 0 && capabilities & EXEMPT != 0;
    Some((processes, if exempt { u64::MAX } else { limit }, level != 0))
}

/// The pid namespace that a task's children are born in, how many pids are in use there, and how many may be.
#[inline(always)]
fn pids<L: Look>(task: *const c_void) -> Option<(u32, u32, u32)> {
    /// Set while the namespace has an init: <https://elixir.bootlin.com/linux/v6.12/source/include/linux/pid_namespace.h>
    const ADDING: u32 = 1 << 31;
    let namespace = L::at(L::at(task, member::TASK_NSPROXY)?, member::NSPROXY_PID_NS)?;
    let allocated: u32 = L::at(namespace, member::PID_NS_ALLOCATED)?;
    let most = if OWN_PID_MAX.load() == 0 { 0 } else { L::at(namespace, member::PID_NS_MAX)? };
    Some((L::at(namespace, member::PID_NS_INUM)?, allocated & !ADDING, most))
}
