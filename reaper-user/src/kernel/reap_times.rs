//! How long the dead stood until somebody waited for them: all that died, as the kernel side has counted it.

use aya::{
    Ebpf,
    maps::{HashMap as BpfMap, MapData},
};
use reaper_ebpf::{
    counter,
    reap_time::{BUCKETS, CGROUPS, PROMPT, Times},
};

use super::{Kernel, KernelError, map};

const WORDS: usize = size_of::<Times>() / 8;

/// Room that must be left before it is looked which cgroups can go.
const CROWDED: usize = CGROUPS as usize / 4 * 3;

/// What was counted since the kernel side was loaded, by whichever daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReapTimes {
    /// Those that were freed within [`PROMPT`] nanoseconds of their death.
    pub prompt: u64,
    /// All others.
    pub slow: Times,
    /// Those of the others that no cgroup's times have, because there was no room for another one.
    pub unplaced: u64,
}

/// The map of them by cgroup.
pub(super) struct ByCgroup(BpfMap<MapData, u64, [u64; WORDS]>);

impl ByCgroup {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        map(ebpf, "REAP_TIMES").map(Self)
    }
}

/// How many jiffies of `tick` nanoseconds [`PROMPT`] takes.
pub(super) const fn prompt_ticks(tick: u64) -> u64 {
    PROMPT.div_ceil(tick)
}

impl Kernel {
    /// Slots of the ledger.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.table.slots()
    }

    /// Those of the whole machine.
    pub fn reap_times(&self) -> Result<ReapTimes, KernelError> {
        let mut slow = Times { sum: self.count(counter::SLOW_SUM)?, ..Times::default() };
        for (place, number) in (counter::SLOW..).zip(&mut slow.buckets) {
            *number = self.count(place)?;
        }
        Ok(ReapTimes {
            prompt: self.count(counter::PROMPT)?,
            slow,
            unplaced: self.count(counter::SLOW_UNPLACED)?,
        })
    }

    /// Those of each cgroup in which somebody was slow, by the id of v2. An entry that comes or goes meanwhile may end the walk: the
    /// next one sees the rest.
    #[must_use]
    pub fn reap_times_by_cgroup(&self) -> Vec<(u64, Times)> {
        let ByCgroup(map) = &self.reap_times;
        map.iter().map_while(Result::ok).map(|(cgroup, words)| (cgroup, times(words))).collect()
    }

    /// Whether there is soon no room for the times of another cgroup when there are this many.
    #[must_use]
    pub const fn reap_times_are_crowded(cgroups: usize) -> bool {
        cgroups >= CROWDED
    }

    /// Forgets the times of a cgroup that is gone.
    pub fn forget_reap_times(&mut self, cgroup: u64) {
        // Gone already is as good.
        let _gone = self.reap_times.0.remove(&cgroup);
    }
}

fn times(words: [u64; WORDS]) -> Times {
    let [buckets @ .., sum] = words;
    const { assert!(WORDS == BUCKETS as usize + 1) };
    Times { buckets, sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_prompt_is_so_on_kernels_of_every_tick() {
        assert_eq!([1_000_000, 4_000_000, 10_000_000].map(prompt_ticks), [64, 16, 7]);
    }

    #[test]
    fn times_are_read_as_the_kernel_side_lays_them_out() {
        let words: [u64; WORDS] = std::array::from_fn(|index| index as u64);
        let times = times(words);
        assert_eq!((times.buckets[11], times.sum), (11, 12));
    }
}
