//! In which order workloads are shown.

use std::cmp::{Ordering, Reverse};

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

    /// Sorts. Rows of which it is not known what the order goes by stay below, either way.
    pub(super) fn sort(self, rows: &mut [HeadroomEvent]) {
        let Self { by, reversed } = self;
        match by {
            By::Zombies => arrange(rows, reversed, |row| Some(Reverse(row.zombies))),
            By::Rate => arrange(rows, reversed, |row| Some(Reverse(Number(row.rate?.per_second)))),
            By::Headroom => arrange(rows, reversed, |row| row.free().map(Number)),
            By::Forecast => arrange(rows, reversed, |row| row.exhaustion().map(|of| of.seconds)),
            By::Name => arrange(rows, reversed, |row| Some(row.workload.shown())),
        }
    }
}

/// Equal rows are in an order, too: they shall not jump.
fn arrange<K: Ord>(rows: &mut [HeadroomEvent], reversed: bool, key: impl Fn(&HeadroomEvent) -> Option<K>) {
    rows.sort_by_cached_key(|row| {
        let key = key(row).map(|key| Turned { key, reversed });
        (key.is_none(), key, Reverse(row.zombies), row.workload.shown(), row.workload.cgroup.clone())
    });
}

/// A key that may count the other way round.
#[derive(PartialEq, Eq)]
struct Turned<K> {
    key: K,
    reversed: bool,
}

impl<K: Ord> PartialOrd for Turned<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord> Ord for Turned<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.key.cmp(&other.key);
        if self.reversed { order.reverse() } else { order }
    }
}

/// A number, in the order of numbers.
struct Number(f64);

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}
