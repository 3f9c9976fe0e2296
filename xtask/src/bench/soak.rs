//! The daemon for half an hour under lives and leaks that come and go: what it keeps must not grow, and what it lists must
//! be what stands.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{
    Bench,
    daemon::{self, Daemon},
    instrument::Instrument,
    table::{Table, verdict},
};

const AGE: &str = "2s";
/// Somewhat more than is claimed: the workload makes up for late beats.
const LIVES: &str = "2500";
/// Leaks that stand for a while and go, others that all go with the minute: at the end of each there are as many.
const LEAKS: &str = "20";
const MINUTES: u64 = 30;
const MINUTES_QUICK: u64 = 3;
/// When nothing new is made, everything that stands is listed; what is gone may be listed until the kernel frees it.
const SETTLES: Duration = Duration::from_secs(30);

/// Programs and libraries that the daemon keeps open to read their symbols, at most (`reaper-user/src/origin/files.rs`): how
/// many there are depends on what runs on the machine.
const FILES: usize = 256;

/// pid and start in clock ticks.
type Process = (u64, u64);

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let minutes = if bench.quick { MINUTES_QUICK } else { MINUTES };
    let pins = Path::new("/sys/fs/bpf").join(format!("reaper-soak-{}", std::process::id()));
    let pinned = Pins { bench, path: &pins };
    let path = pins.to_str().context("the path of the pins is not UTF-8")?;
    let daemon = Daemon::start_pinned(bench.workspace, path, &["--age", AGE])?;
    let rate = ["load", "--rate", LIVES, "--workers", "10", "--leaks", "0", "--seconds", "86400"];
    let mut lives = Instrument::start(bench.example("churn").args(rate))?;
    println!(
        "\n`reaper run --age {AGE}` for {minutes} minutes at up to {LIVES} process lives and {LEAKS} leaks a second"
    );
    let mut table =
        Table::new(&["minute", "RSS, MiB", "descriptors", "and files", "threads", "zombies", "listed"]);
    let (mut resident, mut descriptors, mut most_files) = (Vec::new(), Vec::new(), 0);
    let began = Instant::now();
    let mut leaking = None;
    for minute in 1..=minutes {
        // Those of the minute before end here.
        drop(leaking.take());
        let load = ["load", "--rate", "0", "--leaks", LEAKS, "--threshold", "2000", "--seconds", "86400"];
        leaking = Some(Instrument::start(bench.example("churn").args(load))?);
        thread::sleep((Duration::from_mins(minute)).saturating_sub(began.elapsed()));
        let pid = daemon.pid();
        resident.push(daemon::resident(pid)?);
        let (files, others) = open(pid)?;
        descriptors.push(others);
        most_files = most_files.max(files);
        table.row([
            minute.to_string(),
            format!("{:.2}", resident[resident.len() - 1]),
            others.to_string(),
            files.to_string(),
            entries(&format!("/proc/{pid}/task"))?.to_string(),
            standing()?.len().to_string(),
            listed(bench)?.len().to_string(),
        ]);
        eprint!(".");
    }
    eprintln!();
    table.print();

    // A line lets a workload settle; what it leaked stands on.
    let mut leaking = leaking.context("nothing was leaked")?;
    leaking.ask("settle")?;
    let settled = lives.ask("settle")?;
    let difference = difference(bench)?;
    println!("  the workload: {settled}");
    // The first third, at least a minute, warms it up.
    let warm = (resident.len() / 3).max(1);
    let greatest = |values: &[f64]| values.iter().copied().fold(f64::MIN, f64::max);
    // A single look may fall on a sweep: peak against peak.
    let growth = greatest(&resident[warm..]) - greatest(&resident[..warm]);
    verdict("RSS growth after warm-up, MB", growth * 1.048_576, 1.0);
    // What is open only for a moment is not there at the quietest look.
    let least = |values: &[usize]| values.iter().copied().min().unwrap_or(0);
    let growth = least(&descriptors[warm..]).saturating_sub(least(&descriptors[..warm]));
    verdict("descriptors that are no files, growth after warm-up", growth as f64, 0.0);
    verdict("files that are open at most", most_files as f64, FILES as f64);
    verdict("zombies listed and not there, or there and not listed", difference as f64, 0.0);
    let rate = settled["rate"].as_f64().context("no rate")?;
    verdict("2,000 lives a second / what was led", 2_000.0 / rate, 1.0);
    drop(daemon);
    drop(pinned);
    Ok(())
}

