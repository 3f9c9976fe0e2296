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

mod daemon;
mod early;
mod fentry;
mod holder;
mod hotplug;
mod kinds;
mod leak;
mod pid_reuse;
mod release;
mod suspend;
mod waits;

use std::{path::Path, time::Duration};

/// What is waited for longer than this does not come. Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Only the VM has what the init is told at boot.
fn require_vm() {
    assert!(
        Path::new("/vm/boot").exists(),
        "this test changes the whole machine: run it by `cargo xtask vm`"
    );
}
