//! Leak sites: counts, bounds, and other tools that read them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{Leaker, events, leaks, line, rare, reported, reported_by, resident, run};
use crate::support::{Daemon, machine, program, rounds, run_briefly};

/// Different stacks that one workload may have, of 8,192 that are kept,
const ONE_WORKLOADS: u64 = 6_144;
/// but for some that others have.
const OTHERS: u64 = 100;

/// KiB that a daemon may take for other reasons meanwhile.
const SLACK: u64 = 4_096;

#[test]
fn zombies_count_at_their_site_until_they_are_released() {
    let _machine = machine();
    let (daemon, leaker) = reported(&[], &["lines", "10", "30"]);
    let (_, sites) = leaks(leaker.pid());
    let sum = |key: &str| sites.iter().map(|site| site[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("standing"), sum("total")), (40, 40), "{sites:#?}");
    for site in &sites {
        assert_eq!(site["windows"][1]["leaked"], site["total"], "{site:#}");
    }
    let pid = leaker.pid();
    drop(leaker);
    until_none_stands(pid);
    let (_, sites) = leaks(pid);
    assert_eq!(sites.iter().map(|site| site["total"].as_u64().unwrap()).sum::<u64>(), 40);
    daemon.end();
}

#[test]
fn two_lines_of_one_program_are_two_sites_with_the_right_counts() {
    let _machine = machine();
    let (few, many) = rounds((150, 350), (3_000, 7_000));
    // What it takes to have one.
    let (daemon, first) = reported(&[], &["kinds", "1"]);
    let before = resident(daemon.pid());
    drop(first);
    let (daemon, leaker) = reported_by(daemon, &["lines", &few.to_string(), &many.to_string()]);
    let grown = resident(daemon.pid()).saturating_sub(before);
    let (head, sites) = leaks(leaker.pid());
    // The innermost frame of the program is the same; its caller is not.
    let caller = |site: &serde_json::Value| {
        let frames = site["origin"]["stack"]["frames"].as_array().unwrap_or_else(|| panic!("{site:#}"));
        frames[1]["line"].as_u64().unwrap()
    };
    let total = |site: &serde_json::Value| site["total"].as_u64().unwrap();
    let (sites, unread): (Vec<_>, Vec<_>) = sites.into_iter().partition(|site| site["quality"] == "exact");
    let counted: BTreeMap<u64, u64> = sites.iter().map(|site| (caller(site), total(site))).collect();
    let by_line = leaker.by_line();
    assert_eq!((sites.len(), counted.len()), (2, 2), "{head:#}");
    assert!(counted.iter().all(|(line, count)| *count <= by_line[line]), "{counted:?} of {by_line:?}");
    let unread: u64 = unread.iter().map(total).sum();
    assert_eq!(counted.values().sum::<u64>() + unread, few + many, "{head:#}");
    assert!(unread <= rare(leaker.leaked.len()) as u64, "{unread} of {by_line:?}");
    // Each zombie that stands takes some room of its own, its origin none.
    println!("{grown} KiB for {} zombies", few + many);
    assert!(grown <= 2 * (few + many) + SLACK, "{grown} KiB for {} zombies", few + many);
    assert_eq!((&head["forgotten_sites"], &head["forgotten_zombies"]), (&0.into(), &0.into()), "{head:#}");
    for site in &sites {
        assert_eq!(site["standing"], site["total"], "{site:#}");
        let file = site["origin"]["stack"]["frames"][1]["file"].as_str().unwrap();
        assert!(file.ends_with("/leaker.py"), "{site:#}");
        assert!(line(&site["origin"]).is_some(), "{site:#}");
    }
    let pid = leaker.pid();
    drop(leaker);
    until_none_stands(pid);
    daemon.end();
}

/// In the long form more lines leak than stacks are kept.
#[test]
fn what_is_kept_is_bounded_and_what_gave_way_is_said() {
    let _machine = machine();
    let kinds = rounds(500, 10_000);
    let (daemon, first) = reported(&["--origin-sites", "16"], &["kinds", "1"]);
    let before = resident(daemon.pid());
    drop(first);
    let (daemon, leaker) = reported_by(daemon, &["kinds", &kinds.to_string()]);
    let grown = resident(daemon.pid()).saturating_sub(before);
    println!("{grown} KiB for {kinds} sites");
    assert!(grown <= rounds(16, 64) * 1_024, "{grown} KiB for {kinds} sites");
    let (head, sites) = leaks(leaker.pid());
    let number = |key: &str| head[key].as_u64().unwrap();
    assert_eq!(number("capacity"), 16);
    assert!(number("sites") <= 16, "{head:#}");
    // What is another line's, as far as there was room for it.
    let told_apart = kinds.min(ONE_WORKLOADS - OTHERS);
    assert!(number("forgotten_sites") + 16 >= told_apart, "{head:#}");
    let kept: u64 = sites.iter().map(|site| site["total"].as_u64().unwrap()).sum();
    assert!(kept + number("forgotten_zombies") >= kinds, "{head:#} {kept}");
    // Whose stack found no room is counted, and has no line rather than a wrong one.
    let dropped = counted("stack-dropped", kinds.saturating_sub(ONE_WORKLOADS));
    assert!(dropped <= kinds - told_apart, "{dropped} were dropped of {kinds}");
    let lines: HashMap<u64, u64> = leaker.leaked.iter().copied().collect();
    let some: Vec<u64> = lines.keys().copied().step_by(lines.len().div_ceil(100)).collect();
    let (mut told, mut without, mut unread) = (0, 0, 0);
    for zombie in &some {
        for event in events(&run(&["explain", "--output", "json", &zombie.to_string()])) {
            let origin = &event["origin"];
            if event["event"] != "zombie" {
                continue;
            }
            told += 1;
            if origin["stack_of"] == 0 {
                let is_exact = origin["quality"] == "exact";
                unread += usize::from(!is_exact);
                assert!(
                    line(origin) == Some(lines[zombie]) || (!is_exact && line(origin).is_none()),
                    "{} is told as\n{origin:#}",
                    lines[zombie]
                );
            } else {
                // Where the program itself was started, or nothing.
                without += 1;
            }
        }
    }
    println!(
        "{dropped} were dropped; of {told} of them {without} have no line, {unread} could not all be read"
    );
    assert_eq!((told, without > 0), (some.len(), dropped > 0));
    assert!(unread <= rare(told), "{unread} of {told}");
    let text = String::from_utf8(run(&["leaks"]).stdout).unwrap();
    assert!(text.contains("gave way to others: only 16 are kept"), "{text}");
    daemon.end();
}

