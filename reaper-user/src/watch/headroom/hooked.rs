//! How much of what the hook on the clone path has counted was handed over to the thread that finds out which limit it was, and how
//! much of that was told of.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use reaper_ebpf::refused::{APART, KEPT, Who};

use crate::{
    headroom::{Attempt, CgroupPath, Source},
    identity::BootTime,
    kernel::{Kernel, RefusalHook, boot_now},
};

/// What follows an announcement is counted when the next one may have come.
const AGAIN: Duration = Duration::from_nanos(APART).saturating_add(Duration::from_millis(20));

/// When it is tried again where the thread is behind.
const BEHIND: Duration = Duration::from_millis(100);

/// The kernel's counts are gone through as often, for those whose announcement was lost or had no room, and those that are over.
const WALK: Duration = Duration::from_secs(10);

/// Of whom none was refused for so long is forgotten, once there are some.
const QUIET: Duration = Duration::from_secs(60);
const SOME: usize = KEPT as usize / 4;

/// What the kernel side has counted.
pub(super) trait Counts {
    /// Of one, since the hook is attached.
    fn of(&self, who: Who) -> u64;
    /// Whose there are.
    fn all(&self) -> Vec<Who>;
    /// Makes room.
    fn forget(&mut self, who: Who);
}

impl Counts for Kernel {
    fn of(&self, who: Who) -> u64 {
        self.refused(who)
    }

    fn all(&self) -> Vec<Who> {
        self.refused_of()
    }

    fn forget(&mut self, who: Who) {
        self.forget_refused(who);
    }
}

/// One whose forks are counted together.
#[derive(Debug)]
struct Known {
    /// How many were handed over.
    count: u64,
    /// Who tried last.
    attempt: Attempt,
    /// When it is looked whether there are more.
    again: Option<Instant>,
    /// There are more, for which the thread had no room.
    behind: bool,
    /// When there last were.
    at: Instant,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Hooked {
    pub(super) source: Option<Source>,
    /// What was announced before is an earlier daemon's, which told of it when it ended.
    pub(super) since: BootTime,
    known: HashMap<Who, Known>,
    walk: Instant,
    /// The thread waits to hear that all is handed over which is counted now,
    wanted: bool,
    /// or was counted at that moment; and when it is told.
    owed: Option<(Instant, Instant)>,
    /// How many the thread was given in all,
    given: u64,
    /// and how many of those it has said something of.
    pub(super) settled: u64,
    /// How many are counted as lost instead.
    lost: u64,
}

impl Hooked {
    pub(super) fn by(hook: &RefusalHook) -> Self {
        let source = match hook {
            RefusalHook::Fexit => Some(Source::Fexit),
            RefusalHook::Kretprobe { .. } => Some(Source::Kretprobe),
            RefusalHook::None { .. } | RefusalHook::Off => None,
        };
        Self {
            source,
            since: boot_now(),
            known: HashMap::new(),
            walk: Instant::now() + WALK,
            wanted: false,
            owed: None,
            given: 0,
            settled: 0,
            lost: 0,
        }
    }

    /// Whether there is a hook.
    pub(super) const fn is_there(&self) -> bool {
        self.source.is_some()
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let walk = self.source.map(|_| self.walk);
        let owed = self.owed.map(|(_, when)| when);
        self.known.values().filter_map(|known| known.again).chain(walk).chain(owed).min()
    }

    /// One was refused and announced.
    pub(super) fn announced(&mut self, attempt: Attempt, now: Instant) {
        let who = attempt.who;
        let known = match self.known.remove(&who) {
            // Each CPU announces one a second: that is one look a second all the same.
            Some(known) if now.saturating_duration_since(known.at) < AGAIN => {
                Known { attempt, again: known.again.or(Some(now)), ..known }
            }
            before => {
                let (count, behind) = before.map_or((0, false), |known| (known.count, known.behind));
                Known { count, attempt, again: Some(now), behind, at: now }
            }
        };
        self.known.insert(who, known);
    }

    /// The thread wants to hear when it was given all that is counted now.
    pub(super) const fn want(&mut self, now: Instant) {
        self.wanted = true;
        self.walk = now;
    }

    /// Whether the kernel's counts are to be gone through.
    pub(super) fn walks(&self, now: Instant) -> bool {
        self.is_there() && now >= self.walk
    }

