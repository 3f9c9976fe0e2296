//! Counts by labels, bounded: who finds no place is counted with all the others that found none, and that is counted, too.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// A label set that nothing has happened to for this long may give way. Longer than Prometheus looks back for the latest
/// value (5 min), so that what it saw last is what there was.
const KEPT: Duration = Duration::from_secs(600);

/// Counts of the kind `T` by labels.
#[derive(Debug)]
pub(super) struct LabelSets<L, T> {
    /// The others are one more.
    own: usize,
    sets: HashMap<L, Set<T>>,
    others: T,
    overflowed: u64,
}

#[derive(Debug)]
struct Set<T> {
    counts: T,
    changed: Instant,
}

impl<L: Clone + Eq + Hash, T: Default> LabelSets<L, T> {
    /// None yet, and `capacity` at most, the one for all others included.
    pub(super) fn new(capacity: usize) -> Self {
        Self { own: capacity.saturating_sub(1), sets: HashMap::new(), others: T::default(), overflowed: 0 }
    }

    /// The counts under these labels, to be changed at `now`, and whether they are for these labels only. Where there is no place,
    /// one whose counts are `idle` gives way, if nothing has happened to it for long.
    pub(super) fn count(&mut self, labels: &L, now: Instant, idle: impl Fn(&T) -> bool) -> (&mut T, bool) {
        if !self.sets.contains_key(labels) && self.sets.len() >= self.own && !self.make_room(now, idle) {
            self.overflowed += 1;
            return (&mut self.others, false);
        }
        let set = self.sets.entry(labels.clone()).or_insert(Set { counts: T::default(), changed: now });
        set.changed = now;
        (&mut set.counts, true)
    }

    /// The counts under these labels, if they have `own` ones; those of all others else.
    pub(super) fn counted(&mut self, labels: &L, own: bool, now: Instant) -> &mut T {
        match self.sets.get_mut(labels).filter(|_| own) {
            Some(set) => {
                set.changed = now;
                &mut set.counts
            }
            None => &mut self.others,
        }
    }

    fn make_room(&mut self, now: Instant, idle: impl Fn(&T) -> bool) -> bool {
        let long_idle = self
            .sets
            .iter()
            .filter(|(_, set)| now.saturating_duration_since(set.changed) >= KEPT && idle(&set.counts));
        let Some(first) = long_idle.min_by_key(|(_, set)| set.changed).map(|(labels, _)| labels.clone())
        else {
            return false;
        };
        self.sets.remove(&first).is_some()
    }

    /// All of them but the others.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&L, &T)> {
        self.sets.iter().map(|(labels, set)| (labels, &set.counts))
    }

    /// The counts of those that found no place; `None` where everybody did.
    pub(super) fn others(&self) -> Option<&T> {
        (self.overflowed > 0).then_some(&self.others)
    }

    /// How often somebody found none.
    pub(super) const fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(sets: &mut LabelSets<u32, u64>, labels: u32, now: Instant) -> bool {
        let (count, own) = sets.count(&labels, now, |count| *count < 2);
        *count += 1;
        own
    }

    #[test]
    fn who_finds_no_place_is_counted_with_the_others_and_there_are_never_more() {
        let (mut sets, now) = (LabelSets::new(3), Instant::now());
        let own = [1, 2, 3, 1, 4].map(|labels| add(&mut sets, labels, now));
        assert_eq!(own, [true, true, false, true, false]);
        assert_eq!((sets.iter().count(), sets.others(), sets.overflowed()), (2, Some(&2), 2));
        *sets.counted(&1, true, now) += 1;
        *sets.counted(&3, false, now) += 1;
        assert_eq!(*sets.counted(&1, true, now), 3);
        assert_eq!(sets.others(), Some(&3));
    }

    #[test]
    fn the_longest_idle_gives_way_and_what_is_in_use_does_not() {
        let (mut sets, start) = (LabelSets::new(3), Instant::now());
        add(&mut sets, 1, start);
        add(&mut sets, 1, start);
        add(&mut sets, 2, start + Duration::from_secs(1));
        assert!(!add(&mut sets, 3, start + KEPT), "the idle one was changed a second later");
        assert!(add(&mut sets, 3, start + KEPT + Duration::from_secs(1)));
        assert!(!add(&mut sets, 2, start + KEPT + Duration::from_secs(1)));
        assert!(sets.iter().any(|(labels, count)| (*labels, *count) == (1, 2)));
    }
}