/// How many losses of a kind are counted, when they are at least so many.
pub(super) fn counted(what: &str, least: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let told = events(&run(&["check", "--output", "json"]));
        let lost = told.iter().find(|lost| lost["what"] == what).unwrap();
        let total = lost["total"].as_u64().unwrap();
        if total >= least {
            return total;
        }
        assert!(Instant::now() < deadline, "not {least}: {lost:#}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A wrong line is worse than none.
#[test]
fn code_that_is_forgotten_lends_its_line_to_nothing_that_lies_there_later() {
    let _machine = machine();
    let (daemon, leaker) = reported(&[], &["passing", "100"]);
    let wanted: HashMap<u64, u64> = leaker.leaked.iter().copied().collect();
    let mut explained = 0;
    for (zombie, line_of) in &wanted {
        let told = events(&run(&["explain", "--output", "json", &zombie.to_string()]));
        for event in told.iter().filter(|event| event["event"] == "zombie") {
            let origin = &event["origin"];
            if origin["quality"] == "exact" {
                assert_eq!(line(origin), Some(*line_of), "{origin:#}");
            }
            explained += 1;
        }
    }
    assert_eq!(explained, wanted.len());
    daemon.end();
}

#[test]
fn other_tools_read_what_is_written_for_them() {
    let _machine = machine();
    let (daemon, leaker) = reported(&[], &["lines", "20", "30"]);
    let directory = tempfile::tempdir().unwrap();
    let (profile, page) = (directory.path().join("leaks.pb.gz"), directory.path().join("leaks.html"));
    run(&["leaks", "--pprof", profile.to_str().unwrap()]);
    let mut pprof = Command::new(program("go"));
    let output = run_briefly(pprof.args(["tool", "pprof", "-raw"]).arg(&profile));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("zombies_standing/count zombies_total/count[dflt]"),
        "{output:?}"
    );
    let folded = String::from_utf8(run(&["leaks", "--folded"]).stdout).unwrap();
    let python: u64 = folded
        .lines()
        .filter(|line| line.contains(";python3;"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert!(python >= 50, "{folded}");
    run(&["leaks", "--html", page.to_str().unwrap()]);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("python3") && page.ends_with("</html>\n"), "{page}");
    drop(leaker);
    daemon.end();
}

#[test]
fn without_a_daemon_nothing_is_counted_and_that_is_said() {
    let _machine = machine();
    let output = run_briefly(Command::new(crate::support::reaper()).arg("leaks"));
    crate::support::assert_refused(&output, 69, &["no daemon listens", "reaper run"]);
}

#[test]
fn the_stack_is_below_each_zombie_where_it_is_asked_for() {
    let _machine = machine();
    let arguments = ["trace", "--stacks", "--age", "200ms", "--duration", "6s"];
    let tracing = thread::spawn(move || run(&arguments));
    // Until it ends: some of them are dead before it watches, some after.
    let mut leakers = Vec::new();
    while !tracing.is_finished() {
        leakers.push(Leaker::start(&["lines", "1", "1"]));
        // Too many at once are told of together, without their stacks.
        thread::sleep(Duration::from_millis(200));
    }
    let text = String::from_utf8(tracing.join().unwrap().stdout).unwrap();
    assert!(text.contains("  python3 ← python3"), "{text}");
    assert!(text.contains("\n  exact Python stack of python3 ("), "{text}");
    let lines: BTreeSet<u64> = leakers.iter().flat_map(|leaker| leaker.by_line().into_keys()).collect();
    // Of many alike the first few are shown.
    let is_frame = |text: &str| {
        text.starts_with("    ") && lines.iter().any(|line| text.ends_with(&format!("/leaker.py:{line}")))
    };
    assert!(text.lines().any(is_frame), "none of {lines:?} is in a stack:\n{text}");
}

fn until_none_stands(forker: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (_, sites) = leaks(forker);
        if sites.iter().all(|site| site["standing"] == 0) {
            return;
        }
        assert!(Instant::now() < deadline, "{sites:#?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_not_reported_yet_does_not_count() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "1h"]);
    let leaker = Leaker::start(&["lines", "5", "5"]);
    let (head, sites) = leaks(leaker.pid());
    assert!(sites.is_empty(), "{head:#} {sites:#?}");
    daemon.end();
}
