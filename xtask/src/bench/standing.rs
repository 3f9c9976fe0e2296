//! What the daemon uses while zombies stand and nothing happens, beside tools that look for zombies by scanning.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use super::{
    Bench,
    daemon::{self, Daemon},
    instrument::Instrument,
    numbers::median,
    table::{Table, verdict},
};
use crate::setup;

const LEVELS: [u32; 3] = [0, 1_000, 10_000];
const WATCHED_FOR: Duration = Duration::from_secs(15);
/// Shorter than the daemon's default, so that it has more to do, not less: it looks once per age.
const AGE: &str = "5s";
const AGE_SECONDS: u64 = 5;
const SCRAPES: usize = 3;
const SCANS: u32 = 10;

/// A tool that scans when it is asked over HTTP.
struct Exporter {
    names: &'static [&'static str],
    arguments: fn(&str) -> Vec<String>,
}

const NODE_EXPORTER: Exporter = Exporter {
    names: &["prometheus-node-exporter", "node_exporter"],
    arguments: |_| vec!["--collector.disable-defaults".to_owned(), "--collector.processes".to_owned()],
};
const PROCESS_EXPORTER: Exporter = Exporter {
    names: &["prometheus-process-exporter", "process-exporter"],
    arguments: |config| vec!["--config.path".to_owned(), config.to_owned()],
};
/// Groups by name, as its own documentation's first example does.
const PROCESS_EXPORTER_CONFIG: &str = "process_names:\n  - name: \"{{.Comm}}\"\n    cmdline:\n    - '.+'\n";

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        "zombies",
        "reaper CPU in 15 s, ms",
        "RSS, MiB",
        "to report them all, ms",
        "node-exporter scrape, ms",
        "process-exporter scrape, ms",
        "ps -e, ms",
    ]);
    let (mut resident, mut last) = (0.0_f64, None);
    for level in LEVELS {
        let daemon = Daemon::start(bench.workspace, &["--age", AGE])?;
        let reporting = daemon::cpu(daemon.pid())?;
        let _holder = match level {
            0 => None,
            _ => Some(
                Instrument::start_until(
                    bench.example("churn").args(["standing", &level.to_string()]),
                    |line| line["event"] == "settled",
                )
                .context("making the zombies")?,
            ),
        };
        // Past the age, and whatever is done later for holders that stay on probation.
        thread::sleep(Duration::from_secs(2 * AGE_SECONDS + 6));
        daemon::wait_until_calm(daemon.pid())?;
        let before = daemon::cpu(daemon.pid())?;
        thread::sleep(WATCHED_FOR);
        let used = daemon::cpu(daemon.pid())? - before;
        let rss = daemon::resident(daemon.pid())?;
        drop(daemon);
        let zombies = zombies()?;
        let node = scrape(&NODE_EXPORTER)?;
        let process = scrape(&PROCESS_EXPORTER)?;
        let ps = ps()?;
        resident = resident.max(rss);
        last = Some((used, process));
        let milliseconds = |duration: Duration| format!("{:.2}", duration.as_secs_f64() * 1e3);
        table.row([
            zombies.to_string(),
            milliseconds(used),
            format!("{rss:.1}"),
            milliseconds(before - reporting),
            milliseconds(node),
            milliseconds(process),
            milliseconds(ps),
        ]);
    }
    println!(
        "\nwhile zombies stand: CPU time of `reaper run --age {AGE}` when all are reported, and of other tools for one \
         look at the same ones\n(an exporter's scrape: the median of {SCRAPES}; ps: the mean of {SCANS})"
    );
    table.print();
    verdict("RSS, MiB", resident, 25.0);
    if let Some((used, process)) = last {
        verdict(
            "CPU, 15 s of reaper / one scrape of process-exporter",
            used.as_secs_f64() / process.as_secs_f64(),
            1.0 / 500.0,
        );
    }
    Ok(())
}

/// How many there are, by /proc.
fn zombies() -> anyhow::Result<usize> {
    let is_zombie = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z'))
    };
    Ok(fs::read_dir("/proc")?.flatten().filter_map(is_zombie).filter(|&is| is).count())
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.kill().and_then(|()| self.0.wait()).is_err() {
            eprintln!("bench: could not end process {}", self.0.id());
        }
    }
}

fn scrape(exporter: &Exporter) -> anyhow::Result<Duration> {
    let [name, ..] = exporter.names else { bail!("an exporter without a name") };
    let program = exporter
        .names
        .iter()
        .find_map(|name| setup::program(name))
        .with_context(|| format!("no {name}: `cargo xtask setup bench`"))?;
    let config = tempfile::NamedTempFile::new()?;
    fs::write(config.path(), PROCESS_EXPORTER_CONFIG)?;
    let path = config.path().to_str().context("the temporary folder is not UTF-8")?;
    // Free a moment ago; somebody else would have to take it in between.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let child = Command::new(&program)
        .args((exporter.arguments)(path))
        .args(["--web.listen-address", &address])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))?;
    let child = Running(child);
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(&address).is_err() {
        ensure!(Instant::now() < deadline, "{} does not listen", program.display());
        thread::sleep(Duration::from_millis(20));
    }
    daemon::wait_until_calm(child.0.id())?;
    let mut used = Vec::new();
    for _ in 0..SCRAPES {
        let before = daemon::cpu(child.0.id())?;
        get_metrics(&address)?;
        used.push((daemon::cpu(child.0.id())? - before).as_secs_f64());
    }
    Ok(Duration::from_secs_f64(median(&used)))
}

fn get_metrics(address: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{address} answered {:?}", answer.get(..40));
    Ok(())
}

/// Mean CPU time of one `ps -e`: the kernel tells a parent only in clock ticks, hence several.
fn ps() -> anyhow::Result<Duration> {
    let before = children_ticks()?;
    for _ in 0..SCANS {
        let status =
            Command::new("ps").arg("-e").stdout(Stdio::null()).status().context("could not start ps")?;
        ensure!(status.success(), "ps failed: {status}");
    }
    // USER_HZ is 100 on every architecture that matters here.
    Ok(Duration::from_millis(10 * (children_ticks()? - before)) / SCANS)
}

fn children_ticks() -> anyhow::Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(") ").context("/proc/self/stat is not as it was")?;
    // From field 3 on; 16 and 17 are the waited-for children's user and system time.
    let ticks = |field: usize| rest.split(' ').nth(field - 3).and_then(|number| number.parse::<u64>().ok());
    ticks(16).zip(ticks(17)).map(|(user, system)| user + system).context("/proc/self/stat is too short")
}
