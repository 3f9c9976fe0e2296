//! Names that a container chose, and processes that vanish while they are looked at.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::support::{
    Cgroup, Daemon, SECOND, Workload, boot_now, churn, machine, reaper, rounds, run_briefly, signal,
};

/// Colour, cursor, right-to-left override, a broken character, a quote and a backslash.
const CGROUP: &[u8] = b"reaper-live-\x1b[31m\x07\xe2\x80\xae\xff\"\\\t";

/// As above, in the 15 bytes of a name.
const NAME: &[u8] = b"\x1b[2J\r\xff\"\\\xe2\x80\xaeend";

fn strangely_named() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(OsStr::from_bytes(NAME));
    fs::copy(churn(), &path).unwrap();
    (directory, path)
}

#[test]
fn strange_bytes_in_names_and_cgroups_stay_readable_json() {
    let _machine = machine();
    let mut daemon = Daemon::trace(&["--age", "500ms"]);
    let (_directory, path) = strangely_named();
    let cgroup = Cgroup::new(OsStr::from_bytes(CGROUP));
    let workload = Workload::start_in(cgroup, &path, &["standing", "3"]);
    let holder = workload.wait_for("forked", Duration::from_secs(10))["holder"].clone();
    let mut reports = Vec::new();
    // Each line was held against the schema and searched for control bytes when it came.
    daemon.until("three reports", Duration::from_secs(10), |seen| {
        if seen.is("zombie") && seen.event["holder"]["pid"] == holder {
            reports.push(seen.clone());
        }
        reports.len() == 3
    });
    for report in reports {
        let cgroup = report.text("/workload/cgroup");
        assert!(cgroup.contains(r"reaper-live-\x1b[31m\x07"), "{cgroup}");
        assert!(cgroup.contains(r"\xff") && !cgroup.contains('\u{202e}'), "{cgroup}");
        assert!(report.text("/comm").starts_with(r"\x1b[2J\r\xff"), "{:#}", report.event);
    }
    workload.end();
    daemon.end();
}

#[test]
fn strange_bytes_in_names_and_cgroups_do_not_reach_the_terminal() {
    let _machine = machine();
    let (_directory, path) = strangely_named();
    let cgroup = Cgroup::new(OsStr::from_bytes(CGROUP));
    let workload = Workload::start_in(cgroup, &path, &["standing", "3"]);
    workload.wait_for("settled", Duration::from_secs(10));
    for words in [&["ls"][..], &["trace", "--age", "200ms", "--duration", "2s"]] {
        let output = run_briefly(Command::new(reaper()).args(words).args(["--output", "human"]));
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(r"\x1b[2J"), "{text}");
        let harmful = |text: char| (text.is_control() && text != '\n') || text == '\u{202e}';
        assert!(!text.contains(harmful), "{text:?}");
    }
    workload.end();
}

#[test]
fn holders_that_vanish_while_they_are_looked_at_do_no_harm() {
    let _machine = machine();
    let age = SECOND / 5;
    let mut daemon = Daemon::trace(&["--age", "200ms"]);
    for round in 0..rounds(30, 200) {
        let workload = Workload::start(&["standing", "20"]);
        let forked = boot_now();
        let holder = workload.wait_for("forked", Duration::from_secs(10))["holder"].as_u64().unwrap();
        // From 10 ms before the age to 10 ms after it, in steps of 1 ms.
        let moment = forked + age + (round % 21) * 1_000_000 - 10_000_000;
        daemon.during(Duration::from_nanos(moment.saturating_sub(boot_now())));
        signal(u32::try_from(holder).unwrap(), libc::SIGKILL);
        workload.end();
    }
    // It still works.
    let workload = Workload::start(&["standing", "5"]);
    let holder = workload.wait_for("forked", Duration::from_secs(10))["holder"].clone();
    let mut reports = 0;
    daemon.until("reports after all that", Duration::from_secs(10), |seen| {
        reports += u32::from(seen.is("zombie") && seen.event["holder"]["pid"] == holder);
        reports == 5
    });
    workload.end();
    daemon.end();
}

#[test]
fn a_reader_that_goes_away_ends_trace_well() {
    let (code, log) = end_of_the_reader("trace");
    assert_eq!(code, 0, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_reader_that_goes_away_is_an_error_of_the_daemon() {
    let (code, log) = end_of_the_reader("run --no-persist");
    assert_eq!(code, 69, "{log}");
    assert!(log.contains("ERROR standard output"), "{log}");
}

/// How a command ends when its reader has taken one line, and what it logged.
fn end_of_the_reader(arguments: &str) -> (u8, String) {
    let _machine = machine();
    let workload = Workload::start(&["standing", "3"]);
    workload.wait_for("settled", Duration::from_secs(10));
    let mut command = Command::new("/bin/sh");
    // The reader takes one line and closes; the next one has nowhere to go.
    let script = r#"{ "$0" $1 --age 200ms --output json; echo "$?" >&2; } | head -n 1"#;
    command.args(["-c", script]).arg(reaper()).arg(arguments).stdout(Stdio::null());
    let output = run_briefly(&mut command);
    workload.end();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    (log.lines().last().unwrap().parse().unwrap(), log)
}
