//! More deaths than the ledger can hold: what is missing is counted, one by one, and when they are gone the books are
//! right again.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    process::Command,
    time::Duration,
};

use crate::support::{
    Daemon, Ended, Reports, Seen, Truth, Workload, assert_valid, boot_now, machine, reaper, run_briefly,
};

/// Far more than the ledger's 1,024 entries.
const CHILDREN: usize = 5_000;

/// As many as fit, when the others are gone.
const LATER: usize = 500;

/// Whoever else dies on the machine while the ledger is full is lost and counted, too.
const ATTEMPTS: usize = 5;

#[test]
fn what_a_full_ledger_misses_equals_the_loss_counter() {
    let _machine = machine();
    for attempt in 1..=ATTEMPTS {
        let outcome = bomb(attempt == 1);
        let Outcome { foreign, reported, recovered, lost } = outcome;
        println!(
            "attempt {attempt}: {reported} reported, {lost} lost, {recovered} of them found again, {foreign} others may have died"
        );
        assert!(reported >= 512, "fewer reports than the ledger has slots: {outcome:?}");
        assert!(lost > 0, "the ledger was never full: {outcome:?}");
        // Never fewer than all: that would be silence. More, where others died meanwhile, but no more than those did.
        match (reported + lost).checked_sub(CHILDREN) {
            Some(0) => return,
            Some(excess) => assert!(excess <= foreign, "{excess} lost that never lived: {outcome:?}"),
            None => panic!("not all are reported or counted: {outcome:?}"),
        }
    }
    panic!(
        "other processes were started or ended on this machine in each of {ATTEMPTS} attempts: try it when it is quiet"
    );
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Others that may have died while the ledger was full.
    foreign: usize,
    reported: usize,
    recovered: usize,
    lost: usize,
}

fn bomb(is_first: bool) -> Outcome {
    let sizes = ["--ledger-entries", "512", "--ledger-overflow", "512"];
    let mut daemon = Daemon::run(&[&["--age", "1s"], &sizes[..]].concat());
    let (others, threads) = (Others::new(), threads(daemon.pid()));
    let workload = Workload::standing(CHILDREN);
    let truth = workload.truth();
    assert_eq!(truth.leaks.len(), CHILDREN);

    let (mut reported, mut lost) = (HashMap::new(), 0);
    // Losses are said once a minute at most.
    let complete = daemon.came(Duration::from_secs(75), |seen| {
        count(seen, &truth, &mut reported, &mut lost);
        fresh(&reported) + lost >= CHILDREN
    });
    // Not foreign: the shell that becomes the workload, its holder, the thread here that reads its output, and
    // threads that the daemon needed meanwhile.
    let own = CHILDREN + 3 + self::threads(daemon.pid()).saturating_sub(threads);
    for seen in daemon.during(Duration::from_millis(1_500)) {
        count(seen, &truth, &mut reported, &mut lost);
    }
    let foreign = others.at_most(own);
    let outcome =
        Outcome { foreign, reported: fresh(&reported), recovered: reported.len() - fresh(&reported), lost };
    assert!(complete, "not all {CHILDREN} are reported or counted: {outcome:?}");
    let checked = usize::try_from(checked("death-lost")).unwrap();
    let foreign = others.at_most(own);
    assert!(
        (lost..=lost + foreign).contains(&checked),
        "{lost} lost, {checked} by reaper check, {foreign} others"
    );
    if is_first {
        assert_counted_once(&mut daemon, &others, own, lost);
    }
    workload.end();
    balance(daemon, reported.into_keys().collect());
    outcome
}

/// Each census finds the same ones again that there is no room for: they are not lost once more.
fn assert_counted_once(daemon: &mut Daemon, others: &Others, own: usize, lost: usize) {
    /// Two censuses after a loss are made in this time.
    const CENSUSES: Duration = Duration::from_secs(22);
    daemon.during(CENSUSES);
    let checked = usize::try_from(checked("death-lost")).unwrap();
    let foreign = others.at_most(own);
    assert!(checked <= lost + foreign, "{checked} lost, {lost} before, {foreign} others");
}

