//! Programs of machine code that leak: the report has the function that forked, and its line or its place in the file, as the
//! programs were built.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::build::{self, Program};
use crate::support::{Cgroup, Daemon, machine, program};

/// How C and Rust fork and leave the child to nobody. `system` waits for its own.
const WAYS: [&str; 4] = ["fork", "vfork", "posix_spawn", "popen"];

const GO_WAYS: [&str; 3] = ["exec", "start", "fork-exec"];

/// A running program. It is killed when this is dropped.
pub(super) struct Leaker(Child);

impl Leaker {
    pub(super) fn start(program: &Program, way: &str) -> Self {
        Self::run(Command::new(&program.path), program, way)
    }

    fn start_in(cgroup: &Cgroup, program: &Program, way: &str) -> Self {
        Self::run(cgroup.command(&program.path), program, way)
    }

    pub(super) fn pid(&self) -> u64 {
        self.0.id().into()
    }

    fn run(mut command: Command, program: &Program, way: &str) -> Self {
        let child = command.arg(way).stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{}: {error}", program.path.display())))
    }
}

impl Drop for Leaker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is reported of the child that the program leaks.
fn origin(daemon: &mut Daemon, leaker: &Leaker) -> Value {
    let holder = leaker.pid();
    let mut found = Value::Null;
    daemon.until("the child is reported", Duration::from_secs(30), |seen| {
        if seen.is("zombie") && seen.number("/holder/pid") == holder {
            found = seen.event["origin"].clone();
        }
        !found.is_null()
    });
    found
}

fn frames(origin: &Value) -> &[Value] {
    origin["stack"]["frames"].as_array().map_or(&[], Vec::as_slice)
}

/// What the innermost of its own functions is called, and whether it has lines.
fn names(
    daemon: &mut Daemon,
    program: &Program,
    ways: &[&str],
    function: &str,
    lines: bool,
    quality: &[&str],
) {
    for way in ways {
        let leaker = Leaker::start(program, way);
        let origin = origin(daemon, &leaker);
        let frame = frames(&origin).iter().find(|frame| frame["function"] == function);
        let frame = frame.unwrap_or_else(|| panic!("{way}: {origin:#}\n{}", daemon.log()));
        let line = lines.then(|| u64::from(program.line(way)));
        assert_eq!(frame["line"].as_u64(), line, "{way}: {origin:#}");
        assert!(quality.iter().any(|quality| origin["quality"] == *quality), "{way}: {origin:#}");
        assert_eq!((&origin["stack_of"], &origin["stack"]["language"]), (&0.into(), &"native".into()));
    }
}

const EXACT: &[&str] = &["exact"];
/// Its library has no tables to unwind it by.
const MUSL: &[&str] = &["exact", "approximate"];

#[test]
fn the_function_that_leaks_is_told_whatever_it_was_compiled_by() {
    let _machine = machine();
    let mut daemon = Daemon::trace(&["--age", "1s", "--origin", "all"]);
    let c = |flags: &[&str]| build::c("gcc", flags, false);
    names(&mut daemon, &c(&["-O2", "-g", "-fomit-frame-pointer"]), &WAYS, "leak_here", true, EXACT);
    names(&mut daemon, &c(&["-O2", "-fno-omit-frame-pointer"]), &WAYS, "leak_here", false, EXACT);
    names(&mut daemon, &c(&["-O2", "-static", "-fomit-frame-pointer"]), &WAYS, "leak_here", false, EXACT);
    let musl = build::c("musl-gcc", &["-O2", "-g", "-static", "-fomit-frame-pointer"], false);
    names(&mut daemon, &musl, &WAYS, "leak_here", true, MUSL);
    names(&mut daemon, &build::go("", "exe"), &GO_WAYS, "main.leakHere", true, EXACT);
    names(&mut daemon, &build::rust(&["-g"]), &WAYS, "leak::leak_here", true, EXACT);
    // Without symbols: where it is in the file.
    let stripped = build::c("gcc", &["-O2", "-fomit-frame-pointer"], true);
    let range = stripped.range("leak_here");
    for way in WAYS {
        let leaker = Leaker::start(&stripped, way);
        let origin = origin(&mut daemon, &leaker);
        let is_it = |frame: &&Value| {
            frame["module"] == stripped.path.to_str().unwrap()
                && frame["offset"].as_u64().is_some_and(|offset| range.contains(&offset))
        };
        let frame = frames(&origin).iter().find(is_it).unwrap_or_else(|| panic!("{way}: {origin:#}"));
        assert_eq!(frame["build_id"], stripped.build_id(), "{way}");
    }
    daemon.end();
}

/// Node waits for its children as soon as its loop turns: what does not return to it leaks.
const SCRIPT: &str = "const { spawn } = require('child_process');
function openBrowser() { spawn('/bin/true', [], { stdio: 'ignore' }); }
function crawl() { for (let next = 0;;) if (Date.now() >= next) { openBrowser(); next = Date.now() + 1000; } }
crawl();
";

