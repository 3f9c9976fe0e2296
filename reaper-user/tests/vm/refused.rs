//! Refused forks: by which limit, of whom, and how much of it was zombies, told as it happens where the kernel lets that be seen, and
//! each once. The truth is what the program that was refused says itself, and the limits that were set.
//!
//! These are on every kernel. A daemon takes seconds to start in an emulated machine: one has several limits to name.

use std::{
    collections::BTreeMap,
    fs,
    ops::RangeInclusive,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    daemon::Daemon,
    fentry::Empty,
    forker::{Forker, Limited, Refused},
    require_vm,
};

pub(crate) const OUTER: &str = "kernel_clone";
const INNER: &str = "copy_process";

/// So late it is told at most where there is a hook, the quickest of [`TRIES`]: an emulated machine stands still now and then.
const TOLD: Duration = Duration::from_millis(100);
pub(crate) const TRIES: u32 = 5;

const USER: u32 = 1_234;

/// What the kernel offers, as it can be seen without reaper.
pub(crate) fn offered() -> &'static str {
    let symbols = fs::read_to_string("/proc/kallsyms").expect("the kernel's symbols");
    let has = |name: &str| symbols.lines().any(|line| line.split([' ', '\t']).nth(2) == Some(name));
    // The mend without which a program at a function's return may not be detached.
    let mended = has("__bpf_tramp_enter");
    // Without it the current task can only be read as any memory can, which confidentiality is in the way of.
    let readable = has("bpf_get_current_task_btf") || !is_confidential();
    let fentry = Empty::at(OUTER).map(drop);
    println!("fentry: {fentry:?}; mended: {mended}; readable: {readable}; {INNER}: {}", has(INNER));
    if fentry.is_ok() && mended && readable { "fexit" } else { without_fexit(has(INNER)) }
}

fn is_confidential() -> bool {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    lockdown.contains("[confidentiality]")
}

pub(crate) fn without_fexit(inner: bool) -> &'static str {
    let probes = Path::new("/sys/bus/event_source/devices/kprobe/type").exists();
    if inner && probes && !is_confidential() { "kretprobe" } else { "none" }
}

