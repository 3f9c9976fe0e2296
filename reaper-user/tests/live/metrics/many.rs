//! More workloads with zombies than there are places for, each with its names.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use super::{ANY, HOLD, Page, Unit, address, get};
use crate::support::{Cgroup, Cri, Daemon, Says, machine, reaper};

const WORKLOADS: usize = 500;

/// How long all of it may take to read, from the connection to the last byte.
const SCRAPE: Duration = Duration::from_millis(50);

/// Resident bytes of the daemon.
const MEMORY: u64 = 40_000_000;

/// What was measured serves everybody for a quarter of a second: after this it is measured anew.
const APART: Duration = Duration::from_millis(300);

/// The shortest of several: others are at work on this machine.
fn scrape(address: &str) -> Duration {
    let scrapes = (0..9).map(|_| {
        thread::sleep(APART);
        let begun = Instant::now();
        let (status, _) = get(address, "/metrics");
        assert!(status.ends_with("200 OK"), "{status}");
        begun.elapsed()
    });
    let took: Vec<_> = scrapes.collect();
    println!("scrapes of {WORKLOADS} workloads: {took:?}");
    took.into_iter().min().unwrap()
}

/// The daemon's memory in bytes. A build without optimization has three times the code of the one that ships, which
/// `cargo xtask test live` runs: of that only what is not read from its file counts.
fn memory(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    };
    let (all, files) = (field("VmRSS:"), field("RssFile:"));
    println!("with {WORKLOADS} workloads {all} bytes are resident, {files} of them from files");
    if reaper().parent().unwrap().ends_with("debug") { all - files } else { all }
}

#[test]
fn five_hundred_workloads_have_label_sets_of_their_own_or_are_others_where_those_are_capped() {
    let _machine = machine();
    let directory = tempfile::tempdir().unwrap();
    let cri = Cri::start(&directory.path().join("cri.sock"), Says::Names);
    let id = |number: usize| format!("{:032x}{number:032x}", std::process::id());
    let cgroups: Vec<_> =
        (0..WORKLOADS).map(|number| Cgroup::new(format!("cri-containerd-{}.scope", id(number)))).collect();
    let paths: Vec<_> = cgroups.iter().map(|cgroup| cgroup.path().to_str().unwrap()).collect();
    let asked = ["--names-cri", cri.socket().to_str().unwrap(), "--names-docker=off", "--names-podman=off"];
    for (cap, own) in [(1_000, WORKLOADS), (200, 199)] {
        let number = cap.to_string();
        let options = ["--age", "1s", "--metrics-label-sets", &number];
        let daemon = Daemon::run(&[&options, &asked[..], &ANY[..]].concat());
        let (address, unit) = (address(&daemon), Unit::new("many"));
        let mut holder = unit.start(HOLD, &paths);
        holder.wait();
        let of_all = |page: &Page, name: &str| {
            page.sum(name, &[("kind", "container")]) + page.sum(name, &[("kind", "other")])
        };
        let named = [("namespace", "crawlers"), ("pod", "fetcher-7c9d")];
        // Others' containers may have a place among those.
        let all_named = |page: &Page| page.sum("reaper_workload_info", &named) >= 0.9 * own as f64;
        let page = Page::when(&address, "all stand, and have their names", |page| {
            of_all(page, "reaper_zombies_standing") >= WORKLOADS as f64 && all_named(page)
        });
        for name in ["standing", "reported_total", "released_total", "reaped_total"] {
            let sets = page.label_sets(&format!("reaper_zombies_{name}"));
            assert!(sets <= cap && sets >= own, "{sets} of {name} at a cap of {cap}");
        }
        let overflowed = page.sum("reaper_label_sets_overflowed_total", &[("metric", "zombies")]);
        let other = page.sum("reaper_zombies_standing", &[("workload", "other"), ("cause", "other")]);
        assert_eq!(overflowed, other);
        // Somebody else's zombies may have been there first.
        assert!(other >= (WORKLOADS - own) as f64 && (own == WORKLOADS) == (other == 0.0), "{other}");
        if own == WORKLOADS {
            let took = scrape(&address);
            assert!(took < SCRAPE, "{took:?}");
            let bytes = memory(&daemon);
            assert!(bytes < MEMORY, "{bytes} bytes");
        }
        holder.end();
        let page = Page::when(&address, "all are gone and counted", |page| {
            of_all(page, "reaper_zombies_released_total") >= WORKLOADS as f64
                && of_all(page, "reaper_workload_time_to_reap_seconds_count") >= WORKLOADS as f64
        });
        let sets = page.label_sets("reaper_workload_time_to_reap_seconds_count");
        assert!(sets <= cap && sets >= own, "{sets} at a cap of {cap}");
        let counted = page.sum("reaper_workload_time_to_reap_seconds_count", &[]);
        let all = page.sum("reaper_time_to_reap_seconds_count", &[])
            - page.sum("reaper_time_to_reap_seconds_bucket", &[("le", "0.064")]);
        // Somebody else may have been freed between the two readings.
        assert!((counted - all).abs() <= 3.0, "{counted} by workload, {all} of the machine");
        let (name, sets) = page.most_label_sets();
        assert!(sets <= cap && sets >= own, "{name} has {sets} label sets at a cap of {cap}");
        daemon.end();
    }
}
