//! What /proc says about one process: the outside view that every claim is checked against.

use std::{fs, str::FromStr};

use anyhow::{Context as _, Result, anyhow};

use crate::sys::Pid;

/// The fields of /proc/PID/stat that matter here.
#[derive(Clone, Debug)]
pub(crate) struct Stat {
    /// Name, at most 15 bytes.
    pub(crate) comm: String,
    /// One letter.
    pub(crate) state: char,
    /// Thread group of the real parent.
    pub(crate) parent: Pid,
    /// Threads that are not yet released.
    pub(crate) threads: u32,
    /// Start in clock ticks since boot.
    pub(crate) start_ticks: u64,
    /// Wait status.
    pub(crate) exit_code: i32,
}

impl Stat {
    /// Reads /proc/PID/stat.
    pub(crate) fn read(pid: Pid) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        // Names hold any bytes.
        let bytes = fs::read(&path).with_context(|| path.clone())?;
        let text = String::from_utf8_lossy(&bytes);
        Self::parse(&text).with_context(|| format!("{path}: {text:?}"))
    }

    fn parse(text: &str) -> Result<Self> {
        // The name may hold spaces and parentheses; the last one closes it.
        let (head, tail) = text.rsplit_once(')').context("no name")?;
        let (_, comm) = head.split_once('(').context("no name")?;
        let fields: Vec<_> = tail.split_whitespace().collect();
        Ok(Self {
            comm: comm.to_owned(),
            state: field(&fields, 3)?,
            parent: field(&fields, 4)?,
            threads: field(&fields, 20)?,
            start_ticks: field(&fields, 22)?,
            exit_code: field(&fields, 52)?,
        })
    }
}

/// Field `number` as proc(5) counts them, of the part after the name (which is the second).
fn field<T: FromStr>(fields: &[&str], number: usize) -> Result<T> {
    fields
        .get(number - 3)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| anyhow!("field {number} is missing or no number"))
}

/// The children of a process with one thread, dead ones included.
pub(crate) fn children(pid: Pid) -> Result<Vec<Pid>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).context(path)?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// A line of /proc/PID/status, as the words after its label.
fn status_words(pid: Pid, label: &str) -> Result<Vec<Pid>> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix(label)).with_context(|| path + " " + label)?;
    Ok(line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// The pid of `pid` in the pid namespace of `holder`.
pub(crate) fn pid_as_seen_by(holder: Pid, pid: Pid) -> Result<Pid> {
    let level = status_words(holder, "NSpid:")?.len();
    let numbers = status_words(pid, "NSpid:")?;
    numbers.get(level - 1).copied().with_context(|| format!("{holder} cannot see {pid}: {numbers:?}"))
}

/// Who traces a process; zero where nobody does.
pub(crate) fn tracer(pid: Pid) -> Result<Pid> {
    status_words(pid, "TracerPid:")?.first().copied().context("no number after TracerPid:")
}
