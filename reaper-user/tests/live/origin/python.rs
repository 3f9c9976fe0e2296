//! Python programs that leak: the report has the function and the line that the program itself says it was.

use std::{
    collections::HashMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    pythons::{Python, pythons},
    rare,
};
use crate::support::{Daemon, fixture, machine, program, rounds};

/// How a child is forked.
const WAYS: [&str; 8] = [
    "popen",
    "popen-open-fds",
    "fork",
    "posix-spawn",
    "system",
    "multiprocessing-fork",
    "multiprocessing-spawn",
    "asyncio",
];

/// What the program says of a child: who forked it, where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Truth {
    function: String,
    file: String,
    line: u64,
    /// How often the function had called itself.
    deep: usize,
}

/// A running program. It ends when this is dropped.
pub(super) struct Program {
    child: Child,
    folder: TempDir,
}

impl Program {
    fn start(python: &Python, way: &str, count: usize, spawners: usize, busy: usize) -> Self {
        let numbers = [count, spawners, busy].map(|number| number.to_string());
        Self::of("leak.py", python, way, &numbers)
    }

    /// One of the programs beside this file. It writes its log where it is told to.
    fn of(file: &str, python: &Python, way: &str, more: &[String]) -> Self {
        let folder = python.folder();
        fs::copy(fixture(&format!("origin/{file}")), folder.path().join(file)).unwrap();
        let inside = python.inside(folder.path());
        let mut command = python.command();
        command.arg(inside.join(file)).arg(inside.join("log")).arg(way).args(more);
        command.env("TMPDIR", &inside).env("PYTHONDONTWRITEBYTECODE", "1");
        Self { child: command.stdin(Stdio::piped()).spawn().unwrap(), folder }
    }

