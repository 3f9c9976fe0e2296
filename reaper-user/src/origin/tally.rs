//! How often something happened lately: counted by minute for an hour, by hour for two days, by day for a month. Its size does
//! not depend on how often.

use std::time::Duration;

use crate::identity::BootTime;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Counts by when.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    minutes: Ring<61>,
    hours: Ring<49>,
    days: Ring<31>,
}

/// How often something happened within a span that ends now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within {
    /// How often.
    pub count: u64,
    /// How long the span is that was counted: what was asked for, and up to one minute, hour or day more, for an hour, two days or
    /// a month; never longer than there was counting.
    pub span: Duration,
}

impl Within {
    /// How often an hour.
    #[must_use]
    pub fn per_hour(self) -> f64 {
        // What is counted for less than a minute says little of an hour.
        let seconds = self.span.max(Duration::from_secs(MINUTE)).as_secs_f64();
        self.count as f64 * HOUR as f64 / seconds
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self { minutes: Ring::of(MINUTE), hours: Ring::of(HOUR), days: Ring::of(DAY) }
    }
}

impl Tally {
    /// It has happened.
    pub(super) fn add(&mut self, now: BootTime) {
        let now = seconds(now);
        self.minutes.add(now);
        self.hours.add(now);
        self.days.add(now);
    }

    /// How often it has within `span`, counted since `began`. `None` where that is longer than is known.
    pub(super) fn within(&self, span: Duration, now: BootTime, began: BootTime) -> Option<Within> {
        let (now_s, span_s) = (seconds(now), span.as_secs());
        let (count, from) = self
            .minutes
            .since(now_s, span_s)
            .or_else(|| self.hours.since(now_s, span_s))
            .or_else(|| self.days.since(now_s, span_s))?;
        let from = BootTime(from.saturating_mul(1_000_000_000)).max(began);
        Some(Within { count, span: now.since(from) })
    }
}

const fn seconds(moment: BootTime) -> u64 {
    moment.0 / 1_000_000_000
}

/// Counts of the latest so many units of time.
#[derive(Clone, Debug)]
struct Ring<const N: usize> {
    /// Seconds that a unit has.
    unit: u64,
    /// The latest unit that was counted in.
    latest: u64,
    counts: [u32; N],
}

impl<const N: usize> Ring<N> {
    const fn of(unit: u64) -> Self {
        Self { unit, latest: 0, counts: [0; N] }
    }

    fn place(unit: u64) -> usize {
        // Less than N.
        usize::try_from(unit % N as u64).unwrap_or_default()
    }

    fn add(&mut self, now: u64) {
        let unit = now / self.unit;
        if unit.saturating_sub(self.latest) >= N as u64 {
            self.counts = [0; N];
        }
        // Those in between are of the last time round.
        for passed in (self.latest + 1..=unit).take(N) {
            if let Some(count) = self.counts.get_mut(Self::place(passed)) {
                *count = 0;
            }
        }
        self.latest = self.latest.max(unit);
        if let Some(count) = self.counts.get_mut(Self::place(unit)) {
            *count = count.saturating_add(1);
        }
    }

    /// What was counted in the last `span` seconds, and when the first unit began that has a part in it. `None` where it reaches
    /// further back than the counts do.
    fn since(&self, now: u64, span: u64) -> Option<(u64, u64)> {
        let (first, last) = (now.saturating_sub(span) / self.unit, now / self.unit);
        if last - first >= N as u64 {
            return None;
        }
        let oldest = (self.latest + 1).saturating_sub(N as u64);
        let counted = (first.max(oldest)..=self.latest).filter_map(|unit| self.counts.get(Self::place(unit)));
        Some((counted.map(|count| u64::from(*count)).sum(), first * self.unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    fn count(tally: &Tally, span: u64, now: u64) -> Option<u64> {
        tally.within(Duration::from_secs(span), at(now), at(0)).map(|within| within.count)
    }

    /// The same, by what it means: every moment is remembered, and units are counted whole.
    fn slow(moments: &[u64], unit: u64, span: u64, now: u64) -> u64 {
        let from = now.saturating_sub(span) / unit * unit;
        moments.iter().filter(|moment| **moment >= from).count() as u64
    }

    #[test]
    fn counts_are_those_of_whoever_remembers_every_moment() {
        let (mut tally, mut moments) = (Tally::default(), Vec::new());
        let (mut now, mut random) = (5_000, 1_u64);
        for _ in 0..4_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Mostly soon, now and then after hours or days.
            now += match random >> 56 {
                0..=1 => (random >> 20) % 200_000,
                2..=20 => (random >> 20) % 5_000,
                _ => (random >> 20) % 90,
            };
            tally.add(at(now));
            moments.push(now);
            for (span, unit) in
                [(0, MINUTE), (300, MINUTE), (3_600, MINUTE), (7_200, HOUR), (86_400, HOUR), (7 * DAY, DAY)]
            {
                for later in [0, 59, 4_000] {
                    assert_eq!(
                        count(&tally, span, now + later),
                        Some(slow(&moments, unit, span, now + later)),
                        "{span} at {now}+{later}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_longer_than_is_remembered_is_not_answered() {
        let mut tally = Tally::default();
        tally.add(at(100 * DAY));
        assert_eq!(count(&tally, 29 * DAY, 100 * DAY), Some(1));
        assert_eq!(count(&tally, 40 * DAY, 100 * DAY), None);
    }

    #[test]
    fn a_rate_is_of_the_time_that_was_counted_in() {
        let mut tally = Tally::default();
        for second in 0..120 {
            tally.add(at(1_000_000 + second));
        }
        let of = |began| tally.within(Duration::from_secs(HOUR), at(1_000_120), began).unwrap();
        let young = of(at(1_000_000));
        assert_eq!((young.count, young.span), (120, Duration::from_secs(120)));
        assert!((young.per_hour() - 3_600.0).abs() < 1e-6);
        let old = of(at(0));
        assert!(old.span >= Duration::from_secs(HOUR) && old.span < Duration::from_secs(HOUR + MINUTE));
        assert!((old.per_hour() - 120.0).abs() < 2.1, "{}", old.per_hour());
        let moment = Within { count: 1, span: Duration::from_millis(1) };
        assert!((moment.per_hour() - 60.0).abs() < 1e-6, "one in a moment is not millions an hour");
    }
}
