//! What the daemon uses while healthy processes live and die and nothing is reported.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    Bench,
    daemon::{self, Daemon},
    instrument::Instrument,
    table::verdict,
};

const AGE: &str = "5s";
const LIVES: &str = "1100";
const WATCHED_FOR: Duration = Duration::from_secs(30);

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let daemon = Daemon::start(bench.workspace, &["--age", AGE])?;
    let _load = Instrument::start_until(bench.example("churn").args(["idle", "--rate", LIVES]), |line| {
        line["event"] == "warm"
    })?;
    let (began, used, wake_ups) =
        (Instant::now(), daemon::cpu(daemon.pid())?, daemon::wake_ups(daemon.pid())?);
    thread::sleep(WATCHED_FOR);
    let (used, wake_ups) = (daemon::cpu(daemon.pid())? - used, daemon::wake_ups(daemon.pid())? - wake_ups);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "\nwithout zombies, at {LIVES} process lives a second: `reaper run --age {AGE}` over {seconds:.0} s, {wake_ups} \
         wake-ups, {:.2} ms of CPU",
        used.as_secs_f64() * 1e3
    );
    verdict("wake-ups a second", wake_ups as f64 / seconds, 2.0);
    verdict("share of a core", used.as_secs_f64() / seconds, 0.001);
    Ok(())
}