    /// The same by a script for a shell, that puts the interpreter `$1` where it belongs and then executes it with the arguments
    /// behind, which waits until it is known. What it mounts is gone when it ends.
    pub(super) fn start_by(script: &str, way: &str, count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(fixture("origin/leak.py"), folder.path().join("leak.py")).unwrap();
        let mut command = Command::new(program("unshare"));
        command.args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh", "/usr/bin/python3"]);
        command.arg("leak.py").arg(folder.path().join("log")).arg(way).args([&count.to_string(), "1", "0"]);
        command.current_dir(&folder).env("TMPDIR", folder.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("SETTLE", "0.5");
        Self { child: command.stdin(Stdio::piped()).spawn().unwrap(), folder }
    }

    pub(super) fn pid(&self) -> u64 {
        self.child.id().into()
    }

    /// What it says of each child, by pid, when it has forked all.
    pub(super) fn truth(&mut self, patience: Duration) -> HashMap<u64, Truth> {
        self.log(patience).lines().filter_map(truth).collect()
    }

    /// Its log, when it has forked all.
    fn log(&mut self, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        loop {
            let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            if text.ends_with("done\n") {
                return text;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "the program has failed");
            assert!(Instant::now() < deadline, "the program is not done");
            thread::yield_now();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// A line of the log.
fn truth(line: &str) -> Option<(u64, Truth)> {
    let mut words = line.split(' ');
    let pid = words.next()?.parse().ok()?;
    let [function, file] = [words.next()?.to_owned(), words.next()?.to_owned()];
    let (line, deep) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((pid, Truth { function, file, line, deep }))
}

/// What a report says of the functions that the program says something of.
fn told(report: &Value) -> Option<Truth> {
    let frames = report["origin"]["stack"]["frames"].as_array()?;
    let name =
        |frame: &Value| frame["function"].as_str().unwrap_or_default().rsplit('.').next().map(str::to_owned);
    let is = |frame: &&Value| name(frame).is_some_and(|name| name.starts_with("open_browser_"));
    let innermost = frames.iter().find(is)?;
    Some(Truth {
        function: name(innermost)?,
        file: innermost["file"].as_str()?.to_owned(),
        line: innermost["line"].as_u64()?,
        deep: frames.iter().filter(is).count() - 1,
    })
}

/// Every child of the program is reported, with the place that the program says it was. Says for how many the report says that
/// not all could be read.
fn holds(
    daemon: &mut Daemon,
    python: &Python,
    way: &str,
    count: usize,
    spawners: usize,
    busy: usize,
) -> usize {
    let what = format!("{} {way}, {count} by {spawners} threads beside {busy}", python.name());
    holds_of(daemon, &what, &mut Program::start(python, way, count, spawners, busy), count)
}

/// The same of a program that has been started.
pub(super) fn holds_of(daemon: &mut Daemon, what: &str, program: &mut Program, count: usize) -> usize {
    let truth = program.truth(Duration::from_secs(120));
    assert_eq!(truth.len(), count, "{what}");
    let (mut reports, holder) = (HashMap::new(), program.pid());
    let all = daemon.came(Duration::from_secs(60), |seen| {
        if seen.is("zombie") && seen.number("/holder/pid") == holder {
            reports.insert(seen.number("/pid"), seen.event.clone());
        }
        truth.keys().all(|pid| reports.contains_key(pid))
    });
    assert!(all, "{what}: {} of {count} were reported\n{}", reports.len(), daemon.log());
    let mut unread = Vec::new();
    for (pid, truth) in &truth {
        let (report, told) = (&reports[pid], told(&reports[pid]));
        let origin = &report["origin"];
        let (quality, language) = (&origin["quality"], &origin["stack"]["language"]);
        // Whoever leaks again and again has its native stack taken where there is no other.
        let said =
            ["approximate", "lineage-only"].iter().any(|known| quality == known) || language == "native";
        if said {
            // A frame of those may be missing, and no other one's be there.
            let place = |of: &Truth| (of.function.clone(), of.file.clone(), of.line);
            let other = told.as_ref().filter(|told| place(told) != place(truth));
            assert_eq!(other, None, "{what}: {truth:#?}");
            unread.push(origin);
            continue;
        }
        let right = quality == "exact" && told.as_ref() == Some(truth);
        assert!(right, "{what}: {truth:#?} is told as\n{origin:#}\n{}", daemon.log());
    }
    println!("{what}: {} of {count} right, {} could not all be read", count - unread.len(), unread.len());
    for origin in unread.iter().take(1) {
        println!("{origin:#}");
    }
    unread.len()
}

/// A daemon that has met these interpreters: what is forked before it knows what a file is has no line, and is counted.
fn daemon_that_knows(pythons: &[Python]) -> Daemon {
    let mut daemon = Daemon::trace(&["--age", "300ms"]);
    for python in pythons {
        let mut program = Program::start(python, "fork", 1, 1, 0);
        let (_, holder) = (program.truth(Duration::from_secs(60)), program.pid());
        daemon.until("the first child is reported", Duration::from_secs(30), |seen| {
            seen.is("zombie") && seen.number("/holder/pid") == holder
        });
    }
    daemon
}

#[test]
fn every_child_of_every_interpreter_carries_the_line_that_forked_it() {
    let _machine = machine();
    let pythons = pythons();
    let mut daemon = daemon_that_knows(&pythons);
    for python in &pythons {
        for way in WAYS.into_iter().filter(|way| python.has(way)) {
            // An interpreter of its own for each takes long.
            let count = if way == "multiprocessing-spawn" { rounds(10, 50) } else { rounds(50, 200) };
            let unread = holds(&mut daemon, python, way, count, 1, 0);
            assert!(unread <= rare(count), "{unread}\n{}", daemon.log());
        }
    }
    daemon.end();
}

#[test]
fn many_threads_that_fork_beside_others_that_compute_are_told_apart() {
    let _machine = machine();
    let pythons = pythons();
    let mut daemon = daemon_that_knows(&pythons);
    for python in &pythons {
        let count = rounds(80, 200);
        let unread = holds(&mut daemon, python, "popen", count, 8, 2);
        assert!(unread <= rare(count), "{unread}\n{}", daemon.log());
    }
    daemon.end();
}

/// What is looked through is looked through in turns, and none of them is lost between two.
#[test]
fn every_frame_of_a_deep_stack_is_told_and_a_thread_is_found_behind_two_hundred_others() {
    const DEPTHS: [usize; 10] = [1, 10, 11, 12, 13, 23, 24, 25, 60, 90];
    let _machine = machine();
    let pythons = pythons();
    let mut daemon = daemon_that_knows(&pythons);
    for python in &pythons {
        for threads in ["0", "31", "32", "200"] {
            let more: Vec<String> = DEPTHS.iter().map(ToString::to_string).collect();
            let mut program = Program::of("far.py", python, threads, &more);
            let truth: HashMap<u64, Vec<String>> = program
                .log(Duration::from_secs(60))
                .lines()
                .filter_map(|line| {
                    let (pid, functions) = line.split_once(' ')?;
                    Some((pid.parse().unwrap(), functions.split(' ').map(str::to_owned).collect()))
                })
                .collect();
            assert_eq!(truth.len(), DEPTHS.len());
            let mut reports = HashMap::new();
            daemon.until("all are reported", Duration::from_secs(30), |seen| {
                if seen.is("zombie") {
                    reports.insert(seen.number("/pid"), seen.event.clone());
                }
                truth.keys().all(|pid| reports.contains_key(pid))
            });
            let what = format!("{} beside {threads} threads", python.name());
            let mut unread = 0;
            for (pid, truth) in &truth {
                let origin = &reports[pid]["origin"];
                if origin["stack"]["language"] != "python" || origin["quality"] != "exact" {
                    unread += 1;
                    continue;
                }
                let frames = origin["stack"]["frames"].as_array().unwrap();
                let told: Vec<String> = frames
                    .iter()
                    .map(|frame| format!("{}:{}", frame["function"].as_str().unwrap(), frame["line"]))
                    .filter(|frame| frame.starts_with("step_"))
                    .collect();
                assert_eq!(&told, truth, "{what}: {origin:#}");
            }
            assert!(unread <= rare(DEPTHS.len()), "{what}: {unread}\n{}", daemon.log());
        }
    }
    daemon.end();
}

/// Functions that are alike, but for their file or a line, lie in the same place one after the other, or in processes that were
/// forked from one.
#[test]
fn functions_that_are_alike_are_told_apart_by_their_file_and_line() {
    let _machine = machine();
    let pythons = pythons();
    let mut daemon = daemon_that_knows(&pythons);
    // Side by side, for they wait most of the time.
    let mut programs = Vec::new();
    for python in &pythons {
        for way in ["workers", "jobs", "cells"] {
            programs.push((format!("{} {way}", python.name()), Program::of("alike.py", python, way, &[])));
        }
    }
    let mut reports = HashMap::new();
    for (what, program) in &mut programs {
        let truth = program.truth(Duration::from_secs(60));
        daemon.until("all are reported", Duration::from_secs(30), |seen| {
            if seen.is("zombie") {
                reports.insert(seen.number("/pid"), seen.event.clone());
            }
            truth.keys().all(|pid| reports.contains_key(pid))
        });
        let mut unread = 0;
        for (pid, truth) in &truth {
            let (told, origin) = (told(&reports[pid]), &reports[pid]["origin"]);
            // Whoever leaks again and again has its native stack taken where there is no other.
            let is_python = origin["stack"]["language"] == "python";
            let is_exact = is_python && origin["quality"] == "exact";
            let is_right = told.as_ref() == Some(truth);
            assert!(is_right || (told.is_none() && !is_exact), "{what}: {truth:#?} is\n{origin:#}");
            unread += usize::from(!(is_right && is_exact));
        }
        println!("{what}: {} of {} right", truth.len() - unread, truth.len());
        assert!(unread <= rare(truth.len()), "{what}: {unread}\n{}", daemon.log());
    }
    daemon.end();
}

/// Nothing can be read of a page while the kernel moves it.
#[test]
fn beside_memory_that_is_moved_all_the_time_a_line_is_right_or_missing() {
    let _machine = machine();
    let mut daemon = Daemon::trace(&["--age", "300ms"]);
    let python = pythons().into_iter().next().expect("python3: `cargo xtask setup` installs it");
    let (ended, moved) = (AtomicBool::new(false), || {
        let counters = fs::read_to_string("/proc/vmstat").unwrap();
        let moved = counters.lines().find_map(|line| line.strip_prefix("pgmigrate_success "));
        moved.expect("a kernel with CONFIG_COMPACTION").parse::<u64>().unwrap()
    });
    let (before, count) = (moved(), rounds(2_000, 20_000));
    let unread = thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                fs::write("/proc/sys/vm/compact_memory", "1").unwrap();
            }
        });
        let found = catch_unwind(AssertUnwindSafe(|| holds(&mut daemon, &python, "fork", count, 1, 0)));
        ended.store(true, Ordering::Relaxed);
        found.unwrap_or_else(|panic| resume_unwind(panic))
    });
    println!("{} pages were moved", moved() - before);
    assert!(unread <= count / 100, "{unread} of {count}\n{}", daemon.log());
    daemon.end();
}

