//! What this process itself uses, as the kernel says.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};

/// What this process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Own {
    /// Bytes of memory that are there and not only promised.
    pub(super) resident: u64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
    /// On CPUs, so far.
    pub(super) cpu: Duration,
    /// Since the Unix epoch.
    pub(super) started: Duration,
    /// Clients that had to give way to others.
    pub(super) dropped: u64,
}

impl Own {
    pub(super) fn now(started: SystemTime, dropped: u64) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        // The one that lists them is among them.
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        Self {
            resident: field("VmRSS:") * 1024,
            descriptors: descriptors.saturating_sub(1),
            threads: field("Threads:"),
            cpu: Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default(),
            started: started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something_of_everything() {
        let Own { resident, descriptors, threads, cpu, started, .. } = Own::now(SystemTime::now(), 0);
        assert!(resident > 1 << 20 && descriptors >= 3 && threads >= 1);
        assert!(!cpu.is_zero() && started > Duration::from_secs(1_700_000_000));
    }
}
