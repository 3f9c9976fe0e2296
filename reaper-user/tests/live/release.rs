//! How it ends: by Ctrl-C, by SIGTERM, by its own clock; and nothing of it is left in the kernel.

use std::{process::Command, time::Duration};

use crate::support::{Daemon, Ended, Held, SECOND, boot_now, leeway, machine, reaper, run_briefly};

#[test]
fn ctrl_c_ends_trace_with_exit_code_0_and_leaves_nothing_in_the_kernel() {
    let _machine = machine();
    leaves_nothing(Daemon::trace(&[]), libc::SIGINT);
}

#[test]
fn sigterm_ends_run_with_exit_code_0_and_leaves_nothing_in_the_kernel() {
    let _machine = machine();
    leaves_nothing(Daemon::run(&[]), libc::SIGTERM);
}

#[test]
fn a_daemon_that_is_killed_leaves_nothing_in_the_kernel() {
    let _machine = machine();
    let daemon = Daemon::run(&[]);
    let held = Held::by(daemon.pid());
    let Ended { code, .. } = daemon.end_with(libc::SIGKILL);
    assert_eq!(code, None);
    held.assert_gone();
}

#[test]
fn a_duration_ends_trace_with_exit_code_0_in_time() {
    let _machine = machine();
    let began = boot_now();
    let output = run_briefly(Command::new(reaper()).args(["trace", "--duration", "1s", "--output", "json"]));
    assert!(output.status.success(), "{output:?}");
    let took = boot_now() - began;
    println!("a duration of 1 s took {:.3} s", Duration::from_nanos(took).as_secs_f64());
    assert!((SECOND..6 * SECOND * u64::from(leeway())).contains(&took), "{took} ns");
}

fn leaves_nothing(daemon: Daemon, signal: i32) {
    let held = Held::by(daemon.pid());
    let Ended { code, log, .. } = daemon.end_with(signal);
    assert_eq!(code, Some(0), "{log}");
    held.assert_gone();
}
