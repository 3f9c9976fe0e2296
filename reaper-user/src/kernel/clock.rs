//! The kernel's stamps (jiffies) on the boot clock.
//!
//! Jiffies are counted by the monotonic clock, which stands still in suspend; the boot clock does not. One
//! measured pair ties jiffies to the monotonic clock for good. How far the boot clock is ahead of it is looked at
//! whenever [`Clock::refresh`] is called; a jump means the machine was suspended in between.

use std::time::Duration;

use rustix::time::{ClockId, clock_getres, clock_gettime};

use crate::identity::BootTime;

/// Turns stamps into moments.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Nanoseconds of a jiffy.
    tick: u64,
    /// The monotonic clock at jiffy 0, modulo 2^64: jiffies do not start at 0.
    epoch: u64,
    /// How far the boot clock is ahead of the monotonic one.
    ahead: u64,
    /// The monotonic clock at the last refresh.
    refreshed: u64,
    suspends: Vec<Suspend>,
}

/// A suspend: somewhere between two monotonic moments, this long.
#[derive(Clone, Copy, Debug)]
struct Suspend {
    after: u64,
    before: u64,
    length: u64,
}

/// A moment read from a stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The latest it can have been; at most a tick too late.
    pub at: BootTime,
    /// False where a suspend may lie between the stamp and what it was read from.
    pub exact: bool,
}

/// Suspends that are remembered. A zombie that stood through more is off by the earliest.
const SUSPENDS: usize = 64;

/// Two readings of two clocks differ by less than this unless the machine slept.
const JITTER: u64 = 5_000_000;

impl Clock {
    /// Ties jiffies to the clocks by `samples` of (jiffies, boot clock) that were taken at one moment each.
    /// `None` without a sample.
    #[must_use]
    pub fn new(samples: &[[u64; 2]]) -> Option<Self> {
        let tick = tick();
        let (monotonic, boot) = now();
        Self::at(samples, tick, monotonic, boot)
    }

    fn at(samples: &[[u64; 2]], tick: u64, monotonic: u64, boot: u64) -> Option<Self> {
        let ahead = boot.wrapping_sub(monotonic);
        // A sample is taken at some point within its tick: the least is nearest to the tick's beginning.
        let epoch = samples
            .iter()
            .map(|[jiffies, boot]| {
                boot.wrapping_sub(ahead).wrapping_sub(jiffies.wrapping_mul(tick)).cast_signed()
            })
            .min()?
            .cast_unsigned();
        Some(Self { tick, epoch, ahead, refreshed: monotonic, suspends: Vec::new() })
    }

    /// The boot clock now. Notices a suspend since the last call.
    pub fn refresh(&mut self) -> BootTime {
        let (monotonic, boot) = now();
        self.refresh_at(monotonic, boot);
        BootTime(boot)
    }

    fn refresh_at(&mut self, monotonic: u64, boot: u64) {
        let ahead = boot.wrapping_sub(monotonic);
        let length = ahead.saturating_sub(self.ahead);
        if length > JITTER {
            if self.suspends.len() == SUSPENDS {
                self.suspends.remove(0);
            }
            self.suspends.push(Suspend { after: self.refreshed, before: monotonic, length });
            self.ahead = ahead;
        }
        self.refreshed = monotonic;
    }

    /// The moment of a stamp (48 bits of jiffies). The end of its tick, so that no age is overstated.
    #[must_use]
    pub fn moment(&self, stamp: u64) -> Moment {
        // Jiffies begin near 2^32 on 64-bit kernels: their 48 bits do not wrap in a machine's life.
        let monotonic = self.epoch.wrapping_add(stamp.wrapping_add(1).wrapping_mul(self.tick));
        let mut at = monotonic.wrapping_add(self.ahead);
        let mut exact = true;
        for suspend in &self.suspends {
            if monotonic <= suspend.after {
                at = at.wrapping_sub(suspend.length);
            } else if monotonic < suspend.before {
                exact = false;
            }
        }
        Moment { at: BootTime(at), exact }
    }

    /// How long a tick is: what a moment can be off by.
    #[must_use]
    pub const fn tick(&self) -> Duration {
        Duration::from_nanos(self.tick)
    }
}

/// How long a jiffy is, nanoseconds. Not 0.
pub(super) fn tick() -> u64 {
    nanoseconds(clock_getres(ClockId::MonotonicCoarse)).max(1)
}

/// The boot clock now.
#[must_use]
pub fn boot_now() -> BootTime {
    BootTime(nanoseconds(clock_gettime(ClockId::Boottime)))
}

/// The monotonic and the boot clock, read together.
fn now() -> (u64, u64) {
    // Whatever delays the readings must not look like a suspend: the closest of a few pairs counts.
    let pair = || {
        let before = nanoseconds(clock_gettime(ClockId::Monotonic));
        let boot = nanoseconds(clock_gettime(ClockId::Boottime));
        let after = nanoseconds(clock_gettime(ClockId::Monotonic));
        (after - before, before, boot)
    };
    let (_, monotonic, boot) = [pair(), pair(), pair()].into_iter().min().unwrap_or_else(pair);
    (monotonic, boot)
}

fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 4_000_000;

    fn clock() -> Clock {
        // Jiffy 1,000 began at boot time 50 ms; no suspend yet.
        Clock::at(
            &[[1_000, 53_000_000], [1_000, 50_100_000], [1_001, 57_000_000]],
            TICK,
            60_000_000,
            60_000_000,
        )
        .unwrap()
    }

    #[test]
    fn a_stamp_is_the_end_of_its_tick_and_never_overstates_an_age() {
        assert_eq!(clock().moment(1_000), Moment { at: BootTime(54_100_000), exact: true });
        assert_eq!(clock().moment(990), Moment { at: BootTime(14_100_000), exact: true });
    }

    #[test]
    fn a_suspend_makes_older_stamps_older_and_those_around_it_approximate() {
        let mut clock = clock();
        let hour = 3_600_000_000_000;
        clock.refresh_at(100_000_000, 100_000_000);
        clock.refresh_at(200_000_000, 200_000_000 + hour);
        assert_eq!(clock.moment(1_000), Moment { at: BootTime(54_100_000), exact: true });
        let within = clock.moment(1_030);
        assert!(!within.exact);
        let later = clock.moment(1_100);
        assert_eq!(later, Moment { at: BootTime(454_100_000 + hour), exact: true });
    }

    #[test]
    fn the_real_clocks_do_not_look_like_a_suspend() {
        let mut clock = Clock::new(&[[0, boot_now().0]]).unwrap();
        for _ in 0..1_000 {
            clock.refresh();
        }
        assert!(clock.suspends.is_empty());
    }
}
