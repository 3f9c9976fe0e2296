//! Who is left alone, and whom a rule must name in so many words.

use std::{ffi::OsStr, fs, process::Command, time::Duration};

use super::{Holder, daemon, is_remedy, python, remedy, rule, state};
use crate::support::{Cgroup, Container, Rootfs, fixture, machine, program};

const END: &str = "{ remedy = 'terminate-holder', after = '800ms' }";
const REAP: &str = "{ remedy = 'reap', after = '800ms' }";

#[test]
fn a_workload_opts_out_by_its_environment() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&rule(END, ""), &[]);
    let mut python = python();
    python.env("REAPER_REMEDIES", "off");
    let mut holder = Holder::of(python, "deaf", 1);
    assert_eq!(remedy(&mut daemon, holder.pid(), "terminate-holder").text("/reason"), "opted-out");
    assert!(holder.lives());
    daemon.end();
}

#[test]
fn what_is_being_debugged_is_left_alone() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&rule(END, ""), &[]);
    let mut holder = Holder::start("deaf", 1);
    let mut strace = Command::new(program("strace"))
        .args(["-o", "/dev/null", "-p", &holder.pid().to_string()])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let traced = || {
        let status = fs::read_to_string(format!("/proc/{}/status", holder.pid())).unwrap();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    while !traced() {
        std::thread::yield_now();
    }
    let refused = remedy(&mut daemon, holder.pid(), "terminate-holder");
    assert_eq!(refused.text("/reason"), "protected", "{refused:?}");
    assert!(refused.text("/message").contains("debugger"), "{refused:?}");
    assert!(holder.lives());
    strace.kill().unwrap();
    strace.wait().unwrap();
    daemon.end();
}

#[test]
fn whoever_is_above_the_first_process_of_a_namespace_elsewhere_is_left_alone() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&rule(END, ""), &[]);
    let unshare = program("unshare");
    let words = ["--pid", "--fork", "--kill-child", "/bin/sleep", "600"].map(OsStr::new);
    let elsewhere = Cgroup::new(format!("reaper-live-above-{}", std::process::id()));
    let command = elsewhere.command(&unshare);
    let mut moved: Vec<_> = command.get_args().collect();
    moved.insert(0, command.get_program());
    moved.extend(words);
    let mut above = Holder::above(python(), "deaf", 1, &moved);
    let refused = remedy(&mut daemon, above.pid(), "terminate-holder");
    assert_eq!(refused.text("/reason"), "protected", "{refused:?}");
    assert!(refused.text("/message").contains("descends from it"), "{refused:?}");
    assert!(above.lives());
    // A sandbox that stays in its maker's cgroup is no container.
    let own = [&[unshare.as_os_str()], &words[..]].concat();
    let mut sandboxed = Holder::above(python(), "deaf", 1, &own);
    assert_eq!(remedy(&mut daemon, sandboxed.pid(), "terminate-holder").text("/outcome"), "applied");
    assert!(!sandboxed.lives());
    daemon.end();
}

