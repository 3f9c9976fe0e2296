//! The running daemon and those who talk to it: clients of its socket, the service manager, SIGHUP, a second daemon.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::{UnixDatagram, UnixStream},
    },
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Daemon, Ended, Pins, Workload, assert_refused, assert_valid, machine, program, reaper, run_briefly,
    signal,
};

const UNAVAILABLE: i32 = 69;
const PERMISSION: i32 = 77;

/// What is waited for longer than this does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the daemon bears with a client that does nothing, with some leeway.
const BORNE: Duration = Duration::from_secs(8);

fn ask(question: &str) -> UnixStream {
    let mut stream = UnixStream::connect(reaper::control::socket()).unwrap();
    stream.write_all(question.as_bytes()).unwrap();
    stream
}

fn zombies() -> UnixStream {
    ask("{\"version\":1,\"request\":\"zombies\"}\n")
}

/// What the daemon says first.
fn verdict(stream: UnixStream) -> Value {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// A whole answer: what was announced came.
fn count(mut stream: UnixStream) -> usize {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let mut lines = text.lines();
    let verdict: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let zombies: Vec<_> = lines.map(|line| assert_valid(line.as_bytes())).collect();
    assert_eq!(verdict["lines"], zombies.len(), "{verdict}");
    zombies.len()
}

/// Whether the daemon has hung up; nothing is read for it.
fn hung_up(stream: &UnixStream) -> bool {
    let mut descriptors = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    descriptors[0].revents().contains(PollFlags::HUP)
}

fn until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// `reaper ls`: where the answer is from, and how many.
fn ls() -> (String, usize) {
    let output = run_briefly(Command::new(reaper()).args(["ls", "--output", "json"]));
    assert!(output.status.success(), "{output:?}");
    let first = output.stdout.split(|byte| *byte == b'\n').next().unwrap();
    let listing = assert_valid(first);
    (listing["source"].as_str().unwrap().to_owned(), listing["count"].as_u64().unwrap().try_into().unwrap())
}

fn standing(number: usize) -> Workload {
    let workload = Workload::start(&["standing", &number.to_string()]);
    workload.wait_for("settled", Duration::from_secs(60));
    workload
}

#[test]
fn clients_that_ask_at_once_each_get_the_whole_answer() {
    let _machine = machine();
    let workload = standing(100);
    let daemon = Daemon::run(&["--age", "1h"]);
    let asked: Vec<_> = (0..2).map(|_| zombies()).collect();
    for stream in asked {
        assert!(count(stream) >= 100);
    }
    // More than are served at once.
    let asked: Vec<_> = (0..20).map(|_| thread::spawn(|| count(zombies()))).collect();
    for client in asked {
        assert!(client.join().unwrap() >= 100);
    }
    workload.end();
    daemon.end();
}

#[test]
fn clients_that_never_read_or_never_ask_are_left_and_harm_nobody() {
    let _machine = machine();
    // An answer that no socket's buffer holds.
    let workload = standing(1_000);
    let daemon = Daemon::run(&["--age", "1h"]);
    let deaf: Vec<_> = (0..3).map(|_| zombies()).collect();
    let began = Instant::now();
    let (source, listed) = ls();
    assert!(source == "daemon" && listed >= 1_000, "{source} {listed}");
    assert!(began.elapsed() < Duration::from_secs(4), "it waited for the others: {:?}", began.elapsed());
    assert!(!deaf.iter().any(hung_up), "they were not borne with, or had read it all");
    until("those that never read are left", BORNE, || deaf.iter().all(hung_up));
    // As many as are served at once, so that the next must wait until they are left.
    let mute: Vec<_> = (0..8).map(|_| ask("")).collect();
    assert_eq!(ls().0, "daemon");
    until("those that never ask are left", BORNE, || mute.iter().all(hung_up));
    workload.end();
    daemon.end();
}

#[test]
fn a_client_of_another_version_is_told_which_is_spoken() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "1h"]);
    for (question, parts) in [
        ("{\"version\":2,\"request\":\"zombies\",\"since\":[1]}\n", &["version 1", "version 2"][..]),
        ("{\"version\":0}\n", &["version 1", "version 0"]),
        ("{\"version\":1,\"request\":\"kill\"}\n", &["cannot answer"]),
        ("GET / HTTP/1.1\n", &["not understood"]),
        ("\n", &["not understood"]),
        ("\u{1b}[2J\n", &["not understood"]),
    ] {
        let verdict = verdict(ask(question));
        assert_eq!((&verdict["version"], &verdict["ok"]), (&1.into(), &false.into()), "{verdict}");
        for part in parts {
            assert!(verdict["message"].as_str().unwrap().contains(part), "{question}: {verdict}");
        }
    }
    daemon.end();
}

#[test]
fn a_user_who_is_not_root_gets_no_answer_and_is_told_why() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "1h"]);
    let socket = reaper::control::socket();
    let metadata = fs::metadata(&socket).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (0, 0o600));
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("reaper");
    fs::copy(reaper(), &copy).unwrap();
    let mut command = Command::new(program("setpriv"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).arg("ls").current_dir("/");
    assert_refused(&run_briefly(&mut command), PERMISSION, &["reaper.sock", "only root", "run as root"]);
    daemon.end();
}

