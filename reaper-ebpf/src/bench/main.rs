//! What the benchmark measures the ledger against; never shipped. Built and loaded by `cargo xtask bench` only.
//!
//! Two sets of programs on the hooks of the real ones: [`empty`], whose cost is the hooks' own, and the design
//! that comes to mind first, a preallocated hash map from pid to record. The latter is the real programs' source
//! on another [`ledger`], so that both read and write the same fields; only [`fork`] is its own, because a record
//! goes into a hash map in one piece.

#![no_std]
#![no_main]
#![expect(internal_features, reason = "the shared source has compare-and-swap as an intrinsic")]
#![feature(core_intrinsics)]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros hand a program its context by value")]
#![expect(unsafe_code, reason = "a BPF program is pointers from end to end; the verifier proves them")]

#[path = "../atomic.rs"]
#[expect(dead_code, reason = "named by the shared source; a hash map has its own locks")]
mod atomic;
#[path = "../birth.rs"]
#[expect(dead_code, reason = "a hash map's record is put together in one piece")]
mod birth;
mod empty;
#[path = "../exec.rs"]
mod exec;
#[path = "../exit.rs"]
mod exit;
mod fork;
#[path = "../free.rs"]
mod free;
#[path = "../kernel.rs"]
#[expect(dead_code, reason = "some of it is for hooks that no process's life passes")]
mod kernel;
mod ledger;
#[path = "../maps.rs"]
mod maps;
#[path = "../notice.rs"]
mod notice;
mod origin;
#[path = "../signal.rs"]
mod signal;

/// The kernel shows some helpers only to programs that say so.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
