//! Holders on probation: observed from half the threshold on, so that the report can say what they waited for.

use std::{collections::HashMap, time::Duration};

use reaper_ebpf::WaitProfile;
use rustix::{
    io::Errno,
    process::{Pid, test_kill_process, test_kill_process_group},
};

use crate::{
    cause::Look,
    identity::BootTime,
    kernel::Kernel,
    policy::ReapTimes,
    proc::{Seen, ticks},
    zombie::{Asked, Waits},
};

/// So many more numbers, and those that are nobody's any more are forgotten: a quarter of what there is room for.
const PRUNED_AFTER: u32 = 2_048;

/// Those that are watched, by tgid.
#[derive(Debug, Default)]
pub(super) struct Holders {
    watched: HashMap<u32, Holder>,
    /// How many numbers had been asked for when those that are nobody's were last forgotten.
    pruned_at: u32,
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
    /// Calls whose number found no room, as far as that has been seen,
    lost: u64,
    /// and when it was: what was there by then may have been asked for.
    unclear: Option<BootTime>,
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

    /// What it was seen waiting for, and whether for this zombie of it.
    pub(super) fn waits(&self, tgid: u32, zombie: Numbers, now: BootTime, kernel: &Kernel) -> Option<Waits> {
        let profile = kernel.waits(tgid)?;
        // What was lost before it was there was not about it.
        let unclear = profile.lost > self.lost || self.unclear.is_some_and(|until| zombie.start <= until);
        let seen = waits(tgid, &profile, zombie, unclear, now.since(self.since), now, kernel);
        Some(Waits { longest: Some(self.longest), ..seen })
    }
}

/// The numbers by which a zombie can be asked for, and since when they are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Its pid in the initial pid namespace.
    pub(crate) pid: u32,
    /// Its process group there.
    pub(crate) group: u32,
    /// When it started.
    pub(crate) start: BootTime,
}

/// What a holder's profile says of one zombie of it.
pub(crate) fn waits(
    holder: u32,
    profile: &WaitProfile,
    zombie: Numbers,
    unclear: bool,
    watched: Duration,
    now: BootTime,
    kernel: &Kernel,
) -> Waits {
    let called = profile.any + profile.one > 0;
    // A number that was asked for before the zombie was there was somebody else's.
    let is_its = |asked: u64| BootTime(asked) >= zombie.start;
    let by_pid = is_its(kernel.awaited(holder, zombie.pid).as_pid).then_some(zombie.pid);
    let asked_for =
        by_pid.or_else(|| is_its(kernel.awaited(holder, zombie.group).as_group).then_some(zombie.group));
    Waits {
        watched,
        any: profile.any,
        one: profile.one,
        last_ago: called.then(|| now.since(BootTime(profile.last))),
        last_number: (profile.one > 0).then_some(profile.last_number),
        asked: match asked_for {
            Some(number) => Asked::For(number),
            None if unclear => Asked::Unclear,
            None => Asked::No,
        },
        longest: None,
    }
}

/// Whether a number may be asked for still: it is a process's, or a group's.
fn is_somebodys(number: u32) -> bool {
    let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else { return false };
    // Whatever else the kernel says, it is there.
    let exists = |asked: Result<(), Errno>| asked != Err(Errno::SRCH);
    exists(test_kill_process(pid)) || exists(test_kill_process_group(pid))
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
            self.watched.insert(
                tgid,
                Holder { start_ticks, since: now, needed: now, look, longest: blind, lost: 0, unclear: None },
            );
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
        let mut left = false;
        self.watched.retain(|tgid, holder| {
            let wanted = now.since(holder.needed) <= keep;
            if !wanted {
                left |= kernel.waits(*tgid).is_some_and(|profile| profile.numbers > 0);
                kernel.unwatch(*tgid);
            }
            wanted
        });
        if left {
            // What it has asked for goes with its probation: the room for numbers is shared by all holders.
            let watched = &self.watched;
            kernel.prune_awaited(|holder, _| watched.contains_key(&holder));
        }
    }

    /// Forgets the numbers that nobody has any more, before there is no room for others.
    pub(super) fn prune(&mut self, now: BootTime, kernel: &mut Kernel) {
        let mut entered = 0;
        for (tgid, holder) in &mut self.watched {
            let Some(profile) = kernel.waits(*tgid) else { continue };
            entered += profile.numbers;
            if profile.lost > holder.lost {
                (holder.lost, holder.unclear) = (profile.lost, Some(now));
            }
        }
        // A call that was under way when a probation ended may have left some as well.
        if entered.abs_diff(self.pruned_at) > PRUNED_AFTER {
            let watched = &self.watched;
            kernel.prune_awaited(|holder, number| watched.contains_key(&holder) && is_somebodys(number));
            self.pruned_at = entered;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }
}
