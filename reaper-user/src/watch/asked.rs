//! Holders that somebody has asked to have watched: who wants to reap by hand what they never waited for has to know how long they
//! take to wait for a child.

use std::{collections::HashMap, time::Duration};

use super::{Watch, WatchError};
use crate::{identity::BootTime, kernel::boot_now, policy::LONG_PAST, proc::Seen};

/// So much longer than it takes at least: somebody has to come back and ask, and a holder may take longer than that.
const MORE: Duration = Duration::from_secs(900);

/// Holders that are watched because of it at once, at most: there is room for them beside those on probation.
const HOLDERS: usize = 256;

/// Those that are watched because of it, and until when.
#[derive(Debug, Default)]
pub(super) struct AskedFor(HashMap<u32, BootTime>);

impl AskedFor {
    /// Those that are to be watched still.
    pub(super) fn holders(&mut self, now: BootTime) -> impl Iterator<Item = u32> {
        self.0.retain(|_, until| *until > now);
        self.0.keys().copied()
    }

    /// One more. False where there are too many.
    fn add(&mut self, holder: u32, until: BootTime) -> bool {
        if self.0.len() >= HOLDERS && !self.0.contains_key(&holder) {
            return false;
        }
        let known = self.0.entry(holder).or_insert(until);
        *known = until.max(*known);
        true
    }
}

impl Watch {
    /// Watches a holder from now on, unless it is watched already. Says why not.
    pub(super) fn watch_for(&mut self, pid: u32, span: Duration) -> Result<Result<(), String>, WatchError> {
        let now = boot_now();
        self.asked.0.retain(|_, until| *until > now);
        let Some(seen) = self.describer.proc.see(pid).ok().filter(|seen| is_a_holder(seen, pid)) else {
            return Ok(Err(format!("there is no process {pid}")));
        };
        let half = self.aging.half();
        let until = now.plus(span.max(half.saturating_mul(LONG_PAST))).plus(MORE);
        let super::Describer { holders, kernel, .. } = &mut self.describer;
        let added = holders.put(&seen, now, half, kernel) && self.asked.add(pid, until);
        kernel.settle(!holders.is_empty())?;
        let full = || "as many holders are watched as there is room for: say it again later".to_owned();
        Ok(if added { Ok(()) } else { Err(full()) })
    }
}

fn is_a_holder(seen: &Seen, pid: u32) -> bool {
    seen.tgid == pid && !seen.has_ended() && !seen.kernel_thread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_asked_for_are_kept_until_their_time_is_over_and_no_more_than_there_is_room_for() {
        let at = |seconds| BootTime(0).plus(Duration::from_secs(seconds));
        let mut asked = AskedFor::default();
        for holder in 0..256 {
            assert!(asked.add(holder, at(10)));
        }
        assert!(!asked.add(256, at(10)), "there is no room");
        assert!(asked.add(7, at(20)) && asked.add(7, at(5)), "it is one of them");
        assert_eq!(asked.holders(at(9)).count(), 256);
        assert_eq!(
            asked.holders(at(15)).collect::<Vec<_>>(),
            [7],
            "as long as whoever asked for the longest time"
        );
        assert!(asked.add(256, at(20)));
    }
}
