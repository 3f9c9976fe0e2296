//! From one set of pins to the next: what another version left is taken over without an unobserved moment, what was
//! left half-made is made anew, and what is to be removed is gone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Daemon, Ended, Held, Pins, Random, Reports, Seen, Truth, Workload, boot_now, machine, program,
    run_briefly,
};

const AGE: [&str; 2] = ["--age", "1s"];

/// How long the workload leaks before, between and after the two daemons' lives.
const SPAN: Duration = Duration::from_millis(1_500);

/// A pause of the workload itself that is longer than this says nothing about the daemon, but the test is weaker for it.
const PAUSE: Duration = Duration::from_millis(250);

#[test]
fn a_set_of_another_abi_is_taken_over_without_an_unobserved_moment() {
    let _machine = machine();
    let pins = Pins::new("abi");
    let other = pins.path().join("0");
    take_over(&pins, &AGE, || {
        declare(&pins.set(), 0xff);
        fs::rename(pins.set(), &other).unwrap();
    });
    assert!(!other.exists(), "{} is still there", other.display());
}

#[test]
fn a_set_of_another_size_is_taken_over_without_an_unobserved_moment() {
    let _machine = machine();
    let pins = Pins::new("size");
    take_over(&pins, &[&AGE[..], &["--ledger-entries", "16384"]].concat(), || {});
}

/// What a stopped daemon leaves: each link that is pinned, and no other. Those of programs that only serve it end with it.
fn assert_goes_on(held: &Held, pins: &Pins) {
    let pinned = pins.names().iter().filter(|name| name.starts_with("link_")).count();
    assert!(pinned >= 6, "{:?}", pins.names());
    assert_eq!(held.existing().links().count(), pinned, "{:?}", pins.names());
}

/// Two daemons, one after the other, while a child is leaked each millisecond. The second is started as `arguments`
/// say, after `between`.
fn take_over(pins: &Pins, arguments: &[&str], between: impl FnOnce()) {
    let mut reports = Reports::default();
    // One in twelve kinds, of four in five leaks.
    let mut workload = Workload::start(&[
        "load",
        "--rate",
        "0",
        "--leaks",
        "15000",
        "--only",
        "never-waited",
        "--seconds",
        "600",
        "--truth",
        "{truth}",
    ]);
    let mut first = Daemon::run_pinned(pins.path(), &AGE);
    let held = Held::by(first.pid());
    first.until("a leak's report", Duration::from_secs(10), |seen| seen.is("zombie"));
    first.during(SPAN);
    let Ended { code, seen, log } = first.end_with(libc::SIGTERM);
    assert_eq!(code, Some(0), "{log}");
    reports.add(seen);
    assert_goes_on(&held, pins);
    between();
    // Nobody but the kernel sees these.
    thread::sleep(SPAN);

    let order = thread::spawn({
        let root = pins.path().to_owned();
        let old = only_set(&root);
        move || watch_the_order(&root, &old)
    });
    let mut second = Daemon::run_pinned(pins.path(), arguments);
    let attached = order.join().unwrap();
    assert_complete(pins);
    second.during(SPAN);
    let (settled, truth) = workload.settle();
    println!("{settled}, greatest pause {:?}", greatest_pause(&truth));
    assert!(truth.leaks.len() > 1_000, "only {} leaks", truth.leaks.len());
    let mut missing = reports.missing(&truth);
    second.came(Duration::from_secs(30), |seen| {
        if seen.is("zombie") {
            missing.remove(&seen.process());
        }
        missing.is_empty()
    });
    // What comes now comes too often.
    second.during(Duration::from_secs(1));
    held.assert_gone();
    let seen = second.end();
    // A census finds what stands and says so: whoever was forked under the new links was seen by them.
    let by_hooks = |seen: &Seen| seen.event["predates"] == false && seen.event["forker"]["pid"].is_u64();
    let later = |seen: &&Seen| seen.is("zombie") && seen.number("/start_time") > attached;
    let (hooks, census): (Vec<_>, Vec<_>) = seen.iter().filter(later).partition(|seen| by_hooks(seen));
    let census = census.len();
    println!("{} leaks since the new links were there, {census} without their fork", hooks.len());
    assert!(hooks.len() > 500, "only {}", hooks.len());
    reports.add(seen);
    let skipped = usize::try_from(reports.lost("program-skipped")).unwrap();
    assert!(census <= skipped, "{census} forks were not seen, {skipped} programs skipped");
    reports.assert_equal(&truth);
    workload.end();
}

