//! The daemon under lives and leaks that come and go: what it keeps does not grow, and what it lists is what stands.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    ls::Listing,
    support::{Cgroup, Daemon, Pins, Workload, churn, machine, rounds},
};

/// pid and start in clock ticks.
type Process = (u64, u64);

/// Of memory that the kernel shows: what the last rounds may take more than the first, KiB.
const GROWTH: u64 = 1_024;

/// What is gone may be listed until the kernel has freed it.
const SETTLES: Duration = Duration::from_secs(20);

#[test]
fn under_load_neither_memory_nor_descriptors_grow_and_what_is_listed_is_what_stands() {
    let _machine = machine();
    let pins = Pins::new("soak");
    let daemon = Daemon::run_pinned(pins.path(), &["--age", "1s"]);
    let cgroup = Cgroup::new(format!("reaper-soak-{}", std::process::id()));
    let mut lives = Workload::start_in(
        cgroup,
        &churn(),
        &[
            "load",
            "--rate",
            "1200",
            "--workers",
            "6",
            "--leaks",
            "0",
            "--seconds",
            "86400",
            "--truth",
            "{truth}",
        ],
    );
    let proc = format!("/proc/{}", daemon.pid());
    let (mut resident, mut descriptors) = (Vec::new(), Vec::new());
    for round in 0..rounds(8, 60) {
        // What it leaks goes with it.
        let standing = Workload::standing(300);
        // Not to wait for a fact: this is the load.
        thread::sleep(Duration::from_secs(4));
        resident.push(kib(&proc, "VmRSS:"));
        descriptors.push(fs::read_dir(format!("{proc}/fd")).unwrap().count());
        println!("round {round}: {} KiB, {} descriptors", resident[round], descriptors[round]);
        standing.end();
    }
    // The first ones warm it up.
    let middle = resident.len() / 2;
    let (before, after) =
        (resident[..middle].iter().max().unwrap(), resident[middle..].iter().max().unwrap());
    assert!(*after <= before + GROWTH, "{resident:?} KiB");
    let (before, after) =
        (descriptors[..middle].iter().max().unwrap(), descriptors[middle..].iter().max().unwrap());
    assert!(after <= before, "{descriptors:?} descriptors");

    let (settled, _) = lives.settle();
    println!("{settled}");
    let deadline = Instant::now() + SETTLES;
    loop {
        let (there, listed) = (standing(), listed());
        if there == listed {
            break;
        }
        assert!(Instant::now() < deadline, "there: {there:?}\nlisted: {listed:?}");
        thread::sleep(Duration::from_millis(500));
    }
    lives.end();
    daemon.end();
}

fn kib(proc: &str, field: &str) -> u64 {
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// By /proc. A dead leader with living threads is none.
fn standing() -> BTreeSet<Process> {
    let zombie = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read(entry.path().join("stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat).into_owned();
        // From the third field on: the state, …, the 20th the threads, the 22nd the start.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let is = fields[0] == "Z" && fields.get(17)?.parse::<u32>().ok()? <= 1;
        is.then_some((pid, fields.get(19)?.parse().ok()?))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(zombie).collect()
}

/// By the daemon.
fn listed() -> BTreeSet<Process> {
    let zombies = Listing::take().zombies.into_iter();
    let number = |event: &Value, field: &str| event[field].as_u64().unwrap();
    zombies.map(|event| (number(&event, "pid"), number(&event, "start_time") / 10_000_000)).collect()
}
