//! The ring buffers for stacks and executables, and when their reader is woken: a wake-up costs the forking process twenty times
//! what writing does.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_output},
    maps::RingBuf,
};
use reaper_ebpf::{
    counter,
    interpreter::{EXECS_APART, RING_BYTES, STACKS_APART, wake},
    native,
};

use crate::maps::{NATIVES, ORIGINS, WAKES, count};

/// What is written.
pub(crate) trait Kind {
    /// Where to.
    fn ring() -> &'static RingBuf;
    /// How large that is.
    const RING_BYTES: u32;
    /// The largest one's bytes, and somewhat more.
    const LARGEST: u32;
    /// Where the last wake-up for it is written down.
    const WAKE: u32;
    /// No wake-up sooner than this after the last, ns, unless the ring buffer is half full.
    const APART: u64;
}

/// An interpreter's stack.
pub(crate) struct Stack;

impl Kind for Stack {
    #[inline(always)]
    fn ring() -> &'static RingBuf {
        &ORIGINS
    }
    const RING_BYTES: u32 = RING_BYTES;
    const LARGEST: u32 = 8 << 10;
    const WAKE: u32 = wake::STACK;
    const APART: u64 = STACKS_APART;
}

/// An executable to be looked at.
pub(crate) struct Exec;

impl Kind for Exec {
    #[inline(always)]
    fn ring() -> &'static RingBuf {
        &ORIGINS
    }
    const RING_BYTES: u32 = RING_BYTES;
    const LARGEST: u32 = 128;
    const WAKE: u32 = wake::EXEC;
    const APART: u64 = EXECS_APART;
}

/// A native stack.
pub(crate) struct Copy;

impl Kind for Copy {
    #[inline(always)]
    fn ring() -> &'static RingBuf {
        &NATIVES
    }
    const RING_BYTES: u32 = native::RING_BYTES;
    const LARGEST: u32 = native::STACK_BYTES + native::PAGE;
    const WAKE: u32 = wake::COPY;
    const APART: u64 = native::APART;
}

/// Whether the largest one has room. Where nobody reads, soon none has, and making one is saved.
#[inline(always)]
pub(crate) fn has_room<K: Kind>() -> bool {
    filled::<K>() <= u64::from(K::RING_BYTES - K::LARGEST)
}

/// Writes `length` bytes, or counts what it has no room for: false then.
#[inline(always)]
pub(crate) fn write<K: Kind>(from: *const c_void, length: u64) -> bool {
    let flags = if is_due::<K>() { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    let ring = (&raw const *K::ring()).cast_mut().cast();
    // SAFETY: the caller's bytes are there, by the verifier's own proof; the map is a ring buffer.
    let written = unsafe { bpf_ringbuf_output(ring, from.cast_mut(), length, u64::from(flags)) } == 0;
    if !written {
        count(counter::STACK_LOST);
    }
    written
}

#[inline(always)]
fn filled<K: Kind>() -> u64 {
    K::ring().query(u64::from(BPF_RB_AVAIL_DATA))
}

#[inline(always)]
fn is_due<K: Kind>() -> bool {
    let Some(last) = WAKES.get_ptr_mut(K::WAKE) else { return true };
    // SAFETY: a helper without arguments, and a word of a map. Two CPUs may both find it due.
    unsafe {
        let now = bpf_ktime_get_ns();
        if now.wrapping_sub(last.read_volatile()) < K::APART && filled::<K>() <= u64::from(K::RING_BYTES) / 2
        {
            return false;
        }
        last.write_volatile(now);
    }
    true
}