/// What is missing is what was lost: no process is in both but those that were found again, and say so.
fn count(seen: &Seen, truth: &Truth, reported: &mut HashMap<(u64, u64), bool>, lost: &mut usize) {
    if seen.is("zombie") && truth.leaks.contains_key(&seen.process()) {
        let twice = reported.insert(seen.process(), seen.event["recovered"] == true);
        assert_eq!(twice, None, "reported twice: {seen:?}");
    }
    if seen.is("lost") && seen.text("/what") == "death-lost" {
        *lost += usize::try_from(seen.number("/count")).unwrap();
        assert_eq!(u64::try_from(*lost).unwrap(), seen.number("/total"), "{seen:?}");
    }
}

/// Those that were never lost.
fn fresh(reported: &HashMap<(u64, u64), bool>) -> usize {
    reported.values().filter(|recovered| !**recovered).count()
}

/// How often that was lost, as `reaper check` has it from the running daemon.
fn checked(what: &str) -> u64 {
    let output = run_briefly(Command::new(reaper()).args(["check", "--output", "json"]));
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lost: Vec<_> = text.lines().filter(|line| line.contains("\"event\":\"lost\"")).collect();
    let seen = lost.into_iter().map(|line| Seen { at: 0, event: assert_valid(line.as_bytes()) });
    let mut totals: HashMap<_, _> =
        seen.map(|seen| (seen.text("/what").to_owned(), seen.number("/total"))).collect();
    totals.remove(what).unwrap_or_else(|| panic!("{what} is not among {totals:?}"))
}

/// When the zombies are gone the ledger has room for others, and says what /proc says: nothing stands in it that is no
/// more, nothing that stands is missing.
fn balance(mut daemon: Daemon, mut standing: BTreeSet<(u64, u64)>) {
    daemon.until("releases of what was reported", Duration::from_secs(30), |seen| {
        if seen.is("released") {
            standing.remove(&seen.process());
        }
        standing.is_empty()
    });
    let began = boot_now();
    let workload = Workload::standing(LATER);
    let truth = workload.truth();
    let mut missing: BTreeSet<_> = truth.leaks.keys().copied().collect();
    daemon.came(Duration::from_secs(20), |seen| {
        if seen.is("zombie") {
            missing.remove(&seen.process());
        }
        missing.is_empty()
    });
    let listed = list();
    let known: BTreeSet<_> = truth.leaks.keys().copied().collect();
    let different: Vec<_> = listed.symmetric_difference(&known).collect();
    assert!(
        different.is_empty(),
        "{} listed by `reaper ls`, {} stand, not in both: {different:?}",
        listed.len(),
        known.len()
    );
    workload.end();
    let Ended { code, seen, log } = daemon.end_with(libc::SIGTERM);
    assert_eq!(code, Some(0), "{log}");
    let mut reports = Reports::default();
    // Not the losses: the workload's own end, for one, may have found no room and is said about only now.
    reports.add(seen.into_iter().filter(|seen| seen.at >= began && !seen.is("lost")).collect());
    reports.assert_equal(&truth);
}

/// The workload's zombies, as the daemon lists them.
fn list() -> BTreeSet<(u64, u64)> {
    let output = run_briefly(Command::new(reaper()).args(["ls", "--output", "json"]));
    assert!(output.status.success(), "{output:?}");
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let seen = lines.map(|line| Seen { at: 0, event: assert_valid(line) });
    seen.filter(|seen| seen.is("zombie") && seen.is_of_workload()).map(|seen| seen.process()).collect()
}

/// What else goes on on the machine from here on.
struct Others {
    forks: usize,
    processes: BTreeSet<u32>,
}

impl Others {
    fn new() -> Self {
        Self { forks: forks(), processes: processes() }
    }

    /// How many may have died since: those that were started, but for `own`, and those that were there before.
    fn at_most(&self, own: usize) -> usize {
        let started = (forks() - self.forks).saturating_sub(own);
        started + self.processes.difference(&processes()).count()
    }
}

fn processes() -> BTreeSet<u32> {
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

/// Processes and threads started since boot.
fn forks() -> usize {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    stat.lines().find_map(|line| line.strip_prefix("processes ")).unwrap().trim().parse().unwrap()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}
