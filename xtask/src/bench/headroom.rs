//! What looking at limits on processes costs while few of many workloads leak, and that nothing is read of the others.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Bench,
    cgroups::{Cgroups, LEAVE, pids_mount},
    daemon::Daemon,
    instrument::Instrument,
    scrape::scrape,
    table::verdict,
};
use crate::setup;

const WORKLOADS: usize = 1_000;
const LEAKING: usize = 50;

/// Of all of them together: one a second of each, so that the pids of a small machine last as long as it is measured.
const LEAKS_A_SECOND: usize = 50;

/// Processes that each may have.
const LIMIT: &str = "4096";

const WATCHED_FOR: Duration = Duration::from_secs(60);

/// Leaves zombies in the cgroups it is told, in turn, so many a second.
const LEAK: &str = r#"
import sys, time, select
rate, cgroups = float(sys.argv[1]), sys.argv[2:]
print('{"event": "ready"}', flush=True)
begun = time.monotonic()
number = 0
while True:
    leave(cgroups[number % len(cgroups)])
    number += 1
    if select.select([sys.stdin], [], [], max(0.0, begun + number / rate - time.monotonic()))[0]:
        break
"#;

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let names = (0..WORKLOADS).map(|number| {
        let kind = if number < LEAKING { "leaks" } else { "quiet" };
        format!("reaper-bench-{kind}-{number}.service")
    });
    let cgroups = Cgroups::make(&pids_mount()?, names)?;
    for path in cgroups.paths() {
        fs::write(path.join("pids.max"), LIMIT).context("no pids.max: is the pids controller on?")?;
    }
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let daemon = Daemon::start(bench.workspace, &["--age", "5s", "--metrics-listen", &address])?;
    let python = setup::program("python3").context("no python3: `cargo xtask setup bench`")?;
    let leaking = &cgroups.paths()[..LEAKING];
    let rate = LEAKS_A_SECOND.to_string();
    let script = format!("{LEAVE}{LEAK}");
    let _leak = Instrument::start(Command::new(python).args(["-c", &script, &rate]).args(leaking))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while scraped(&address, "reaper_pids_limit{")?.1 < LEAKING {
        ensure!(Instant::now() < deadline, "not all workloads that leak are looked at");
        thread::sleep(Duration::from_millis(300));
    }
    let span = WATCHED_FOR / if bench.quick { 3 } else { 1 };
    let cost = || Ok::<_, anyhow::Error>((scraped(&address, CPU)?.0, scraped(&address, FILES)?.0));
    let (began, (used, files)) = (Instant::now(), cost()?);
    thread::sleep(span);
    let (used, files) = (cost()?.0 - used, cost()?.1 - files);
    let seconds = began.elapsed().as_secs_f64();
    let (leaks, quiet) = opened(daemon.pid(), span.min(Duration::from_secs(35)))?;
    println!(
        "\n{WORKLOADS} workloads, of which {LEAKING} leak {LEAKS_A_SECOND} zombies a second together: looking at limits took {:.2} ms \
         of a CPU and {:.1} files a second over {seconds:.0} s; by strace {leaks} files of those that leak were opened, {quiet} of the \
         others",
        used * 1e3,
        files / seconds
    );
    verdict("share of a core", used / seconds, 0.001);
    verdict("files opened of those that do not leak", quiet as f64, 0.0);
    ensure!(leaks > 0, "strace saw nothing opened at all");
    Ok(())
}

const CPU: &str = "reaper_headroom_cpu_seconds_total ";
const FILES: &str = "reaper_headroom_files_total ";

/// The sum of the samples that begin so, and their number.
fn scraped(address: &str, begin: &str) -> anyhow::Result<(f64, usize)> {
    let (_, page) = scrape(address)?;
    let values = page.lines().filter(|line| line.starts_with(begin));
    let values: Vec<f64> = values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    Ok((values.iter().sum(), values.len()))
}

/// Files of cgroups that leak, and of those that do not, that a process opens within a span.
fn opened(pid: u32, span: Duration) -> anyhow::Result<(usize, usize)> {
    let strace = setup::program("strace").context("no strace: `cargo xtask setup bench`")?;
    let log = std::env::temp_dir().join(format!("reaper-bench-headroom-{pid}"));
    let mut traced = Command::new(strace)
        .args(["--quiet=all", "-f", "-e", "trace=open,openat,openat2", "-p", &pid.to_string(), "-o"])
        .arg(&log)
        .stdin(Stdio::null())
        .spawn()?;
    thread::sleep(span);
    // It lets go of the process where it is told to end.
    let ended = Command::new("kill").args(["-INT", &traced.id().to_string()]).status()?;
    ensure!(ended.success(), "strace has ended by itself");
    traced.wait()?;
    let text = read_and_remove(&log)?;
    let of = |kind: &str| text.lines().filter(|line| line.contains(&format!("reaper-bench-{kind}-"))).count();
    Ok((of("leaks"), of("quiet")))
}

fn read_and_remove(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    fs::remove_file(path)?;
    Ok(text)
}
