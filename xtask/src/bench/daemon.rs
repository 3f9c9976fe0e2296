//! The daemon as a child process, and what a process has used.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{command, workspace::Workspace};

/// `reaper run`, watching. It is ended when this is dropped.
pub(super) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts it, with nothing left behind, and waits until every hook is attached.
    pub(super) fn start(workspace: &Workspace, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_as(workspace, &[&["--no-persist"], arguments].concat())
    }

    /// As above, with its state pinned under `pins`.
    pub(super) fn start_pinned(
        workspace: &Workspace,
        pins: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        Self::start_as(workspace, &[&["--pin-path", pins], arguments].concat())
    }

    fn start_as(workspace: &Workspace, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut run = Command::new(workspace.reaper());
        run.args(["run", "--output", "json"]).args(arguments);
        let mut child = run
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start `{}`", command::line(&run)))?;
        let mut log = BufReader::new(child.stderr.take().context("no standard error")?).lines();
        let daemon = Self { child };
        let mut said = Vec::new();
        loop {
            let Some(line) = log.next() else {
                bail!("`{}` ended:\n{}", command::line(&run), said.join("\n"));
            };
            let line = line?;
            if line.contains("watching") {
                break;
            }
            said.push(line);
        }
        thread::spawn(move || log.for_each(drop));
        Ok(daemon)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // std can only kill; ended like that it would leave its socket behind.
        let ended = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        if !ended.is_ok_and(|status| status.success()) {
            let _gone = self.child.kill();
        }
        if let Err(error) = self.child.wait() {
            eprintln!("bench: waiting for the daemon: {error}");
        }
    }
}

/// CPU time of a process's threads, as the scheduler counts it.
pub(super) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    // Nanoseconds on a CPU, nanoseconds waiting for one, time slices.
    sum_over_threads(pid, "schedstat", |text| text.split(' ').next()?.parse().ok()).map(Duration::from_nanos)
}

/// How often a process's threads have gone to sleep.
pub(super) fn wake_ups(pid: u32) -> anyhow::Result<u64> {
    sum_over_threads(pid, "status", |text| {
        text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    })
}

fn sum_over_threads(pid: u32, file: &str, number: impl Fn(&str) -> Option<u64>) -> anyhow::Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&folder).with_context(|| format!("could not list {folder}"))? {
        // One that ended in between has no number.
        let Ok(text) = task.and_then(|task| fs::read_to_string(task.path().join(file))) else { continue };
        sum += number(&text).with_context(|| format!("{folder}: {file} is {text:?}"))?;
    }
    Ok(sum)
}

/// Resident memory of a process, MiB.
pub(super) fn resident(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib =
        line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("{path} has no VmRSS"))? / 1024.0)
}

/// Waits until a process has nothing to do: it used less than a millisecond in the last quarter of a second.
pub(super) fn wait_until_calm(pid: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut before = cpu(pid)?;
    loop {
        thread::sleep(Duration::from_millis(250));
        let now = cpu(pid)?;
        if now - before < Duration::from_millis(1) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("process {pid} does not come to rest");
        }
        before = now;
    }
}
