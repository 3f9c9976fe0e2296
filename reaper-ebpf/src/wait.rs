//! `sched_process_wait(pid)`: fires at the entry of every wait4 and waitid, in the caller's context. Attached
//! only while a holder is on probation, and records only those holders.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext, Global,
    helpers::generated::{bpf_get_current_task_btf, bpf_ktime_get_boot_ns, bpf_task_pt_regs},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use reaper_ebpf::{Awaited, WaitProfile, awaited, counter, member};

use crate::{
    kernel::{pid_number, read},
    maps::{ARGUMENT_SCRATCH, AWAITED, WATCHED, count},
};

/// The numbers of the two system calls; 0 where the kernel lets no registers be read (before 5.15).
#[unsafe(no_mangle)]
static WAIT4: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static WAITID: Global<u32> = Global::new(0);

#[btf_tracepoint(function = "sched_process_wait")]
fn wait(ctx: BtfTracePointContext) {
    let Some(profile) = WATCHED.get_ptr_mut(ctx.tgid()) else { return };
    let number = number(&ctx);
    // SAFETY: a map's value, and a helper without arguments. Two threads of one holder may lose a count between
    // them; that there was a wait, and when, is never lost.
    unsafe {
        let profile = &mut *profile;
        let now = bpf_ktime_get_boot_ns();
        profile.last = now;
        if number == 0 {
            profile.any += 1;
        } else {
            profile.one += 1;
            profile.last_number = number;
            enter(ctx.tgid(), number, now, profile);
        }
    }
}

/// Keeps a number that was asked for.
#[inline(always)]
fn enter(holder: u32, number: u32, now: u64, profile: &mut WaitProfile) {
    let key = awaited(holder, number);
    let (pid, group) = kind();
    if let Some(known) = AWAITED.get_ptr_mut(key) {
        // SAFETY: a map's value; of two writers the later one is right enough.
        unsafe {
            if pid {
                (*known).as_pid = now;
            }
            if group {
                (*known).as_group = now;
            }
        }
        return;
    }
    let times = Awaited { as_pid: if pid { now } else { 0 }, as_group: if group { now } else { 0 } };
    if AWAITED.insert(key, times, 0).is_ok() {
        profile.numbers += 1;
    } else {
        profile.lost += 1;
        count(counter::AWAITED_LOST);
    }
}

/// `P_PGID`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/wait.h>
const P_PGID: u32 = 2;

/// Whether the number is a pid's, a process group's, or may be either's: the hook's argument looks the same, the caller's
/// registers do not.
#[inline(always)]
fn kind() -> (bool, bool) {
    let (wait4, waitid) = (WAIT4.load(), WAITID.load());
    if wait4 == 0 {
        return (true, true);
    }
    // SAFETY: the helpers take and return what the verifier knows the type of.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const c_void;
    let call: u32 = read(registers, member::REGS_CALL);
    let first = (read::<u64>(registers, member::REGS_ARGUMENT) & 0xffff_ffff) as u32;
    if call == wait4 {
        // 0 is its own group, a negative number another one.
        let pid = first.cast_signed() > 0;
        (pid, !pid)
    } else if call == waitid {
        (first != P_PGID, first == P_PGID)
    } else {
        // Of a 32-bit program.
        (true, true)
    }
}

/// The pid or process group that is waited for; 0 for any child.
///
/// The argument is NULL for any child. Some kernels' verifiers take a tracepoint's argument for never NULL and
/// delete a test for it (6.17, 6.18), others refuse a read without one (6.8, 6.12, 7.x). So it is tested twice:
/// as a pointer for those that insist, and as a number that went through memory, which no verifier can delete.
#[inline(always)]
fn number(ctx: &BtfTracePointContext) -> u32 {
    let pid: *const c_void = ctx.arg(0);
    let Some(scratch) = ARGUMENT_SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: a per-CPU value. Volatile, so that what is read back is not known to be what was written.
    let seen = unsafe {
        scratch.write_volatile(pid.addr() as u64);
        scratch.read_volatile()
    };
    if seen == 0 || pid.is_null() {
        return 0;
    }
    pid_number(pid)
}
