//! How long the dead stood that were not freed at once: the kernel side counts them by cgroup, metrics show them by workload.

use std::{collections::HashMap, time::Instant};

use reaper_ebpf::reap_time::Times;

use super::{label_sets::LabelSets, labels::WorkloadLabels};
use crate::{
    kernel::Kernel,
    workload::{CgroupId, Hierarchy, Workloads},
};

/// The kernel side's times by cgroup, as times by workload: cgroups come and go.
#[derive(Debug)]
pub(super) struct SlowTimes {
    by_workload: LabelSets<WorkloadLabels, Times>,
    /// What was taken over of each cgroup that the kernel side has times of.
    taken: HashMap<u64, Times>,
    /// All that was taken over of any.
    attributed: Times,
    /// What no cgroup had at the start; an earlier daemon may have forgotten those it was of.
    base: Option<Times>,
    /// What no cgroup has had since.
    unplaced: Times,
    /// The machine's when it was last looked at.
    seen: Times,
}

impl SlowTimes {
    /// None yet; at most so many label sets are kept.
    pub(super) fn new(label_sets: usize) -> Self {
        Self {
            by_workload: LabelSets::new(label_sets),
            taken: HashMap::new(),
            attributed: Times::default(),
            base: None,
            unplaced: Times::default(),
            seen: Times::default(),
        }
    }

    /// Takes over what has been added since, `all` being the machine's, while it can be said whose cgroup it is.
    pub(super) fn take(&mut self, kernel: &mut Kernel, workloads: &mut Workloads, all: Times) {
        if self.base.is_some() && all == self.seen {
            return;
        }
        self.seen = all;
        // After those of all: nothing of a cgroup is missing that they have.
        let by_cgroup = kernel.reap_times_by_cgroup();
        let crowded = Kernel::reap_times_are_crowded(by_cgroup.len());
        for (cgroup, times) in by_cgroup {
            let more = minus(times, self.taken.insert(cgroup, times).unwrap_or_default());
            if more != Times::default() {
                add(&mut self.attributed, more);
                let labels = WorkloadLabels::from(&workloads.of(cgroup, 0));
                let (counts, _) = self.by_workload.count(&labels, Instant::now(), |_| true);
                add(counts, more);
            }
            let id = CgroupId { hierarchy: Hierarchy::V2, id: cgroup };
            if crowded && workloads.cgroups().is_gone(id) {
                kernel.forget_reap_times(cgroup);
                self.taken.remove(&cgroup);
            }
        }
        let rest = minus(all, self.attributed);
        let base = *self.base.get_or_insert(rest);
        self.unplaced = greater(self.unplaced, minus(rest, base));
    }

    /// The machine's sum when it was last looked at.
    pub(super) const fn seen(&self) -> u64 {
        self.seen.sum
    }

    /// Those that have a place.
    pub(super) fn by_workload(&self) -> Vec<(WorkloadLabels, Times)> {
        self.by_workload.iter().map(|(of, times)| (of.clone(), *times)).collect()
    }

    /// How often one found none here.
    pub(super) const fn overflowed(&self) -> u64 {
        self.by_workload.overflowed()
    }

    /// Those of all that found no place, in the kernel side or here.
    pub(super) fn others(&self) -> Option<Times> {
        let mut others = self.by_workload.others().copied().unwrap_or_default();
        add(&mut others, self.unplaced);
        (others != Times::default()).then_some(others)
    }
}

fn add(times: &mut Times, more: Times) {
    times.sum += more.sum;
    for (number, more) in times.buckets.iter_mut().zip(more.buckets) {
        *number += more;
    }
}

fn both(a: Times, b: Times, how: impl Fn(u64, u64) -> u64) -> Times {
    Times {
        buckets: std::array::from_fn(|bucket| how(a.buckets[bucket], b.buckets[bucket])),
        sum: how(a.sum, b.sum),
    }
}

fn minus(a: Times, b: Times) -> Times {
    both(a, b, u64::saturating_sub)
}

fn greater(a: Times, b: Times) -> Times {
    both(a, b, u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_apart_bucket_by_bucket_and_never_run_backwards() {
        let times = |first, sum| {
            let mut times = Times { sum, ..Times::default() };
            times.buckets[0] = first;
            times
        };
        assert_eq!(minus(times(3, 10), times(1, 20)), times(2, 0));
        assert_eq!(greater(times(3, 10), times(1, 20)), times(3, 20));
        let mut sum = times(1, 2);
        add(&mut sum, times(3, 4));
        assert_eq!(sum, times(4, 6));
    }
}
