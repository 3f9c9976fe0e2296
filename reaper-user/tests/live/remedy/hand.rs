//! By hand: `reaper reap`.

use std::{
    fs,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Holder, daemon};
use crate::support::{Daemon, assert_refused, assert_valid, machine, program, reaper, run_briefly};

const REFUSED: i32 = 1;
const USAGE: i32 = 64;

fn reap(arguments: &[&str]) -> Output {
    run_briefly(Command::new(reaper()).args(["--output", "json", "reap", "--watch", "500ms"]).args(arguments))
}

fn events(output: &Output) -> Vec<Value> {
    output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(assert_valid).collect()
}

/// A holder of so many orphans, and a daemon that has seen them all become what they are.
fn adopting(zombies: usize) -> (Holder, Daemon) {
    let daemon = Daemon::run(&["--age", "400ms"]);
    (Holder::start("adopt", zombies), daemon)
}

#[test]
fn orphans_would_be_reaped_by_hand_and_who_looks_for_children_is_left_alone() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "400ms"]);
    for (mode, code, outcome, reason) in
        [("adopt", 0, "planned", Value::Null), ("peeks", REFUSED, "refused", "wait-seen".into())]
    {
        let holder = Holder::start(mode, 3);
        let output = reap(&["--holder", &holder.pid().to_string(), "--dry-run"]);
        let log = String::from_utf8_lossy(&output.stderr);
        let [event] = events(&output).try_into().unwrap_or_else(|events| panic!("{events:?} {log}"));
        assert_eq!((&event["outcome"], &event["reason"]), (&outcome.into(), &reason), "{event:#}");
        assert_eq!(event["zombies"].as_array().unwrap().len(), 3, "{event:#}");
        assert_eq!(event["zombies"][0]["cause"], "adopted", "{event:#}");
        assert_eq!((&event["rule"], output.status.code()), (&Value::Null, Some(code)), "{event:#}");
        assert_eq!(holder.standing(), 3);
    }
    daemon.end();
}

#[test]
fn orphans_are_reaped_by_hand_and_the_holder_goes_on() {
    let _machine = machine();
    let (mut holder, daemon) = adopting(40);
    let output = reap(&["--holder", &holder.pid().to_string(), "--yes"]);
    let events = events(&output);
    assert_eq!((events.len(), &events[0]["outcome"]), (1, &"applied".into()), "{output:?}");
    let after = &events[0]["after"];
    assert_eq!(after["zombies"], 0, "{output:?}");
    // It sleeps, or has been let go a moment ago.
    assert!(["S", "R"].iter().any(|state| after["holder"] == *state), "{output:?}");
    assert_eq!((output.status.code(), holder.standing(), holder.lives()), (Some(0), 0, true));
    daemon.end();
}

#[test]
fn autoreap_is_taken_back_only_where_it_is_set() {
    let _machine = machine();
    let holder = Holder::start("deaf", 1);
    let pid = holder.pid().to_string();
    let output = reap(&["--undo-autoreap", "--holder", &pid]);
    assert_refused(&output, REFUSED, &["SA_NOCLDWAIT is not set"]);
}

#[test]
fn without_a_daemon_the_cause_is_unknown_and_needs_a_consent() {
    let _machine = machine();
    let holder = Holder::start("adopt", 1);
    let pid = holder.zombies[0].to_string();
    for (arguments, outcome) in [
        (&["--dry-run"][..], "refused"),
        (&["--dry-run", "--cause", "unknown", "--parent-may-miss-status"], "planned"),
    ] {
        let output = reap(&[&[pid.as_str()], arguments].concat());
        let events = events(&output);
        assert_eq!((events.len(), &events[0]["outcome"]), (1, &outcome.into()), "{output:?}");
        assert_eq!(events[0]["zombies"][0]["cause"], "unknown", "{output:?}");
    }
    let output = reap(&["1", "--dry-run"]);
    assert_eq!(output.status.code(), Some(REFUSED), "no zombie: {output:?}");
}

/// The view reaps those that it has shown: a pid may be another process's by the time that somebody has said yes.
#[test]
fn a_holder_that_is_another_process_by_now_is_left_alone() {
    let _machine = machine();
    let holder = Holder::start("adopt", 1);
    let pid = holder.zombies[0].to_string();
    let stat = fs::read_to_string(format!("/proc/{}/stat", holder.pid())).unwrap();
    let start: u64 =
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap();
    for (ticks, outcome) in [(start, "planned"), (start - 1, "refused")] {
        let only = format!("{}@{}", holder.pid(), ticks * 10_000_000 + 1);
        let consent = ["--cause", "unknown", "--parent-may-miss-status"];
        let output = reap(&[&[pid.as_str(), "--dry-run", "--only-holder", &only], &consent[..]].concat());
        let event = &events(&output)[0];
        assert_eq!(event["outcome"], outcome, "{output:?}");
        if outcome == "refused" {
            assert_eq!(event["reason"], "identity-changed", "{output:?}");
        }
    }
}

#[test]
fn a_zombie_with_another_cause_than_is_meant_is_told_from_none() {
    let _machine = machine();
    let holder = Holder::start("deaf", 2);
    let (pid, of) = (holder.zombies[0].to_string(), holder.pid().to_string());
    let output = reap(&[&pid, "--cause", "inherited", "--dry-run"]);
    assert_refused(&output, REFUSED, &[&pid, "its cause is unknown", "--cause"]);
    let output = reap(&["1", "--cause", "inherited", "--dry-run"]);
    assert_refused(&output, REFUSED, &["there is no such zombie"]);
    // Whose zombies are named by their holder: what is there, where none is meant.
    let words = ["reap", "--watch", "100ms", "--dry-run", "--output", "human", "--holder", &of];
    let output = run_briefly(Command::new(reaper()).args(words));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "no zombie is meant, but 2 unknown: see --cause\n");
}

