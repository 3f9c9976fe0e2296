//! Programs that leak without a stack of their own, started by one that has one: the starter's line is not theirs.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{build, leaks, line, run};
use crate::support::{Daemon, machine};

/// Starts each of the programs in its arguments, all at one line, and waits for the end of its input.
const STARTER: &str = "\
import subprocess, sys
def start(program):
    subprocess.Popen([program, 'fork'])
for program in sys.argv[1:]:
    start(program)
sys.stdin.read()
";

/// The line of [`STARTER`] that starts them.
const LINE: u64 = 3;

/// With what it has started. Killed when this is dropped.
struct Starter {
    child: Child,
    /// The names of what it started, by pid.
    started: HashMap<u64, String>,
}

impl Starter {
    fn start(script: &Path, programs: &[&Path]) -> Self {
        let python = "/usr/bin/python3";
        let mut command = Command::new(python);
        let child = command.args(["-I", "-S"]).arg(script).args(programs).stdin(Stdio::piped()).spawn();
        let child =
            child.unwrap_or_else(|error| panic!("{python}: {error}: `cargo xtask setup` installs it"));
        Self { child, started: HashMap::new() }
    }

    /// Finds out who they are, which have leaked by now.
    fn look(&mut self) {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        for child in children.split_whitespace() {
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap();
            self.started.insert(child.parse().unwrap(), name.trim_end().to_owned());
        }
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        self.look();
        for pid in self.started.keys() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn where_a_program_that_leaks_was_started_is_not_where_it_leaks() {
    let _machine = machine();
    let folder = tempfile::tempdir().unwrap();
    let program = build::c("gcc", &["-O2", "-g"], false);
    let names = ["alpha", "beta"];
    let programs = names.map(|name| folder.path().join(name));
    for path in &programs {
        fs::copy(&program.path, path).unwrap();
    }
    let script = folder.path().join("starter.py");
    fs::write(&script, STARTER).unwrap();
    // Native stacks are of those that are watched already: here of none.
    let mut daemon = Daemon::run(&["--age", "400ms", "--origin", "off"]);
    let mut starter = Starter::start(&script, &programs.each_ref().map(std::path::PathBuf::as_path));
    let mut reports: HashMap<String, serde_json::Value> = HashMap::new();
    daemon.until("both have leaked", Duration::from_secs(30), |seen| {
        if seen.is("zombie") && names.iter().any(|name| seen.event["holder"]["comm"] == *name) {
            let holder = seen.event["holder"]["comm"].as_str().unwrap().to_owned();
            reports.insert(holder, seen.event.clone());
        }
        reports.len() == names.len()
    });
    starter.look();
    let text = String::from_utf8(run(&["leaks"]).stdout).unwrap();
    let mut sites = Vec::new();
    for (name, report) in &reports {
        let (origin, holder) = (&report["origin"], report["holder"]["pid"].as_u64().unwrap());
        assert_eq!(starter.started[&holder], *name, "{report:#}");
        let who: Vec<_> =
            origin["chain"].as_array().unwrap().iter().take(2).map(|link| &link["pid"]).collect();
        assert_eq!(who, [&holder.into(), &serde_json::Value::from(starter.child.id())], "{origin:#}");
        // The line is right, and innocent.
        assert_eq!(origin["quality"], "lineage-only", "{origin:#}\n{}", daemon.log());
        assert_eq!((&origin["stack_of"], line(origin)), (&1.into(), Some(LINE)), "{origin:#}");
        let (_, of_it) = leaks(holder);
        let [site] = &of_it[..] else { panic!("{of_it:#?}") };
        assert_eq!((&site["site"], &site["total"]), (&origin["site"], &1.into()), "{site:#}");
        assert_eq!(site["quality"], "lineage-only", "{site:#}");
        sites.push(site["site"].clone());
        let told = format!("lineage-only: {name} ← {name} via start starter.py:{LINE}");
        assert!(text.contains(&told), "{told}\n{text}");
        let told = String::from_utf8(run(&["explain", &report["pid"].to_string()]).stdout).unwrap();
        let said = format!("no stack was taken of {name} ({holder}), which lives; it was started at: Python");
        assert!(told.split_whitespace().collect::<Vec<_>>().join(" ").contains(&said), "{said}\n{told}");
        assert!(told.contains("in the program that forked it"), "{told}");
    }
    assert_ne!(sites[0], sites[1], "two programs leak");
    daemon.end();
}
