//! In which order workloads are shown.

use std::cmp::Ordering;

use crate::report::HeadroomEvent;

/// What the order goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The most zombies first.
    Zombies,
    /// The fastest leak first.
    Rate,
    /// The least that is left of a limit first.
    Headroom,
    /// The one whose limit is full first.
    Forecast,
    /// By name.
    Name,
}

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sort {
    /// What it goes by.
    pub(super) by: By,
    /// The other way round.
    pub(super) reversed: bool,
}

impl Default for Sort {
    fn default() -> Self {
        Self { by: By::Zombies, reversed: false }
    }
}

impl Sort {
    /// The order after this one was asked for: the other way round where it is the order already.
    #[must_use]
    pub(super) fn asked(self, by: By) -> Self {
        Self { by, reversed: self.by == by && !self.reversed }
    }

    /// Sorts. Rows of which it is not known what the order goes by stay below, either way. Equal ones are in an order, too: they shall not
    /// jump.
    pub(super) fn sort(self, rows: &mut [HeadroomEvent]) {
        rows.sort_by(|one, other| {
            let alike = || {
                let by_name = one.workload.shown().cmp(&other.workload.shown());
                other
                    .zombies
                    .cmp(&one.zombies)
                    .then(by_name)
                    .then(one.workload.cgroup.cmp(&other.workload.cgroup))
            };
            self.order(one, other).then_with(alike)
        });
    }

    fn order(self, one: &HeadroomEvent, other: &HeadroomEvent) -> Ordering {
        let turned = |order: Ordering| if self.reversed { order.reverse() } else { order };
        let numbers = |one: Option<f64>, other: Option<f64>| match (one, other) {
            (Some(one), Some(other)) => turned(one.total_cmp(&other)),
            (one, other) => one.is_none().cmp(&other.is_none()),
        };
        let by = |key: fn(&HeadroomEvent) -> Option<f64>| numbers(key(one), key(other));
        match self.by {
            By::Zombies => turned(other.zombies.cmp(&one.zombies)),
            By::Rate => by(|row| Some(-row.rate?.per_second)),
            By::Headroom => by(HeadroomEvent::free),
            By::Forecast => by(|row| Some(row.exhaustion()?.seconds.0.as_secs_f64())),
            By::Name => turned(one.workload.shown().cmp(&other.workload.shown())),
        }
    }
}
