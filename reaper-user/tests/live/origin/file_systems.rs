//! Interpreters on file systems whose files have another device than what is mounted, and on one that a program answers for.

use std::{fs, path::PathBuf, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    python::{Program, holds_of},
    rare,
    sites::counted,
};
use crate::support::{Daemon, machine, program, rounds};

/// Puts the interpreter into `$there` and executes it.
const RUN: &str = r#"cp "$1" "$there/python"; shift; exec "$there/python" "$@""#;

/// Makes `disk`, with btrfs.
const BTRFS: &str =
    "truncate -s 256M image; mkfs.btrfs -q image > made 2>&1; mkdir disk; mount -o loop image disk";

/// The file of an interpreter has the line that leaks, whatever the device of its file system is.
fn holds(name: &str, make: &str) {
    for needed in ["mkfs.btrfs", "mount"] {
        program(needed);
    }
    let _machine = machine();
    let mut daemon = Daemon::trace(&["--age", "300ms"]);
    for way in ["popen", "fork"] {
        let count = rounds(20, 200);
        let mut program = Program::start_by(&format!("{make}; {RUN}"), way, count);
        let unread = holds_of(&mut daemon, &format!("{name} {way}"), &mut program, count);
        assert!(unread <= rare(count), "{unread}\n{}", daemon.log());
        // What this is about: another device than what is mounted has.
        let directory = format!("/proc/{}", program.pid());
        let device = rustix::fs::stat(format!("{directory}/exe")).unwrap().st_dev;
        let device = format!(" {}:{} ", rustix::fs::major(device), rustix::fs::minor(device));
        let mounts = fs::read_to_string(format!("{directory}/mountinfo")).unwrap();
        assert!(!mounts.contains(&device), "{device}: {mounts}");
    }
    daemon.end();
}

#[test]
fn an_interpreter_on_btrfs_is_followed_like_any_other() {
    holds("btrfs", &format!("{BTRFS}; there=disk"));
}

#[test]
fn an_interpreter_in_the_lower_layer_of_an_overlay_is_followed_like_any_other() {
    let layers = "mkdir memory over; mount -t tmpfs none memory; mkdir memory/upper memory/work";
    let mount = "mount -t overlay -o lowerdir=disk,upperdir=memory/upper,workdir=memory/work none over";
    holds("lower", &format!(r#"{BTRFS}; cp "$1" disk/python; {layers}; {mount}; cp() {{ :; }}; there=over"#));
}

#[test]
fn an_interpreter_in_the_upper_layer_of_an_overlay_is_followed_like_any_other() {
    let layers = "mkdir memory over; mount -t tmpfs none memory; mkdir memory/upper memory/work";
    let mount = "mount -t overlay -o lowerdir=disk,upperdir=memory/upper,workdir=memory/work none over";
    holds("upper", &format!("{BTRFS}; {layers}; {mount}; there=over"));
}

/// Nor is it waited for whoever answers for that.
#[test]
fn an_interpreter_on_a_file_system_of_a_programs_is_not_looked_at_and_that_is_said_and_counted() {
    program("bindfs");
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "300ms", "--origin", "off"]);
    let before = counted("unrecognized", 0);
    let directory = tempfile::tempdir().unwrap();
    let answerer = Answerer(directory.path().join("answerer"));
    let make = "mkdir lower fuse; cp \"$1\" lower/python; bindfs -f lower fuse & echo $! > $ANSWERER; \
                until mountpoint -q fuse; do :; done; cp() { :; }; there=fuse";
    let make = format!("ANSWERER={}; {make}", answerer.0.display());
    let mut program = Program::start_by(&format!("{make}; {RUN}"), "popen", 5);
    let truth = program.truth(Duration::from_secs(60));
    let mut left: Vec<u64> = truth.keys().copied().collect();
    daemon.until("all are reported", Duration::from_secs(30), |seen| {
        if seen.is("zombie") && seen.number("/holder/pid") == program.pid() {
            assert_ne!(seen.event["origin"]["quality"], "exact", "{:#}", seen.event);
            left.retain(|pid| *pid != seen.number("/pid"));
        }
        left.is_empty()
    });
    // The file, not each that runs it.
    assert_eq!(counted("unrecognized", before + 1), before + 1, "{}", daemon.log());
    let said =
        daemon.log().lines().filter(|line| line.contains("a program answers for the file system")).count();
    assert_eq!(said, 1, "{}", daemon.log());
    assert!(daemon.log().contains("fuse"), "{}", daemon.log());
    daemon.end();
}

/// What answers for a file system. It is ended when this is dropped, behind what runs there.
struct Answerer(PathBuf);

impl Drop for Answerer {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.0).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}
