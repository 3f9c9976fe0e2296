//! Refused forks: by which limit, of whom, and how much of it was zombies, told as it happens where the kernel lets that be seen, and
//! each once. The truth is what the program that was refused says itself, and the limits that were set.

use std::{
    fs,
    ops::RangeInclusive,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::sys::Stats;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    PATIENCE,
    daemon::Daemon,
    fentry::Empty,
    forker::{Forker, Limited, Refused},
    holder::Holder,
    release::Runs,
    require_vm,
};

const OUTER: &str = "kernel_clone";
const INNER: &str = "copy_process";

/// So late it is told at most where there is a hook, the quickest of [`TRIES`]: an emulated machine stands still now and then.
const TOLD: Duration = Duration::from_millis(100);
pub(crate) const TRIES: u64 = 5;

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

fn without_fexit(inner: bool) -> &'static str {
    let probes = Path::new("/sys/bus/event_source/devices/kprobe/type").exists();
    if inner && probes && !is_confidential() { "kretprobe" } else { "none" }
}

/// What `reaper check` says of it.
fn checked() -> String {
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

/// All that follow are a few events with their number, and none is told twice, not when the daemon ends either, which tells all that
/// it has not yet.
pub(crate) fn rest_is_told(mut daemon: Daemon, began: Instant, total: u64) {
    daemon.wait_until("the rest", |daemon| told(daemon) >= total);
    let daemon = daemon.stop();
    let all = refusals(&daemon);
    // The first, one each ten seconds, the last.
    let most = 3 + began.elapsed().as_secs() / 10;
    assert!(all.len() as u64 <= most, "{} events, not {most}: {all:?}", all.len());
    assert_eq!(all[all.len() - 1]["total"], told(&daemon), "{all:?}");
    // A daemon that gets no processor for seconds takes over too late what the hook has counted.
    if daemon.lost("sweep-late") == 0 {
        assert_eq!(told(&daemon), total, "{all:?}");
    }
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn refused_forks_are_seen_by_the_best_that_the_kernel_offers() {
    require_vm();
    let (offered, found) = (offered(), checked());
    assert!(found.starts_with(offered), "the kernel offers {offered}, reaper found {found}");
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_users_limit_that_zombies_fill_is_named_at_once_and_ten_thousand_refusals_are_a_few_events() {
    require_vm();
    let hook = offered();
    if hook == "none" {
        sees_pids_max_only(start());
        return;
    }
    is_told_of_a_user(hook);
}

/// Whoever wants no hook has none, as it is where the kernel lets nobody have one.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn without_a_hook_refused_forks_are_known_from_pids_max_only() {
    require_vm();
    let run = ["run", "--no-persist", "--no-fork-hook", "--output", "json", "--metrics-listen", "off"];
    sees_pids_max_only(Daemon::start_as(&run).may_lose("unrecognized"));
}

fn sees_pids_max_only(mut daemon: Daemon) {
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

/// As many programs may be at a function as its trampoline has room for: then there is no fexit, and there are kretprobes still.
fn no_room() -> Vec<Empty> {
    let mut all = Vec::new();
    loop {
        match Empty::at(OUTER) {
            Ok(one) => all.push(one),
            Err(full) => {
                println!("{} programs at {OUTER}, then: {full}", all.len());
                return all;
            }
        }
    }
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_kretprobe_stands_in_for_fexit() {
    require_vm();
    if offered() != "fexit" {
        // The other tests have seen what there is instead.
        return;
    }
    let _all = no_room();
    let (offered, found) = (without_fexit(true), checked());
    assert!(found.starts_with(offered), "the kernel offers {offered}, reaper found {found}");
    assert!(found.contains("no fexit"), "{found}");
    if offered == "kretprobe" {
        is_told_of_a_user(offered);
    }
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

fn is_told_of_a_user(hook: &str) {
    const LIMIT: u64 = 40;
    let (mut daemon, began) = (start(), Instant::now());
    let (mut forker, refused) = user_is_refused(USER, LIMIT);
    let zombies = LIMIT - 1..=LIMIT - 1;
    let event = is_told(&mut daemon, hook, &refused, forker.pid(), ("rlimit-nproc", LIMIT), zombies);
    assert_eq!((&event["limit"]["uid"], &event["limit"]["used"]), (&USER.into(), &LIMIT.into()), "{event}");
    assert_eq!(event["zombies_of"][0]["zombies"], LIMIT - 1, "{event}");
    assert_eq!(forker.forks(10_000), 10_000);
    rest_is_told(daemon, began, 10_001);
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_refused_fork_is_told_of_within_a_tenth_of_a_second() {
    const LIMIT: u64 = 20;
    require_vm();
    let hook = offered();
    if hook == "none" {
        return;
    }
    let mut daemon = start();
    let quickest = |late: Vec<Duration>| {
        println!("told so long after it: {late:?}");
        late.into_iter().min().expect("some")
    };
    let of_users = (0..TRIES).map(|number| {
        let (forker, refused) = user_is_refused(USER + u32::try_from(number).expect("few"), LIMIT);
        let limit = ("rlimit-nproc", LIMIT);
        let told = is_told(&mut daemon, hook, &refused, forker.pid(), limit, LIMIT - 1..=LIMIT - 1);
        late(&told, &refused)
    });
    let of_users = quickest(of_users.collect());
    let of_cgroups = (0..TRIES).map(|number| {
        let cgroup = Limited::make(&format!("reaper-refused-{number}.service"), LIMIT);
        let mut forker = Forker::start();
        cgroup.holds(&forker);
        let refused = forker.fills("zombie");
        let limit = ("pids-max", LIMIT);
        let told = is_told(&mut daemon, hook, &refused, forker.pid(), limit, LIMIT - 1..=LIMIT - 1);
        late(&told, &refused)
    });
    let of_cgroups = quickest(of_cgroups.collect());
    assert!(of_users <= TOLD && of_cgroups <= TOLD, "{of_users:?}, {of_cgroups:?}");
    daemon.stop();
}

/// Whoever is held in a fork returns through what the daemon had attached, and that after it is gone.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_daemon_may_end_while_a_fork_is_under_way() {
    require_vm();
    offered();
    let folder = tempfile::tempdir().expect("a folder");
    let [begun, end] = ["begun", "end"].map(|name| folder.path().join(name));
    for _ in 0..3 {
        let daemon = start();
        let mut forker = Forker::start();
        let linger = format!("linger {} {}", begun.display(), end.display());
        forker.begins(&linger);
        let deadline = Instant::now() + PATIENCE;
        while !begun.exists() {
            assert!(Instant::now() < deadline, "it does not fork");
            thread::sleep(Duration::from_millis(1));
        }
        daemon.stop();
        // What is detached is freed when nobody can be in it any more, as far as the kernel knows.
        let next = start();
        next.stop();
        fs::write(&end, "").expect("a file");
        assert_eq!(forker.ends(&linger), "done");
        assert_eq!(forker.forks(20), 0);
        for file in [&begun, &end] {
            fs::remove_file(file).expect("it is there");
        }
    }
}

/// Prints what being called costs, as the kernel counts it; of an emulated machine's figures only the ratio says something.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_fork_that_succeeds_passes_the_hook_once() {
    const LIVES: u32 = 500;
    require_vm();
    let hook = offered();
    let _counting = aya::sys::enable_stats(Stats::RunTime).expect("the kernel counts");
    let beside = Empty::at(OUTER).map_err(|error| println!("nothing to compare with: {error}"));
    passes_once(LIVES, hook);
    drop(beside);
    if hook == "fexit" && without_fexit(true) == "kretprobe" {
        let _all = no_room();
        passes_once(LIVES, "kretprobe");
    }
}

fn passes_once(lives: u32, hook: &str) {
    let daemon = start();
    let mut holder = Holder::start();
    let before = Runs::now();
    holder.churn(lives, 0);
    let spent = Runs::now().since(&before);
    println!("{lives} lives, {hook}: {spent:?}");
    let expected = if hook == "none" { 0 } else { u64::from(lives) };
    // A kretprobe misses a few, a program that is running already is skipped; and others fork, too.
    let expected = expected - expected / 50..=2 * expected;
    // The kernel keeps 15 bytes of a program's name.
    let passed = spent.of(&format!("refused_{}", &hook[..4]));
    assert!(expected.contains(&passed), "{passed}: {spent:?}");
    drop(holder);
    daemon.stop();
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_limit_that_is_full_of_the_living_is_not_said_to_be_full_of_zombies() {
    const LIMIT: u64 = 20;
    require_vm();
    let hook = offered();
    if hook == "none" {
        // The other test has seen that nothing is told.
        return;
    }
    let mut daemon = start();
    let mut forker = Forker::start();
    forker.does(&format!("nproc {LIMIT}"));
    forker.does(&format!("user {USER}"));
    let refused = forker.fills("live");
    is_told(&mut daemon, hook, &refused, forker.pid(), ("rlimit-nproc", LIMIT), 0..=0);
    drop(forker);
    daemon.stop();
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_cgroups_limit_is_named_and_what_both_the_hook_and_its_count_say_is_told_once() {
    const LIMIT: u64 = 30;
    require_vm();
    let hook = offered();
    let (mut daemon, began) = (start(), Instant::now());
    let cgroup = Limited::make("reaper-refused.service", LIMIT);
    let mut forker = Forker::start();
    cgroup.holds(&forker);
    let refused = forker.fills("zombie");
    assert_eq!(refused.made, LIMIT - 1);
    if hook == "none" {
        daemon.wait_until("the refusal", |daemon| !refusals(daemon).is_empty());
        let event = refusals(&daemon)[0].clone();
        assert!(event["forker"].is_null() && event["source"] != "fexit", "{event}");
    } else {
        let zombies = LIMIT - 1..=LIMIT - 1;
        let event = is_told(&mut daemon, hook, &refused, forker.pid(), ("pids-max", LIMIT), zombies);
        let limit = &event["limit"];
        assert_eq!(
            (&limit["cgroup"], &limit["used"]),
            (&cgroup.path.clone().into(), &LIMIT.into()),
            "{event}"
        );
        assert_eq!(event["forker_cgroup"], cgroup.path, "{event}");
    }
    let more = forker.forks(500);
    assert_eq!((more, cgroup.counted()), (500, 501));
    // It comes long after all that was seen there could have been told a second time.
    rest_is_told(daemon, began, 501);
}
