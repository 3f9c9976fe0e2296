//! What looking at limits on processes costs while few of many workloads leak, and that nothing is read of the others.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use super::{Bench, daemon::Daemon, instrument::Instrument, table::verdict};
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
import os, sys, time, select
rate, cgroups = float(sys.argv[1]), sys.argv[2:]
print('{"event": "ready"}', flush=True)
begun = time.monotonic()
number = 0
while True:
    cgroup = cgroups[number % len(cgroups)]
    if os.fork() == 0:
        with open(cgroup + '/cgroup.procs', 'w') as procs:
            procs.write('0')
        os._exit(0)
    number += 1
    if select.select([sys.stdin], [], [], max(0.0, begun + number / rate - time.monotonic()))[0]:
        break
"#;

/// Cgroups named like units; they go when this is dropped.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    fn make() -> anyhow::Result<Self> {
        let mount = pids_mount()?;
        let mut made = Self(Vec::new());
        for number in 0..WORKLOADS {
            let kind = if number < LEAKING { "leaks" } else { "quiet" };
            let path = mount.join(format!("reaper-bench-{kind}-{number}.service"));
            fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
            fs::write(path.join("pids.max"), LIMIT).context("no pids.max: is the pids controller on?")?;
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

fn pids_mount() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let find = |kind: &str| {
        mounts.lines().find_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let [_, at, found, options, ..] = fields[..] else { return None };
            let counts = kind == "cgroup2" || options.split(',').any(|option| option == "pids");
            (found == kind && counts).then(|| PathBuf::from(at))
        })
    };
    find("cgroup").or_else(|| find("cgroup2")).context("no cgroup hierarchy counts pids")
}

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let cgroups = Cgroups::make()?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let daemon = Daemon::start(bench.workspace, &["--age", "5s", "--metrics-listen", &address])?;
    let python = setup::program("python3").context("no python3: `cargo xtask setup bench`")?;
    let leaking = &cgroups.0[..LEAKING];
    let rate = LEAKS_A_SECOND.to_string();
    let _leak = Instrument::start(Command::new(python).args(["-c", LEAK, &rate]).args(leaking))?;
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
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let values = answer.lines().filter(|line| line.starts_with(begin));
    let values: Vec<f64> = values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    if values.is_empty() && !answer.starts_with("HTTP/1.1 200") {
        bail!("{address} answered {answer:.60}");
    }
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
