//! How fast zombies become more, and when a limit is full by that.
//!
//! The rate is the slope of a straight line through the counts of a window (least squares). Its uncertainty is that of a process whose
//! events are independent: of `n` events within `T` the slope has the variance `1.2 · n · D / T²`, where 1.2 is what least squares costs
//! against counting both ends of such a walk, and `D` says how much more the counts jump than independent events would (batches, and
//! zombies that go meanwhile); it is at least 1. What is shown behind ± is two standard errors.
//!
//! Of the windows (1 min, 5 min, 30 min, 2 h) the shortest decides that says anything, and each longer one makes it more exact as long as
//! its slope lies within what the shorter ones allow: so a leak that has just begun, or has just become faster, is not averaged away, and
//! one that has stopped is not believed in for as long as a longer window still shows it.

use std::{collections::VecDeque, time::Duration};

use crate::identity::BootTime;

/// The windows, the shortest first.
const WINDOWS: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(1_800),
    Duration::from_secs(7_200),
];

/// Counts that a slope is drawn through, at least.
const POINTS: usize = 4;

/// The least span of time that a slope is drawn through.
const SPAN: f64 = 3.0;

/// A forecast that may be wrong by more than this part of itself is none.
const VAGUE: f64 = 0.5;

/// A forecast for later than this says nothing: no leak goes on alike for so long.
const HORIZON: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Standard errors behind ±.
const BOUND: f64 = 2.0;

/// Counts that are kept: two hours, the latest minutes in full.
const KEPT: usize = 256;

/// A count at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    at: BootTime,
    zombies: u64,
}

/// Counts of zombies, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Series {
    samples: VecDeque<Sample>,
}

/// How fast zombies become more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Zombies a second.
    pub per_second: f64,
    /// Two standard errors of it.
    pub plus_minus: f64,
    /// The span of time that it was seen in.
    pub window: Duration,
}

/// When a limit will be full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// At this moment.
    pub at: BootTime,
    /// As much sooner or later.
    pub plus_minus: Duration,
    /// By this rate.
    pub rate: Rate,
}

impl Series {
    /// So many there are now. Moments that run backwards are left out.
    pub fn push(&mut self, at: BootTime, zombies: u64) {
        if self.samples.back().is_some_and(|last| last.at >= at) {
            return;
        }
        self.samples.push_back(Sample { at, zombies });
        let longest = WINDOWS[WINDOWS.len() - 1];
        while self.samples.front().is_some_and(|first| at.since(first.at) > longest) {
            self.samples.pop_front();
        }
        if self.samples.len() > KEPT {
            self.thin(at);
        }
    }

    /// Leaves out the one that says least: its neighbours are the nearest to each other for how long ago they are. However often it
    /// is looked, the longest window stays.
    fn thin(&mut self, now: BootTime) {
        let says = |place: usize| {
            let [before, own, after] =
                [place - 1, place, place + 1].map(|place| self.samples.get(place).map(|sample| sample.at));
            let apart = after?.since(before?).as_secs_f64();
            Some(apart / (now.since(own?).as_secs_f64() + 1.0))
        };
        let places =
            (1..self.samples.len().saturating_sub(1)).filter_map(|place| Some((place, says(place)?)));
        if let Some((place, _)) = places.min_by(|(_, one), (_, other)| one.total_cmp(other)) {
            self.samples.remove(place);
        }
    }

    /// How fast they become more; `None` where the counts do not show that they do.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        let last = self.samples.back()?;
        let mut best: Option<Rate> = None;
        let mut reached = Duration::ZERO;
        for window in WINDOWS {
            let within: Vec<_> =
                self.samples.iter().copied().filter(|sample| last.at.since(sample.at) <= window).collect();
            let Some(span) = within.first().map(|first| last.at.since(first.at)) else { continue };
            // A longer window that has nothing more in it.
            if span <= reached {
                break;
            }
            reached = span;
            let Some(found) = slope(&within) else { continue };
            // What was before is another story.
            if best.is_some_and(|best| !best.allows(&found)) {
                break;
            }
            best = Some(found);
        }
        best.filter(Rate::is_positive)
    }
}

impl Rate {
    fn is_positive(&self) -> bool {
        self.per_second > self.plus_minus
    }

    /// Whether a longer window tells of the same leak, and tells it better.
    fn allows(&self, longer: &Self) -> bool {
        (longer.per_second - self.per_second).abs() <= self.plus_minus && longer.plus_minus <= self.plus_minus
    }

