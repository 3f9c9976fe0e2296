//! The BPF object. One file a probe; what they share is in [`ledger`] (the table), [`kernel`] (typed reads of
//! kernel structures at offsets that userspace resolved) and [`maps`].
//!
//! Every pointer here is one that the kernel's verifier has typed: a read of a wrong member is refused when the
//! object is loaded, and a read through a pointer that was walked (not a tracepoint's argument) cannot fault.

#![no_std]
#![no_main]
#![expect(internal_features, reason = "compare-and-swap does not exist as AtomicU64 on the BPF target")]
#![feature(core_intrinsics)]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros hand a program its context by value")]
#![expect(unsafe_code, reason = "a BPF program is pointers from end to end; the verifier proves them")]

mod atomic;
mod birth;
mod census;
mod cgroup;
mod clone;
mod exec;
mod exit;
mod fork;
mod free;
mod kernel;
mod ledger;
mod maps;
mod notice;
mod origin;
mod reap;
mod signal;
mod wait;

/// The kernel shows some helpers only to programs that say so.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
