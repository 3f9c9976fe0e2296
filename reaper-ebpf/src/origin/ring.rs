//! The ring buffer for stacks and executables, and when userspace is woken for it: a wake-up costs the forking process twenty
//! times what writing does.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_output},
};
use reaper_ebpf::{
    counter,
    interpreter::{EXECS_APART, RING_BYTES, STACKS_APART, wake},
};

use crate::maps::{ORIGINS, WAKES, count};

/// Whether the largest stack has room.
#[inline(always)]
pub(crate) fn has_room() -> bool {
    const LARGEST: u32 = 8 << 10;
    ORIGINS.query(u64::from(BPF_RB_AVAIL_DATA)) <= u64::from(RING_BYTES - LARGEST)
}

/// Writes `length` bytes, or counts what it has no room for.
#[inline(always)]
pub(crate) fn write(from: *const c_void, length: u64, kind: u32) {
    let flags = if is_due(kind) { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    // SAFETY: the caller's bytes are there, by the verifier's own proof; the map is a ring buffer.
    let refused = unsafe {
        bpf_ringbuf_output((&raw const ORIGINS).cast_mut().cast(), from.cast_mut(), length, u64::from(flags))
    };
    if refused != 0 {
        count(counter::STACK_LOST);
    }
}

#[inline(always)]
fn is_due(kind: u32) -> bool {
    let Some(last) = WAKES.get_ptr_mut(kind) else { return true };
    // SAFETY: a helper without arguments, and a word of a map. Two CPUs may both find it due.
    unsafe {
        let now = bpf_ktime_get_ns();
        let apart = if kind == wake::EXEC { EXECS_APART } else { STACKS_APART };
        let full = ORIGINS.query(u64::from(BPF_RB_AVAIL_DATA)) > u64::from(RING_BYTES) / 2;
        if now.wrapping_sub(last.read_volatile()) < apart && !full {
            return false;
        }
        last.write_volatile(now);
    }
    true
}