/// The folder of the one set that there is.
fn only_set(root: &Path) -> PathBuf {
    let mut sets = fs::read_dir(root).unwrap().map(|set| set.unwrap().path());
    let set = sets.next().unwrap();
    assert_eq!(sets.next(), None);
    set
}

/// Looks on until the old set is gone: as long as it lacks nothing, or the new one is complete, nothing goes unseen. Says when
/// all of the new one's links were there, on the boot clock.
fn watch_the_order(root: &Path, old: &Path) -> u64 {
    let links = |set: &Path| {
        let names = fs::read_dir(set).into_iter().flatten().map(|pin| pin.unwrap().file_name());
        names.filter(|name| name.as_encoded_bytes().starts_with(b"link_")).count()
    };
    let all = links(old);
    assert!(all >= 6, "{all} links");
    let deadline = Instant::now() + Duration::from_secs(30);
    let (mut attached, mut complete) = (None, false);
    loop {
        assert!(Instant::now() < deadline, "{} is still there", old.display());
        // First the old one: what it has lost by now the new one must have had by then.
        let left = links(old);
        let new = fs::read_dir(root).unwrap().map(|set| set.unwrap().path()).find(|set| set != old);
        let there = new.as_ref().map_or(0, |new| links(new));
        if there == all {
            attached.get_or_insert_with(boot_now);
        }
        if left < all && !complete {
            let new = new.unwrap_or_else(|| panic!("{left} of {all} old links are left, and no new ones"));
            assert_eq!(there, all, "{left} old ones are left");
            assert_ne!(word(&new.join("META")), 0, "the new set is not complete, {left} old links are left");
            complete = true;
        }
        if left == 0 && !old.exists() {
            return attached.unwrap();
        }
    }
}

fn greatest_pause(truth: &Truth) -> Duration {
    let mut moments: Vec<u64> = truth.leaks.values().map(|leak| leak.died_after).collect();
    moments.sort_unstable();
    let greatest = moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    let greatest = Duration::from_nanos(greatest);
    if greatest > PAUSE {
        println!("the workload itself made a pause of {greatest:?}: this machine is busy");
    }
    greatest
}

#[test]
fn a_set_that_was_killed_while_it_was_made_is_made_anew() {
    let _machine = machine();
    let pins = Pins::new("half");
    let began = Instant::now();
    drop(Daemon::run_pinned(pins.path(), &AGE));
    let start = u64::try_from(began.elapsed().as_micros()).unwrap();
    let mut random = Random::new();
    let mut halves = 0;
    for round in 1..=20 {
        unload(&pins);
        let daemon = Daemon::spawn_pinned(pins.path(), &AGE);
        let life = Duration::from_micros(random.below(start));
        thread::sleep(life);
        let Ended { code, log, .. } = daemon.end_with(libc::SIGKILL);
        assert_eq!(code, None, "round {round}: it ended by itself within {life:?}:\n{log}");
        let left = pins.names();
        let half = pins.set().exists() && !is_complete(&pins);
        halves += u32::from(half);
        println!("round {round}: killed after {life:?}, {} pins, half-made: {half}", left.len());
        let log = assert_works(&pins);
        // Nobody wants to read of it where there is nothing to repair.
        assert!(half || !log.contains("WARN"), "{log}");
    }
    println!("{halves} of 20 were killed with a set half-made");
}

