//! Forks that the hook on the clone path saw refused, and which limit it was that refused them.
//!
//! The kernel's answer is EAGAIN whichever it was. So each limit is looked at right then, in the order in which the kernel asks them
//! where what is known of one is certain: RLIMIT_NPROC, which the hook has read in that very moment; `pids.max`, whose count of
//! refused forks has grown; then those of which the use is read a moment later. Where none is full it is said not to be known.
//!
//! The same forks make `pids.events` grow, which is notified, too. Each is told once: what is seen there waits for the hook to claim
//! it, and is told as such only where the hook does not, because it has not seen it (a fork into another cgroup, one of the kernel's
//! own, a kretprobe that had no place left).

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use reaper_ebpf::refused::{KEPT, Who};

use super::{
    files::{CgroupPath, Node, upwards},
    limit::Limit,
    refusal::{Refusal, Source},
    refusals::Refusals,
};
use crate::{identity::Identity, kernel::INITIAL_PID_NAMESPACE, text::Untrusted};

/// So many pids the kernel gives nobody again once it has come to the end of all for the first time.
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/pid.c#L206> (`RESERVED_PIDS`)
const RESERVED_PIDS: u64 = 300;

/// For so long the hook may claim what `pids.events` says: it counts what follows a second later.
const CLAIMED: Duration = Duration::from_secs(3);

/// Somebody's forks that were refused, as the hook has it: who tried, and what the kernel knew of limits then.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Whose are counted together.
    pub who: Who,
    /// Which hook.
    pub source: Source,
    /// Who tried last.
    pub forker: Forker,
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
}

/// What `pids.events` says and nobody has claimed.
#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    /// By the cgroup that counts them: since when, and the latest.
    waiting: HashMap<CgroupPath, (Instant, Refusal)>,
    /// By which limit somebody was refused last.
    last: HashMap<Who, Refusal>,
}

impl Unclaimed {
    /// Some more.
    pub(super) fn put(&mut self, refusal: Refusal, now: Instant) {
        let path = Arc::clone(&refusal.path);
        let (since, before) =
            self.waiting.get(&path).map_or((now, 0), |(since, known)| (*since, known.count));
        let count = before + refusal.count;
        self.waiting.insert(path, (since, Refusal { count, ..refusal }));
    }

    /// When something has waited for long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|(since, _)| *since + CLAIMED).min()
    }

    /// What has.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Refusal> {
        let expired = self.waiting.extract_if(|_, (since, _)| now.duration_since(*since) >= CLAIMED);
        expired.map(|(_, (_, refusal))| refusal).collect()
    }

    /// What of it is in a cgroup, so many at most.
    fn take(&mut self, path: &[u8], count: u64) -> Option<Refusal> {
        let (_, waiting) = self.waiting.get_mut(path)?;
        let refusal = waiting.clone();
        waiting.count = waiting.count.saturating_sub(count);
        if waiting.count == 0 {
            self.waiting.remove(path);
        }
        Some(refusal)
    }

    /// Keeps by which limit somebody was refused, for what follows unseen; or says it.
    fn remember(&mut self, attempt: &Attempt, refusal: Refusal) -> Refusal {
        if refusal.found == Found::Unknown {
            let last = self.last.get(&attempt.who).filter(|_| !attempt.fresh);
            return last
                .map_or_else(|| refusal.clone(), |last| Refusal { count: refusal.count, ..last.clone() });
        }
        if self.last.len() >= KEPT as usize
            && let Some(any) = self.last.keys().next().copied()
        {
            self.last.remove(&any);
        }
        self.last.insert(attempt.who, refusal.clone());
        refusal
    }
}

impl Refusals {
    /// Finds out which limit refused somebody's forks.
    pub(super) fn attempted(&mut self, attempt: &Attempt, now: Instant) -> Refusal {
        let other = |found| Refusal {
            path: attempt.cgroup.clone().unwrap_or_else(|| Arc::from(&b""[..])),
            at_limit: false,
            forker: attempt.cgroup.clone(),
            count: attempt.count,
            source: attempt.source,
            levels: Vec::new(),
            found,
            who: Some(attempt.forker.clone()),
        };
        let refusal = if let Some(limit) = attempt.nproc.filter(|limit| attempt.processes >= *limit) {
            other(Found::Other(Limit::Nproc(attempt.uid), limit, attempt.processes))
        } else if let Some(claimed) = self.claim(attempt, now) {
            let Refusal { path, at_limit, levels, .. } = claimed;
            Refusal { path, at_limit, levels, ..other(Found::PidsMax) }
        } else {
            other(self.node().map_or(Found::Unknown, |node| of_node(attempt, node)))
        };
        self.unclaimed().remember(attempt, refusal)
    }

    /// What the counts of refused forks say of its cgroup and those around it.
    fn claim(&mut self, attempt: &Attempt, now: Instant) -> Option<Refusal> {
        let path = attempt.cgroup.clone()?;
        upwards(&path).find_map(|level| {
            self.count_again(level, now);
            self.unclaimed().take(level, attempt.count)
        })
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
