//! How long after a zombie's age its report can be read. The truth is the boot clock as each child reads it just
//! before it exits, so a delay contains the exit itself.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{
    say,
    sys::{self, Fork, Pid},
};

const HOLDERS: usize = 20;
/// Milliseconds between two of one holder's zombies: every phase of the daemon's timers and of the clock tick.
const GAPS: std::ops::Range<u64> = 20..600;
/// After this, what was not reported counts as missing.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the holders write and this process reads.
struct Board<'a> {
    /// Not 0 when the daemon watches.
    go: &'a AtomicU64,
    pids: &'a [AtomicU64],
    /// When each was about to exit, ns of the boot clock.
    exits: &'a [AtomicU64],
}

pub(crate) fn run(reaper: &Path, age: u64, leaks: usize) -> Result<()> {
    let counters = sys::shared_counters(1 + 2 * leaks)?;
    let (go, rest) = counters.split_first().context("no counters")?;
    let (pids, exits) = rest.split_at(leaks);
    let board = Board { go, pids, exits };
    // The zombies come here when their holders end, and are taken here.
    sys::adopt_orphans()?;
    // Before there is a second thread in this process.
    let holders: Vec<Pid> = (0..HOLDERS).map(|holder| start_holder(holder, &board)).collect::<Result<_>>()?;

    let mut daemon = Command::new(reaper)
        .args(["trace", "--output", "json", "--age", &format!("{age}ms")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {}", reaper.display()))?;
    let reports = watch(&mut daemon, &board, Duration::from_millis(age));
    sys::kill(Pid::try_from(daemon.id())?, libc::SIGTERM)?;
    daemon.wait()?;
    for holder in holders {
        sys::kill(holder, libc::SIGKILL)?;
        sys::wait_for(holder)?;
    }
    sys::wait_until_childless();
    let reports = reports?;

    let read_at: HashMap<u64, u64> = reports.into_iter().collect();
    let delays: Vec<i64> = pids
        .iter()
        .zip(exits)
        .filter_map(|(pid, exit)| {
            let due = exit.load(Ordering::Relaxed) + age * 1_000_000;
            let read = read_at.get(&pid.load(Ordering::Relaxed))?;
            Some(read.cast_signed() - due.cast_signed())
        })
        .collect();
    say(&json!({ "leaks": leaks, "reported": delays.len(), "delays_ns": delays }))
}

fn start_holder(holder: usize, board: &Board<'_>) -> Result<Pid> {
    if let Fork::Parent(pid) = sys::fork()? {
        return Ok(pid);
    }
    if sys::die_with_parent().is_err() {
        sys::exit_now(1);
    }
    while board.go.load(Ordering::Acquire) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let mut random = 0x9e37_79b9_7f4a_7c15 ^ (holder as u64 + 1);
    for place in (holder..board.pids.len()).step_by(HOLDERS) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let gap = GAPS.start * 1_000 + random % ((GAPS.end - GAPS.start) * 1_000);
        thread::sleep(Duration::from_micros(gap));
        match sys::fork() {
            Ok(Fork::Child) => {
                board.exits[place].store(sys::boot_now(), Ordering::Relaxed);
                sys::exit_now(0);
            }
            Ok(Fork::Parent(pid)) => {
                board.pids[place].store(u64::try_from(pid).unwrap_or(0), Ordering::Relaxed);
            }
            Err(_) => sys::exit_now(1),
        }
    }
    loop {
        thread::park();
    }
}

/// Lets the holders start when the daemon watches. Pids as they are reported, and when each line was read.
fn watch(daemon: &mut Child, board: &Board<'_>, age: Duration) -> Result<Vec<(u64, u64)>> {
    let mut log = BufReader::new(daemon.stderr.take().context("no stderr")?).lines();
    let mut said = Vec::new();
    loop {
        let Some(line) = log.next() else { bail!("the daemon ended:\n{}", said.join("\n")) };
        let line = line?;
        if line.contains("watching") {
            break;
        }
        said.push(line);
    }
    thread::spawn(move || log.for_each(drop));

    let lines = BufReader::new(daemon.stdout.take().context("no stdout")?).lines();
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if send.send((line, sys::boot_now())).is_err() {
                break;
            }
        }
    });
    board.go.store(1, Ordering::Release);

    let mut reports = Vec::new();
    let mut idle = Instant::now();
    while reports.len() < board.pids.len() {
        let left = (age + PATIENCE).saturating_sub(idle.elapsed());
        let Ok((line, read_at)) = receive.recv_timeout(left) else { break };
        let report: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        let Some(pid) = report["pid"].as_u64().filter(|_| report["event"] == "zombie") else { continue };
        if board.pids.iter().any(|ours| ours.load(Ordering::Relaxed) == pid) {
            reports.push((pid, read_at));
            idle = Instant::now();
        }
    }
    Ok(reports)
}
