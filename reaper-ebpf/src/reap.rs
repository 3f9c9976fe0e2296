//! `release_task(task)`, the function by which a dead process leaves the kernel's tables: when exactly a reported zombie
//! goes, and in whose context. That is the process whose wait returned it, or a dying one: its parent, whose heir does
//! not want it, or its tracer.
//!
//! Optional, and attached with the first zombie: [`release_fentry`] where the kernel lets functions be hooked that way,
//! else [`release_kprobe`]. What is missed here is announced by the free hook all the same.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns},
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use reaper_ebpf::{Notice, WORDS, counter, id, member, notice, state};

use crate::{
    kernel::{Task, peek, read},
    ledger,
    maps::count,
    notice::send,
};

#[fentry(function = "release_task")]
fn release_fentry(ctx: FEntryContext) {
    let task = Task(ctx.arg(0));
    let tgid = task.tgid();
    if task.pid() == tgid {
        announce(id(tgid, task.start()));
    }
}

/// The argument is a number from a register to the verifier, so it is read by the helper that cannot fault. Kernels in
/// lockdown=confidentiality refuse that.
#[kprobe(function = "release_task")]
fn release_kprobe(ctx: ProbeContext) {
    if follow(&ctx).is_none() {
        count(counter::REAP_LOST);
    }
}

/// None where something could not be read.
#[inline(always)]
fn follow(ctx: &ProbeContext) -> Option<()> {
    let task: *const c_void = read(ctx.as_ptr(), member::REGS_ARGUMENT);
    let tgid: u32 = peek(task, member::TASK_TGID)?;
    if peek::<u32>(task, member::TASK_PID)? == tgid {
        announce(id(tgid, peek(task, member::TASK_START)?));
    }
    Some(())
}

/// Says who does it, where the zombie has been reported.
#[inline(always)]
fn announce(id: u64) {
    if ledger::find(id).is_none_or(|entry| entry.state() != state::STANDING) {
        return;
    }
    let mut comm = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: helpers without arguments, and one that writes as many bytes as it is told, zeros where it fails.
    let (comm, time, current) = unsafe {
        bpf_get_current_comm(comm.as_mut_ptr().cast(), 16);
        (comm.assume_init(), bpf_ktime_get_boot_ns(), bpf_get_current_pid_tgid())
    };
    let number = (current >> 32) as u32;
    let mut words = [0; WORDS];
    [words[0], words[1]] = comm;
    send(Notice { kind: notice::REAPED, number, id, time, words }, counter::REAP_LOST);
}
