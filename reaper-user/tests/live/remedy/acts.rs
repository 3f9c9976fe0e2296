//! What is done, and what came of it.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Holder, daemon, is_remedy, python, remedy, rule};
use crate::support::{assert_valid, deny_wait_for_every_kind, machine, program, reaper, run_briefly, signal};

const NUDGE: &str = "{ remedy = 'nudge', after = '800ms' }";
const END: &str = "{ remedy = 'terminate-holder', after = '800ms' }";

#[test]
fn a_nudge_wakes_a_handler_and_its_zombies_go() {
    let _machine = machine();
    // Older than the daemon: all of them are of one age, from its start.
    let mut holder = Holder::start("handler", 5);
    let (mut daemon, _file) = daemon(&rule(NUDGE, ""), &[]);
    let done = remedy(&mut daemon, holder.pid(), "nudge");
    let event = &done.event;
    assert_eq!(event["outcome"], "applied", "{event:#}");
    assert_eq!((&event["rule"], &event["signals"][0]), (&"test".into(), &"SIGCHLD".into()), "{event:#}");
    assert_eq!(
        (&event["before"]["zombies"], &event["after"]["zombies"]),
        (&5.into(), &0.into()),
        "{event:#}"
    );
    // It sleeps, or runs at the moment it is looked at.
    assert!(["R", "S"].iter().any(|state| event["after"]["holder"] == *state), "{event:#}");
    assert_eq!(event["pause_us"], Value::Null, "{event:#}");
    for zombie in event["zombies"].as_array().unwrap() {
        assert_eq!((&zombie["gone"], &zombie["status_taken"]), (&true.into(), &false.into()), "{event:#}");
        assert_eq!(zombie["exit"]["code"], 7, "{event:#}");
    }
    assert_eq!((holder.standing(), holder.lives()), (0, true));
    daemon.end();
}

#[test]
fn whoever_waits_once_for_each_signal_is_nudged_again_while_it_helps() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&(rule(NUDGE, "") + "[remedy]\nper_holder = 600\n"), &[]);
    // The second one waits for its eldest first, which is none of those that it is nudged for. Neither ends before the other:
    // that would count against the rule.
    let mut holders = Vec::new();
    for mode in ["once", "elder"] {
        let holder = Holder::start(mode, 3);
        let mut nudges = 0;
        daemon.until("all of them gone", Duration::from_secs(30), |seen| {
            if is_remedy(seen, holder.pid(), "nudge") {
                assert_eq!(seen.text("/outcome"), "applied", "{mode}: {seen:?}");
                nudges += 1;
            }
            nudges == 3
        });
        assert_eq!(holder.standing(), 0, "{mode}");
        holders.push(holder);
    }
    daemon.end();
}

#[test]
fn a_holder_that_does_not_heed_sigchld_is_not_sent_any() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&rule(NUDGE, ""), &[]);
    let holder = Holder::start("deaf", 1);
    let refused = remedy(&mut daemon, holder.pid(), "nudge");
    let event = &refused.event;
    assert_eq!((&event["outcome"], &event["reason"]), (&"refused".into(), &"not-heeded".into()), "{event:#}");
    assert_eq!((&event["after"], &event["before"]["zombies"]), (&().into(), &1.into()), "{event:#}");
    assert_eq!(holder.standing(), 1);
    daemon.end();
}

#[test]
fn what_a_filter_does_not_allow_is_refused_and_the_stronger_step_comes_in_its_time() {
    let _machine = machine();
    let steps = "{ remedy = 'reap', after = '800ms' }, { remedy = 'terminate-holder', after = '9s' }";
    let (mut daemon, _file) = daemon(&rule(steps, ""), &[]);
    let began = Instant::now();
    let mut filtered = python();
    deny_wait_for_every_kind(&mut filtered);
    let mut holder = Holder::of(filtered, "adopt", 2);
    let refused = remedy(&mut daemon, holder.pid(), "reap");
    let event = &refused.event;
    assert_eq!(
        (&event["outcome"], &event["reason"]),
        (&"refused".into(), &"seccomp-denied".into()),
        "{event:#}"
    );
    // Its filters can only be read while it stands still.
    assert!(event["pause_us"].as_u64().unwrap() > 0, "{event:#}");
    assert_eq!((holder.standing(), holder.lives()), (2, true));
    let ended = remedy(&mut daemon, holder.pid(), "terminate-holder");
    assert_eq!(ended.text("/outcome"), "applied", "{ended:?}");
    // Known to be refused since three seconds, it would have been told four seconds ago.
    assert!(began.elapsed() >= Duration::from_secs(9), "none of its zombies is so old: {ended:?}");
    assert!(!holder.lives());
    daemon.end();
}

