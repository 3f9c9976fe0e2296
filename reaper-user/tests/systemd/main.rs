//! The deployed unit under systemd: `cargo xtask vm` boots a machine whose PID 1 it is, and runs this in it. What the unit may do is
//! read of /proc, what it says of the journal.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "clippy.toml's exceptions reach test functions but not what they call"
)]

mod container;
mod unit;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use container::Container;
use unit::{Leak, Unit, must, property, property_of, run};

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
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
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
    let event = unit.zombie_of(leak.pid());
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
fn what_a_unit_says_of_itself_is_asked_of_systemd_over_the_real_bus() {
    must("systemctl", &["start", "dbus"]);
    let unit = Unit::configured(&CONFIGURATION.replace("names.systemd = 'off'\n", ""), &[]);
    unit.until("systemd is on the bus", || {
        run("busctl", &["status", "org.freedesktop.systemd1"]).status.success()
    });
    unit.start();
    let leak = Leak::start("told");
    let wanted = property_of("told", "Description");
    assert_eq!(wanted, "Leaks – told, for a test");
    unit.zombie_of(leak.pid());
    // It comes later than the report may: nothing waits for it.
    let listed = unit.found("its description in the list", || {
        let list = must("reaper", &["ls", "--output", "json"]);
        let lines = String::from_utf8(list.stdout).expect("text");
        let zombies = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let of_it = |zombie: &Value| zombie["workload"]["unit"] == "told.service";
        zombies.into_iter().find(|zombie| of_it(zombie) && !zombie["workload"]["description"].is_null())
    });
    assert_eq!(listed["workload"]["description"], wanted, "{listed:#}");
    leak.end();
    let released = unit.found("its release", || {
        unit.events()
            .into_iter()
            .find(|event| event["event"] == "released" && event["workload"]["unit"] == "told.service")
    });
    assert_eq!(released["workload"]["description"], wanted, "{released:#}");
    assert!(!unit.journal().contains("names of its workloads are not known"), "{}", unit.journal());
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
    let event = unit.zombie_of(leak.pid());
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

/// How many children of its own nobody has waited for, by /proc.
fn zombies_of(holder: u64) -> usize {
    let stats = fs::read_dir("/proc").expect("it is mounted").filter_map(|entry| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        Some((fields.next()? == "Z", fields.next()?.parse::<u64>().ok()?))
    });
    stats.filter(|stat| *stat == (true, holder)).count()
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask vm"]
fn with_what_it_then_holds_a_rule_reaps_and_the_holder_lives_on() {
    let rule = "rule = [{ match = { unit = 'orphans.service', cause = ['adopted'] }, \
                steps = [{ remedy = 'reap', after = '1s' }] }]\n";
    let unit = Unit::configured(&format!("{CONFIGURATION}{rule}"), &[]);
    unit.with_remedies();
    unit.start();
    let leak = Leak::of(
        "orphans",
        &["load", "--rate", "0", "--only", "subreaper", "--leaks", "30", "--seconds", "3"],
    );
    let event = unit.zombie_of(leak.pid());
    assert_eq!((&event["cause"], &event["workload"]["unit"]), (&"adopted".into(), &"orphans.service".into()));
    let holder = event["holder"]["pid"].as_u64().expect("a pid");
    let applied = unit.found("a reap", || {
        unit.events().into_iter().find(|event| {
            event["event"] == "remedy" && event["remedy"] == "reap" && event["outcome"] == "applied"
        })
    });
    assert_eq!(applied["holder"]["pid"], holder, "{applied:#}");
    // Those that came last have been told of and are gone, too.
    let all_told = || unit.events().iter().filter(|event| event["event"] == "zombie").count();
    unit.until("none is left", || all_told() > 2 && zombies_of(holder) == 0);
    assert!(Path::new(&format!("/proc/{holder}/exe")).exists(), "the holder lives");
    leak.end();
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask vm"]
fn a_container_that_the_kubelets_systemd_driver_places_is_its_pods() {
    const POD: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";
    const ID: &str = "3f2a5c81d0e94b7766a1f2c3d4e5f60718293a4b5c6d7e8f9001122334455667";
    let unit = Unit::configured(CONFIGURATION, &[]);
    unit.start();
    let container = Container::start(POD, ID);
    let init = unit.found("the container", || container.init());
    // systemd has made it: nobody else gives such names.
    let cgroup = format!(
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice/cri-containerd-{ID}.scope",
        POD.replace('-', "_")
    );
    assert_eq!(property_of(&format!("cri-containerd-{ID}.scope"), "ControlGroup"), cgroup);
    let event = unit.zombie_of(init);
    let workload = &event["workload"];
    assert_eq!(workload["kind"], "pod", "{workload:#}");
    assert_eq!((&workload["id"], &workload["pod_uid"]), (&ID.into(), &POD.into()), "{workload:#}");
    assert_eq!((&workload["runtime"], &workload["cgroup"]), (&"containerd".into(), &cgroup.into()));
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
    assert_eq!(unit.zombie_of(leak.pid())["workload"]["unit"], "profiled.service");
    leak.end();
    unit.until("its release", || unit.journal().contains("\"event\":\"released\""));
    assert!(!unit.journal().contains("not permitted"), "{}", unit.journal());
    must("systemctl", &["stop", "reaper"]);
    assert_eq!(property("Result"), "success");
}
