//! How long the metrics take, and how much memory the daemon, while many workloads have zombies.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Bench,
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
import os, sys
for cgroup in sys.argv[1:]:
    if os.fork() == 0:
        with open(cgroup + '/cgroup.procs', 'w') as procs:
            procs.write('0')
        os._exit(0)
print('{"event": "ready"}', flush=True)
sys.stdin.read()
"#;

/// Cgroups named like units; they go when this is dropped.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    fn make() -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let at = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(at))
        });
        let mount = mount.context("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")?;
        let mut made = Self(Vec::new());
        for number in 0..WORKLOADS {
            let path = mount.join(format!("reaper-bench-{number}.service"));
            fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
            made.0.push(path);
        }
        Ok(made)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = fs::remove_dir(path) {
                eprintln!("bench: could not remove {}: {error}", path.display());
            }
        }
    }
}

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let cgroups = Cgroups::make()?;
    // Free a moment ago; somebody else would have to take it in between.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let daemon = Daemon::start(bench.workspace, &["--age", "1s", "--metrics-listen", &address])?;
    let python = setup::program("python3").context("no python3: `cargo xtask setup bench`")?;
    let _holder = Instrument::start(Command::new(python).args(["-c", SPREAD]).args(&cgroups.0))?;
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

fn scrape(address: &str) -> anyhow::Result<(Duration, String)> {
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