#[test]
fn a_set_that_is_not_complete_is_made_anew() {
    type Tear = fn(&Pins);
    let _machine = machine();
    let pins = Pins::new("torn");
    // Each way to be torn that a kill between two system calls can leave, and none: then it is taken as it is.
    let ways: [(&str, Tear); 8] = [
        ("as it was", |_| {}),
        ("not declared complete", |pins| declare(&pins.set(), 0)),
        ("no links", |pins| {
            declare(&pins.set(), 0);
            remove(pins, |name| name.starts_with("link_"));
        }),
        ("no links, and complete by its own account", |pins| remove(pins, |name| name.starts_with("link_"))),
        ("the ledger less, and complete by its own account", |pins| remove(pins, |name| name == "LEDGER")),
        ("a program less, and complete by its own account", |pins| remove(pins, |name| name == "prog_fork")),
        ("no links, no programs, one map", |pins| remove(pins, |name| name != "LEDGER")),
        ("an empty directory", |pins| remove(pins, |_| true)),
    ];
    assert_works(&pins);
    for (how, tear) in ways {
        println!("{how}");
        tear(&pins);
        assert_works(&pins);
    }
}

#[test]
fn what_a_replaced_set_had_lost_and_nobody_has_said_is_said_by_the_next_daemon() {
    let _machine = machine();
    let pins = Pins::new("unsaid");
    let sizes = ["--ledger-entries", "512", "--ledger-overflow", "512"];
    Daemon::run_pinned(pins.path(), &[&AGE[..], &sizes].concat()).end_with(libc::SIGKILL);
    // Nobody is there to say it.
    let workload = Workload::standing(3_000);
    let mut daemon = Daemon::run_pinned(pins.path(), &AGE);
    let (mut lost, mut reported) = (0, 0);
    daemon.until("a word of each", Duration::from_secs(30), |seen| {
        reported += u64::from(seen.is("zombie"));
        if seen.is("lost") && seen.text("/what") == "death-lost" {
            lost += seen.number("/count");
        }
        lost >= 1_900 && reported >= 3_000
    });
    for seen in daemon.during(Duration::from_secs(2)) {
        if seen.is("lost") && seen.text("/what") == "death-lost" {
            lost += seen.number("/count");
        }
    }
    println!("{lost} lost by the smaller ledger, {reported} found by the census of the larger one");
    // Others that were started meanwhile may be among them, but not as many again.
    assert!(lost < 3_500, "{lost}");
    workload.end();
}

