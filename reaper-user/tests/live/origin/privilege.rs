//! What is told where reaper may not read other processes, or not all of them.

use std::{process::Output, thread, time::Duration};

use serde_json::Value;

use super::{Leaker, build, events, native};
use crate::{
    privilege::{CAPABILITIES, as_nobody_with, for_everybody},
    support::{machine, run_briefly},
};

/// Said once.
const REFUSED: &str = "the memory of a process must not be read";

/// What a user with these capabilities is told while these leakers are started, one after another: of each that was reported who the
/// holder is and the origin, and the log.
fn traced<L>(capabilities: &str, start: impl Fn() -> L, pid: impl Fn(&L) -> u64) -> (Vec<Value>, String) {
    let (_directory, reaper) = for_everybody();
    let mut command = as_nobody_with(capabilities, &reaper);
    command.args(["trace", "--age", "300ms", "--duration", "8s", "--origin", "all", "--output", "json"]);
    let tracing = thread::spawn(move || run_briefly(&mut command));
    let mut leakers = Vec::new();
    // Until it ends: some before it watches, some after, however long it takes to begin.
    while !tracing.is_finished() {
        leakers.push(start());
        thread::sleep(Duration::from_millis(50));
    }
    let output: Output = tracing.join().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    let holders: Vec<u64> = leakers.iter().map(pid).collect();
    let is_ours = |event: &Value| {
        event["event"] == "zombie"
            && event["holder"]["pid"].as_u64().is_some_and(|pid| holders.contains(&pid))
    };
    let seen: Vec<_> = events(&output)
        .into_iter()
        .filter(is_ours)
        .filter(|event| event["origin"]["quality"] != "predates")
        .map(|event| event["origin"].clone())
        .collect();
    assert!(!seen.is_empty(), "{log}");
    (seen, log)
}

fn is_said_once(log: &str) {
    assert_eq!(log.matches(REFUSED).count(), 1, "{log}");
    assert!(log.contains("CAP_SYS_PTRACE") && log.contains("kernel.yama.ptrace_scope"), "{log}");
}

fn has_no_line(origins: &[Value]) {
    for origin in origins {
        assert_eq!(
            (&origin["quality"], &origin["stack"]),
            (&"lineage-only".into(), &Value::Null),
            "{origin:#}"
        );
    }
}

#[test]
fn without_the_right_to_read_memory_python_programs_have_no_line_and_that_is_said() {
    let _machine = machine();
    let (origins, log) = traced(CAPABILITIES, || Leaker::start(&["lines", "1", "1"]), Leaker::pid);
    has_no_line(&origins);
    is_said_once(&log);
}

#[test]
fn without_the_right_to_read_memory_other_programs_have_no_function_and_that_is_said() {
    let _machine = machine();
    let program = build::c("gcc", &["-O2", "-g"], false);
    let start = || native::Leaker::start(&program, "fork");
    let (origins, log) = traced(CAPABILITIES, start, native::Leaker::pid);
    has_no_line(&origins);
    is_said_once(&log);
}

/// `map_files` is for CAP_CHECKPOINT_RESTORE: files are found by their paths.
#[test]
fn without_map_files_the_function_that_leaks_is_told_all_the_same() {
    let _machine = machine();
    let program = build::c("gcc", &["-O2", "-g"], false);
    let start = || native::Leaker::start(&program, "fork");
    let capabilities = format!("{CAPABILITIES},+sys_ptrace");
    let (origins, log) = traced(&capabilities, start, native::Leaker::pid);
    let line = u64::from(program.line("fork"));
    let told = origins.iter().filter(|origin| {
        let frames = origin["stack"]["frames"].as_array();
        frames.is_some_and(|frames| {
            frames.iter().any(|frame| frame["function"] == "leak_here" && frame["line"] == line)
        })
    });
    // The first were forked before it watched, and 20 a second have a stack.
    assert!(told.count() * 2 >= origins.len(), "{origins:#?}\n{log}");
    assert!(!log.contains(REFUSED), "{log}");
}
