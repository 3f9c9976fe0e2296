//! `reaper explain`: what a pid is, from the daemon and without one.

use std::{fs, process::Command};

use super::{Leaker, events, reported, run};
use crate::support::{machine, reaper, run_briefly};

fn explained(pid: u64) -> Vec<serde_json::Value> {
    events(&run(&["explain", &pid.to_string(), "--output", "json"]))
}

#[test]
fn a_zombie_is_explained_with_its_holder_its_cause_and_its_origin() {
    let _machine = machine();
    let (daemon, leaker) = reported(&[], &["lines", "2", "1"]);
    let (zombie, _) = leaker.leaked[0];
    let events = explained(zombie);
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    assert_eq!(
        (&events[0]["what"], &events[0]["source"]),
        (&"zombie".into(), &"daemon".into()),
        "{events:#?}"
    );
    let [shown] = of("zombie")[..] else { panic!("{events:#?}") };
    assert_eq!((&shown["pid"], &shown["holder"]["pid"]), (&zombie.into(), &leaker.pid().into()));
    assert_eq!((of("leak-site").len(), of("outlook").len()), (1, 1), "{events:#?}");
    assert_eq!(of("leak-site")[0]["site"], shown["origin"]["site"]);
    assert_eq!((&of("outlook")[0]["reported"], &of("outlook")[0]["acts"]), (&true.into(), &false.into()));
    let page = String::from_utf8(run(&["explain", &zombie.to_string()]).stdout).unwrap();
    for part in [
        format!("pid {zombie} is a zombie\n"),
        format!("Holder     python3 ({})", leaker.pid()),
        "Cause      never-waited: ".to_owned(),
        "Rules      none does more than report".to_owned(),
        "What to do Wait".to_owned(),
    ] {
        assert!(page.contains(&part), "{part}\n{page}");
    }
    daemon.end();
}

#[test]
fn a_holder_a_living_process_a_thread_and_nobody_are_told_apart() {
    let _machine = machine();
    let (daemon, leaker) = reported(&[], &["lines", "3", "4"]);
    let events = explained(leaker.pid());
    assert_eq!((&events[0]["what"], &events[0]["zombies"]), (&"holder".into(), &7.into()), "{events:#?}");
    let page = String::from_utf8(run(&["explain", &leaker.pid().to_string()]).stdout).unwrap();
    assert!(
        page.contains("lives, and holds 7 zombies") && page.contains("Causes     7 never-waited"),
        "{page}"
    );

    let head = &explained(std::process::id().into())[0];
    assert_eq!(head["what"], "process", "{head:#}");
    let thread = fs::read_link("/proc/thread-self").unwrap();
    let thread = thread.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let head = &explained(thread)[0];
    assert!(head["message"].as_str().unwrap().contains("is a thread of process"), "{head:#}");

    let highest: u32 = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim().parse().unwrap();
    // No pid is as high as that.
    let output = run_briefly(Command::new(reaper()).args(["explain", &highest.to_string()]));
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("there is no process with pid"), "{output:?}");
    daemon.end();
}

#[test]
fn without_a_daemon_a_census_says_what_it_can() {
    let _machine = machine();
    let leaker = Leaker::start(&["lines", "1", "1"]);
    let events = explained(leaker.leaked[0].0);
    assert_eq!(
        (&events[0]["what"], &events[0]["source"]),
        (&"zombie".into(), &"census".into()),
        "{events:#?}"
    );
    assert_eq!(events.len(), 2, "{events:#?}");
    let page = String::from_utf8(run(&["explain", &leaker.leaked[0].0.to_string()]).stdout).unwrap();
    assert!(page.contains("Rules      not known: no daemon was asked"), "{page}");
}
