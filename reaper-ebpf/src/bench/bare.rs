//! The shipped fork program as it would be if no stacks were taken; never shipped. Built and loaded by `cargo xtask bench` only.

#![no_std]
#![no_main]
#![expect(internal_features, reason = "the shared source has compare-and-swap as an intrinsic")]
#![feature(core_intrinsics)]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros hand a program its context by value")]
#![expect(unsafe_code, reason = "a BPF program is pointers from end to end; the verifier proves them")]

#[path = "../atomic.rs"]
mod atomic;
#[path = "../birth.rs"]
#[expect(dead_code, reason = "some of it is for processes whose fork was missed")]
mod birth;
#[path = "../fork.rs"]
mod fork;
#[path = "../kernel.rs"]
#[expect(dead_code, reason = "some of it is for other hooks")]
mod kernel;
#[path = "../ledger.rs"]
#[expect(dead_code, reason = "some of it is for other hooks")]
mod ledger;
#[path = "../maps.rs"]
mod maps;
#[path = "bare_origin.rs"]
mod origin;

/// The kernel shows some helpers only to programs that say so.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
