//! What goes wrong while the daemon runs: it is stopped, its reader stops, the disk is full, descriptors run out, its pins
//! vanish. Each is survived, and everything that was leaked is told.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, ErrorKind},
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use reaper_ebpf::{Notice, notice};

use crate::support::{
    Daemon, Ended, Mount, Pins, Reports, SECOND, Seen, Workload, assert_valid, boot_now, limit_files,
    machine, rounds, signal, waiting_bytes,
};

const AGE: [&str; 2] = ["--age", "1s"];

/// More than a pipe holds and more than waits within the daemon.
const MANY: usize = 20_000;

#[test]
fn a_daemon_that_was_stopped_tells_everything_when_it_goes_on() {
    let _machine = machine();
    let mut daemon = Daemon::run(&AGE);
    let workload = Workload::leaking();
    daemon.until("a leak's report", Duration::from_secs(10), |seen| seen.is("zombie"));
    signal(daemon.pid(), libc::SIGSTOP);
    // What it had written may still be on its way.
    daemon.during(Duration::from_millis(500));
    assert_eq!(daemon.during(Duration::from_secs(1)).len(), 0, "it is not stopped");
    // Not to wait for a fact: this is the fault.
    thread::sleep(Duration::from_secs(rounds(19, 59)));
    signal(daemon.pid(), libc::SIGCONT);
    let log = tells_all(daemon, workload);
    assert!(log.contains("sweep-late"), "it does not say that it was late:\n{log}");
}

#[test]
fn releases_that_find_no_room_are_counted_and_told() {
    /// Notices that the ring buffer has room for: <https://docs.kernel.org/bpf/ringbuf.html> puts 8 bytes before each.
    const ROOM: usize = notice::RING_BYTES as usize / (size_of::<Notice>() + 8);
    let _machine = machine();
    let mut daemon = Daemon::run(&AGE);
    let workload = Workload::standing(ROOM + 2_000);
    let truth = workload.truth();
    let mut waited_for: HashSet<_> = truth.leaks.keys().copied().collect();
    daemon.until("the leaks' reports", Duration::from_secs(60), |seen| {
        if seen.is("zombie") {
            waited_for.remove(&seen.process());
        }
        waited_for.is_empty()
    });
    signal(daemon.pid(), libc::SIGSTOP);
    workload.end();
    let stands = |(pid, _): &&(u64, u64)| Path::new("/proc").join(pid.to_string()).exists();
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Some(process) = truth.leaks.keys().find(stands) {
        assert!(Instant::now() < deadline, "{process:?} is still there");
        thread::sleep(Duration::from_millis(50));
    }
    signal(daemon.pid(), libc::SIGCONT);
    let mut standing: HashSet<_> = truth.leaks.keys().copied().collect();
    daemon.came(Duration::from_secs(30), |seen| {
        if seen.is("released") {
            standing.remove(&seen.process());
        }
        standing.is_empty()
    });
    let Ended { code, seen, log } = daemon.end_with(libc::SIGTERM);
    assert_eq!(code, Some(0), "{log}");
    assert!(standing.is_empty(), "{} releases are not told:\n{log}", standing.len());
    let lost: u64 = seen
        .iter()
        .filter(|seen| seen.text("/what") == "release-lost")
        .map(|seen| seen.number("/count"))
        .sum();
    println!("{lost} of {} releases found no room", truth.leaks.len());
    assert!((1_500..4_000).contains(&lost), "{lost}");
}

#[test]
fn a_daemon_whose_pins_were_unmounted_goes_on_and_says_so() {
    let _machine = machine();
    let mount = Mount::new("bpf", "mode=700");
    let pins = Pins::at(mount.path().join("reaper"));
    let mut daemon = Daemon::run_pinned(pins.path(), &AGE);
    let workload = Workload::leaking();
    daemon.until("a leak's report", Duration::from_secs(10), |seen| seen.is("zombie"));
    mount.detach();
    assert!(!pins.path().exists());
    daemon.during(Duration::from_secs(5));
    let log = tells_all(daemon, workload);
    let warned = log.lines().any(|line| line.contains("WARN") && line.contains("unmounted"));
    assert!(warned, "it does not say that what was pinned is gone:\n{log}");
}

