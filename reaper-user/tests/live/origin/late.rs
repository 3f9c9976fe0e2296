//! The process that reads files of others stands still while an interpreter is looked at, as on a machine without memory.

use std::{
    collections::HashSet,
    fs,
    io::Write as _,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{line, rare, sites::counted};
use crate::support::{Daemon, machine, program};

/// Leaks a child for each line that it is sent.
const PROGRAM: &str = "\
import subprocess, sys
children = []
def leak():
    children.append(subprocess.Popen(['true']))
for _ in sys.stdin:
    leak()
";

/// The line of [`PROGRAM`] that does.
const LINE: u64 = 4;

struct Leaker(Child);

impl Drop for Leaker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The children of a process, whichever of its threads has them.
fn children(pid: u32) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .filter_map(Pid::from_raw)
        .collect()
}

#[test]
fn an_interpreter_that_was_looked_at_too_late_is_looked_at_again_while_it_runs() {
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "200ms", "--origin", "off"]);
    let before = counted("unrecognized", 0);
    let reading = children(daemon.pid());
    assert!(!reading.is_empty(), "the daemon has looked at what runs already");
    for pid in reading {
        kill_process(pid, Signal::STOP).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    // Of a file that nobody has looked at.
    let (python, script) = (folder.path().join("own-python"), folder.path().join("leak.py"));
    fs::copy("/usr/bin/python3", &python).expect("python3: `cargo xtask setup` installs it");
    fs::write(&script, PROGRAM).unwrap();
    let child = Command::new(&python).args(["-I", "-S"]).arg(&script).stdin(Stdio::piped()).spawn();
    let mut leaker = Leaker(child.unwrap());
    let mut input = leaker.0.stdin.take().unwrap();
    counted("unrecognized", before + 1);
    let said = "took too long, or killed the process that reads files of others";
    let (mut told, deadline) = (HashSet::new(), Instant::now() + Duration::from_secs(30));
    loop {
        input.write_all(b"\n").unwrap();
        let (mut found, holder) = (None, u64::from(leaker.0.id()));
        daemon.until("another child is reported", Duration::from_secs(10), |seen| {
            if seen.is("zombie") && seen.number("/holder/pid") == holder && told.insert(seen.number("/pid")) {
                found = Some(seen.event["origin"].clone());
            }
            found.is_some()
        });
        let origin = found.unwrap();
        if origin["quality"] == "exact" {
            assert_eq!(line(&origin), Some(LINE), "{origin:#}");
            break;
        }
        assert_eq!(origin["quality"], "lineage-only", "{origin:#}");
        assert!(Instant::now() < deadline, "it is not followed: {origin:#}\n{}", daemon.log());
    }
    let log = daemon.log();
    assert!(log.contains(said) && log.contains("own-python"), "{log}");
    drop(leaker);
    daemon.end();
}

/// The kernel side wakes nobody for a stack just after another one; what is looked at meanwhile for another reason must not make it be
/// forgotten.
#[test]
fn a_stack_that_nobody_was_woken_for_is_read_whatever_else_was_found_meanwhile() {
    const TIMES: usize = 10;
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "300ms", "--origin", "off"]);
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("leak.py");
    fs::write(&script, PROGRAM).unwrap();
    let child =
        Command::new("/usr/bin/python3").args(["-I", "-S"]).arg(&script).stdin(Stdio::piped()).spawn();
    let mut leaker = Leaker(child.expect("python3: `cargo xtask setup` installs it"));
    let mut input = leaker.0.stdin.take().unwrap();
    let (mut told, holder) = (HashSet::new(), u64::from(leaker.0.id()));
    let mut others: Vec<_> = (0..TIMES).map(|number| folder.path().join(format!("true{number}"))).collect();
    for other in &others {
        fs::copy(program("true"), other).unwrap();
    }
    let mut leaked = |input: &mut ChildStdin, daemon: &mut Daemon, times: usize| {
        let mut lines = Vec::new();
        for time in 0..times {
            if time > 0 {
                // A file that nobody has looked at: it is looked for sooner again than a stack.
                assert!(Command::new(others.pop().unwrap()).status().unwrap().success());
                thread::sleep(Duration::from_millis(10));
            }
            input.write_all(b"\n").unwrap();
        }
        daemon.until("all are reported", Duration::from_secs(10), |seen| {
            if seen.is("zombie") && seen.number("/holder/pid") == holder && told.insert(seen.number("/pid")) {
                lines.push(line(&seen.event["origin"]));
            }
            lines.len() == times
        });
        lines
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while leaked(&mut input, &mut daemon, 1) != [Some(LINE)] {
        assert!(Instant::now() < deadline, "it is not followed\n{}", daemon.log());
    }
    let pairs: Vec<_> = (0..TIMES).map(|_| leaked(&mut input, &mut daemon, 2)).collect();
    let unread = pairs.iter().filter(|pair| **pair != [Some(LINE); 2]).count();
    assert!(unread <= rare(TIMES), "{pairs:?}\n{}", daemon.log());
    drop(leaker);
    daemon.end();
}
