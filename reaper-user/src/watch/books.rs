//! Reconciliation: the ledger against the kernel's own list of processes. At the start of a daemon that takes over
//! what another has left, after a loss, and now and then.

use std::{collections::HashSet, time::Duration};

use reaper_ebpf::state;

use crate::{
    identity::BootTime,
    kernel::{Kernel, KernelError},
};

/// Between two passes when nothing was lost.
const APART: Duration = Duration::from_secs(300);

/// Between two passes at least, however much is lost.
const APART_AT_LEAST: Duration = Duration::from_secs(10);

/// How long an entry may be there without a process: the kernel frees a process tens of milliseconds after it was
/// waited for.
const IN_FLIGHT: Duration = Duration::from_secs(2);

/// What is compared, and when.
#[derive(Debug)]
pub(super) struct Books {
    last: BootTime,
    wanted: bool,
    /// Entries without a process, and when they are looked at again.
    suspects: Option<(BootTime, Vec<u64>)>,
}

impl Books {
    /// A pass has been made.
    pub(super) const fn new(now: BootTime) -> Self {
        Self { last: now, wanted: false, suspects: None }
    }

    /// Whether a pass has been made.
    pub(super) fn were_compared(&self) -> bool {
        self.last > BootTime(0)
    }

    /// The ledger may be wrong.
    pub(super) const fn doubt(&mut self) {
        self.wanted = true;
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> BootTime {
        let pass = self.last.plus(if self.wanted { APART_AT_LEAST } else { APART });
        self.suspects.as_ref().map_or(pass, |(then, _)| pass.min(*then))
    }

    /// Makes a pass where one is due, and says whether it was: what the ledger lacks is entered, what it has too much is
    /// suspected.
    pub(super) fn compare(&mut self, kernel: &mut Kernel, now: BootTime) -> Result<bool, KernelError> {
        if now < self.last.plus(if self.wanted { APART_AT_LEAST } else { APART }) {
            return Ok(false);
        }
        // First the entries, then the processes: whoever is in the one and not in the other was there and is gone.
        let mut entries = HashSet::new();
        kernel.each(
            |state| state != state::FREE,
            |record| {
                entries.insert(record.id());
            },
        )?;
        let there = kernel.census()?;
        // Where it could not be made, it is due still.
        (self.last, self.wanted) = (now, false);
        let gone: Vec<u64> = entries.difference(&there).copied().collect();
        tracing::debug!(
            entries = entries.len(),
            processes = there.len(),
            gone = gone.len(),
            "compared the ledger"
        );
        if !gone.is_empty() {
            self.suspects = Some((now.plus(IN_FLIGHT), gone));
        }
        Ok(true)
    }

    /// The entries whose process is long gone.
    pub(super) fn stale(&mut self, kernel: &Kernel, now: BootTime) -> Vec<u64> {
        match self.suspects.take_if(|(then, _)| *then <= now) {
            Some((_, suspects)) => suspects.into_iter().filter(|id| kernel.record(*id).is_some()).collect(),
            None => Vec::new(),
        }
    }
}
