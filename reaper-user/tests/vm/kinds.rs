//! The example `churn`: every kind of leak that needs no shell, each beside the others and beside healthy lives, against what
//! the workload knows.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    daemon::{Daemon, Key},
    require_vm,
};

const KINDS: [&str; 18] = [
    "never-waited",
    "no-signal",
    "vfork",
    "posix-spawn",
    "exec-from-thread",
    "last-two-threads",
    "dead-leader",
    "forked-by-thread",
    "clone-parent",
    "subreaper",
    "waited-late",
    "waited-in-time",
    "namespace-init",
    "holder-dies",
    "tracer",
    "stopped-holder",
    "coalesced",
    "namespace-dying",
];

/// When a zombie is reported, seconds.
const THRESHOLD: u64 = 4;

/// How long leaks stand that end by themselves: so late may the daemon be on an emulated machine whose host has other
/// things to do.
const STANDS: u64 = 16;

/// What a workload of twenty processes may take on two emulated processors.
const SETTLES: Duration = Duration::from_secs(90);

/// A running `churn`.
struct Churn {
    child: Child,
    lines: Receiver<Value>,
}

impl Churn {
    fn start(name: &str, args: &[&str]) -> Self {
        let mut child = Command::new("churn")
            .args(["load", "--seconds", "6", "--truth", &truth_file(name)])
            .args([
                "--threshold",
                &(THRESHOLD * 1_000).to_string(),
                "--stands",
                &(STANDS * 1_000).to_string(),
            ])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example `churn` starts");
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")));
            }
        });
        Self { child, lines }
    }

    fn wait_for(&self, event: &str) {
        loop {
            let line =
                self.lines.recv_timeout(SETTLES).unwrap_or_else(|error| panic!("churn: {event}: {error}"));
            assert!(line["failed"].as_u64().unwrap_or(0) == 0, "{line}");
            if line["event"] == event {
                return;
            }
        }
    }

    /// Lets it end all its processes.
    fn end(mut self) {
        drop(self.child.stdin.take());
        self.wait_for("finished");
        assert!(self.child.wait().expect("our child").success());
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn truth_file(name: &str) -> String {
    format!("/tmp/truth-{name}")
}

/// What one workload knows: its leaks, and those about which it claims nothing.
fn truth(name: &str) -> (BTreeMap<Key, Value>, Vec<Key>) {
    let (mut leaks, mut undecided) = (BTreeMap::new(), Vec::new());
    let path = truth_file(name);
    for line in fs::read_to_string(&path).expect(&path).lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let number = |field: &str| line[field].as_u64().unwrap_or_else(|| panic!("{field}: {line}"));
        let key = (u32::try_from(number("pid")).expect("a pid"), number("start_ticks"));
        match line["line"].as_str() {
            Some("leak") => drop(leaks.insert(key, line)),
            Some("undecided") => undecided.push(key),
            _ => {}
        }
    }
    (leaks, undecided)
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn every_kind_of_leak_is_reported_with_its_holder_and_its_cause() {
    require_vm();
    let mut daemon = Daemon::start(&format!("{THRESHOLD}s"));
    let healthy = Churn::start("healthy", &["--rate", "30", "--workers", "2", "--leaks", "0"]);
    let leaking =
        KINDS.map(|kind| (kind, Churn::start(kind, &["--rate", "0", "--leaks", "8", "--only", kind])));

    healthy.wait_for("settled");
    let (mut leaks, mut undecided) = (BTreeMap::new(), Vec::new());
    for (kind, churn) in &leaking {
        churn.wait_for("settled");
        let (known, unknown) = truth(kind);
        assert!(*kind == "waited-in-time" || !known.is_empty(), "{kind}: nothing was leaked");
        leaks.extend(known);
        undecided.extend(unknown);
    }
    daemon.wait_for_all("zombie", &leaks);
    healthy.end();
    leaking.into_iter().for_each(|(_, churn)| churn.end());
    daemon.wait_for_all("released", &leaks);

    let daemon = daemon.stop();
    let reported = daemon.by_process("zombie");
    for (key, event) in &reported {
        assert!(leaks.contains_key(key) || undecided.contains(key), "not leaked: {event}");
    }
    let (mut wrong, mut skipped) = (Vec::new(), 0);
    for (key, leak) in &leaks {
        let event = reported[key];
        if is_without_fork(leak, event) {
            skipped += 1;
            wrong.extend(differences(&KEPT, leak, event));
        } else {
            wrong.extend(differences(&KEPT, leak, event).into_iter().chain(differences(&FORKS, leak, event)));
        }
    }
    assert!(wrong.is_empty(), "{} of {} leaks:\n{}", wrong.len(), leaks.len(), wrong.join("\n"));
    let most = daemon.lost("program-skipped");
    println!(
        "{} leaks of {} kinds, {skipped} forks of them and {most} programs skipped",
        leaks.len(),
        KINDS.len()
    );
    assert!(
        skipped <= most,
        "{skipped} reports say nothing of the fork, and the kernel has skipped {most} programs"
    );
}

/// Where tracepoints can be interrupted (7.x), the kernel skips a program now and then that runs already on that processor.
/// If that was the fork's, the report says that it does not know.
fn is_without_fork(leak: &Value, event: &Value) -> bool {
    event["forker"].is_null()
        && event["evidence"]["parent_at_fork"].is_null()
        && (event["cause"] == "unknown" || event["cause"] == leak["cause"])
}

/// What only the fork could tell.
const FORKS: [&str; 3] = ["/cause", "/forker/pid", "/forker/relation"];

/// What the zombie and the kernel tell at any time.
const KEPT: [&str; 6] = ["/holder/pid", "/holder/comm", "/ns_pid", "/comm", "/exit/code", "/exit/signal"];

fn differences(fields: &[&str], leak: &Value, event: &Value) -> Vec<String> {
    let differs = |field: &&&str| leak.pointer(field) != event.pointer(field);
    let shown = |field: &&str| format!("{field} of {leak}\n  is reported as {event}");
    fields.iter().filter(differs).map(shown).collect()
}
