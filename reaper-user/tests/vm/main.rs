//! The kernel-facing tests that need a machine of their own: `cargo xtask vm` runs them as root in a VM, on each kernel of
//! the matrix. They are ignored elsewhere, because they change settings of the whole machine.
//!
//! In the VM are the daemon and the examples, in `PATH`, and nothing else.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "clippy.toml's exceptions reach test functions but not what they call"
)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod apparmor;
mod cgroups;
mod clock;
mod daemon;
mod early;
mod fentry;
mod forker;
mod holder;
mod hotplug;
mod kinds;
mod leak;
// Kernels of aarch64 refuse that program, and `reaper check` says so.
#[cfg(target_arch = "x86_64")]
mod origins;
mod pid_reuse;
mod pins;
#[expect(dead_code, reason = "not all that the live tests use of it is used here")]
#[path = "../live/support/random.rs"]
mod random;
mod reap;
mod refused;
mod refused_by_machine;
mod refused_hook;
mod refused_often;
mod release;
mod suspend;
mod waits;
mod yama;

use std::{path::Path, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// What is waited for longer than this does not come. Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nanoseconds on the boot clock.
fn boot_now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).expect("after boot") * 1_000_000_000 + u64::try_from(now.tv_nsec).expect("ns")
}

/// Only the VM has what the init is told at boot.
fn require_vm() {
    assert!(
        Path::new("/vm/boot").exists(),
        "this test changes the whole machine: run it by `cargo xtask vm`"
    );
}