/// The interpreter is nowhere on the host, and its file system is gone from there.
#[test]
fn an_interpreter_in_a_container_is_followed_like_any_other() {
    use crate::support::{Container, Rootfs};
    let _machine = machine();
    let mut daemon = Daemon::trace(&["--age", "300ms"]);
    let fill = |shared: &Path| {
        fs::copy("/usr/bin/python3", shared.join("only-here"))
            .expect("python3: `cargo xtask setup` installs it");
        fs::copy(fixture("origin/leak.py"), shared.join("leak.py")).unwrap();
        let script = "TMPDIR=/seed PYTHONDONTWRITEBYTECODE=1 exec /seed/only-here /seed/leak.py /seed/log popen 20 1 0 < /seed/end";
        fs::write(shared.join("start"), format!("mkfifo /seed/end\nsleep 600 > /seed/end &\n{script}\n"))
            .unwrap();
    };
    let container = Container::start("python", Rootfs::HostPrograms, fill, &["/bin/sh", "/seed/start"]);
    let (init, log) = (u64::from(container.init()), container.shared().join("log"));
    let deadline = Instant::now() + Duration::from_secs(60);
    let truth: HashMap<u64, Truth> = loop {
        let text = fs::read_to_string(&log).unwrap_or_default();
        if text.ends_with("done\n") {
            break text.lines().filter_map(truth).collect();
        }
        assert!(Instant::now() < deadline, "the program is not done");
        thread::yield_now();
    };
    assert_eq!(truth.len(), 20);
    let mut reports = HashMap::new();
    daemon.until("all are reported", Duration::from_secs(30), |seen| {
        if seen.is("zombie") && seen.number("/holder/pid") == init {
            reports.insert(seen.number("/ns_pid"), seen.event.clone());
        }
        truth.keys().all(|pid| reports.contains_key(pid))
    });
    let mut unread = 0;
    for (pid, truth) in &truth {
        let (told, origin) = (told(&reports[pid]), &reports[pid]["origin"]);
        let is_exact = origin["quality"] == "exact";
        let is_right = told.as_ref() == Some(truth);
        assert!(is_right || (told.is_none() && !is_exact), "{truth:#?} is\n{origin:#}\n{}", daemon.log());
        unread += usize::from(!(is_right && is_exact));
    }
    assert!(unread <= rare(truth.len()), "{unread}\n{}", daemon.log());
    drop(container);
    daemon.end();
}