/// A Node that runs it, and how the first of its children is told that has a frame like this.
fn crawl_js(
    daemon: &mut Daemon,
    folder: &Path,
    flags: &[&str],
    wanted: impl Fn(&Value) -> bool,
) -> (Leaker, Value) {
    let file = folder.join("crawl.js");
    fs::write(&file, SCRIPT).unwrap();
    let mut node = Command::new(program("node"));
    node.args(flags).arg(&file).current_dir(folder).stdin(Stdio::null());
    let leaker = Leaker(node.spawn().unwrap());
    let mut origin = Value::Null;
    // The first ones may be reported before all the names in Node's file are read.
    let named = daemon.came(Duration::from_secs(60), |seen| {
        if seen.is("zombie") && seen.number("/holder/pid") == leaker.pid() {
            origin = seen.event["origin"].clone();
        }
        frames(&origin).iter().any(&wanted)
    });
    assert!(named, "{origin:#}\n{}", daemon.log());
    (leaker, origin)
}

fn place(origin: &Value) -> usize {
    usize::try_from(origin["stack"]["place"].as_u64().unwrap()).unwrap()
}

/// The functions are V8's to name, in the file that it writes where it is asked to; there the place of each is where its text begins.
#[test]
fn a_node_program_that_does_not_return_to_its_loop_is_told_by_its_functions() {
    /// Without optimizing, which makes one function of several.
    const FLAGS: [&str; 3] = ["--perf-basic-prof", "--interpreted-frames-native-stack", "--no-opt"];
    let _machine = machine();
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::trace(&["--age", "1s", "--origin", "all"]);
    let (leaker, origin) = crawl_js(&mut daemon, folder.path(), &FLAGS, |frame| frame["kind"] == "jit");
    let _map = Removed(format!("/tmp/perf-{}.map", leaker.pid()));
    let file = folder.path().join("crawl.js");
    for (frame, function) in frames(&origin)[place(&origin)..].iter().zip(["openBrowser", "crawl"]) {
        let line =
            1 + SCRIPT.lines().position(|line| line.contains(&format!("function {function}("))).unwrap();
        let column = 1 + SCRIPT.lines().nth(line - 1).unwrap().find('(').unwrap();
        let name = frame["function"].as_str().unwrap();
        // Before the function's name is how it is run.
        let expected = format!("{function} {}:{line}:{column}", file.display());
        assert!(name.starts_with("JS:") && name.ends_with(&expected), "{expected}: {origin:#}");
    }
    daemon.end();
}

/// Of a function that V8 does not name nothing is known but an address; who calls it is `main`, as of any Node.
#[test]
fn of_a_node_program_without_names_the_function_of_node_that_forks_is_told() {
    let _machine = machine();
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::trace(&["--age", "1s", "--origin", "all"]);
    let (_leaker, origin) = crawl_js(&mut daemon, folder.path(), &[], |frame| frame["function"] == "_start");
    let function = frames(&origin)[place(&origin)]["function"].as_str().unwrap();
    assert!(function.starts_with("node::"), "{origin:#}");
    daemon.end();
}

/// A file that is taken away in the end.
struct Removed(String);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Once a workload holds an old zombie, the stacks of its forks are taken.
#[test]
fn a_workload_that_leaks_is_looked_at_more_closely_from_then_on() {
    let _machine = machine();
    let mut daemon = Daemon::trace(&["--age", "1s"]);
    let program = build::c("gcc", &["-O2", "-g"], false);
    let first = Leaker::start(&program, "fork");
    let told = origin(&mut daemon, &first);
    // It may be that another workload's cgroup is this one.
    assert!(told["quality"] == "lineage-only" || told["quality"] == "exact", "{told:#}");
    let second = Leaker::start(&program, "vfork");
    let told = origin(&mut daemon, &second);
    let frame = frames(&told).iter().find(|frame| frame["function"] == "leak_here");
    let frame = frame.unwrap_or_else(|| panic!("{told:#}\n{}", daemon.log()));
    assert_eq!(frame["line"], u64::from(program.line("vfork")));
    daemon.end();
}

/// And no other's, not even where all are in one cgroup of version 2.
#[test]
fn a_workload_that_does_not_leak_is_left_alone_beside_one_that_does() {
    let _machine = machine();
    let (leaking, other) = (Cgroup::of_pids("reaper-leaking"), Cgroup::of_pids("reaper-other"));
    let mut daemon = Daemon::trace(&["--age", "1s"]);
    let program = build::c("gcc", &["-O2", "-g"], false);
    let first = Leaker::start_in(&leaking, &program, "fork");
    let told = origin(&mut daemon, &first);
    // What started it may be on probation itself.
    assert_ne!(told["stack_of"], 0, "nobody has leaked there before: {told:#}");
    let second = Leaker::start_in(&leaking, &program, "fork");
    let told = origin(&mut daemon, &second);
    assert!(frames(&told).iter().any(|frame| frame["function"] == "leak_here"), "{told:#}\n{}", daemon.log());
    let third = Leaker::start_in(&other, &program, "fork");
    let told = origin(&mut daemon, &third);
    assert_ne!(told["stack_of"], 0, "{told:#}");
    daemon.end();
}
