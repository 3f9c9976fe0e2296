//! The truth file: one JSON line a leaked child, checked against /proc before it is written.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::fd::AsFd as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    procfile::{self, Stat},
    stage::until,
    sys::{self, Pid},
};

/// What the workload claims about a child that nobody has waited for.
pub(crate) struct Leak<'a> {
    /// The kind of leak.
    pub(crate) kind: &'a str,
    /// The child, in the initial pid namespace as are all pids here.
    pub(crate) pid: Pid,
    /// Who must wait for it.
    pub(crate) holder: Pid,
    /// Who forked it.
    pub(crate) forker: Pid,
    /// The cause that must be reported.
    pub(crate) cause: &'a str,
    /// A moment at which it had not died.
    pub(crate) died_after: u64,
    /// Whether the workload itself lets it be released, after it was reported.
    pub(crate) released_later: bool,
}

impl<'a> Leak<'a> {
    /// A child of the calling process, which forked it.
    pub(crate) fn own(kind: &'a str, pid: Pid, died_after: u64) -> Self {
        let own = std::process::id().try_into().unwrap_or(0);
        Self { kind, pid, holder: own, forker: own, cause: "never-waited", died_after, released_later: false }
    }
}

/// The file.
pub(crate) struct Truth {
    file: Option<File>,
}

impl Truth {
    /// Appends to `path`, or to nothing.
    pub(crate) fn new(path: Option<&Path>) -> Result<Self> {
        let file = path
            .map(|path| {
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| path.display().to_string())
            })
            .transpose()?;
        Ok(Self { file })
    }

    /// Whether anything is written down.
    pub(crate) const fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// One write a line: processes append to the same file at the same time.
    fn write(&self, line: &Value) -> Result<()> {
        if let Some(mut file) = self.file.as_ref() {
            file.write_all(format!("{line}\n").as_bytes())?;
        }
        Ok(())
    }

    /// Waits until the child is dead, all its threads included, checks the claim and writes it down. Its start.
    pub(crate) fn leak(&self, leak: &Leak<'_>) -> Result<u64> {
        let Leak { kind, pid, holder, forker, cause, died_after, released_later } = *leak;
        let context = || format!("{kind}: pid {pid} of holder {holder}");
        let stat = wait_until_dead(pid).with_context(context)?;
        let died_before = sys::boot_now();
        ensure!(stat.parent == holder, "{}: /proc names {} as its parent", context(), stat.parent);
        let tracer = procfile::tracer(pid).with_context(context)?;
        ensure!((tracer != 0) == (cause == "held-by-tracer"), "{}: tracer {tracer}", context());
        let keeper = Stat::read(holder).with_context(context)?;
        let relation = if forker == holder {
            "holder"
        } else if Stat::read(forker).is_ok() {
            "other"
        } else {
            "gone"
        };
        self.write(&json!({
            "line": "leak",
            "kind": kind,
            "pid": pid,
            "ns_pid": procfile::pid_as_seen_by(holder, pid).with_context(context)?,
            "start_ticks": stat.start_ticks,
            "comm": stat.comm,
            "exit": exit_status(stat.exit_code),
            "holder": { "pid": holder, "start_ticks": keeper.start_ticks, "comm": keeper.comm },
            "forker": { "pid": forker, "relation": relation },
            "cause": cause,
            "tracer": (tracer != 0).then_some(tracer),
            "died_after": died_after,
            "died_before": died_before,
            "released_later": released_later,
        }))?;
        Ok(stat.start_ticks)
    }

    /// Writes down that a child that was leaked has been released, between these two moments.
    pub(crate) fn released(&self, pid: Pid, start_ticks: u64, after: u64) -> Result<()> {
        let before = sys::boot_now();
        self.write(&json!({
            "line": "released",
            "pid": pid,
            "start_ticks": start_ticks,
            "released_after": after,
            "released_before": before,
        }))
    }

    /// Writes down a child about which the workload makes no claim: it may be reported or not.
    pub(crate) fn undecided(&self, pid: Pid, start_ticks: u64, why: &str) -> Result<()> {
        self.write(&json!({ "line": "undecided", "pid": pid, "start_ticks": start_ticks, "why": why }))
    }
}

/// Waits until a process is dead with all its threads (a dead leader alone is not enough) and not released.
pub(crate) fn wait_until_dead(pid: Pid) -> Result<Stat> {
    let handle = sys::pidfd(pid).context("pidfd_open")?;
    if !sys::readable(handle.as_fd(), Duration::from_secs(10)) {
        bail!("is not dead after 10 s");
    }
    let mut last = Stat::read(pid)?;
    until("it is a zombie for /proc", || {
        if let Ok(stat) = Stat::read(pid) {
            last = stat;
        }
        last.state == 'Z' && last.threads <= 1
    })
    .with_context(|| format!("{last:?}"))?;
    Ok(last)
}

fn exit_status(status: i32) -> Value {
    match status & 0x7f {
        0 => json!({ "code": status >> 8 & 0xff }),
        signal => json!({ "signal": signal, "core": status & 0x80 != 0 }),
    }
}
