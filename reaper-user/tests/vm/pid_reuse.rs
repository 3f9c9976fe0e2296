//! A pid can be taken again as soon as its process is released, while the kernel says up to tens of milliseconds later,
//! from RCU, that it freed the process.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::{
    daemon::{Daemon, Key},
    early::Record,
    holder::{Holder, Leak},
    require_vm,
};

const PID_MAX: &str = "/proc/sys/kernel/pid_max";

/// Once the counter has wrapped the kernel gives out no pid below this.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/pid.c#L58>
const RESERVED: u32 = 300;

/// Leaks that stand at the same time.
const LEAKS: u32 = 20;

/// Pids that are left to all others then. So few that they come round within a grace period on a slow machine too.
const LEFT: u32 = 4;

/// `kernel.pid_max`, until it is dropped. It is the initial pid namespace's own since 6.14, which is where we are.
struct PidMax {
    before: String,
}

impl PidMax {
    fn change(value: u32) -> Self {
        let changed = Self { before: fs::read_to_string(PID_MAX).expect(PID_MAX) };
        changed.set(value);
        changed
    }

    fn set(&self, value: u32) {
        let Self { before: _ } = self;
        fs::write(PID_MAX, value.to_string()).expect(PID_MAX);
    }
}

impl Drop for PidMax {
    fn drop(&mut self) {
        let _ = fs::write(PID_MAX, &self.before);
    }
}

/// The `kernel.pid_max` that leaves this many pids for new processes.
fn leaving(number: u32) -> u32 {
    // Threads are not listed in /proc, but are there.
    let mut free = (RESERVED..).filter(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    let last = free.nth(usize::try_from(number - 1).expect("few")).expect("pids do not end");
    last + 1
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_reused_pid_does_not_delete_its_successor() {
    require_vm();
    // The daemon sizes its ledger by what it finds.
    let pid_max = PidMax::change(leaving(200));
    let mut daemon = Daemon::start("1s");
    let mut holder = Holder::start();
    let mut known = BTreeMap::new();
    let record = Record::start();

    for _ in 0..3 {
        // Anew each time: the kernel's own threads come and go.
        pid_max.set(leaving(LEAKS + LEFT));
        let leaks = holder.churn(400, LEAKS);
        let keys = keys_of(&holder, &leaks);
        // While these stand, others pass by them.
        assert!(holder.churn(50, 0).is_empty());
        stand_and_go(&mut daemon, &mut holder, &leaks, &keys);
        // Given back, the pids serve again in the next round.
        known.extend(keys);
    }

    if let Some(record) = record {
        let (forks, early) = record.stop();
        println!("{early} of {forks} processes took over a pid before the one before them was freed");
        assert!(early > 10, "{early} of {forks}: too few to have tested anything");
    }
    assert_eq!(known.len(), 3 * usize::try_from(LEAKS).expect("few"), "no process was leaked twice");
    assert_reported(daemon, &known);
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn the_last_of_many_processes_with_one_pid_is_reported() {
    require_vm();
    let mut daemon = Daemon::start("1s");
    let mut holder = Holder::start();
    let record = Record::start();

    // Thirty in a row are quicker than a grace period: the frees of most come when the last one stands.
    let leaks = holder.succeed(LEAKS, 30);
    let keys = keys_of(&holder, &leaks);
    stand_and_go(&mut daemon, &mut holder, &leaks, &keys);

    if let Some(record) = record {
        let (forks, early) = record.stop();
        println!("{early} of {forks} processes took over a pid before the one before them was freed");
        assert!(early > forks / 2, "{early} of {forks}: too few to have tested anything");
    }
    assert_reported(daemon, &keys);
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_process_is_not_told_of_by_the_signal_of_another_with_its_pid() {
    require_vm();
    let mut daemon = Daemon::start("1s");
    let mut holder = Holder::start();
    let leaks = holder.succeed(10, 10);
    let keys = keys_of(&holder, &leaks);
    stand_and_go(&mut daemon, &mut holder, &leaks, &keys);

    let daemon = daemon.stop();
    let reported = daemon.by_process("zombie");
    // The holder has no handler.
    let told = reported.values().filter(|event| event["evidence"]["sigchld"] == "ignored").count();
    assert_eq!(told, leaks.len(), "of so many it is known what became of their SIGCHLD; {reported:#?}");
}

/// By the process that was leaked, its exit code.
fn keys_of(holder: &Holder, leaks: &[Leak]) -> BTreeMap<Key, u32> {
    leaks.iter().map(|leak| (holder.key_of(*leak), leak.code)).collect()
}

/// Waits for the leaks' reports, lets them go, and waits for the reports of that.
fn stand_and_go(daemon: &mut Daemon, holder: &mut Holder, leaks: &[Leak], keys: &BTreeMap<Key, u32>) {
    for (kind, reap) in [("zombie", true), ("released", false)] {
        daemon.wait_until(kind, |daemon| {
            let seen = daemon.by_process(kind);
            keys.keys().all(|key| seen.contains_key(key))
        });
        for leak in leaks.iter().filter(|_| reap) {
            holder.reap(*leak);
        }
    }
}

/// Nothing is missing and nothing extra.
fn assert_reported(daemon: Daemon, known: &BTreeMap<Key, u32>) {
    let daemon = daemon.stop();
    for kind in ["zombie", "released"] {
        let code =
            |event: &Value| u32::try_from(event["exit"]["code"].as_u64().expect("a code")).expect("a code");
        let seen: BTreeMap<Key, u32> =
            daemon.by_process(kind).into_iter().map(|(key, event)| (key, code(event))).collect();
        assert_eq!(&seen, known, "{kind}");
    }
}
