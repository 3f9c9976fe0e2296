//! What our programs have cost, as the kernel counts it: only while `kernel.bpf_stats_enabled` is set, or somebody keeps
//! such a count open.

use std::{collections::BTreeMap, time::Duration};

use super::Kernel;

/// What a program has cost since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// Its name.
    pub program: String,
    /// How often it ran while the kernel counted.
    pub runs: u64,
    /// How long it took then, all together.
    pub time: Duration,
}

impl Kernel {
    /// Of each program that the kernel has counted a run of.
    #[must_use]
    pub fn program_costs(&self) -> Vec<ProgramCost> {
        let own = self.ebpf.programs().filter_map(|(_, program)| program.info().ok());
        let pinned = self.always.programs().iter().filter_map(|program| program.info().ok());
        // A program that is pinned may be here a second time.
        let by_id: BTreeMap<_, _> = own.chain(pinned).map(|info| (info.id(), info)).collect();
        let counted = by_id.into_values().filter(|info| info.run_count() > 0);
        counted
            .map(|info| ProgramCost {
                program: info.name_as_str().unwrap_or_default().to_owned(),
                runs: info.run_count(),
                time: info.run_time(),
            })
            .collect()
    }
}
