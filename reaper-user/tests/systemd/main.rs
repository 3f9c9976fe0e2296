//! The deployed unit under systemd: `cargo xtask vm` boots a machine whose PID 1 it is, and runs this in it. What the unit may do is
//! read of /proc, what it says of the journal.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "clippy.toml's exceptions reach test functions but not what they call"
)]

mod unit;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use unit::{Leak, Unit, must, property};

/// What the manifests put a daemon under that only reports.
const PROFILE: &str = include_str!("../../../deploy/kubernetes/seccomp/report-only.json");

/// What the unit holds, by their numbers, and what only remedies need.
const REPORTING: [(&str, u32); 4] =
    [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_DAC_READ_SEARCH", 2), ("CAP_SYS_PTRACE", 19)];
const REMEDIES: [(&str, u32); 2] = [("CAP_KILL", 5), ("CAP_SYS_ADMIN", 21)];

/// Without these it does not run.
const INDISPENSABLE: [&str; 2] = ["CAP_BPF", "CAP_PERFMON"];

/// `reaper`'s exit code where a privilege is missing.
const PERMISSION: &str = "77";

const CONFIGURATION: &str = "age = '500ms'\noutput = 'json'\nnames.systemd = 'off'\n";

const RULE: &str =
    "rule = [{ match.unit = 'nobody.service', steps = [{ remedy = 'nudge', after = '1h' }] }]\n";

fn mask(capabilities: &[(&str, u32)]) -> u64 {
    capabilities.iter().fold(0, |mask, (_, number)| mask | 1 << number)
}

/// The capabilities and the seccomp mode of the running daemon.
fn status(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let value = text.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel knows that field");
    let radix = if field == "Seccomp:" { 10 } else { 16 };
    u64::from_str_radix(value.trim(), radix).expect("a number")
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask vm"]
fn the_unit_reports_a_leak_with_its_capabilities_alone_reloads_and_ends_at_once() {
    let unit = Unit::configured(CONFIGURATION, &[]);
    unit.start();
    let pid = unit.pid();
    // Of what is inheritable systemd leaves what is ambient.
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:", "CapInh:"] {
        assert_eq!(status(pid, set), mask(&REPORTING), "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs:"), 1);
    assert_eq!(status(pid, "Seccomp:"), 2, "a filter");

    let leak = Leak::start("leak");
    let event = unit.zombie_of(&leak);
    assert_eq!(event["workload"]["kind"], "unit", "{event:#}");
    assert_eq!(event["workload"]["unit"], "leak.service", "{event:#}");
    leak.end();

    assert!(property("StatusText").contains("an age of 500ms"), "{}", property("StatusText"));
    unit.configure(&CONFIGURATION.replace("500ms", "700ms"));
    must("systemctl", &["reload", "reaper"]);
    unit.says("the configuration has been read again");
    unit.until("it is ready again", || property("StatusText").contains("an age of 700ms"));
    assert_eq!(unit.pid(), pid, "a reload is no restart");
    assert!(Path::new("/sys/fs/bpf/reaper").is_dir(), "it is pinned");

    let asked = Instant::now();
    must("systemctl", &["stop", "reaper"]);
    let took = asked.elapsed();
    println!("stopped in {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(property("Result"), "success");
    assert!(Path::new("/sys/fs/bpf/reaper").is_dir(), "what is pinned outlives it");
    unit.start();
    unit.says("took over what an earlier daemon has pinned");
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask vm"]
fn a_daemon_that_stands_still_is_ended_by_the_watchdog_and_started_again() {
    let unit = Unit::configured(CONFIGURATION, &["WatchdogSec=2s", "RestartSec=100ms"]);
    unit.start();
    let first = unit.pid();
    let told = property("WatchdogTimestampMonotonic");
    unit.until("the watchdog is told", || property("WatchdogTimestampMonotonic") != told);
    assert_eq!(property("NRestarts"), "0");
    must("systemctl", &["kill", "--signal=STOP", "reaper"]);
    unit.until("the watchdog acts", || property("NRestarts") == "1");
    unit.until("it runs again", || property("ActiveState") == "active");
    assert_ne!(unit.pid(), first);
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask vm"]
fn each_capability_that_is_taken_away_is_named_and_none_is_a_crash() {
    for (name, number) in REPORTING {
        taken_away(name, number, false);
    }
    for (name, number) in REMEDIES {
        taken_away(name, number, true);
    }
}

/// `remedies`: with the addition that is deployed for rules that do something.
fn taken_away(name: &str, number: u32, remedies: bool) {
    let (bounding, ambient) =
        (format!("CapabilityBoundingSet=~{name}"), format!("AmbientCapabilities=~{name}"));
    let rule = if remedies { RULE } else { "" };
    let unit = Unit::configured(&format!("{CONFIGURATION}{rule}"), &[&bounding, &ambient]);
    if remedies {
        unit.with_remedies();
    }
    if INDISPENSABLE.contains(&name) {
        assert!(!unit.try_start(), "{name}");
        assert_eq!(property("ExecMainStatus"), PERMISSION, "{name}: {}", unit.journal());
        unit.says(&format!("missing {name}"));
        return;
    }
    unit.start();
    assert_eq!(status(unit.pid(), "CapBnd:") & 1 << number, 0, "{name}");
    unit.says(&format!("{name} ("));
    unit.says("not held");
    // What does not need it goes on.
    let leak = Leak::start(&format!("without-{number}"));
    let event = unit.zombie_of(&leak);
    if number != 2 {
        assert_eq!(event["workload"]["kind"], "unit", "{name}: {event:#}");
    }
    leak.end();
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask vm"]
fn with_remedies_it_holds_two_more_and_is_under_no_filter() {
    let unit = Unit::configured(&format!("{CONFIGURATION}{RULE}"), &[]);
    unit.with_remedies();
    unit.start();
    let pid = unit.pid();
    let all = mask(&REPORTING) | mask(&REMEDIES);
    assert_eq!((status(pid, "CapEff:"), status(pid, "CapBnd:")), (all, all));
    assert_eq!(status(pid, "Seccomp:"), 0, "under one it could not read others'");
    assert!(!unit.journal().contains("not held"), "{}", unit.journal());
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask vm"]
fn the_calls_of_the_manifests_seccomp_profile_are_enough() {
    let profile: Value = serde_json::from_str(PROFILE).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let (mut allowed, mut others) = (Vec::new(), Vec::new());
    for entry in profile["syscalls"].as_array().expect("a list") {
        let names = entry["names"].as_array().expect("a list").iter().filter_map(Value::as_str);
        if entry["action"] == "SCMP_ACT_ALLOW" { allowed.extend(names) } else { others.extend(names) }
    }
    assert_eq!(others, ["clone3"], "said to be not there, so that clone is used");
    let filter = format!("SystemCallFilter={}", allowed.join(" "));
    // Nothing of the unit's own list.
    let unit =
        Unit::configured(CONFIGURATION, &["SystemCallFilter=", &filter, "SystemCallFilter=~clone3:ENOSYS"]);
    unit.start();
    assert_eq!(status(unit.pid(), "Seccomp:"), 2, "a filter");
    let leak = Leak::start("profiled");
    assert_eq!(unit.zombie_of(&leak)["workload"]["unit"], "profiled.service");
    leak.end();
    unit.until("its release", || unit.journal().contains("\"event\":\"released\""));
    assert!(!unit.journal().contains("not permitted"), "{}", unit.journal());
    must("systemctl", &["stop", "reaper"]);
    assert_eq!(property("Result"), "success");
}
