//! Forks that the hook on the clone path saw refused, and which limit it was that refused them.
//!
//! The kernel's answer is EAGAIN whichever it was. So each limit is looked at right then, in the order in which the kernel asks them
//! where what is known of one is certain: RLIMIT_NPROC, which the hook has read as the fork returned; `pids.max`, whose count of
//! refused forks has grown; then those of which the use is read a moment later. Where none is full, or
//! one could not be looked at, that is said.
//!
//! The same forks make `pids.events` grow, which is notified, too. Each is told once: what is seen there waits for the hook to claim
//! it, and is told as such only where the hook does not: because it has left it to that (a fork into another cgroup, by fexit), or not
//! seen it (a kretprobe that had no place left).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use reaper_ebpf::refused::{KEPT, Who};

use super::{
    files::{CgroupPath, Node, upwards},
    limit::Limit,
    refusal::{Refusal, Source},
    refusals::{Refusals, Unwatched},
};
use crate::{identity::Identity, kernel::INITIAL_PID_NAMESPACE, text::Untrusted};

/// So many pids the kernel gives nobody again once it has come to the end of all for the first time.
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/pid.c#L206> (`RESERVED_PIDS`)
const RESERVED_PIDS: u64 = 300;

/// For so long the hook may claim what `pids.events` says: it counts what follows a second later.
pub(super) const CLAIMED: Duration = Duration::from_secs(3);

/// What comes within this ages together.
const TOGETHER: Duration = Duration::from_millis(100);

/// What follows a refusal unseen is taken for one by the same limit for so long: the hook announces one a second.
const FOLLOWS: Duration = Duration::from_secs(3);

/// Somebody's forks that were refused, as the hook has it: who tried, and what the kernel knew of limits then.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Whose are counted together.
    pub who: Who,
    /// Which hook.
    pub source: Source,
    /// Who tried last; `None` where that was not announced.
    pub forker: Option<Forker>,
    /// Its cgroup; `None` where that is not known.
    pub cgroup: Option<CgroupPath>,
    /// Its real user id.
    pub uid: u32,
    /// Tasks of that user.
    pub processes: u64,
    /// Its RLIMIT_NPROC; `None` where there is none that holds for it.
    pub nproc: Option<u64>,
    /// The inode number of the pid namespace that its children are born in.
    pub pid_ns: u32,
    /// Pids in use there.
    pub pids: u64,
    /// How many those may be, where the namespace has a number of its own.
    pub pid_max: Option<u64>,
    /// How many since it was last counted.
    pub count: u64,
    /// Whether one of those is what was seen; else they came after it.
    pub fresh: bool,
}

/// Who tried to fork.
#[derive(Clone, Debug, PartialEq)]
pub struct Forker {
    /// The process.
    pub identity: Identity,
    /// The thread's name.
    pub comm: Untrusted,
}

/// Which limit refused a fork.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// `pids.max` of one of [`Refusal::levels`].
    PidsMax,
    /// Another one: how much it is, and how much of it was used.
    Other(Limit, u64, u64),
    /// None was full.
    Unknown,
    /// None of those that could be looked at, and one could not.
    Unread,
}

/// What `pids.events` says and nobody has claimed.
#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    /// By the cgroup that counts them, the oldest first: when, and how many with what was seen then.
    waiting: HashMap<CgroupPath, VecDeque<(Instant, Refusal)>>,
    /// By which limit somebody was refused last, and when.
    last: HashMap<Who, (Instant, Refusal)>,
}

impl Unclaimed {
    /// Some more.
    pub(super) fn put(&mut self, refusal: Refusal, now: Instant) {
        let parts = self.waiting.entry(Arc::clone(&refusal.path)).or_default();
        match parts.back_mut() {
            Some((since, part)) if now.saturating_duration_since(*since) < TOGETHER => {
                *part = Refusal { count: part.count + refusal.count, ..refusal };
            }
            _ => parts.push_back((now, refusal)),
        }
    }

