//! Idle is idle: what the daemon costs while a thousand healthy processes a second live and die.

use std::{collections::HashMap, fs, time::Duration};

use crate::support::{Daemon, SECOND, Workload, boot_now, machine, rounds};

/// Wake-ups a second.
const WAKE_UPS: f64 = 2.0;

/// Share of one core.
const CORE: f64 = 0.001;

#[test]
fn without_zombies_the_daemon_hardly_wakes_up() {
    let _machine = machine();
    let mut daemon = Daemon::trace(&[]);
    let workload = Workload::start(&["idle", "--rate", "1100"]);
    workload.wait_for("warm", Duration::from_secs(30));

    let (began, before) = (boot_now(), Usage::of(daemon.pid()));
    let seen = daemon.during(Duration::from_secs(rounds(20, 60))).to_vec();
    let (ended, after) = (boot_now(), Usage::of(daemon.pid()));
    workload.end();
    daemon.end();

    assert!(seen.is_empty(), "there were zombies on this machine, try it when it is quiet: {seen:?}");
    let seconds = Duration::from_nanos(ended - began).as_secs_f64();
    let wake_ups = f64::from(u32::try_from(after.wake_ups_since(&before)).unwrap()) / seconds;
    let cpu = Duration::from_nanos(after.cpu_since(&before)).as_secs_f64() / seconds;
    println!("{wake_ups:.2} wake-ups a second, {:.4} % of a core, over {seconds:.0} s", cpu * 100.0);
    assert!(wake_ups < WAKE_UPS, "{wake_ups} wake-ups a second: {before:?} {after:?}");
    assert!(cpu < CORE, "{} % of a core: {before:?} {after:?}", cpu * 100.0);
    assert!(ended - began > 15 * SECOND);
}

/// What each thread has used: times it went to sleep, and ns on a CPU.
#[derive(Debug)]
struct Usage(HashMap<String, (u64, u64)>);

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
                    let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap();
                    let on_cpu = schedstat.split(' ').next().unwrap().parse().unwrap();
                    let name = task.file_name().into_string().unwrap();
                    (name, (switches.unwrap().trim().parse().unwrap(), on_cpu))
                })
                .collect(),
        )
    }

    fn since(&self, before: &Self, of: impl Fn((u64, u64)) -> u64) -> u64 {
        let Self(threads) = self;
        // A thread that is new has done all of its work meanwhile.
        threads.iter().map(|(id, now)| of(*now) - before.0.get(id).map_or(0, |then| of(*then))).sum()
    }

    fn wake_ups_since(&self, before: &Self) -> u64 {
        self.since(before, |(wake_ups, _)| wake_ups)
    }

    fn cpu_since(&self, before: &Self) -> u64 {
        self.since(before, |(_, cpu)| cpu)
    }
}
