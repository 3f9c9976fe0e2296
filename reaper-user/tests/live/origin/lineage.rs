//! Chains of forkers, the dead included.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{Daemon, fixture, machine, run_briefly};

/// What `family.py` says of itself: pid and start in clock ticks, by name.
type Family = HashMap<String, (u64, u64)>;

/// The family, as long as its ancestor lives.
struct Home {
    ancestor: Child,
    log: tempfile::TempPath,
}

impl Home {
    fn start() -> Self {
        let python = Path::new("/usr/bin/python3");
        assert!(python.exists(), "{} is missing: `cargo xtask setup` installs it", python.display());
        let log = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let mut command = Command::new(python);
        let ancestor =
            command.arg(fixture("origin/family.py")).arg(&log).stdin(Stdio::piped()).spawn().unwrap();
        Self { ancestor, log }
    }

    /// Who they were, when all but one are dead.
    fn settled(&self) -> Family {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(&self.log).unwrap();
            let family: Family = text.lines().filter_map(member).collect();
            // The youngest may say who it is after the eldest is done.
            if ["done", "child"].iter().all(|name| family.contains_key(*name)) {
                return family;
            }
            assert!(Instant::now() < deadline, "the family is not done: {text}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // It ends when its input does, and its heir waits for the zombie.
        drop(self.ancestor.stdin.take());
        self.ancestor.wait().unwrap();
    }
}

fn member(line: &str) -> Option<(String, (u64, u64))> {
    let mut words = line.split(' ');
    Some((words.next()?.to_owned(), (words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
}

fn process(link: &Value) -> (u64, u64) {
    (link["pid"].as_u64().unwrap(), link["start_time"].as_u64().unwrap() / 10_000_000)
}

#[test]
fn a_chain_leads_through_the_dead_to_the_living_ancestor() {
    let _machine = machine();
    let mut daemon = Daemon::trace(&["--age", "500ms"]);
    let home = Home::start();
    let family = home.settled();
    let mut found = None;
    daemon.until("the child is reported", Duration::from_secs(20), |seen| {
        let is = seen.is("zombie") && seen.process() == family["child"];
        if is {
            found = Some(seen.event.clone());
        }
        is
    });
    let zombie = found.unwrap();
    assert_eq!(zombie["cause"], "adopted");
    assert_eq!(zombie["holder"]["pid"], family["ancestor"].0);
    assert_eq!(zombie["forker"]["pid"], family["mother"].0);
    let chain = zombie["origin"]["chain"].as_array().unwrap();
    let who: Vec<_> = chain.iter().take(3).map(process).collect();
    assert_eq!(who, [family["mother"], family["grandmother"], family["ancestor"]], "{chain:#?}");
    let alive: Vec<_> = chain.iter().take(3).map(|link| link["alive"].as_bool().unwrap()).collect();
    assert_eq!(alive, [false, false, true]);
    let own = fs::read_to_string(format!("/proc/{}/comm", family["ancestor"].0)).unwrap();
    for link in &chain[..3] {
        assert_eq!(link["comm"], own.trim_end(), "they never exec'ed");
    }
    let line = format!("/usr/bin/python3 {} {}", fixture("origin/family.py").display(), home.log.display());
    assert_eq!(chain[2]["cmdline"], line.as_str());
    // Before that, the memory is gone when a death is told of.
    if kernel_at_least(6, 16) {
        assert_eq!(
            (&chain[0]["cmdline"], &chain[1]["cmdline"]),
            (&chain[2]["cmdline"], &chain[2]["cmdline"])
        );
    }
    daemon.end();
}

fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = run_briefly(Command::new("uname").arg("-r")).stdout;
    let release = String::from_utf8(release).unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.trim().parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}
