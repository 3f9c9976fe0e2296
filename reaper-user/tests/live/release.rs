//! How it ends: by Ctrl-C, by SIGTERM, by its own clock; and nothing of it is left in the kernel.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::support::{Daemon, Ended, SECOND, boot_now, leeway, machine, program, reaper, run_briefly};

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
    let held = held(daemon.pid());
    assert!(!held.is_empty());
    let Ended { code, .. } = daemon.end_with(libc::SIGKILL);
    assert_eq!(code, None);
    assert_gone(&held);
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
    let held = held(daemon.pid());
    assert!(held.iter().any(|(kind, _)| *kind == "prog"), "{held:?}");
    assert!(held.iter().any(|(kind, _)| *kind == "map"), "{held:?}");
    // bpftool must be able to see what is there, or that it is gone proves nothing.
    assert_eq!(existing(&held), held);
    let Ended { code, log, .. } = daemon.end_with(signal);
    assert_eq!(code, Some(0), "{log}");
    assert_gone(&held);
}

/// The BPF programs, maps and links that a process holds, by the kernel's numbers.
fn held(pid: u32) -> BTreeSet<(&'static str, u64)> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let mut held = BTreeSet::new();
    for descriptor in descriptors {
        let text = fs::read_to_string(descriptor.unwrap().path()).unwrap_or_default();
        // A link names its program, too: its own number is what it is held by.
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        for (key, value) in lines {
            let kind = match key {
                "prog_id" => "prog",
                "map_id" => "map",
                "link_id" => "link",
                _ => continue,
            };
            held.insert((kind, value.trim().parse().unwrap()));
        }
    }
    held
}

/// Those of them that are still in the kernel, as bpftool says.
fn existing(held: &BTreeSet<(&'static str, u64)>) -> BTreeSet<(&'static str, u64)> {
    let bpftool = program("bpftool");
    let shows = |kind: &str, id: u64| {
        let mut command = Command::new(&bpftool);
        run_briefly(command.args([kind, "show", "id", &id.to_string()])).status.success()
    };
    held.iter().copied().filter(|(kind, id)| shows(kind, *id)).collect()
}

fn assert_gone(held: &BTreeSet<(&'static str, u64)>) {
    // The kernel frees them after a grace period.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = existing(held);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still in the kernel: {left:?}");
        thread::sleep(Duration::from_millis(100));
    }
}
