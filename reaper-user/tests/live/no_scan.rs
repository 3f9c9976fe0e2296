//! No scan: what the daemon opens, as strace shows it.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::support::{Daemon, Workload, machine, program, rounds, signal};

/// Zombies of one holder.
const ZOMBIES: usize = 1_000;

/// Opens under /proc that one confirmed zombie may cost.
const OPENS_A_ZOMBIE: usize = 4;

/// Opens under /proc that the holder of any number of zombies may cost, and whatever else happens once.
const OPENS_ONCE: usize = 100;

/// Programs that others may run for the first time meanwhile.
const NEW_PROGRAMS: usize = 100;

/// Reads of directories where runtimes keep their state, for a few lookups.
const STATES: usize = 50;

#[test]
fn without_zombies_the_daemon_opens_nothing_under_proc_and_lists_no_directory() {
    let _machine = machine();
    let daemon = Daemon::trace(&["--age", "5s"]);
    let workload = Workload::healthy();
    let strace = Strace::attach(daemon.pid());
    let mut daemon = daemon;
    let seen = daemon.during(Duration::from_secs(rounds(15, 60))).to_vec();
    let lines = strace.detach();
    workload.end_healthy();
    daemon.end();
    assert!(
        !seen.iter().any(|seen| seen.is("zombie")),
        "there were zombies on this machine, try it when it is quiet: {seen:?}"
    );
    // A program that is run for the first time is looked at once, whoever runs it: not each process.
    let looked_at: HashSet<_> = lines.iter().filter_map(|line| program_of(line)).collect();
    assert!(looked_at.len() <= NEW_PROGRAMS, "{looked_at:?}");
    let is_about = |line: &str| looked_at.iter().any(|pid| line.contains(&format!("/proc/{pid}")));
    // On a busy machine a child may stand for a while that is waited for. Whose it was is looked up where the runtimes keep their state.
    let (states, others): (Vec<_>, Vec<_>) =
        lines.iter().filter(|line| is_scan(line)).partition(|line| line.contains("</run/"));
    assert!(states.len() <= STATES, "{states:#?}");
    let looks: Vec<_> = lines.iter().filter(|line| is_proc(line) && !is_about(line)).collect();
    assert!(others.is_empty() && looks.is_empty(), "{others:#?} {looks:#?}");
    println!("{} calls that name a file: {lines:#?}", lines.len());
}

#[test]
fn a_thousand_zombies_of_one_holder_cost_a_few_reads_each_and_once() {
    let _machine = machine();
    let mut daemon = Daemon::trace(&["--age", "2s"]);
    let strace = Strace::attach(daemon.pid());
    let zombies = ZOMBIES.to_string();
    let workload = Workload::start(&["standing", &zombies]);
    let holder = workload.wait_for("forked", Duration::from_secs(30))["holder"].clone();
    let mut reported = Vec::new();
    daemon.until("a report for each zombie", Duration::from_secs(60), |seen| {
        if seen.is("zombie") && seen.event["holder"]["pid"] == holder {
            reported.push(seen.event["pid"].clone());
        }
        reported.len() == ZOMBIES
    });
    let lines = strace.detach();
    let opens = lines.iter().filter(|line| is_proc(line)).count();
    let lists = lines.iter().filter(|line| is_scan(line)).count();
    println!("{opens} opens under /proc and {lists} listings for {ZOMBIES} zombies");
    assert!(opens > 0, "strace sees nothing, so it proves nothing: {lines:#?}");
    assert!(opens <= ZOMBIES * OPENS_A_ZOMBIE + OPENS_ONCE, "{opens} opens for {ZOMBIES} zombies");
    // What a cgroup without a telling name belongs to is looked up once where the runtimes keep their state.
    let lists: Vec<_> = lines.iter().filter(|line| is_scan(line) && !line.contains("</run/")).collect();
    assert!(lists.is_empty(), "{lists:#?}");

    let strace = Strace::attach(daemon.pid());
    let again = daemon.during(Duration::from_secs(rounds(6, 20))).len();
    let lines = strace.detach();
    assert_eq!(again, 0, "nothing is reported twice");
    // Others that fork meanwhile may be looked at.
    let known: Vec<_> = reported.iter().chain([&holder]).map(|pid| format!("/proc/{pid}/")).collect();
    let is_known = |line: &str| known.iter().any(|path| line.contains(path));
    let opens: Vec<_> = lines.iter().filter(|line| is_known(line) || is_scan(line)).collect();
    assert!(opens.is_empty(), "what was reported is not read again: {opens:#?}");
    workload.end();
    daemon.end();
}

/// The pid of which the executable file is opened.
fn program_of(line: &str) -> Option<&str> {
    let (pid, _) = line.split_once("\"/proc/")?.1.split_once("/exe\"")?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then_some(pid)
}

fn is_scan(line: &str) -> bool {
    line.contains("getdents")
}

fn is_proc(line: &str) -> bool {
    // By its own descriptors' names a daemon asks for the path of a new cgroup, and sees no process.
    let line = line.replace("\"/proc/self/fd/", "\"");
    // Both an absolute path, and one that is relative to a descriptor of a directory there (-y shows it).
    line.contains("\"/proc") || line.contains("</proc")
}

#[test]
fn only_the_names_of_its_own_descriptors_are_no_look_at_a_process() {
    let own = r#"7 readlink("/proc/self/fd/12", "/sys/fs/cgroup/system.slice/x.service", 4096) = 37"#;
    assert!(!is_proc(own));
    for look in [
        r#"7 openat(AT_FDCWD</>, "/proc/42/stat", O_RDONLY) = 12</proc/42/stat>"#,
        r#"7 openat(AT_FDCWD</>, "/proc/self/status", O_RDONLY) = 12"#,
        r#"7 openat(12</proc/42>, "status", O_RDONLY) = 13"#,
        r#"7 readlink("/proc/42/exe", "/bin/sh", 4096) = 7"#,
    ] {
        assert!(is_proc(look), "{look}");
    }
}

/// strace on a process and its threads.
struct Strace {
    child: Child,
    output: PathBuf,
    _directory: TempDir,
}

impl Strace {
    fn attach(pid: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("calls");
        let mut child = Command::new(program("strace"))
            .args(["-f", "-y", "-e", "trace=%file,getdents64", "-p", &pid.to_string(), "-o"])
            .arg(&output)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (sender, attached) = mpsc::channel();
        thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = attached.recv_timeout(Duration::from_secs(10)).expect("strace says nothing");
        assert!(line.contains("attached"), "strace: {line}");
        Self { child, output, _directory: directory }
    }

    fn detach(mut self) -> Vec<String> {
        signal(self.child.id(), libc::SIGINT);
        self.child.wait().unwrap();
        let calls = fs::read_to_string(&self.output).unwrap();
        calls.lines().filter(|line| line.contains('(')).map(str::to_owned).collect()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // Only where a test fails in between: a second signal to an ended one does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
