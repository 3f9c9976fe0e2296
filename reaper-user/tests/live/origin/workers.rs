//! Workers that are forked before it is known what their parent is, which may take as long as it likes: here the daemon stands
//! still meanwhile.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{leaks, line, reported_by};
use crate::support::{Daemon, fixture, machine, program, rounds, run, signal};

/// What is linked to libpython and has an interpreter's `main`.
const LINKED: &str =
    "int Py_BytesMain(int, char **); int main(int n, char **a) { return Py_BytesMain(n, a); }";

/// Programs that run when the daemon starts: each is a file of its own, which has to be looked at.
const OTHERS: usize = 600;

/// One of them. It is killed when this is dropped.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program, its worker, and that one's worker.
struct Program {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// By generation.
    pids: Vec<u64>,
}

impl Program {
    /// Returns when all are there.
    fn start(interpreter: &Path, what: &[&str], processes: usize) -> Self {
        let mut command = Command::new(interpreter);
        command.arg("-S").arg(fixture("origin/workers.py")).args(what);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut program = Self { child, orders, answers, pids: Vec::new() };
        let mut ready: Vec<_> = (0..processes).map(|_| program.answer("ready")).collect();
        ready.sort_unstable();
        program.pids = ready.into_iter().map(|numbers| numbers[1]).collect();
        program
    }

    fn answer(&mut self, what: &str) -> Vec<u64> {
        let answer = self.answers.next().expect("the program has ended").unwrap();
        let mut words = answer.split(' ');
        assert_eq!(words.next(), Some(what), "{answer}");
        words.map(|word| word.parse().unwrap()).collect()
    }

    /// Each leaks a child. By child: who forked it, and at which line.
    fn leak(&mut self) -> HashMap<u64, (u64, u64)> {
        self.orders.write_all(b"\n").unwrap();
        self.leaked(self.pids.len())
    }