#[test]
fn a_containers_first_process_is_left_alone_unless_the_rule_says_so() {
    let _machine = machine();
    let fill = |shared: &std::path::Path| {
        fs::copy(fixture("remedy/holder.py"), shared.join("holder.py")).unwrap();
    };
    let words = ["/usr/bin/python3", "-I", "-S", "/seed/holder.py", "deaf", "2"];
    let container = Container::start("policy", Rootfs::HostPrograms, fill, &words);
    let init = container.init();
    let steps = rule(END, "");
    {
        let (mut daemon, _file) = daemon(&steps, &[]);
        let refused = remedy(&mut daemon, init, "terminate-holder");
        assert_eq!(refused.text("/reason"), "container-init", "{refused:?}");
        assert_eq!(state(u64::from(init)), Some('S'));
        daemon.end();
    }
    let (mut daemon, _file) = daemon(&rule(END, "may_end_container = true"), &[]);
    let done = remedy(&mut daemon, init, "terminate-holder");
    // As PID 1 of its namespace it ignores SIGTERM.
    assert_eq!(done.event["signals"].to_string(), r#"["SIGTERM","SIGKILL"]"#, "{done:?}");
    assert_eq!(done.text("/outcome"), "applied", "{done:?}");
    daemon.end();
}

#[test]
fn orphans_are_reaped_only_where_their_holder_was_seen_making_no_wait_for_them() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&rule(REAP, ""), &[]);
    for (mode, reason) in [("peeks", "wait-seen"), ("deaf", "needs-consent")] {
        let holder = Holder::start(mode, 2);
        let refused = remedy(&mut daemon, holder.pid(), "reap");
        assert_eq!(refused.text("/reason"), reason, "{mode}: {refused:?}");
        assert_eq!(holder.standing(), 2);
    }
    let mut holder = Holder::start("adopt", 2);
    let mut reaped = 0;
    daemon.until("both are reaped", Duration::from_secs(20), |seen| {
        if is_remedy(seen, holder.pid(), "reap") {
            let event = &seen.event;
            let outcome = (&event["outcome"], &event["after"]["zombies"]);
            assert_eq!(outcome, (&"applied".into(), &0.into()), "{event:#}");
            assert!(event["pause_us"].as_u64().is_some_and(|pause| pause > 0), "{event:#}");
            assert_eq!(event["stops"], 1, "{event:#}");
            for zombie in event["zombies"].as_array().unwrap() {
                let taken = (&zombie["gone"], &zombie["status_taken"], &zombie["exit"]["code"]);
                assert_eq!(taken, (&true.into(), &true.into(), &7.into()), "{event:#}");
                reaped += 1;
            }
        }
        reaped == 2
    });
    assert_eq!((holder.standing(), holder.lives()), (0, true));
    daemon.end();
}

#[test]
fn a_holder_that_waits_for_others_by_their_pids_has_its_orphans_reaped_and_not_the_one_it_asks_for() {
    let _machine = machine();
    let (mut daemon, _file) = daemon(&rule(REAP, ""), &[]);
    let mut works = Holder::start("works", 3);
    let mut gone = 0;
    // They need not be of age at the same moment.
    daemon.until("all are reaped", Duration::from_secs(20), |seen| {
        if is_remedy(seen, works.pid(), "reap") {
            assert_eq!(seen.text("/outcome"), "applied", "{seen:?}");
            gone += seen.event["zombies"].as_array().unwrap().len();
        }
        gone == 3
    });
    assert_eq!((works.standing(), works.lives()), (0, true));
    let mut asks = Holder::start("asks", 2);
    let (pid, first) = (u64::from(asks.pid()), asks.zombies[0]);
    let (mut refused, mut applied) = (false, false);
    daemon.until("one is refused and one is reaped", Duration::from_secs(20), |seen| {
        if seen.is("remedy") && seen.number("/holder/pid") == pid {
            let [zombie] = &seen.event["zombies"].as_array().unwrap()[..] else { panic!("{seen:?}") };
            if seen.text("/outcome") == "refused" {
                assert_eq!(seen.text("/reason"), "awaited-by-number", "{seen:?}");
                assert_eq!(zombie["pid"], first, "{seen:?}");
                refused = true;
            } else {
                assert_eq!(seen.text("/outcome"), "applied", "{seen:?}");
                assert_ne!(zombie["pid"], first, "{seen:?}");
                applied = true;
            }
        }
        refused && applied
    });
    assert_eq!((state(first), asks.standing(), asks.lives()), (Some('Z'), 1, true));
    daemon.end();
}

#[test]
fn a_never_waited_one_needs_a_consent_and_an_age_long_past_what_the_holder_takes() {
    let _machine = machine();
    let consent = "match.cause = 'never-waited'\nparent_may_miss_status = true";
    let rules = format!("[[rule]]\n{consent}\nmatch.executable = '/usr/bin/python3*'\nsteps = [{REAP}]\n");
    let (mut daemon, _file) = daemon(&rules, &[]);
    let holder = Holder::start("deaf", 1);
    let pid = u64::from(holder.pid());
    let mut reasons = Vec::new();
    // Half the age is 200 ms: after ten times that it is long past.
    daemon.until("it is reaped", Duration::from_secs(90), |seen| {
        let ours = seen.is("remedy") && seen.number("/holder/pid") == pid;
        if ours && seen.text("/outcome") == "refused" {
            reasons.push(seen.text("/reason").to_owned());
        }
        ours && seen.text("/outcome") == "applied"
    });
    assert_eq!(holder.standing(), 0);
    assert_eq!(reasons[0], "reap-time-unknown", "{reasons:?}");
    daemon.end();
}