    /// When a limit is full that has room for so many more at `now`; `None` where that is too far away or too uncertain to be said.
    #[must_use]
    pub fn exhausts(self, left: u64, now: BootTime) -> Option<Forecast> {
        let part = self.plus_minus / self.per_second;
        let seconds = left as f64 / self.per_second;
        if part > VAGUE || !seconds.is_finite() || seconds > HORIZON.as_secs_f64() {
            return None;
        }
        let span = |seconds| Duration::try_from_secs_f64(seconds).ok();
        Some(Forecast { at: now.plus(span(seconds)?), plus_minus: span(seconds * part)?, rate: self })
    }
}

/// The slope of the line through the samples, with its uncertainty.
fn slope(samples: &[Sample]) -> Option<Rate> {
    let (first, last) = (samples.first()?, samples.last()?);
    let window = last.at.since(first.at);
    let span = window.as_secs_f64();
    if samples.len() < POINTS || span < SPAN {
        return None;
    }
    let number = samples.len() as f64;
    let points =
        || samples.iter().map(|sample| (sample.at.since(first.at).as_secs_f64(), sample.zombies as f64));
    let (x, y) = points().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (x, y) = (x / number, y / number);
    let (products, squares) = points().fold((0.0, 0.0), |(products, squares), point| {
        (products + (point.0 - x) * (point.1 - y), squares + (point.0 - x).powi(2))
    });
    let per_second = products / squares;
    // What an event is worth that is not seen: of a flat line nothing is certain either.
    let events = (per_second * span).abs().max(1.0);
    let variance = 1.2 * events * dispersion(samples, per_second) / span.powi(2);
    Some(Rate { per_second, plus_minus: BOUND * variance.sqrt(), window })
}