#[test]
fn a_second_daemon_exits_69_and_names_the_first() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "1h"]);
    let named = format!("another reaper (pid {}) holds", daemon.pid());
    let parts = [named.as_str(), "/lock"];
    assert_refused(&run_briefly(Command::new(reaper()).args(["run", "--no-persist"])), UNAVAILABLE, &parts);
    assert_refused(&run_briefly(Command::new(reaper()).arg("unload")), UNAVAILABLE, &parts);
    assert_eq!(ls().0, "daemon", "the first still answers");
    // Neither a lock nor a socket outlives a daemon that had no time to clean up.
    assert_eq!(daemon.end_with(libc::SIGKILL).code, None);
    let next = Daemon::run(&["--age", "1h"]);
    assert_eq!(ls().0, "daemon");
    next.end();
    assert_eq!(ls().0, "census");
}

#[test]
fn daemons_that_do_not_see_each_others_lock_do_not_share_pins() {
    let _machine = machine();
    let pins = Pins::new("shared");
    let daemon = Daemon::run_pinned(pins.path(), &["--age", "1h"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let path = pins.path().display().to_string();
    for arguments in [&["run", "--metrics-listen", "off"][..], &["unload"]] {
        let mut command = Command::new(reaper());
        command.args(arguments).args(["--pin-path", &path]).env("RUNTIME_DIRECTORY", elsewhere.path());
        assert_refused(
            &run_briefly(&mut command),
            UNAVAILABLE,
            &[&path, "another reaper uses what is pinned"],
        );
    }
    daemon.end();
}

/// A configuration that changes.
struct Config {
    directory: TempDir,
}

impl Config {
    fn new(text: &str) -> Self {
        let config = Self { directory: tempfile::tempdir().unwrap() };
        config.write(text);
        config
    }

    fn path(&self) -> String {
        self.directory.path().join("reaper.toml").to_str().unwrap().to_owned()
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }
}

fn logged(daemon: &Daemon, part: &str) {
    until(part, PATIENCE, || daemon.log().contains(part));
}

#[test]
fn sighup_takes_a_right_file_and_keeps_what_runs_where_it_is_wrong() {
    let _machine = machine();
    let config = Config::new("age = '1h'\n");
    let workload = standing(3);
    let mut daemon = Daemon::run(&["--config", &config.path()]);

    config.write("age = '300ms'\ncgroup_cache = 64\n\n[log]\nlevel = 'debug'\n");
    signal(daemon.pid(), libc::SIGHUP);
    let mut reported = 0;
    daemon.until("what is older than the new age", Duration::from_secs(5), |seen| {
        reported += usize::from(seen.is("zombie") && seen.text("/holder/comm") == "churn");
        reported == 3
    });
    logged(&daemon, "restart the daemon to change cgroup_cache");
    logged(&daemon, "changed=age, log.level");
    workload.end();

    config.write("age = '1h'\n[log]\nlevel = 'loud'\n");
    signal(daemon.pid(), libc::SIGHUP);
    logged(&daemon, &format!("{}:3:9: log.level: \"loud\" is not known here", config.path()));
    let workload = standing(2);
    let mut again = 0;
    daemon.until("reports at the age from before", PATIENCE, |seen| {
        again += usize::from(seen.is("zombie") && seen.text("/holder/comm") == "churn");
        again == 3 + 2
    });
    workload.end();
    let Ended { code, log, .. } = daemon.end_with(libc::SIGTERM);
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn without_a_file_sighup_is_survived_by_the_daemon_and_ends_the_foreground() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "1h"]);
    signal(daemon.pid(), libc::SIGHUP);
    logged(&daemon, "SIGHUP: there is no configuration");
    daemon.end();
    let Ended { code, log, .. } = Daemon::trace(&["--age", "1h"]).end_with(libc::SIGHUP);
    assert_eq!(code, Some(0), "{log}");
}

/// What a service manager listens on.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn hears(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("the daemon says nothing");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// What it hears next but for signs of life.
    fn hears_of(&self, state: &str) -> String {
        loop {
            let text = self.hears();
            if text != "WATCHDOG=1\n" {
                assert!(text.starts_with(state), "{state} was expected: {text}");
                return text;
            }
        }
    }
}

#[test]
fn a_service_manager_hears_when_it_is_ready_lives_reloads_and_stops() {
    let _machine = machine();
    let (manager, config) = (Manager::new(), Config::new("age = '2s'\n"));
    let daemon = Daemon::run_as(|command| {
        command.args(["--config", &config.path()]);
        command.env("NOTIFY_SOCKET", manager.path().join("notify")).env("WATCHDOG_USEC", "400000");
    });
    let text = manager.hears_of("READY=1\n");
    assert!(text.contains("\nSTATUS=watching; zombies are reported at an age of 2s\n"), "{text}");
    let began = Instant::now();
    for _ in 0..6 {
        assert_eq!(manager.hears(), "WATCHDOG=1\n");
    }
    let span = began.elapsed();
    assert!(span > Duration::from_millis(800) && span < Duration::from_secs(2), "{span:?} for six of 200 ms");

    config.write("age = '3s'\n");
    signal(daemon.pid(), libc::SIGHUP);
    let text = manager.hears_of("RELOADING=1\n");
    assert!(text.contains("\nMONOTONIC_USEC="), "{text}");
    assert!(manager.hears_of("READY=1\n").contains("at an age of 3s"));

    let began = Instant::now();
    let Ended { code, log, .. } = daemon.end_with(libc::SIGTERM);
    assert_eq!(code, Some(0), "{log}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    manager.hears_of("STOPPING=1\n");
}