/// A worker that was forked and did not exec has the interpreter of its parent.
#[test]
fn a_worker_that_was_forked_before_its_parent_ever_spawned_is_followed() {
    let _machine = machine();
    let mut daemon = Daemon::trace(&["--age", "300ms"]);
    for python in pythons() {
        let folder = python.folder();
        fs::copy(fixture("origin/worker.py"), folder.path().join("worker.py")).unwrap();
        let inside = python.inside(folder.path());
        let mut command = python.command();
        let mut child = command
            .arg(inside.join("worker.py"))
            .arg(inside.join("log"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let log = folder.path().join("log");
        let deadline = Instant::now() + Duration::from_secs(30);
        let truth = loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let Some(truth) = text.strip_suffix('\n').and_then(truth) {
                break truth;
            }
            assert!(Instant::now() < deadline, "the worker has not forked");
            thread::yield_now();
        };
        let mut found = None;
        daemon.until("the worker's child is reported", Duration::from_secs(30), |seen| {
            let is = seen.is("zombie") && seen.number("/pid") == truth.0;
            if is {
                found = Some(seen.event.clone());
            }
            is
        });
        let report = found.unwrap();
        assert_eq!(told(&report), Some(truth.1), "{}: {:#}", python.name(), report["origin"]);
        assert_eq!(report["origin"]["stack_of"], 0);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    daemon.end();
}
