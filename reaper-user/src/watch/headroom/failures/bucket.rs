//! How many events of refused forks there may be: some at once, and then one a second.

use std::time::Duration;

use crate::identity::BootTime;

/// At once.
const BURST: u32 = 10;

/// And then as often.
const EVERY: Duration = Duration::from_secs(1);

/// A token for each event.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When all are there again.
    full: BootTime,
}

impl Bucket {
    /// How many there may be now.
    pub(super) fn room(&self, now: BootTime) -> usize {
        let missing = self.full.since(now).as_nanos().div_ceil(EVERY.as_nanos());
        (BURST as usize).saturating_sub(usize::try_from(missing).unwrap_or(usize::MAX))
    }

    /// There are so many.
    pub(super) fn take(&mut self, events: usize, now: BootTime) {
        self.full = self.full.max(now).plus(EVERY.saturating_mul(u32::try_from(events).unwrap_or(u32::MAX)));
    }

    /// When there may be one.
    pub(super) fn next(&self) -> BootTime {
        BootTime(0).plus(self.full.since(BootTime(0).plus(EVERY * (BURST - 1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_ten_at_once_and_then_one_a_second() {
        let at = |ms: u64| BootTime(60_000_000_000 + ms * 1_000_000);
        let mut bucket = Bucket::default();
        assert_eq!((bucket.room(at(0)), bucket.next()), (10, BootTime(0)));
        bucket.take(10, at(0));
        assert_eq!((bucket.room(at(0)), bucket.room(at(999)), bucket.next()), (0, 0, at(1_000)));
        assert_eq!((bucket.room(at(1_000)), bucket.room(at(3_500)), bucket.room(at(60_000))), (1, 3, 10));
        bucket.take(1, at(1_000));
        assert_eq!((bucket.room(at(1_999)), bucket.next()), (0, at(2_000)));
    }
}