#[test]
fn autoreap_makes_children_go_by_themselves_until_it_is_taken_back() {
    let _machine = machine();
    let program = fs::canonicalize("/usr/bin/python3").unwrap();
    let rules = format!(
        "[[rule]]\nname = 'test'\nmatch.executable = '{}'\nsteps = [{{ remedy = 'autoreap', after = '800ms' }}]\n",
        program.display()
    );
    let (mut daemon, _file) = daemon(&rules, &[]);
    let mut holder = Holder::start("leaks", 1);
    let pid = holder.pid();
    let done = remedy(&mut daemon, pid, "autoreap");
    assert_eq!(done.text("/outcome"), "applied", "{done:?}");
    assert!(done.number("/pause_us") > 0, "{done:?}");
    daemon.end();
    // Those that stand already stay; whoever dies from now on goes.
    let settled = zombies_of(pid);
    let deadline = Instant::now() + Duration::from_secs(10);
    let forks = || {
        fs::read_to_string("/proc/loadavg")
            .unwrap()
            .rsplit(' ')
            .next()
            .unwrap()
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    let (before, wanted) = (forks(), 20);
    while forks() < before + wanted {
        assert!(Instant::now() < deadline, "the holder forks nobody any more");
        std::thread::yield_now();
    }
    assert_eq!(zombies_of(pid), settled);
    assert!(holder.lives());
    let output =
        run_briefly(Command::new(reaper()).args(["reap", "--undo-autoreap", "--holder", &pid.to_string()]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    while zombies_of(pid) < settled + 5 {
        assert!(Instant::now() < deadline + Duration::from_secs(10), "its children go by themselves still");
        std::thread::yield_now();
    }
}

/// How many zombies a process has, as ps says.
fn zombies_of(pid: u32) -> usize {
    let output =
        Command::new(program("ps")).args(["--ppid", &pid.to_string(), "-o", "stat="]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().filter(|state| state.starts_with('Z')).count()
}

#[test]
fn a_nudge_in_vain_opens_the_breaker_of_that_holder() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&rule(NUDGE, ""), &[]);
    let mut holder = Holder::start("vain", 2);
    let pid = u64::from(holder.pid());
    assert_eq!(remedy(&mut daemon, holder.pid(), "nudge").text("/outcome"), "no-effect");
    daemon.until("a breaker", Duration::from_secs(10), |seen| {
        let ours = seen.is("breaker") && seen.number("/holder/pid") == pid;
        if ours {
            assert_eq!((seen.text("/scope"), seen.text("/remedy")), ("holder", "nudge"), "{seen:?}");
            assert_eq!((seen.text("/reason"), seen.text("/rule")), ("no-effect", "test"), "{seen:?}");
        }
        ours
    });
    let listed = run_briefly(Command::new(reaper()).args(["ls", "--output", "json"]));
    let lines = listed.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let breakers: Vec<_> = lines.map(assert_valid).filter(|event| event["event"] == "breaker").collect();
    assert_eq!((breakers.len(), &breakers[0]["holder"]["pid"]), (1, &pid.into()), "{listed:?}");
    assert!(holder.lives() && holder.standing() == 2);
    daemon.end();
}

#[test]
fn a_holder_that_dies_of_a_nudge_stops_the_rule_until_the_configuration_is_read_again() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&rule(NUDGE, ""), &[]);
    let mut first = Holder::start("dies", 2);
    let pid = first.pid();
    daemon.until("a report", Duration::from_secs(20), |seen| {
        seen.is("zombie") && seen.number("/holder/pid") == u64::from(pid)
    });
    // Its turn comes less than a second after the first one's: before it is looked what became of that one's zombies.
    let second = Holder::start("handler", 2);
    daemon.until("a breaker", Duration::from_secs(20), |seen| {
        assert!(!is_remedy(seen, pid, "nudge"), "only when the effect was looked for: {seen:?}");
        seen.is("breaker") && seen.text("/scope") == "rule" && seen.text("/reason") == "holder-died"
    });
    assert!(!first.lives());
    assert_eq!(remedy(&mut daemon, pid, "nudge").text("/outcome"), "holder-died");
    let refused = remedy(&mut daemon, second.pid(), "nudge");
    assert_eq!(
        (refused.text("/outcome"), refused.text("/reason")),
        ("refused", "breaker-rule"),
        "{refused:?}"
    );
    assert_eq!(second.standing(), 2, "back to reporting");
    signal(daemon.pid(), libc::SIGHUP);
    daemon.until("a nudge", Duration::from_secs(20), |seen| {
        is_remedy(seen, second.pid(), "nudge") && seen.text("/outcome") == "applied"
    });
    assert_eq!(second.standing(), 0);
    daemon.end();
}