/// Nothing that the workload has leaked is missing. The daemon's log.
fn tells_all(mut daemon: Daemon, mut workload: Workload) -> String {
    let truth = workload.settle_from_load();
    let mut missing: HashSet<_> = truth.leaks.keys().copied().collect();
    daemon.came(Duration::from_secs(30), |seen| {
        if seen.is("zombie") {
            missing.remove(&seen.process());
        }
        missing.is_empty()
    });
    let Ended { code, seen, log } = daemon.end_with(libc::SIGTERM);
    let mut reports = Reports::default();
    reports.add(seen);
    reports.assert_equal(&truth);
    workload.end();
    assert_eq!(code, Some(0), "{log}");
    log
}

#[test]
fn out_of_descriptors_it_reports_late_and_with_the_holder() {
    let _machine = machine();
    let mut daemon = Daemon::run(&AGE);
    let workload = Workload::leaking();
    daemon.until("a leak's report", Duration::from_secs(10), |seen| seen.is("zombie"));
    // What is open stays open; nothing else can be opened, /proc's files neither.
    let before = limit_files(daemon.pid(), 3);
    let reported = daemon.during(Duration::from_secs(5)).iter().filter(|seen| seen.is("zombie")).count();
    println!("{reported} reports without a free descriptor");
    limit_files(daemon.pid(), before);
    tells_all(daemon, workload);
}

#[test]
fn a_reader_that_stops_for_a_while_gets_everything_once() {
    let _machine = machine();
    let (reader, writer) = io::pipe().unwrap();
    let daemon = Daemon::run_into(writer, &AGE);
    let workload = Workload::standing(MANY);
    let truth = workload.truth();
    // Until the last is due, and longer than a sweep and all it asks take.
    let last = truth.leaks.values().map(|leak| leak.died_before).max().unwrap();
    thread::sleep(Duration::from_nanos((last + 4 * SECOND).saturating_sub(boot_now())));
    let waiting = waiting_bytes(&reader);
    assert!(waiting > 30_000, "only {waiting} bytes wait in the pipe: it was not full");

    let (sender, lines) = mpsc::channel();
    let reading = thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n') {
            let _ = sender.send(Seen { at: boot_now(), event: assert_valid(&line.unwrap()) });
        }
    });
    let mut missing: HashSet<_> = truth.leaks.keys().copied().collect();
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !missing.is_empty()
        && let Ok(event) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        if event.is("zombie") {
            missing.remove(&event.process());
        }
        seen.push(event);
    }
    let Ended { code, log, .. } = daemon.end_with(libc::SIGTERM);
    reading.join().unwrap();
    seen.extend(lines);
    let mut reports = Reports::default();
    reports.add(seen);
    reports.assert_equal(&truth);
    workload.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn on_a_full_disk_events_wait_until_there_is_room() {
    const ROOM: u64 = 128 << 10;
    let _machine = machine();
    let disk = Mount::new("tmpfs", &format!("mode=700,size={ROOM}"));
    let path = disk.path().join("events");
    let file: File = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let daemon = Daemon::run_into(file, &AGE);
    // About five times what there is room for.
    let workload = Workload::standing(600);
    let truth = workload.truth();
    let length = || fs::metadata(&path).unwrap().len();
    let deadline = Instant::now() + Duration::from_secs(20);
    while length() < ROOM {
        assert!(Instant::now() < deadline, "{} of {ROOM} bytes are full:\n{}", length(), daemon.log());
        thread::sleep(Duration::from_millis(20));
    }
    // Not to wait for a fact: this is the fault.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(length(), ROOM);
    disk.change("size=64m");

    let deadline = Instant::now() + Duration::from_secs(30);
    while events(&path).1.iter().filter(|seen| seen.is("zombie")).count() < truth.leaks.len()
        && Instant::now() < deadline
    {
        thread::sleep(Duration::from_millis(100));
    }
    let Ended { code, log, .. } = daemon.end_with(libc::SIGTERM);
    let (whole, seen) = events(&path);
    assert!(whole, "the last line has no end");
    let mut reports = Reports::default();
    reports.add(seen);
    reports.assert_equal(&truth);
    workload.end();
    assert_eq!(code, Some(0), "{log}");
    let words = ErrorKind::StorageFull.to_string();
    assert!(
        ["No space", "full", &words].iter().any(|words| log.contains(words)),
        "the log does not say that there was no room:\n{log}"
    );
}

/// The events in a file, each a whole line but the last, and whether that is one, too.
fn events(path: &Path) -> (bool, Vec<Seen>) {
    let text = fs::read(path).unwrap();
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let lines = text[..end].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    (end == text.len(), lines.map(|line| Seen { at: 0, event: assert_valid(line) }).collect())
}