    fn leaked(&mut self, children: usize) -> HashMap<u64, (u64, u64)> {
        (0..children)
            .map(|_| {
                let numbers = self.answer("leaked");
                (numbers[1], (numbers[0], numbers[2]))
            })
            .collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Those on probation have a native stack where there is no other.
fn is_python(origin: &Value) -> bool {
    origin["stack"]["language"] == "python"
}

/// Each of them is followed, once it is known what they are; before that no line is told, and never a wrong one. They are forked
/// after so many others.
fn all_are_followed(daemon: &mut Daemon, interpreter: &Path, first: u64) {
    signal(daemon.pid(), libc::SIGSTOP);
    let mut program = Program::start(interpreter, &["generations", &first.to_string()], 3);
    // One that forks while nobody knows, too: that is counted, and has no line.
    let early = program.leak();
    signal(daemon.pid(), libc::SIGCONT);
    let deadline = Instant::now() + Duration::from_secs(30);
    let (mut truth, mut told, mut exact) = (early.clone(), HashSet::new(), HashSet::new());
    while !program.pids.iter().all(|pid| exact.contains(pid)) {
        assert!(
            Instant::now() < deadline,
            "of {:?} only {exact:?} are followed\n{}",
            program.pids,
            daemon.log()
        );
        truth.extend(program.leak());
        let all = daemon.came(Duration::from_secs(10), |seen| {
            if seen.is("zombie")
                && let child = seen.number("/pid")
                && let Some((forker, at)) = truth.get(&child)
            {
                told.insert(child);
                let origin = &seen.event["origin"];
                // Another one is told of where not all of this could be read.
                if is_python(origin) && (origin["quality"] == "exact" || line(origin).is_some()) {
                    assert_eq!(
                        (&origin["quality"], line(origin)),
                        (&"exact".into(), Some(*at)),
                        "{origin:#}"
                    );
                    assert_eq!(
                        (&origin["chain"][0]["pid"], &origin["stack_of"]),
                        (&(*forker).into(), &0.into())
                    );
                    exact.insert(*forker);
                }
            }
            truth.keys().all(|child| told.contains(child))
        });
        assert!(all, "{} of {} are reported\n{}", told.len(), truth.len(), daemon.log());
    }
}

/// A file that nobody has executed yet: a copy.
fn copied(folder: &Path) -> PathBuf {
    let path = folder.join("python3");
    fs::copy("/usr/bin/python3", &path).expect("python3: `cargo xtask setup` installs it");
    path
}

/// One that is linked to libpython, which is at another address in each process that exec'ed it.
fn linked(folder: &Path) -> PathBuf {
    let (source, path) = (folder.join("linked.c"), folder.join("linked"));
    fs::write(&source, LINKED).unwrap();
    let version = "import sysconfig; print(sysconfig.get_config_var('LDVERSION'))";
    let version = run(Command::new("/usr/bin/python3").args(["-I", "-c", version]));
    let mut compiler = Command::new("gcc");
    let library = format!("-lpython{}", version.trim());
    let output = compiler.arg("-o").arg(&path).arg(&source).arg(library).output();
    let output = output.expect("gcc: `cargo xtask setup` installs it");
    assert!(output.status.success(), "libpython3-dev: `cargo xtask setup` installs it: {output:?}");
    path
}

#[test]
fn workers_that_are_forked_before_it_is_known_what_forks_them_are_followed() {
    let _machine = machine();
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::trace(&["--age", "200ms"]);
    all_are_followed(&mut daemon, &copied(folder.path()), 0);
    all_are_followed(&mut daemon, &linked(folder.path()), 0);
    daemon.end();
}

/// In the long form the ring buffer is full when they are forked: it has room for some 29,000 questions.
#[test]
fn workers_that_nobody_could_be_asked_about_are_asked_about_later() {
    let _machine = machine();
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::trace(&["--age", "200ms"]);
    all_are_followed(&mut daemon, &copied(folder.path()), rounds(100, 31_000));
    all_are_followed(&mut daemon, &linked(folder.path()), rounds(100, 31_000));
    daemon.end();
}

/// Whatever forks while the daemon starts is no interpreter here, so that nothing is missed by not looking at it.
#[test]
fn that_others_fork_on_while_the_daemon_starts_is_no_loss() {
    let _machine = machine();
    // So many live at once that each look finds new ones.
    let forks = "$SIG{CHLD} = 'IGNORE'; while (1) { if (!fork) { select undef, undef, undef, 0.05; exit } \
                 select undef, undef, undef, 0.0002 }";
    let mut forker = Command::new(program("perl")).args(["-e", forks]).spawn().unwrap();
    for _ in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::trace(&["--age", "200ms"]);
        // It looks at what is new when it is done with what was there before.
        all_are_followed(&mut daemon, &copied(folder.path()), 0);
        let lost =
            daemon.end().into_iter().filter(|seen| seen.is("lost") && seen.text("/what") == "unrecognized");
        assert_eq!(lost.map(|seen| seen.event).collect::<Vec<_>>(), [Value::Null; 0]);
    }
    forker.kill().unwrap();
    forker.wait().unwrap();
}

/// What is started just after the daemon does not wait until all that ran before has been looked at.
#[test]
fn an_interpreter_that_starts_while_others_are_looked_at_is_followed_at_once() {
    let _machine = machine();
    let (folder, sleep) = (tempfile::tempdir().unwrap(), program("sleep"));
    let others = Vec::from_iter((0..OTHERS).map(|number| {
        let path = folder.path().join(number.to_string());
        fs::copy(&sleep, &path).unwrap();
        Other(Command::new(path).arg("300").spawn().unwrap())
    }));
    let daemon = Daemon::run(&["--age", "400ms"]);
    let (daemon, leaker) = reported_by(daemon, &["lines", "1", "300"]);
    let (_, sites) = leaks(leaker.pid());
    let exact: u64 = sites
        .iter()
        .filter(|site| site["quality"] == "exact")
        .filter_map(|site| site["total"].as_u64())
        .sum();
    println!("{exact} of {} have their line", leaker.leaked.len());
    // The first ones may have been forked before it was known that it is one.
    assert!(
        exact * 2 > leaker.leaked.len() as u64,
        "{exact} of {}: {sites:#?}\n{}",
        leaker.leaked.len(),
        daemon.log()
    );
    drop(others);
    daemon.end();
}

/// Those that run when the daemon starts fork while it looks at them.
#[test]
fn workers_that_are_forked_while_the_daemon_starts_are_followed() {
    let _machine = machine();
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(&copied(folder.path()), &["many"], 1);
    let mut daemon = Daemon::trace(&["--age", "200ms"]);
    // It looks at what is new when it is done with what was there before.
    let other = tempfile::tempdir().unwrap();
    all_are_followed(&mut daemon, &copied(other.path()), 0);
    program.orders.write_all(b"\n").unwrap();
    let workers = usize::try_from(program.answer("forked")[0]).unwrap();
    let truth = program.leaked(workers);
    let mut right = HashSet::new();
    let all = daemon.came(Duration::from_secs(30), |seen| {
        if seen.is("zombie")
            && let child = seen.number("/pid")
            && let Some((_, at)) = truth.get(&child)
        {
            let origin = &seen.event["origin"];
            if is_python(origin) {
                assert_eq!(line(origin), Some(*at), "{origin:#}");
                right.insert(child);
            }
        }
        right.len() == truth.len()
    });
    println!("{} of {workers} workers are followed", right.len());
    assert!(all && workers > 100, "{} of {workers} workers are followed\n{}", right.len(), daemon.log());
    daemon.end();
}
