//! Forks that the hook on the clone path saw refused, and which limit it was that refused them.
//!
//! The kernel's answer is EAGAIN whichever it was. So each limit is looked at right then, in the order in which the kernel asks them
//! where what is known of one is certain: RLIMIT_NPROC, which the hook has read as the fork returned; `pids.max`, whose count of
//! refused forks has grown; then those of which the use is read a moment later. Where none is full, or
//! one could not be looked at, that is said.
//!
//! The same forks make `pids.events` grow, which is notified, too. Each is told once: see [`Unclaimed`].
//!
//! [`Unclaimed`]: super::unclaimed::Unclaimed

use std::{sync::Arc, time::Instant};

use reaper_ebpf::refused::Who;

use super::{
    files::{CgroupPath, Node},
    limit::Limit,
    nested::{INNERMOST, skipped, upwards},
    refusal::{Refusal, Source},
    refusals::{Refusals, Unwatched},
};
use crate::{identity::Identity, kernel::INITIAL_PID_NAMESPACE, text::Untrusted, workload::Hierarchy};

/// So many pids the kernel gives nobody again once it has come to the end of all for the first time.
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/pid.c#L206> (`RESERVED_PIDS`)
const RESERVED_PIDS: u64 = 300;

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
    /// Other limits may hold that nobody has read: those around a user namespace, and its user's where nothing was announced.
    pub unread: bool,
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

impl Found {
    /// Whether it is one.
    pub(super) const fn is_known(&self) -> bool {
        matches!(self, Self::PidsMax | Self::Other(..))
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
    /// Finds out which limits refused somebody's forks: as many as `pids.max` has counted are its own, the rest another one's. Where that
    /// may have been the `pids.max` of another cgroup it is not said here, but when that one would have said so.
    pub(super) fn attempted(&mut self, attempt: &Attempt, now: Instant) -> Vec<Refusal> {
        self.receive(attempt.count);
        let is_elsewhere = attempt.who.elsewhere != 0;
        let user = attempt.nproc.filter(|limit| attempt.processes >= *limit);
        // What was announced has been read but for what is around its user namespace.
        let whose = if attempt.unread { Limit::NprocWithin } else { Limit::Nproc };
        let user = user.map(|limit| Found::Other(whose(attempt.uid), limit, attempt.processes));
        // The kernel asks it first. But only of the one that was announced it is known that it was full then; of the others a count
        // that has grown says more.
        let certain = if attempt.fresh && user.is_some() { attempt.count.min(1) } else { 0 };
        let (mut told, mut rest) = (Vec::new(), attempt.count - certain);
        let mut is_seen = false;
        if !is_elsewhere {
            (rest, is_seen) = self.claim(attempt, rest, user.is_some(), now, &mut told);
        }
        // A kretprobe does not see where the child was to be born. Version 1 knows no such forks.
        let is_blind = attempt.source == Source::Kretprobe && self.files().hierarchy() == Hierarchy::V2;
        for claimed in &mut told {
            self.unclaimed().remember(attempt, claimed, now);
        }
        if certain + rest == 0 {
            return told;
        }
        let found = user.unwrap_or_else(|| self.found_beyond(attempt, is_seen, now));
        let mut other = attempt.refusal(found, certain + rest);
        self.unclaimed().remember(attempt, &mut other, now);
        // Nor is a level looked at that lies deep between others: that is watched as all are, and says so itself.
        let is_deep = attempt.cgroup.as_ref().is_some_and(|path| skipped(path) > 0);
        let is_held = is_elsewhere || (is_blind || is_deep) && !other.found.is_known();
        if is_held && rest > 0 {
            self.unclaimed().hold(Refusal { count: rest, ..other.clone() }, now);
        }
        other.count = if is_held { certain } else { certain + rest };
        told.extend((other.count > 0).then_some(other));
        told
    }

    /// Which limit it may have been beside the user's and `pids.max`. `is_seen` says that the counts of the latter were all looked at.
    fn found_beyond(&mut self, attempt: &Attempt, is_seen: bool, now: Instant) -> Found {
        let is_seen = is_seen && !attempt.unread && self.knows_since(now);
        match self.node().map(|node| of_node(attempt, node)) {
            None => Found::Unread,
            Some(Found::Unknown) if !is_seen => Found::Unread,
            Some(found) => found,
        }
    }

    /// What the counts of refused forks say of its cgroup and those around it: so many of them at most. How many are left, and whether
    /// each of those cgroups could be looked at. Where it is known which limit it was otherwise, only counts that have grown say more.
    fn claim(
        &mut self,
        attempt: &Attempt,
        most: u64,
        is_known: bool,
        now: Instant,
        told: &mut Vec<Refusal>,
    ) -> (u64, bool) {
        let Some(path) = attempt.cgroup.clone() else { return (most, false) };
        let (mut left, mut is_seen) = (most, true);
        let is_deep = skipped(&path) > 0;
        for (number, level) in upwards(&path).enumerate() {
            if left == 0 {
                break;
            }
            // Beyond those that are not looked at only a count says whose limit it was: one of them may have been full, too.
            let is_beyond = is_deep && number >= INNERMOST;
            is_seen &= !is_beyond;
            let of = |claimed: Refusal| {
                let Refusal { path, at_limit, levels, count, .. } = claimed;
                Refusal { path, at_limit, levels, ..attempt.refusal(Found::PidsMax, count) }
            };
            if self.count_again(level, now) {
                if let Some(claimed) = self.unclaimed().claim(level, left) {
                    left -= claimed.count;
                    told.push(of(claimed));
                }
                continue;
            }
            if is_known || is_beyond {
                continue;
            }
            match self.look_at(level, now) {
                Unwatched::Full(full) => {
                    let path = Arc::clone(&full.path);
                    let found = attempt.refusal(Found::PidsMax, std::mem::take(&mut left));
                    told.push(Refusal { path, at_limit: true, levels: vec![full], ..found });
                }
                Unwatched::Unlimited => {}
                Unwatched::Unread => is_seen = false,
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
    // Of pids below that it is not known how many are used; where another limit may hold as well, that is no evidence.
    let reserved = if attempt.unread { 0 } else { RESERVED_PIDS };
    let is_full = |used: u64, max: u64| used + reserved >= max;
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
