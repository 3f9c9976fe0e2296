//! What is known of refused forks twice, and is told once.
//!
//! What `pids.events` counts waits for the hook to claim it, and is told as such where the hook does not: because it has not seen it (a
//! kretprobe that had no place left), or cannot know that it is the same one. That is so where the child was to be born in another
//! cgroup (CLONE_INTO_CGROUP): the hook sees that it was refused, and only `pids.events` whose limit it was. What the hook has seen of
//! those waits here, too, and is told only where no count has grown that nobody claimed.
//!
//! Nothing is given up by the clock alone, for who hands over what the hook has counted may be late, and then it would be told twice. What
//! has waited for long enough has that asked for, and what is left when all was handed over is given up.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use reaper_ebpf::refused::{KEPT, Who};

use super::{attempts::Attempt, files::CgroupPath, refusal::Refusal};

/// All that the hook has counted by so long after `pids.events` was read is asked for: who was refused passes the hook a little later, and
/// may be kept from it by others.
pub(super) const CLAIMED: Duration = Duration::from_secs(1);

/// For so long what was refused elsewhere waits at least: until that is given up that was counted when it was.
pub(super) const HELD: Duration = Duration::from_secs(2);

/// What comes within this ages together.
const TOGETHER: Duration = Duration::from_millis(100);

/// What follows a refusal unseen is taken for one by the same limit for so long: the hook announces one a second.
pub(super) const FOLLOWS: Duration = Duration::from_secs(3);

/// What nobody has claimed.
#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    /// By the cgroup that counts them, the oldest first: when, and how many with what was seen then.
    waiting: HashMap<CgroupPath, VecDeque<(Instant, Refusal)>>,
    /// What the hook has seen that may have been refused elsewhere, the oldest first.
    held: VecDeque<(Instant, Refusal)>,
    /// By which limit somebody was refused last, and when.
    last: HashMap<Who, (Instant, Refusal)>,
    /// It was asked for what the hook has counted, and has not come yet.
    asked: bool,
}

impl Unclaimed {
    /// Some more that a cgroup has counted.
    pub(super) fn put(&mut self, refusal: Refusal, now: Instant) {
        let parts = self.waiting.entry(Arc::clone(&refusal.path)).or_default();
        match parts.back_mut() {
            Some((since, part)) if now.saturating_duration_since(*since) < TOGETHER => {
                *part = Refusal { count: part.count + refusal.count, ..refusal };
            }
            _ => parts.push_back((now, refusal)),
        }
    }

    /// What the hook has seen, and may have been refused elsewhere. There are no more at a time than the hook hands over.
    pub(super) fn hold(&mut self, refusal: Refusal, now: Instant) {
        self.held.push_back((now, refusal));
    }

    /// How many wait that the hook has seen.
    pub(super) fn held(&self) -> u64 {
        self.held.iter().map(|(_, refusal)| refusal.count).sum()
    }

    /// When what the hook has counted is to be asked for.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting = self.waiting.values().filter_map(|parts| parts.front());
        let held = self.held.front().map(|(since, _)| *since + HELD);
        let due = waiting.map(|(since, _)| *since + CLAIMED).chain(held).min();
        due.filter(|_| !self.asked)
    }

    /// Whether that is now. Then it is taken for asked.
    pub(super) fn asks(&mut self, now: Instant) -> bool {
        let asks = self.due().is_some_and(|due| due <= now);
        self.asked |= asks;
        asks
    }

    /// All that the hook had counted until then was handed over: what has waited for long enough by that moment is given up.
    pub(super) fn handed_over(&mut self, until: Instant) -> Vec<Refusal> {
        self.asked = false;
        let is_older = |since: Instant, than: Duration| until.saturating_duration_since(since) >= than;
        self.give_up(|since| is_older(since, CLAIMED), |since| is_older(since, HELD))
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> Vec<Refusal> {
        self.give_up(|_| true, |_| true)
    }

    /// What nobody is to claim any more, and what no count has said; the oldest parts only.
    fn give_up(
        &mut self,
        is_over: impl Fn(Instant) -> bool,
        is_held_long: impl Fn(Instant) -> bool,
    ) -> Vec<Refusal> {
        let mut over: Vec<Refusal> = Vec::new();
        self.waiting.retain(|_, parts| {
            let mut count = 0;
            while let Some((_, part)) = parts.pop_front_if(|(since, _)| is_over(*since)) {
                count += part.count;
                if parts.front().is_none_or(|(since, _)| !is_over(*since)) {
                    over.push(Refusal { count, ..part });
                }
            }
            !parts.is_empty()
        });
        // These are the ones that were seen elsewhere.
        take(&mut self.held, over.iter().map(|refusal| refusal.count).sum());
        while let Some((_, seen)) = self.held.pop_front_if(|(since, _)| is_held_long(*since)) {
            over.push(seen);
        }
        over
    }

    /// What of it a cgroup has counted, so many at most, for the hook.
    pub(super) fn claim(&mut self, path: &[u8], most: u64) -> Option<Refusal> {
        let parts = self.waiting.get_mut(path)?;
        let latest = parts.back()?.1.clone();
        let taken = take(parts, most);
        if parts.is_empty() {
            self.waiting.remove(path);
        }
        Some(Refusal { count: taken, ..latest })
    }

    /// Keeps by which limit somebody was refused, for what follows unseen; or says it.
    pub(super) fn remember(&mut self, attempt: &Attempt, refusal: &mut Refusal, now: Instant) {
        if !refusal.found.is_known() {
            let follows = |(when, _): &&(Instant, Refusal)| {
                !attempt.fresh && now.saturating_duration_since(*when) < FOLLOWS
            };
            if let Some((_, last)) = self.last.get(&attempt.who).filter(follows) {
                let Refusal { path, at_limit, levels, found, .. } = last.clone();
                *refusal = Refusal { path, at_limit, levels, found, ..refusal.clone() };
            } else {
                // What follows this one is as little known.
                self.last.remove(&attempt.who);
            }
            return;
        }
        if self.last.len() >= KEPT as usize
            && let Some(any) = self.last.keys().next().copied()
        {
            self.last.remove(&any);
        }
        self.last.insert(attempt.who, (now, refusal.clone()));
    }
}

/// Takes so many of them, the oldest first, and says how many there were.
fn take(parts: &mut VecDeque<(Instant, Refusal)>, most: u64) -> u64 {
    let mut left = most;
    while left > 0
        && let Some((_, oldest)) = parts.front_mut()
    {
        let taken = oldest.count.min(left);
        (oldest.count, left) = (oldest.count - taken, left - taken);
        if oldest.count == 0 {
            parts.pop_front();
        }
    }
    most - left
}
