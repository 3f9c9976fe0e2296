//! `sched_process_wait(pid)`: fires at the entry of every wait4 and waitid, in the caller's context. Attached
//! only while a holder is on probation, and records only those holders.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_ktime_get_boot_ns, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use reaper_ebpf::{WaitProfile, awaited, counter};

use crate::{
    kernel::pid_number,
    maps::{ARGUMENT_SCRATCH, AWAITED, WATCHED, count},
};

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
    if let Some(last) = AWAITED.get_ptr_mut(key) {
        // SAFETY: a map's value; of two writers the later one is right enough.
        unsafe { *last = now };
    } else if AWAITED.insert(key, now, 0).is_ok() {
        profile.numbers += 1;
    } else {
        profile.lost += 1;
        count(counter::AWAITED_LOST);
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
