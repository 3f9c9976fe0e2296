//! What `reaper top` costs while it is open: the daemon, which is asked again and again, and itself.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Bench,
    cgroups::{Cgroups, LEAVE, pids_mount},
    daemon::{self, Daemon},
    instrument::Instrument,
    scrape::scrape,
    table::{Table, verdict},
};
use crate::setup;

const WORKLOADS: usize = 1_000;

/// Those of them that have zombies, and how many each has.
const LEAKY: usize = 50;
const ZOMBIES: usize = 20;

/// Processes that each may have. Nearly all are left, so that without anybody who asks it is looked at rarely.
const LIMIT: &str = "4096";

const WATCHED_FOR: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);

/// What it may cost the daemon, of a core, and what itself. It is open while somebody looks, not for ever, and asks every two seconds:
/// half a percent is 10 ms for an answer, and a report may wait so long behind one. procps' top takes half of that for itself with a
/// hundred processes, by walking /proc, and more with each of them. With two or three times what was measured a busy machine is no miss.
const DAEMON_SHARE: f64 = 0.005;
const OWN_SHARE: f64 = 0.005;

/// Leaves so many zombies in each of the cgroups it is told.
const LEAK: &str = r#"
import sys
for cgroup in sys.argv[2:]:
    for _ in range(int(sys.argv[1])):
        leave(cgroup)
print('{"event": "ready"}', flush=True)
sys.stdin.read()
"#;

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let names = (0..WORKLOADS).map(|number| format!("reaper-bench-top-{number}.service"));
    let cgroups = Cgroups::make(&pids_mount()?, names)?;
    for path in cgroups.paths() {
        fs::write(path.join("pids.max"), LIMIT).context("no pids.max: is the pids controller on?")?;
    }
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let daemon = Daemon::start(bench.workspace, &["--age", "1s", "--metrics-listen", &address])?;
    let python = setup::program("python3").context("no python3: `cargo xtask setup bench`")?;
    let mut holder = Command::new(python);
    holder.args(["-c", &format!("{LEAVE}{LEAK}"), &ZOMBIES.to_string()]).args(&cgroups.paths()[..LEAKY]);
    let _holder = Instrument::start(&mut holder)?;
    let deadline = Instant::now() + PATIENCE;
    while limits(&address)? < LEAKY {
        ensure!(Instant::now() < deadline, "not all workloads that have zombies are looked at");
        thread::sleep(Duration::from_millis(300));
    }
    let span = WATCHED_FOR / if bench.quick { 3 } else { 1 };
    // Past what is done for holders on probation.
    thread::sleep(Duration::from_secs(5));
    daemon::wait_until_calm(daemon.pid())?;
    let (alone, _) = shares(&daemon, None, span)?;
    let mut top = Top::start(&bench.workspace.reaper())?;
    top.await_picture(&format!("{LEAKY} workloads"))?;
    let (list, of_list) = shares(&daemon, Some(top.pid), span)?;
    top.types("\r")?;
    top.await_picture("ZOMBIES HOLDER")?;
    let (opened, of_opened) = shares(&daemon, Some(top.pid), span)?;
    top.types("q")?;
    let status = top.script.wait()?;
    ensure!(status.success(), "reaper top: {status}");

    println!(
        "\n`reaper top` at 80x24, every two seconds, with {WORKLOADS} workloads, of which {LEAKY} have {ZOMBIES} zombies each, over {} s: \
         shares of a core",
        span.as_secs()
    );
    let mut table = Table::new(&["top", "daemon", "top itself"]);
    let cell = |share: f64| format!("{:.3} %", share * 100.0);
    table.row(["none".to_owned(), cell(alone), "-".to_owned()]);
    table.row(["the list".to_owned(), cell(list), cell(of_list)]);
    table.row(["one workload".to_owned(), cell(opened), cell(of_opened)]);
    table.print();
    verdict("share of a core for the list, daemon", list - alone, DAEMON_SHARE);
    verdict("share of a core for one workload, daemon", opened - alone, DAEMON_SHARE);
    verdict("share of a core, top itself", of_list.max(of_opened), OWN_SHARE);
    Ok(())
}

/// How many workloads have a limit in the metrics.
fn limits(address: &str) -> anyhow::Result<usize> {
    let (_, page) = scrape(address)?;
    Ok(page.lines().filter(|line| line.starts_with("reaper_pids_limit{")).count())
}

/// What the daemon and the view use of a core within a span.
fn shares(daemon: &Daemon, top: Option<u32>, span: Duration) -> anyhow::Result<(f64, f64)> {
    let used = || {
        let own = top.map_or(Ok(Duration::ZERO), daemon::cpu)?;
        Ok::<_, anyhow::Error>((daemon::cpu(daemon.pid())?, own))
    };
    let (began, before) = (Instant::now(), used()?);
    thread::sleep(span);
    let (after, seconds) = (used()?, began.elapsed().as_secs_f64());
    let share = |after: Duration, before: Duration| (after.saturating_sub(before)).as_secs_f64() / seconds;
    Ok((share(after.0, before.0), share(after.1, before.1)))
}

/// `reaper top` on a terminal that script(1) makes.
struct Top {
    script: Child,
    typing: ChildStdin,
    pid: u32,
    /// What was written to the terminal since the last look.
    written: Arc<Mutex<String>>,
}

impl Top {
    fn start(reaper: &std::path::Path) -> anyhow::Result<Self> {
        let script = setup::program("script").context("no script: `cargo xtask setup bench`")?;
        let command = format!("stty rows 24 cols 80 && exec '{}' top", reaper.display());
        let mut script = Command::new(script)
            .args(["--quiet", "--flush", "--return", "--command", &command, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start script")?;
        let typing = script.stdin.take().context("no standard input")?;
        let mut reads = script.stdout.take().context("no standard output")?;
        let written = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&written);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reads.read(&mut bytes) {
                if let Ok(mut written) = shared.lock() {
                    written.push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
            }
        });
        let mut this = Self { script, typing, pid: 0, written };
        this.await_picture("reaper top: ")?;
        let children = format!("/proc/{0}/task/{0}/children", this.script.id());
        let children = fs::read_to_string(&children).with_context(|| format!("could not read {children}"))?;
        this.pid =
            children.trim().parse().with_context(|| format!("script has the children {children:?}"))?;
        Ok(this)
    }

    fn types(&mut self, keys: &str) -> anyhow::Result<()> {
        if let Ok(mut written) = self.written.lock() {
            written.clear();
        }
        Ok(self.typing.write_all(keys.as_bytes())?)
    }

    /// Waits until this is drawn: words that are drawn for the first time are written whole.
    fn await_picture(&self, text: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.written.lock().is_ok_and(|written| written.contains(text)) {
            ensure!(Instant::now() < deadline, "`reaper top` does not show {text:?}");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // It has been waited for, unless something failed: then the terminal goes with script, and with it what is on it.
        if matches!(self.script.try_wait(), Ok(None)) {
            let _gone = self.script.kill().and_then(|()| self.script.wait());
        }
    }
}