#[test]
fn a_holder_that_dies_after_a_remedy_had_its_effect_stops_the_rule_when_it_dies() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&rule(NUDGE, ""), &[]);
    let mut holder = Holder::start("fades", 2);
    let nudged = remedy(&mut daemon, holder.pid(), "nudge");
    assert_eq!((nudged.text("/outcome"), holder.lives()), ("applied", true), "{nudged:?}");
    let mut opened = 0;
    daemon.until("a breaker", Duration::from_secs(20), |seen| {
        opened = seen.at;
        seen.is("breaker") && seen.text("/scope") == "rule" && seen.text("/reason") == "holder-died"
    });
    assert!(!holder.lives());
    // It dies two seconds after that event. Looked for at the end of the ten seconds it would be found eight seconds after.
    let after = Duration::from_nanos(opened - nudged.at);
    println!("the breaker opened {after:?} after the effect was told");
    assert!(after < Duration::from_secs(6), "{after:?}");
    daemon.end();
}

#[test]
fn a_holder_is_asked_to_end_and_killed_after_the_grace_period() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&rule(END, ""), &["--terminate-grace", "500ms"]);
    let mut polite = Holder::start("deaf", 3);
    let done = remedy(&mut daemon, polite.pid(), "terminate-holder");
    let event = &done.event;
    assert_eq!(
        (&event["outcome"], event["signals"].to_string()),
        (&"applied".into(), r#"["SIGTERM"]"#.into()),
        "{event:#}"
    );
    assert_eq!((&event["after"]["zombies"], &event["after"]["holder"]), (&0.into(), &().into()), "{event:#}");
    assert!(!polite.lives());
    let mut stubborn = Holder::start("stubborn", 3);
    let done = remedy(&mut daemon, stubborn.pid(), "terminate-holder");
    let event = &done.event;
    assert_eq!(event["signals"].to_string(), r#"["SIGTERM","SIGKILL"]"#, "{event:#}");
    assert_eq!((&event["outcome"], stubborn.lives()), (&"applied".into(), false), "{event:#}");
    daemon.end();
}

/// Whether a signal waits for a process, as /proc says.
fn has_pending(pid: u32, number: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(pending.trim(), 16).unwrap() & 1 << (number - 1) != 0
}

#[test]
fn nobody_is_killed_after_his_grace_where_remedies_were_paused_meanwhile() {
    let _machine = machine();
    let rules = rule(END, "");
    let (mut daemon, file) = daemon(&rules, &["--terminate-grace", "5s"]);
    let mut stubborn = Holder::start("masks", 1);
    let pid = stubborn.pid();
    let deadline = Instant::now() + Duration::from_secs(20);
    // Not that it is ordered: what has not begun is taken back as a whole.
    while !has_pending(pid, libc::SIGTERM) {
        assert!(Instant::now() < deadline, "it is not asked to end:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::write(file.path(), format!("age = '400ms'\nremedy.paused = true\n{rules}")).unwrap();
    signal(daemon.pid(), libc::SIGHUP);
    let mut said = Vec::new();
    daemon.until("that it is paused, and what was done", Duration::from_secs(20), |seen| {
        if is_remedy(seen, pid, "terminate-holder") {
            said.push((seen.text("/outcome").to_owned(), seen.event["signals"].clone()));
            let paused = seen.text("/reason") == "paused";
            assert!(paused || seen.text("/message").contains("taken back"), "{seen:?}");
        }
        said.len() == 2
    });
    assert!(said.contains(&("no-effect".to_owned(), serde_json::json!(["SIGTERM"]))), "{said:?}");
    assert!(stubborn.lives() && stubborn.standing() == 1);
    daemon.end();
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let _machine = machine();
    let steps = format!("{NUDGE}, {END}");
    let mut holder = Holder::start("dies", 4);
    let (mut daemon, _file) = daemon(&rule(&steps, ""), &["--dry-run"]);
    for what in ["nudge", "terminate-holder"] {
        let planned = remedy(&mut daemon, holder.pid(), what);
        let event = &planned.event;
        assert_eq!((&event["outcome"], &event["dry_run"]), (&"planned".into(), &true.into()), "{event:#}");
        assert_eq!((&event["before"]["zombies"], &event["after"]), (&4.into(), &().into()), "{event:#}");
        assert!(planned.text("/message").contains("would be"), "{event:#}");
    }
    assert!(holder.lives() && holder.standing() == 4);
    daemon.end();
}

#[test]
fn without_a_rule_nothing_is_done_and_a_pause_says_so() {
    let _machine = machine();
    let holder = Holder::start("dies", 1);
    let (mut daemon, _file) = daemon("", &[]);
    let pid = u64::from(holder.pid());
    daemon.until("a report", Duration::from_secs(10), |seen| {
        seen.is("zombie") && seen.number("/holder/pid") == pid
    });
    let later = daemon.during(Duration::from_secs(2));
    assert!(!later.iter().any(|seen| seen.is("remedy")), "{later:?}");
    daemon.end();
    let (mut paused, _file) = self::daemon(&rule(NUDGE, ""), &["--pause-remedies"]);
    assert_eq!(remedy(&mut paused, holder.pid(), "nudge").text("/reason"), "paused");
    assert_eq!(holder.standing(), 1);
    paused.end();
}
