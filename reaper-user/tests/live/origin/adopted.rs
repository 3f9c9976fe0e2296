//! Orphans: whoever holds them never forked them, and the line that did is two processes away, in one that may be gone as well.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use super::{line, rare};
use crate::support::{Container, Daemon, Rootfs, fixture, machine};

const PYTHON: &str = "/usr/bin/python3";

/// As `adopted.py` has it.
const BROWSERS: usize = 8;

/// Killed when this is dropped.
struct Adopter(Child);

impl Drop for Adopter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the program needs in its folder.
fn fill(folder: &Path) {
    assert!(Path::new(PYTHON).exists(), "{PYTHON} is missing: `cargo xtask setup` installs it");
    fs::copy(fixture("origin/adopted.py"), folder.join("adopted.py")).unwrap();
    mknodat(CWD, folder.join("end"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// What the program says of its children when it has forked all.
fn truth(folder: &Path) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let text = fs::read_to_string(folder.join("log")).unwrap_or_default();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let said: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        if said.last().is_some_and(|last| last["how"] == "done") {
            return said;
        }
        assert!(Instant::now() < deadline, "the program is not done: {text}");
        std::thread::yield_now();
    }
}

/// The host's pid of a process that somebody's child `ns_pid` is.
fn host_pid(parent: u32, ns_pid: &Value) -> u64 {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let is_it = |pid: &&str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        pids.and_then(|pids| pids.split_whitespace().last()?.parse().ok()) == ns_pid.as_u64()
    };
    let found = children.split(' ').find(is_it);
    found.unwrap_or_else(|| panic!("{ns_pid} is none of {children}")).parse().unwrap()
}

/// Every browser of the program in this folder is reported with the line that it says it was, before and after the crawler ended.
fn holds(mut daemon: Daemon, adopter: u32, folder: &Path) {
    let said = truth(folder);
    let (marker, browsers) = said.split_last().unwrap();
    assert_eq!(browsers.len(), BROWSERS);
    let crawler = host_pid(adopter, &marker["crawler"]);
    let mut reports: HashMap<u64, Value> = HashMap::new();
    let mut until = |what: &str, wanted: &[&Value]| {
        daemon.until(what, Duration::from_secs(30), |seen| {
            if seen.is("zombie") && [u64::from(adopter), crawler].contains(&seen.number("/holder/pid")) {
                reports.insert(seen.number("/ns_pid"), seen.event.clone());
            }
            wanted.iter().all(|said| reports.contains_key(&said["pid"].as_u64().unwrap()))
        });
    };
    let (early, late) = browsers.split_at(BROWSERS / 2);
    until("those that ended are reported", &early.iter().chain([marker]).collect::<Vec<_>>());
    fs::write(folder.join("end"), "").unwrap();
    until("the others are reported", &late.iter().collect::<Vec<_>>());
    let text = fs::read_to_string(folder.join("adopted.py")).unwrap();
    let mut unread = 0;
    for (number, said) in browsers.iter().enumerate() {
        let (how, report) = (said["how"].as_str().unwrap(), &reports[&said["pid"].as_u64().unwrap()]);
        let (origin, what) = (&report["origin"], format!("{said:#}\n{report:#}\n{}", daemon.log()));
        assert_eq!(
            (&report["holder"]["pid"], &report["cause"]),
            (&adopter.into(), &"adopted".into()),
            "{what}"
        );
        let chain = origin["chain"].as_array().unwrap();
        let who: Vec<_> = chain
            .iter()
            .take(3)
            .map(|link| (link["comm"].as_str().unwrap(), link["alive"].as_bool()))
            .collect();
        let middle = if how == "detached" { "python3" } else { "sh" };
        let crawls = number < BROWSERS / 2;
        assert_eq!(
            who,
            [(middle, Some(false)), ("python3", Some(crawls)), ("python3", Some(true))],
            "{what}"
        );
        assert_eq!((&chain[1]["pid"], &chain[2]["pid"]), (&crawler.into(), &adopter.into()), "{what}");
        assert_eq!(report["forker"]["pid"], chain[0]["pid"], "{what}");
        if origin["quality"] != "exact" {
            assert_eq!(line(origin), None, "{what}");
            unread += 1;
            continue;
        }
        // Whose line it is: the shell's has none.
        assert_eq!(origin["stack_of"], u64::from(how != "detached"), "{what}");
        let place =
            &origin["stack"]["frames"][usize::try_from(origin["stack"]["place"].as_u64().unwrap()).unwrap()];
        assert_eq!((&place["function"], line(origin)), (&how.into(), said["line"].as_u64()), "{what}");
        let of_text = text.lines().nth(usize::try_from(said["line"].as_u64().unwrap()).unwrap() - 1).unwrap();
        assert!(of_text.contains("subprocess.Popen("), "{of_text}");
    }
    assert!(unread <= rare(browsers.len()), "{unread}\n{}", daemon.log());
    daemon.end();
}

#[test]
fn an_orphan_of_a_subreaper_is_told_with_the_line_that_its_dead_forker_comes_from() {
    let _machine = machine();
    let daemon = Daemon::trace(&["--age", "300ms"]);
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let program = folder.path().join("adopted.py");
    let adopter = Command::new(PYTHON)
        .arg("-I")
        .arg(program)
        .arg("adopt")
        .arg(folder.path())
        .stdin(Stdio::null())
        .spawn();
    let adopter = Adopter(adopter.unwrap());
    holds(daemon, adopter.0.id(), folder.path());
}

#[test]
fn an_orphan_of_a_containers_first_process_is_told_with_the_line_that_its_dead_forker_comes_from() {
    let _machine = machine();
    let daemon = Daemon::trace(&["--age", "300ms"]);
    let arguments = [PYTHON, "-I", "/seed/adopted.py", "adopt", "/seed"];
    let container = Container::start("adopted", Rootfs::HostPrograms, fill, &arguments);
    holds(daemon, container.init(), container.shared());
}
