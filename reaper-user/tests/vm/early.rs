//! How many pids were taken over before the kernel said that it freed their last process: from tracefs, not from `reaper`.

use std::{
    collections::HashMap,
    fs,
    io::{ErrorKind, Result},
};

const TRACEFS: &str = "/sys/kernel/tracing";
const EVENTS: [&str; 2] = ["sched_process_fork", "sched_process_free"];

/// The kernel's own record of forks and frees, while it lives.
pub(crate) struct Record;

impl Record {
    /// `None` under lockdown=confidentiality, which closes tracefs.
    pub(crate) fn start() -> Option<Self> {
        match Self::try_start() {
            Ok(record) => Some(record),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                println!("{TRACEFS}: {error}: pids taken over are not counted");
                None
            }
            Err(error) => panic!("{TRACEFS}: {error}"),
        }
    }

    fn try_start() -> Result<Self> {
        // KiB on each processor.
        fs::write(format!("{TRACEFS}/buffer_size_kb"), "8192")?;
        fs::write(format!("{TRACEFS}/trace"), "")?;
        let record = Self;
        for event in EVENTS {
            fs::write(format!("{TRACEFS}/events/sched/{event}/enable"), "1")?;
        }
        Ok(record)
    }

    /// Ends the record: forks, and those of them whose pid another process, not yet freed, had had.
    pub(crate) fn stop(self) -> (usize, usize) {
        drop(self);
        let trace = fs::read_to_string(format!("{TRACEFS}/trace")).expect(TRACEFS);
        let pid_in = |line: &str, field: &str| {
            let pid = line.split_once(field)?.1.split(' ').next()?;
            pid.parse::<u32>().ok()
        };
        let mut standing: HashMap<u32, usize> = HashMap::new();
        let (mut forks, mut early) = (0, 0);
        for line in trace.lines() {
            if line.contains("sched_process_fork:") {
                let pid = pid_in(line, " child_pid=").expect("a child");
                let others = standing.entry(pid).or_default();
                forks += 1;
                early += usize::from(*others > 0);
                *others += 1;
            } else if line.contains("sched_process_free:")
                && let Some(others) = pid_in(line, " pid=").and_then(|pid| standing.get_mut(&pid))
            {
                *others = others.saturating_sub(1);
            }
        }
        (forks, early)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        for event in EVENTS {
            let _ = fs::write(format!("{TRACEFS}/events/sched/{event}/enable"), "0");
        }
    }
}
