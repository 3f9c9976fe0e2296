//! A process's memory, read by a helper that cannot fault: what is not there is zeros.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use reaper_ebpf::interpreter::Scratch;

/// A word; 0 where there is none.
#[inline(always)]
pub(super) fn peek(at: u64) -> u64 {
    let mut value = 0_u64;
    read(&raw mut value, at);
    // SAFETY: it is on the stack.
    unsafe { (&raw const value).read_volatile() }
}

/// The same, and notes whether it could be read.
#[inline(always)]
pub(super) fn hop(unread: *mut u64, at: u64) -> u64 {
    let mut value = 0_u64;
    note(unread, read(&raw mut value, at));
    // SAFETY: it is on the stack.
    unsafe { (&raw const value).read_volatile() }
}

/// Notes what a helper says, which is 0 where it could read: any bit stays.
#[inline(always)]
pub(super) fn note(unread: *mut u64, said: i64) {
    // SAFETY: it is in the scratch, which is of this program alone.
    unsafe { unread.write_volatile(unread.read_volatile() | said.cast_unsigned()) };
}

/// Not 0 where it cannot be read.
#[inline(always)]
fn read(value: *mut u64, at: u64) -> i64 {
    // SAFETY: the helper writes as many bytes as the value has.
    unsafe { bpf_probe_read_user(value.cast(), 8, at as *const c_void) }
}

/// Reads so many bytes, at most 255, to where [`word`] and [`half`] find them. Not 0 where they cannot be read.
#[inline(always)]
pub(super) fn fill(scratch: *mut Scratch, at: u64, bytes: u32) -> i64 {
    // SAFETY: the room for what is read is larger; the helper writes as many bytes as it is told.
    unsafe { bpf_probe_read_user((&raw mut (*scratch).read).cast(), bytes & 0xff, at as *const c_void) }
}

/// A word of what was read last.
#[inline(always)]
pub(super) fn word(scratch: *mut Scratch, offset: u16) -> u64 {
    // SAFETY: five bits are an index into 32 words.
    unsafe { (&raw const (*scratch).read).cast::<u64>().add(usize::from(offset >> 3 & 0x1f)).read_volatile() }
}

/// Four bytes of what was read last.
#[inline(always)]
pub(super) fn half(scratch: *mut Scratch, offset: u16) -> u32 {
    // SAFETY: six bits are an index into 64 halves.
    unsafe { (&raw const (*scratch).read).cast::<u32>().add(usize::from(offset >> 2 & 0x3f)).read_volatile() }
}