#[test]
fn a_never_waited_one_is_reaped_by_hand_with_a_consent_and_long_past_what_the_holder_takes() {
    let _machine = machine();
    // A rule for such zombies keeps their holders watched, however late it would do something.
    let consent = "match.cause = 'never-waited'\nparent_may_miss_status = true";
    let rules = format!("[[rule]]\n{consent}\nsteps = [{{remedy = 'reap', after = '1h'}}]\n");
    let (daemon, _file) = daemon(&rules, &["--age", "1s"]);
    let mut holder = Holder::start("deaf", 1);
    let pid = holder.zombies[0].to_string();
    let named = [pid.as_str(), "--cause", "never-waited", "--yes"];
    let consent = [&named[..], &["--parent-may-miss-status"]].concat();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut reasons = Vec::new();
    // Half the age is 500 ms: after ten times that it is long past.
    loop {
        assert!(Instant::now() < deadline, "{reasons:?}");
        let output = reap(&consent);
        // It is unknown until the daemon has told its cause.
        let Some(event) = events(&output).pop() else { continue };
        if event["outcome"] == "applied" {
            assert_eq!(event["zombies"][0]["cause"], "never-waited", "{event:#}");
            break;
        }
        reasons.push(event["reason"].as_str().unwrap().to_owned());
        assert_eq!(output.status.code(), Some(REFUSED), "{output:?}");
        let before = reap(&named);
        assert_eq!(events(&before)[0]["reason"], "needs-consent", "{before:?}");
    }
    println!("{reasons:?}");
    assert!(
        reasons.iter().all(|reason| ["reap-time-unknown", "may-still-wait"].contains(&&**reason)),
        "{reasons:?}"
    );
    assert!(!reasons.is_empty(), "nothing was refused before");
    assert_eq!((holder.standing(), holder.lives()), (0, true));
    daemon.end();
}

/// Whether the daemon watches the holder of this zombie now, as it says itself.
fn is_watched(zombie: u64) -> bool {
    let listed = run_briefly(Command::new(reaper()).args(["ls", "--output", "json"]));
    let mut zombies = events(&listed).into_iter();
    let zombie = zombies.find(|event| event["pid"] == zombie).unwrap_or_else(|| panic!("{listed:?}"));
    !zombie["evidence"]["waits"].is_null()
}

#[test]
fn a_never_waited_one_is_reaped_by_hand_where_no_rule_has_its_holder_watched() {
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "400ms"]);
    let mut holder = Holder::start("deaf", 1);
    let zombie = holder.zombies[0];
    daemon.until("a report", Duration::from_secs(20), |seen| {
        seen.is("zombie") && seen.number("/pid") == zombie && seen.text("/cause") == "never-waited"
    });
    let deadline = Instant::now() + Duration::from_secs(30);
    while is_watched(zombie) {
        assert!(Instant::now() < deadline, "its probation does not end");
    }
    let pid = zombie.to_string();
    let named = [pid.as_str(), "--cause", "never-waited", "--parent-may-miss-status", "--yes"];
    let refused = reap(&named);
    assert_eq!(events(&refused)[0]["reason"], "reap-time-unknown", "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("watches it from now on") && said.contains("--watch "), "{said}");
    assert!(is_watched(zombie) && holder.standing() == 1);
    // Half the age is 200 ms, and ten times that are long past.
    let mut patient = Command::new(reaper());
    let output = run_briefly(patient.args(["--output", "json", "reap", "--watch", "3s"]).args(named));
    let [event] = events(&output).try_into().unwrap_or_else(|events| panic!("{events:?} {output:?}"));
    assert_eq!(
        (&event["outcome"], &event["zombies"][0]["cause"]),
        (&"applied".into(), &"never-waited".into()),
        "{event:#}"
    );
    assert_eq!((output.status.code(), holder.standing(), holder.lives()), (Some(0), 0, true));
    daemon.end();
}

#[test]
fn where_nobody_can_be_asked_it_wants_a_yes() {
    let _machine = machine();
    let (holder, daemon) = adopting(1);
    assert_refused(&reap(&["--holder", &holder.pid().to_string()]), USAGE, &["--yes", "--dry-run"]);
    daemon.end();
}

#[test]
fn one_process_at_a_time_applies_remedies() {
    let _machine = machine();
    let (holder, daemon) = adopting(1);
    let folder = std::env::var("RUNTIME_DIRECTORY").unwrap_or_else(|_| "/run/reaper".to_owned());
    let lock = format!("{folder}/remedies");
    let mut other = Command::new(program("flock"))
        .args(["--no-fork", &lock, "sleep", "60"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let held = || fs::read_to_string("/proc/locks").unwrap().contains(&inode(&lock));
    while !held() {
        std::thread::yield_now();
    }
    let output = reap(&["--holder", &holder.pid().to_string(), "--yes"]);
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(events(&output)[0]["reason"], "busy", "{output:?}");
    daemon.end();
}

/// As /proc/locks ends a device and inode number.
fn inode(path: &str) -> String {
    use std::os::unix::fs::MetadataExt as _;
    // Made by whoever takes it first.
    fs::metadata(path).map_or_else(|_| "not yet there".to_owned(), |metadata| format!(":{} ", metadata.ino()))
}