#[test]
fn the_memory_that_the_kernel_side_takes_is_said_at_the_start() {
    let _machine = machine();
    let pins = Pins::new("memory");
    let Ended { log, .. } = Daemon::run_pinned(pins.path(), &AGE).end_with(libc::SIGTERM);
    let said = log.split("kernel_kib=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let said: u64 =
        said.and_then(|said| said.parse().ok()).unwrap_or_else(|| panic!("it is not said:\n{log}"));
    let bytes_of = |name: &String| {
        let mut bpftool = Command::new(program("bpftool"));
        let output =
            run_briefly(bpftool.args(["--json", "map", "show", "pinned"]).arg(pins.set().join(name)));
        let map: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        map["bytes_memlock"].as_u64().unwrap_or_else(|| panic!("{map}"))
    };
    let names = pins.names();
    let maps = names.iter().filter(|name| !name.starts_with("link_") && !name.starts_with("prog_"));
    let kib = maps.map(bytes_of).sum::<u64>() / 1024;
    println!("{said} KiB, {kib} of them pinned");
    // What is not pinned is small: constants, the log's.
    assert!((kib..kib + kib / 10).contains(&said), "{said} KiB are said, the pinned maps take {kib}");
}

#[test]
fn unload_removes_everything_and_says_what() {
    let _machine = machine();
    let pins = Pins::new("unload");
    let daemon = Daemon::run_pinned(pins.path(), &AGE);
    let held = Held::by(daemon.pid());
    daemon.end();
    assert_goes_on(&held, &pins);
    let names = pins.names();
    assert!(names.iter().any(|name| name == "LEDGER"), "{names:?}");
    for prefix in ["prog_", "link_"] {
        assert!(names.iter().any(|name| name.starts_with(prefix)), "{names:?}");
    }
    let said = unload(&pins);
    assert!(said.contains(&*pins.path().to_string_lossy()), "{said}");
    held.assert_gone();
    // Once more: there is nothing, and that is no failure.
    let output = pins.unload();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_daemon_that_does_not_persist_leaves_no_pins() {
    let _machine = machine();
    let listing = || {
        let root = Path::new("/sys/fs/bpf");
        let entries =
            fs::read_dir(root).unwrap().chain(fs::read_dir(root.join("reaper")).into_iter().flatten());
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let before = listing();
    let daemon = Daemon::run(&AGE);
    let held = Held::by(daemon.pid());
    assert_eq!(listing(), before);
    daemon.end();
    assert_eq!(listing(), before);
    held.assert_gone();
}

#[test]
fn stacks_are_taken_for_the_daemon_that_wants_them_and_for_no_other() {
    let _machine = machine();
    let pins = Pins::new("stages");
    let stages = || dump(&pins.set().join("FORK_STAGES")).len();
    let daemon = Daemon::run_pinned(pins.path(), &[&AGE[..], &["--origin", "all"]].concat());
    assert_eq!(
        (stages(), word(&pins.set().join("COPYING"))),
        (3, 2),
        "Python's two and the native one, of all"
    );
    let Ended { log, .. } = daemon.end_with(libc::SIGKILL);
    assert_eq!(stages(), 3, "it had no time to take them away:\n{log}");
    let daemon = Daemon::run_pinned(pins.path(), &[&AGE[..], &["--origin", "off"]].concat());
    assert_eq!(stages(), 2, "Python's only");
    let Ended { code, log, .. } = daemon.end_with(libc::SIGTERM);
    assert_eq!((code, stages()), (Some(0), 0), "nobody reads them:\n{log}");
}

/// What it says.
fn unload(pins: &Pins) -> String {
    let output = pins.unload();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(!pins.path().exists(), "{} is left; it said: {said}", pins.path().display());
    said
}

/// A daemon that finds these pins reports a leak, and leaves a complete set. Its log.
fn assert_works(pins: &Pins) -> String {
    let mut daemon = Daemon::run_pinned(pins.path(), &["--age", "200ms"]);
    assert_complete(pins);
    let workload = Workload::standing(3);
    let truth = workload.truth();
    let mut missing: Vec<_> = truth.leaks.keys().copied().collect();
    daemon.until("the leaks' reports", Duration::from_secs(10), |seen| {
        missing.retain(|process| !(seen.is("zombie") && seen.process() == *process));
        missing.is_empty()
    });
    workload.end();
    let Ended { code, seen, log } = daemon.end_with(libc::SIGTERM);
    assert_eq!(code, Some(0), "{log}");
    let mut reports = Reports::default();
    reports.add(seen);
    assert_eq!(reports.assert_equal(&truth), 0, "nothing was told before");
    assert_complete(pins);
    log
}

fn assert_complete(pins: &Pins) {
    assert!(is_complete(pins), "{:?} is no complete set", pins.names());
}

/// Whether the set says so itself.
fn is_complete(pins: &Pins) -> bool {
    let meta = pins.set().join("META");
    if !meta.exists() {
        return false;
    }
    word(&meta) != 0
}

/// The first entry of a map of words.
fn word(map: &Path) -> u64 {
    let entries = dump(map);
    let value = entries[0]["value"].as_array().unwrap_or_else(|| panic!("{entries:?}"));
    let digits: String =
        value.iter().rev().map(|byte| byte.as_str().unwrap().trim_start_matches("0x")).collect();
    u64::from_str_radix(&digits, 16).unwrap()
}

/// The entries of a pinned map that have a value.
fn dump(map: &Path) -> Vec<serde_json::Value> {
    let output =
        run_briefly(Command::new(program("bpftool")).args(["--json", "map", "dump", "pinned"]).arg(map));
    let text = String::from_utf8(output.stdout).unwrap();
    let entries: Vec<serde_json::Value> =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    entries.into_iter().filter(|entry| entry["value"].is_array()).collect()
}

/// Says what the set was made from: eight times this byte. Zero says that it is not complete.
fn declare(set: &Path, byte: u8) {
    let byte = byte.to_string();
    let mut command = Command::new(program("bpftool"));
    command.args(["map", "update", "pinned"]).arg(set.join("META"));
    command.args(["key", "0", "0", "0", "0", "value"]).args([&byte; 8]);
    let output = run_briefly(&mut command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn remove(pins: &Pins, which: impl Fn(&str) -> bool) {
    for name in pins.names().into_iter().filter(|name| which(name)) {
        fs::remove_file(pins.set().join(name)).unwrap();
    }
}
