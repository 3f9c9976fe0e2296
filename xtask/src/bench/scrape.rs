//! How long the metrics take, and how much memory the daemon, while many workloads have zombies.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Bench,
    cgroups::{Cgroups, LEAVE, v2_mount},
    daemon::{self, Daemon},
    instrument::Instrument,
    numbers::Spread,
    table::verdict,
};
use crate::setup;

const WORKLOADS: usize = 500;
const SCRAPES: usize = 31;

/// The daemon serves what it has measured for a quarter of a second.
const APART: Duration = Duration::from_millis(300);

/// Leaves one zombie in each of the cgroups it is told.
const SPREAD: &str = r#"
import sys
for cgroup in sys.argv[1:]:
    leave(cgroup)
print('{"event": "ready"}', flush=True)
sys.stdin.read()
"#;

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let names = (0..WORKLOADS).map(|number| format!("reaper-bench-{number}.service"));
    let cgroups = Cgroups::make(&v2_mount()?, names)?;
    // Free a moment ago; somebody else would have to take it in between.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let daemon = Daemon::start(bench.workspace, &["--age", "1s", "--metrics-listen", &address])?;
    let python = setup::program("python3").context("no python3: `cargo xtask setup bench`")?;
    let script = format!("{LEAVE}{SPREAD}");
    let _holder = Instrument::start(Command::new(python).args(["-c", &script]).args(cgroups.paths()))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while label_sets(&scrape(&address)?.1) < WORKLOADS {
        ensure!(Instant::now() < deadline, "the zombies are not reported");
        thread::sleep(APART);
    }
    daemon::wait_until_calm(daemon.pid())?;
    let (mut times, mut bytes) = (Vec::new(), 0);
    let before = daemon::cpu(daemon.pid())?;
    for _ in 0..SCRAPES {
        thread::sleep(APART);
        let (took, page) = scrape(&address)?;
        times.push(took.as_secs_f64() * 1e3);
        bytes = page.len();
    }
    let used = (daemon::cpu(daemon.pid())? - before) / u32::try_from(SCRAPES)?;
    let Spread { median, least, greatest } = Spread::of(&times);
    let resident = daemon::resident(daemon.pid())?;
    println!(
        "\nmetrics with zombies in {WORKLOADS} workloads: {SCRAPES} scrapes of {} KiB; from the connection to the last byte\n\
         {median:.1} ms ({least:.1}..{greatest:.1}), {:.1} ms of a CPU each",
        bytes / 1024,
        used.as_secs_f64() * 1e3
    );
    verdict("scrape, ms", median, 50.0);
    verdict("RSS, MiB", resident, 40.0);
    Ok(())
}

/// How long the metrics took, from the connection to the last byte, and the whole answer.
pub(super) fn scrape(address: &str) -> anyhow::Result<(Duration, String)> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let took = began.elapsed();
    ensure!(answer.starts_with("HTTP/1.1 200"), "{address} answered {answer:.60}");
    Ok((took, answer))
}

fn label_sets(page: &str) -> usize {
    page.lines().filter(|line| line.starts_with("reaper_zombies_standing{")).count()
}
