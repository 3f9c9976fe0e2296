//! Holders on probation: observed from half the threshold on, so that the report can say what they waited for.

use std::{collections::HashMap, time::Duration};

use crate::{
    cause::Look,
    identity::BootTime,
    kernel::Kernel,
    policy::ReapTimes,
    proc::{Seen, ticks},
    zombie::Waits,
};

/// Those that are watched, by tgid.
#[derive(Debug, Default)]
pub(super) struct Holders {
    watched: HashMap<u32, Holder>,
}

/// A holder on probation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    start_ticks: u64,
    since: BootTime,
    /// When a child of it was last found unwaited at half the threshold.
    needed: BootTime,
    look: Look,
    /// The longest time that it took to wait for a child, as far as it was seen; what is quicker than half the age is not.
    longest: Duration,
}

impl Holder {
    /// How it was when it was last looked at on probation.
    pub(super) const fn look(&self) -> Look {
        self.look
    }

    /// How long it takes to wait for its children.
    pub(super) fn reap_times(&self, now: BootTime) -> ReapTimes {
        ReapTimes { watched: now.since(self.since), longest: self.longest }
    }

    /// What it was seen waiting for.
    pub(super) fn waits(&self, tgid: u32, now: BootTime, kernel: &Kernel) -> Option<Waits> {
        let profile = kernel.waits(tgid)?;
        let called = profile.any + profile.one > 0;
        Some(Waits {
            watched: now.since(self.since),
            any: profile.any,
            one: profile.one,
            last_ago: called.then(|| now.since(BootTime(profile.last))),
            last_number: (profile.one > 0).then_some(profile.last_number),
        })
    }
}

impl Holders {
    /// Puts a holder on probation, or keeps it there. False where there was no room for it.
    ///
    /// `blind` is how quickly it can wait for a child without being seen to.
    pub(super) fn put(&mut self, seen: &Seen, now: BootTime, blind: Duration, kernel: &mut Kernel) -> bool {
        let Seen { tgid, start_ticks, .. } = *seen;
        let look = Look::at(seen);
        if let Some(holder) = self.watched.get_mut(&tgid).filter(|holder| holder.start_ticks == start_ticks) {
            holder.needed = now;
            holder.look = look;
            holder.longest = holder.longest.max(blind);
            return true;
        }
        let right = |start| ticks(BootTime(start)) == start_ticks;
        let known = kernel.process(tgid, right).ok().flatten();
        let start = known.map_or(0, |record| record.start);
        let watched = kernel.watch(tgid, start);
        if watched {
            self.watched.insert(tgid, Holder { start_ticks, since: now, needed: now, look, longest: blind });
        }
        watched
    }

    /// The holder with this pid, if it is the one that was seen.
    pub(super) fn get(&self, tgid: u32, seen: Option<&Seen>) -> Option<&Holder> {
        self.watched
            .get(&tgid)
            .filter(|holder| seen.is_none_or(|seen| seen.start_ticks == holder.start_ticks))
    }

    /// It has waited for a child that had stood for `time`.
    pub(super) fn waited(&mut self, tgid: u32, time: Duration) {
        if let Some(holder) = self.watched.get_mut(&tgid) {
            holder.longest = holder.longest.max(time);
        }
    }

    /// Keeps one on probation, if it is: a remedy for a zombie of it is pending.
    pub(super) fn keep(&mut self, tgid: u32, now: BootTime) {
        if let Some(holder) = self.watched.get_mut(&tgid) {
            holder.needed = now;
        }
    }

    /// Ends the probation of those that had no unwaited child for `keep`.
    pub(super) fn expire(&mut self, now: BootTime, keep: Duration, kernel: &mut Kernel) {
        self.watched.retain(|tgid, holder| {
            let wanted = now.since(holder.needed) <= keep;
            if !wanted {
                kernel.unwatch(*tgid);
            }
            wanted
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }
}