    /// When something has waited for long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|parts| parts.front()).map(|(since, _)| *since + CLAIMED).min()
    }

    /// What has.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Refusal> {
        self.give_up(|since| now.saturating_duration_since(since) >= CLAIMED)
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> Vec<Refusal> {
        self.give_up(|_| true)
    }

    /// What nobody is to claim any more, the oldest parts only.
    fn give_up(&mut self, is_over: impl Fn(Instant) -> bool) -> Vec<Refusal> {
        let mut over = Vec::new();
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
        over
    }

    /// What of it is in a cgroup, the oldest first and so many at most.
    fn take(&mut self, path: &[u8], most: u64) -> Option<Refusal> {
        let parts = self.waiting.get_mut(path)?;
        let latest = parts.back()?.1.clone();
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
        if parts.is_empty() {
            self.waiting.remove(path);
        }
        Some(Refusal { count: most - left, ..latest })
    }

    /// Keeps by which limit somebody was refused, for what follows unseen; or says it.
    fn remember(&mut self, attempt: &Attempt, refusal: Refusal, now: Instant) -> Refusal {
        if matches!(refusal.found, Found::Unknown | Found::Unread) {
            let follows = |(when, _): &&(Instant, Refusal)| {
                !attempt.fresh && now.saturating_duration_since(*when) < FOLLOWS
            };
            if let Some((_, last)) = self.last.get(&attempt.who).filter(follows) {
                let Refusal { path, at_limit, levels, found, .. } = last.clone();
                return Refusal { path, at_limit, levels, found, ..refusal };
            }
            // What follows this one is as little known.
            self.last.remove(&attempt.who);
            return refusal;
        }
        if self.last.len() >= KEPT as usize
            && let Some(any) = self.last.keys().next().copied()
        {
            self.last.remove(&any);
        }
        self.last.insert(attempt.who, (now, refusal.clone()));
        refusal
    }
}

impl Attempt {
    /// So many of them, refused by this.
    fn refusal(&self, found: Found, count: u64) -> Refusal {
        Refusal {
            path: self.cgroup.clone().unwrap_or_else(|| Arc::from(&b""[..])),
            at_limit: false,
            forker: self.cgroup.clone(),
            count,
            source: self.source,
            levels: Vec::new(),
            found,
            who: self.forker.clone(),
        }
    }
}

impl Refusals {
    /// Finds out which limits refused somebody's forks: as many as `pids.max` has counted are its own, the rest another one's.
    pub(super) fn attempted(&mut self, attempt: &Attempt, now: Instant) -> Vec<Refusal> {
        let user = attempt.nproc.filter(|limit| attempt.processes >= *limit);
        let user = user.map(|limit| Found::Other(Limit::Nproc(attempt.uid), limit, attempt.processes));
        let mut told = Vec::new();
        // The kernel asks it first. Of those that follow, what the hook has read then says less than a count that has grown.
        let (rest, is_seen) = match &user {
            Some(_) if attempt.fresh => (attempt.count, true),
            _ => self.claim(attempt, now, &mut told),
        };
        if rest > 0 {
            let node = || match self.node().map(|node| of_node(attempt, node)) {
                None => Found::Unread,
                Some(Found::Unknown) if !is_seen => Found::Unread,
                Some(found) => found,
            };
            let found = user.unwrap_or_else(node);
            told.push(attempt.refusal(found, rest));
        }
        told.into_iter().map(|refusal| self.unclaimed().remember(attempt, refusal, now)).collect()
    }

    /// What the counts of refused forks say of its cgroup and those around it. How many are left, and whether each of those cgroups
    /// could be looked at.
    fn claim(&mut self, attempt: &Attempt, now: Instant, told: &mut Vec<Refusal>) -> (u64, bool) {
        let Some(path) = attempt.cgroup.clone() else { return (attempt.count, false) };
        let (mut left, mut is_seen) = (attempt.count, true);
        for level in upwards(&path) {
            if left == 0 {
                break;
            }
            let of = |claimed: Refusal| {
                let Refusal { path, at_limit, levels, count, .. } = claimed;
                Refusal { path, at_limit, levels, ..attempt.refusal(Found::PidsMax, count) }
            };
            if !self.count_again(level, now) {
                match self.look_at(level) {
                    Unwatched::Full(full) => {
                        let path = Arc::clone(&full.path);
                        let found = attempt.refusal(Found::PidsMax, std::mem::take(&mut left));
                        told.push(Refusal { path, at_limit: true, levels: vec![full], ..found });
                    }
                    Unwatched::Unlimited => {}
                    Unwatched::Unread => is_seen = false,
                }
            } else if let Some(claimed) = self.unclaimed().take(level, left) {
                left -= claimed.count;
                told.push(of(claimed));
            }
        }
        (left, is_seen)
    }
}

/// Which limit of the node, or of the pid namespace, is full.
fn of_node(attempt: &Attempt, node: Node) -> Found {
    let Node { pid_max, threads_max, tasks } = node;
    if tasks >= threads_max {
        return Found::Other(Limit::ThreadsMax, threads_max, tasks);
    }
    let is_full = |used: u64, max: u64| used + RESERVED_PIDS >= max;
    match attempt.pid_max {
        Some(max) if attempt.pid_ns != INITIAL_PID_NAMESPACE && is_full(attempt.pids, max) => {
            Found::Other(Limit::PidMaxOf(attempt.pid_ns), max, attempt.pids)
        }
        // Every pid is one of the initial namespace, too.
        _ if is_full(tasks.max(attempt.pids), pid_max) => {
            Found::Other(Limit::PidMax, pid_max, tasks.max(attempt.pids))
        }
        _ => Found::Unknown,
    }
}

#[cfg(test)]
mod tests;