    /// Goes through the kernel's counts: whatever has grown is handed over now. Those are returned that have not been met.
    pub(super) fn walk(&mut self, counts: &impl Counts, now: Instant) -> Vec<Who> {
        self.walk = now + WALK;
        if std::mem::take(&mut self.wanted) {
            self.owed = Some((now, now));
        }
        let mut all = counts.all();
        all.retain(|who| match self.known.get_mut(who) {
            Some(known) => {
                if counts.of(*who) > known.count {
                    known.again = Some(now);
                }
                false
            }
            None => true,
        });
        all
    }

    /// One of those that the walk has found.
    pub(super) fn meet(&mut self, attempt: Attempt, now: Instant) {
        let who = attempt.who;
        self.known.insert(who, Known { count: 0, attempt, again: Some(now), behind: false, at: now });
    }

    /// Hands over what was refused since that was last done. What the thread does not take it is given again.
    pub(super) fn hand_over(
        &mut self,
        counts: &impl Counts,
        now: Instant,
        mut takes: impl FnMut(Attempt) -> bool,
    ) {
        for (who, known) in &mut self.known {
            if known.again.is_none_or(|again| again > now) {
                continue;
            }
            let total = counts.of(*who);
            let new = total.saturating_sub(known.count);
            // One that was announced and not counted was counted in a place that was forgotten right then.
            let count = if total == 0 && known.attempt.fresh { 1 } else { new };
            known.behind = count > 0 && !takes(Attempt { count, ..known.attempt.clone() });
            if count == 0 {
                // What was announced was counted before, with what another CPU had announced; more of it may follow.
                known.again = known.attempt.fresh.then(|| now + AGAIN);
                known.attempt.fresh = false;
            } else if known.behind {
                known.again = Some(now + BEHIND);
            } else {
                (known.count, known.attempt.fresh) = (total, false);
                (known.again, known.at) = (Some(now + AGAIN), now);
                self.given += count;
            }
        }
    }

    /// Tells the thread, where it waits for that, until when it was given all.
    pub(super) fn acknowledge(&mut self, now: Instant, takes: impl FnOnce(Instant) -> bool) {
        if let Some((until, when)) = self.owed
            && when <= now
        {
            let is_told = !self.is_behind() && takes(until);
            self.owed = (!is_told).then_some((until, now + BEHIND));
        }
    }

    /// Whether the thread had no room for some.
    pub(super) fn is_behind(&self) -> bool {
        self.known.values().any(|known| known.behind)
    }

    /// It is tried again now to hand those over.
    pub(super) fn hurry(&mut self, now: Instant) {
        for known in self.known.values_mut().filter(|known| known.behind) {
            known.again = Some(now);
        }
    }

    /// What could not be handed over is given up, and counted by whoever calls.
    pub(super) fn give_up(&mut self, counts: &impl Counts) -> u64 {
        let left = self.known.iter().map(|(who, known)| counts.of(*who).saturating_sub(known.count));
        let left = left.sum();
        self.lost += left;
        left
    }

    /// Of how many that are counted now something was said, where so many are yet to be told.
    pub(super) fn told(&self, untold: u64) -> u64 {
        let handed_over: u64 = self.known.values().map(|known| known.count).sum();
        let under_way = self.given.saturating_sub(self.settled);
        handed_over.saturating_sub(under_way + untold) + self.lost
    }

    /// Forgets those whose cgroup is gone, and where there are some those of whom none was refused for long: the kernel side has room
    /// for a few only.
    pub(super) fn forget(
        &mut self,
        counts: &mut impl Counts,
        now: Instant,
        is_gone: impl Fn(Who, Option<&CgroupPath>) -> bool,
    ) {
        let are_some = self.known.len() >= SOME;
        self.known.retain(|who, known| {
            let is_long = || are_some && now.saturating_duration_since(known.at) >= QUIET;
            let is_quiet =
                known.again.is_none() && (is_long() || is_gone(*who, known.attempt.cgroup.as_ref()));
            // One that comes right now is announced and counted from the beginning.
            let is_over = is_quiet && counts.of(*who) == known.count;
            if is_over {
                counts.forget(*who);
            }
            !is_over
        });
    }
}

#[cfg(test)]
mod tests;
