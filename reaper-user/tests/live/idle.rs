//! Idle is idle: how often the daemon wakes up while a thousand healthy processes a second live and die. What it costs
//! is for `cargo xtask bench idle` to say: that depends on the machine.

use std::{collections::HashMap, fs, time::Duration};

use crate::support::{Daemon, SECOND, Workload, boot_now, machine, rounds};

/// Wake-ups a second.
const WAKE_UPS: f64 = 2.0;

#[test]
fn without_zombies_the_daemon_hardly_wakes_up() {
    let _machine = machine();
    let mut daemon = Daemon::trace(&[]);
    let workload = Workload::healthy();

    let (began, before) = (boot_now(), Usage::of(daemon.pid()));
    let seen = daemon.during(Duration::from_secs(rounds(20, 60))).to_vec();
    let (ended, after) = (boot_now(), Usage::of(daemon.pid()));
    workload.end_healthy();
    daemon.end();

    assert!(
        !seen.iter().any(|seen| seen.is("zombie")),
        "there were zombies on this machine, try it when it is quiet: {seen:?}"
    );
    let seconds = Duration::from_nanos(ended - began).as_secs_f64();
    let wake_ups = f64::from(u32::try_from(after.wake_ups_since(&before)).unwrap()) / seconds;
    println!("{wake_ups:.2} wake-ups a second over {seconds:.0} s");
    assert!(wake_ups < WAKE_UPS, "{wake_ups} wake-ups a second: {before:?} {after:?}");
    assert!(ended - began > 15 * SECOND);
}

/// How often each thread has gone to sleep.
#[derive(Debug)]
struct Usage(HashMap<String, u64>);

impl Usage {
    fn of(pid: u32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        Self(
            tasks
                .map(|task| {
                    let task = task.unwrap();
                    let status = fs::read_to_string(task.path().join("status")).unwrap();
                    let switches =
                        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                    let name = task.file_name().into_string().unwrap();
                    (name, switches.unwrap().trim().parse().unwrap())
                })
                .collect(),
        )
    }

    fn wake_ups_since(&self, before: &Self) -> u64 {
        let Self(threads) = self;
        // A thread that is new has done all of its work meanwhile.
        threads.iter().map(|(id, now)| now - before.0.get(id).unwrap_or(&0)).sum()
    }
}
