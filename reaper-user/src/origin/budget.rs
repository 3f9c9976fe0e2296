//! How much work others may make.

use std::time::Instant;

/// So much of something in a second, and so much at once after a quiet time.
#[derive(Debug)]
pub(super) struct Budget {
    a_second: u32,
    at_once: u32,
    left: u32,
    since: Instant,
}

impl Budget {
    pub(super) fn new(a_second: u32, at_once: u32, now: Instant) -> Self {
        Self { a_second, at_once, left: at_once, since: now }
    }

    /// Whether there is something left, of which this takes one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.since).as_millis();
        if let Ok(earned @ 1..) = u32::try_from(elapsed * u128::from(self.a_second) / 1_000) {
            self.left = self.left.saturating_add(earned).min(self.at_once);
            self.since = now;
        }
        let any = self.left > 0;
        self.left = self.left.saturating_sub(1);
        any
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_used_up_comes_back_with_time() {
        let began = Instant::now();
        let mut budget = Budget::new(100, 3, began);
        let taken = |budget: &mut Budget, now| (0..10).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, began), 3);
        assert_eq!(taken(&mut budget, began + Duration::from_millis(9)), 0);
        assert_eq!(taken(&mut budget, began + Duration::from_millis(20)), 2);
        assert_eq!(taken(&mut budget, began + Duration::from_mins(1)), 3);
    }
}