/// What `reaper check` says of it.
pub(crate) fn checked() -> String {
    let output = Command::new("reaper").args(["check", "--output", "json"]).output().expect("reaper runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let row = rows.find(|row| row["name"] == "refused forks").expect("a row about it");
    println!("{row}");
    let detail = row["detail"].as_str().expect("text");
    let (_, hook) = detail.split_once("hook on the clone path: ").unwrap_or_else(|| panic!("{row}"));
    // A kretprobe does not see all, and the kernel does not count what it misses.
    assert_eq!(row["standing"], if hook.starts_with("fexit") { "ok" } else { "reduced" }, "{row}");
    hook.to_owned()
}

pub(crate) fn refusals(daemon: &Daemon) -> Vec<&Value> {
    daemon.events("fork-failed").collect()
}

/// How many were told of.
pub(crate) fn told(daemon: &Daemon) -> u64 {
    refusals(daemon).iter().filter_map(|event| event["count"].as_u64()).sum()
}

/// An executable may be looked at after the end of whose it was.
pub(crate) fn start() -> Daemon {
    Daemon::start("1s").may_lose("unrecognized")
}

/// What was told of this process' forks.
pub(crate) fn told_to(daemon: &Daemon, pid: u32) -> Option<Value> {
    refusals(daemon).into_iter().find(|event| event["forker"]["pid"] == pid).cloned()
}

/// The latest first one is told with its limit, who tried, and how much was zombies.
pub(crate) fn is_told(
    daemon: &mut Daemon,
    hook: &str,
    refused: &Refused,
    pid: u32,
    limit: (&str, u64),
    zombies: RangeInclusive<u64>,
) -> Value {
    daemon.wait_until("the refusal", |daemon| told_to(daemon, pid).is_some());
    let event = told_to(daemon, pid).expect("just seen");
    println!("{event}");
    println!("told {:?} after it", late(&event, refused));
    let (kind, max) = limit;
    assert_eq!((&event["limit"]["kind"], &event["limit"]["limit"]), (&kind.into(), &max.into()), "{event}");
    assert_eq!((&event["source"], &event["count"]), (&hook.into(), &1.into()), "{event}");
    assert_eq!(
        (&event["forker"]["pid"], &event["forker"]["comm"]),
        (&pid.into(), &"forker".into()),
        "{event}"
    );
    let found = event["limit"]["zombies"].as_u64().expect("a number");
    assert!(zombies.contains(&found), "{zombies:?}: {event}");
    let used = event["limit"]["used"].as_u64().expect("a number");
    let share = event["zombie_share"].as_f64().expect("a share");
    assert!((share - found as f64 / used as f64).abs() < 0.001, "{event}");
    assert_eq!(event["zombies_of"].as_array().expect("a list").is_empty(), found == 0, "{event}");
    event
}

/// How long after it happened it was told.
fn late(event: &Value, refused: &Refused) -> Duration {
    let told: Timestamp = event["time"].as_str().expect("a time").parse().expect("a time");
    told.duration_since(refused.at).unsigned_abs()
}

pub(crate) fn sees_pids_max_only(mut daemon: Daemon) {
    const LIMIT: u64 = 12;
    let (_forker, _) = user_is_refused(USER, LIMIT);
    // What comes after it, and is seen.
    let cgroup = Limited::make("reaper-refused-seen.service", LIMIT);
    let mut forker = Forker::start();
    cgroup.holds(&forker);
    forker.fills("zombie");
    daemon.wait_until("the refusal", |daemon| !refusals(daemon).is_empty());
    let daemon = daemon.stop();
    let [event] = refusals(&daemon)[..] else { panic!("{:?}", refusals(&daemon)) };
    assert_eq!(
        (&event["limit"]["kind"], &event["limit"]["cgroup"]),
        (&"pids-max".into(), &cgroup.path.clone().into()),
        "{event}"
    );
    let source = event["source"].as_str().expect("text");
    assert!(event["forker"].is_null() && !["fexit", "kretprobe"].contains(&source), "{event}");
}

/// A user without privileges that has forked until it was refused, by its own limit.
pub(crate) fn user_is_refused(user: u32, limit: u64) -> (Forker, Refused) {
    let mut forker = Forker::start();
    forker.does(&format!("nproc {limit}"));
    forker.does(&format!("user {user}"));
    let refused = forker.fills("zombie");
    assert_eq!(refused.made, limit - 1);
    (forker, refused)
}

/// A daemon that ends tells all that it has not told yet: the first of a limit, one each ten seconds, and the last are a few events with
/// their number, and none is told twice.
pub(crate) fn ends(daemon: Daemon, began: Instant, total: u64) -> Daemon {
    let daemon = daemon.stop();
    let all = refusals(&daemon);
    assert_eq!(told(&daemon), total, "{all:?}");
    let mut limits: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for event in all {
        let limit = &event["limit"];
        let of = format!("{} {} {}", limit["kind"], limit["cgroup"], limit["uid"]);
        limits.entry(of).or_default().push(event);
    }
    let most = 3 + began.elapsed().as_secs() / 10;
    for (limit, events) in &limits {
        assert!(events.len() as u64 <= most, "{limit}: {} events, not {most}: {events:?}", events.len());
        let counts = events.iter().filter_map(|event| event["count"].as_u64());
        assert_eq!(events[events.len() - 1]["total"], counts.sum::<u64>(), "{limit}: {events:?}");
    }
    daemon
}

/// The quickest of them.
fn is_quick(late: &[Duration]) {
    println!("told so long after it: {late:?}");
    assert!(late.iter().min().expect("some") <= &TOLD, "{late:?}");
}

/// What Debian's kernels are known to offer: a test that goes by what is offered would go by anything.
fn expected() -> Option<&'static str> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a version");
    let is = |line: &str| release.starts_with(line);
    if cfg!(not(target_arch = "x86_64")) || !["5.10.", "6.1.", "6.12.", "7."].into_iter().any(is) {
        return None;
    }
    // Its current task is not typed.
    Some(if is("5.10.") && is_confidential() { "none" } else { "fexit" })
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn refused_forks_are_seen_by_the_best_that_the_kernel_offers() {
    require_vm();
    let (offered, found) = (offered(), checked());
    assert_eq!(expected().unwrap_or(offered), offered);
    assert!(found.starts_with(offered), "the kernel offers {offered}, reaper found {found}");
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_users_limit_is_named_at_once_with_its_part_of_zombies_and_ten_thousand_refusals_are_a_few_events() {
    require_vm();
    let hook = offered();
    if hook == "none" {
        sees_pids_max_only(start());
        return;
    }
    let (mut daemon, began) = (start(), Instant::now());
    let more = is_told_of_a_user(&mut daemon, hook);
    let late = (1..=TRIES).map(|number| {
        const LIMIT: u64 = 20;
        let (forker, refused) = user_is_refused(USER + number, LIMIT);
        let limit = ("rlimit-nproc", LIMIT);
        let told = is_told(&mut daemon, hook, &refused, forker.pid(), limit, LIMIT - 1..=LIMIT - 1);
        late(&told, &refused)
    });
    is_quick(&late.collect::<Vec<_>>());
    is_told_of_the_living(&mut daemon, hook);
    ends(daemon, began, more + u64::from(TRIES) + 1);
}

/// How many were refused.
pub(crate) fn is_told_of_a_user(daemon: &mut Daemon, hook: &str) -> u64 {
    const LIMIT: u64 = 40;
    let (mut forker, refused) = user_is_refused(USER, LIMIT);
    let zombies = LIMIT - 1..=LIMIT - 1;
    let event = is_told(daemon, hook, &refused, forker.pid(), ("rlimit-nproc", LIMIT), zombies);
    assert_eq!((&event["limit"]["uid"], &event["limit"]["used"]), (&USER.into(), &LIMIT.into()), "{event}");
    assert_eq!(event["zombies_of"][0]["zombies"], LIMIT - 1, "{event}");
    assert_eq!(forker.forks(10_000), 10_000);
    10_001
}

/// A limit that is full of the living is not said to be full of zombies.
fn is_told_of_the_living(daemon: &mut Daemon, hook: &str) {
    const LIMIT: u64 = 20;
    let mut forker = Forker::start();
    forker.does(&format!("nproc {LIMIT}"));
    forker.does(&format!("user {}", USER + TRIES + 1));
    let refused = forker.fills("live");
    is_told(daemon, hook, &refused, forker.pid(), ("rlimit-nproc", LIMIT), 0..=0);
}

/// As a rootless container is: other users in a user namespace, which count for the one who has made it where the kernel counts so.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn zombies_in_a_user_namespace_count_for_who_has_made_it_and_a_limit_in_it_has_no_share() {
    const WITHIN: u64 = 30;
    const LIMIT: u64 = 60;
    const INNER: u32 = 999;
    require_vm();
    let hook = offered();
    if hook == "none" {
        return;
    }
    let mut daemon = start();
    let mut container = Forker::start();
    container.does(&format!("nproc {WITHIN}"));
    container.does(&format!("uid {USER}"));
    container.does("apart");
    let map = format!("/proc/{}/uid_map", container.pid());
    fs::write(&map, format!("0 {USER} 1\n{INNER} 100998 1\n"))
        .unwrap_or_else(|error| panic!("{map}: {error}"));
    container.does(&format!("uid {INNER}"));
    let within = container.fills("zombie");
    assert_eq!(within.made, WITHIN - 1);
    let pid = container.pid();
    daemon.wait_until("the refusal within", |daemon| told_to(daemon, pid).is_some());
    let event = told_to(&daemon, pid).expect("just seen");
    let limit = &event["limit"];
    assert_eq!((&limit["kind"], &limit["limit"]), (&"rlimit-nproc".into(), &WITHIN.into()), "{event}");
    assert_eq!((&limit["zombies"], &event["zombie_share"]), (&Value::Null, &Value::Null), "{event}");

    let counts_owners = fs::read_to_string("/proc/kallsyms").expect("symbols").contains("inc_rlimit_ucounts");
    let (zombies, living) = if counts_owners { (within.made, 2) } else { (0, 1) };
    let mut forker = Forker::start();
    forker.does(&format!("nproc {LIMIT}"));
    forker.does(&format!("user {USER}"));
    let refused = forker.fills("zombie");
    assert_eq!(refused.made, LIMIT - zombies - living);
    let zombies = refused.made + zombies..=refused.made + zombies;
    let event = is_told(&mut daemon, hook, &refused, forker.pid(), ("rlimit-nproc", LIMIT), zombies);
    assert_eq!(event["limit"]["uid"], USER, "{event}");
    daemon.stop();
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_cgroups_limit_is_named_and_what_both_the_hook_and_its_count_say_is_told_once() {
    const LIMIT: u64 = 30;
    require_vm();
    let hook = offered();
    let (mut daemon, began) = (start(), Instant::now());
    let tries = if hook == "none" { 1 } else { TRIES };
    let mut all = Vec::new();
    let late = (0..tries).map(|number| {
        let cgroup = Limited::make(&format!("reaper-refused-{number}.service"), LIMIT);
        let mut forker = Forker::start();
        cgroup.holds(&forker);
        let refused = forker.fills("zombie");
        assert_eq!(refused.made, LIMIT - 1);
        let event = if hook == "none" {
            daemon.wait_until("the refusal", |daemon| !refusals(daemon).is_empty());
            refusals(&daemon)[0].clone()
        } else {
            is_told(&mut daemon, hook, &refused, forker.pid(), ("pids-max", LIMIT), LIMIT - 1..=LIMIT - 1)
        };
        let (limit, path) = (&event["limit"], &cgroup.path.clone().into());
        assert_eq!((&limit["cgroup"], &limit["used"]), (path, &LIMIT.into()), "{event}");
        if hook == "none" {
            assert!(event["forker"].is_null() && event["source"] != "fexit", "{event}");
        } else {
            assert_eq!(event["forker_cgroup"], *path, "{event}");
        }
        all.push((forker, cgroup));
        late(&event, &refused)
    });
    let late: Vec<Duration> = late.collect();
    if hook != "none" {
        is_quick(&late);
    }
    let (forker, cgroup) = &mut all[0];
    assert_eq!((forker.forks(500), cgroup.counted()), (500, 501));
    ends(daemon, began, 500 + u64::from(tries));
}