/// How many regular files a process has open, and how many other descriptors.
fn open(pid: u32) -> anyhow::Result<(usize, usize)> {
    let directory = format!("/proc/{pid}/fd");
    let descriptors = fs::read_dir(&directory).with_context(|| format!("could not list {directory}"))?;
    // One may be closed meanwhile.
    let is_file = |entry: io::Result<fs::DirEntry>| {
        entry.and_then(|entry| fs::metadata(entry.path())).is_ok_and(|file| file.is_file())
    };
    let (files, others): (Vec<bool>, Vec<bool>) = descriptors.map(is_file).partition(|is_file| *is_file);
    Ok((files.len(), others.len()))
}

/// What the daemon leaves pinned; removed when this is dropped.
struct Pins<'a> {
    bench: &'a Bench<'a>,
    path: &'a Path,
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut unload = Command::new(self.bench.workspace.reaper());
        unload.arg("unload").arg("--pin-path").arg(self.path).stdout(Stdio::null());
        if !unload.status().is_ok_and(|status| status.success()) {
            eprintln!("bench: {} could not be removed", self.path.display());
        }
    }
}

/// How many zombies are in only one of the two lists, when nothing changes any more.
fn difference(bench: &Bench<'_>) -> anyhow::Result<usize> {
    let deadline = Instant::now() + SETTLES;
    loop {
        let (there, listed) = (standing()?, listed(bench)?);
        let different: Vec<_> = there.symmetric_difference(&listed).collect();
        if different.is_empty() || Instant::now() > deadline {
            println!(
                "  {} zombies stand, {} are listed; different: {different:?}",
                there.len(),
                listed.len()
            );
            return Ok(different.len());
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// By /proc. A dead leader with live threads is none: its pid has other threads.
fn standing() -> anyhow::Result<BTreeSet<Process>> {
    let zombie = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read(entry.path().join("stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat).into_owned();
        // From field 3 on: the state, …, 20 the threads, 22 the start.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let is = fields[0] == "Z" && fields.get(17)?.parse::<u32>().ok()? <= 1;
        is.then_some((pid, fields.get(19)?.parse().ok()?))
    };
    Ok(fs::read_dir("/proc")?.flatten().filter_map(zombie).collect())
}

/// By the daemon.
fn listed(bench: &Bench<'_>) -> anyhow::Result<BTreeSet<Process>> {
    let output = Command::new(bench.workspace.reaper()).args(["ls", "--output", "json"]).output()?;
    ensure!(output.status.success(), "`reaper ls` failed: {}", String::from_utf8_lossy(&output.stderr));
    let mut listed = BTreeSet::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        match event["event"].as_str() {
            Some("zombie") => {
                let number = |key: &str| event[key].as_u64().with_context(|| format!("no {key} in {line}"));
                // A clock tick is 10 ms on every architecture that matters here.
                listed.insert((number("pid")?, number("start_time")? / 10_000_000));
            }
            Some("listing") => {
                ensure!(event["source"] == "daemon", "`reaper ls` did not ask the daemon: {line}");
            }
            _ => {}
        }
    }
    Ok(listed)
}

fn entries(folder: &str) -> anyhow::Result<usize> {
    Ok(fs::read_dir(folder).with_context(|| format!("could not list {folder}"))?.count())
}