/// How much more the counts jump than those of independent events that come at this rate: 1 where they do not.
fn dispersion(samples: &[Sample], per_second: f64) -> f64 {
    let steps = samples.windows(2).map(|pair| {
        let span = pair[1].at.since(pair[0].at).as_secs_f64();
        let expected = per_second * span;
        let step = pair[1].zombies as f64 - pair[0].zombies as f64;
        (step - expected).powi(2) / expected.abs().max(f64::MIN_POSITIVE)
    });
    let degrees = samples.len().saturating_sub(2).max(1);
    (steps.sum::<f64>() / degrees as f64).max(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: f64 = 1_000.0;

    fn at(second: f64) -> BootTime {
        BootTime(0).plus(Duration::from_secs_f64(START + second))
    }

    fn whole(number: f64) -> u64 {
        Duration::from_secs_f64(number).as_secs()
    }

    fn series(samples: impl IntoIterator<Item = (f64, u64)>) -> Series {
        let mut series = Series::default();
        for (second, zombies) in samples {
            series.push(at(second), zombies);
        }
        series
    }

    /// What a leak at this rate shows when it is looked at every `apart` seconds until `end`.
    fn leak(rate: f64, apart: f64, end: f64) -> Series {
        let looks = (0..).map(|look| f64::from(look) * apart).take_while(|second| *second <= end);
        series(looks.map(|second| (second, whole(second * rate))))
    }

    fn left(series: &Series, limit: u64) -> Option<f64> {
        let last = series.samples.back().unwrap();
        let forecast = series.rate()?.exhausts(limit - last.zombies, last.at)?;
        Some(forecast.at.since(last.at).as_secs_f64())
    }

    proptest! {
        #[test]
        fn two_a_second_into_256_are_forecast_within_a_tenth_from_one_minute_on(
            end in 60.0..125.0_f64,
            apart in 0.5..10.0_f64,
            jitter in 0..3_u64,
            used in 0..40_u64,
        ) {
            let looks = (0..).map(|look| f64::from(look) * apart).take_while(|second| *second <= end);
            let counts = looks.map(|second| (second, whole(second * 2.0) + (whole(second) * 7919) % (jitter + 1)));
            let counts: Vec<_> = counts.collect();
            let (second, zombies) = *counts.last().unwrap();
            let room = 256 - used - zombies.min(255 - used);
            let truth = room as f64 / 2.0;
            let rate = series(counts).rate().unwrap();
            let forecast = rate.exhausts(room, at(second)).unwrap();
            let said = forecast.at.since(at(second)).as_secs_f64();
            prop_assert!((said - truth).abs() <= truth * 0.1 + 0.5, "{said} instead of {truth}: {forecast:?}");
        }

        #[test]
        fn nothing_is_forecast_from_what_does_not_grow(
            counts in proptest::collection::vec(0..4_u64, 4..200),
            falls in 0..3_u64,
        ) {
            let all = counts.len() as u64;
            let counts = counts.iter().zip(0_u64..).map(|(noise, look)| (look as f64, 1_000 + all * 3 - look * falls + noise));
            let series = series(counts);
            // Noise may look like a leak; then it must not be certain of it.
            let forecast = series.rate().and_then(|rate| rate.exhausts(3_000, at(200.0)));
            prop_assert_eq!(forecast, None);
        }

        #[test]
        fn a_leak_of_independent_events_is_within_what_is_said_almost_always(seed in 0..u64::MAX) {
            // 100 leaks of 1 a second, looked at each second for two minutes.
            let (mut state, mut wrong) = (seed | 1, 0);
            for _ in 0..100 {
                let (mut zombies, mut counts) = (0, vec![(0.0, 0)]);
                for second in 1..=120 {
                    // Binomial(20, 1/20) is near enough to Poisson(1).
                    for _ in 0..20 {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        zombies += u64::from(state % 20 == 0);
                    }
                    counts.push((f64::from(second), zombies));
                }
                let rate = series(counts).rate().unwrap();
                wrong += u32::from((rate.per_second - 1.0).abs() > rate.plus_minus);
            }
            prop_assert!(wrong <= 20, "{wrong} of 100");
        }
    }

    #[test]
    fn three_counts_are_no_leak() {
        assert_eq!(series([(0.0, 0), (30.0, 60), (60.0, 120)]).rate(), None);
        assert!(series([(0.0, 0), (20.0, 40), (40.0, 80), (60.0, 120)]).rate().is_some());
    }

    #[test]
    fn a_leak_that_has_become_faster_is_forecast_by_what_it_is_now() {
        let counts = (0..300).map(|second: u32| {
            let (slow, fast) = (second.min(240), second.saturating_sub(240));
            (f64::from(second), u64::from(slow) / 10 + 5 * u64::from(fast))
        });
        let rate = series(counts).rate().unwrap();
        assert!((rate.per_second - 5.0).abs() < 0.5, "{rate:?}");
    }

    #[test]
    fn a_slow_leak_is_seen_in_a_longer_window_and_forecast_for_hours() {
        // One in 20 seconds: in a minute there are three.
        let leak = leak(0.05, 10.0, 3_600.0);
        let rate = leak.rate().unwrap();
        assert!(rate.window > Duration::from_secs(1_000), "{rate:?}");
        let hours = left(&leak, 1_000).unwrap() / 3_600.0;
        assert!((hours - 820.0 / 180.0).abs() < 0.3, "{hours}");
    }

    #[test]
    fn the_longest_window_stays_however_often_somebody_looks() {
        // One each twenty minutes, of which four hours are seen.
        for apart in [0.2, 1.0, 30.0] {
            let looks = (0..).map(|look| f64::from(look) * apart).take_while(|second| *second <= 14_400.0);
            let series = series(looks.map(|second| (second, whole(second / 1_200.0))));
            let oldest = series.samples.front().unwrap().at;
            assert!(series.samples.back().unwrap().at.since(oldest) > Duration::from_secs(7_000), "{apart}");
            assert!(series.samples.len() <= KEPT);
        }
    }

    #[test]
    fn a_leak_that_has_stopped_is_not_forecast_a_minute_later() {
        for rate in [0.1, 0.5, 2.0, 10.0] {
            for end in [120.0, 600.0, 3_600.0] {
                let looks =
                    (0..).map(|look| f64::from(look) * 2.0).take_while(|second| *second <= end + 60.0);
                let series = series(looks.map(|second| (second, whole(second.min(end) * rate))));
                assert_eq!(series.rate(), None, "{rate} a second for {end} s");
            }
        }
    }

    #[test]
    fn a_leak_that_goes_on_alike_is_found_at_any_pace() {
        for (rate, apart, end) in [(0.01, 30.0, 7_200.0), (0.05, 10.0, 1_800.0), (2.0, 1.0, 60.0)] {
            let found = leak(rate, apart, end).rate().unwrap();
            assert!((found.per_second - rate).abs() < rate / 5.0, "{found:?} instead of {rate}");
        }
    }

    #[test]
    fn what_is_reaped_now_and_then_does_not_run_full() {
        let counts = (0..240).map(|second: u32| (f64::from(second), u64::from(second % 40) * 2));
        let series = series(counts);
        assert_eq!(series.rate().and_then(|rate| rate.exhausts(200, at(240.0))), None);
    }

    #[test]
    fn what_is_further_away_than_a_month_is_not_said() {
        assert!(left(&leak(2.0, 1.0, 60.0), 4_000_000).is_some());
        assert_eq!(left(&leak(2.0, 1.0, 60.0), 6_000_000), None);
    }

    #[test]
    fn as_many_counts_are_kept_as_needed_and_the_latest_in_full() {
        let leak = leak(1.0, 1.0, 7_000.0);
        assert!(leak.samples.len() <= KEPT, "{}", leak.samples.len());
        let first = leak.samples.front().unwrap().zombies;
        assert!(first < 4_000, "the oldest is of second {first}");
        assert!((left(&leak, 14_000).unwrap() - 7_000.0).abs() < 100.0);
    }
}
