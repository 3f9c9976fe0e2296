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
    files::{CgroupPath, Node, upwards},
    limit::Limit,
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
        let is_elsewhere = attempt.who.elsewhere != 0;
        let user = attempt.nproc.filter(|limit| attempt.processes >= *limit);
        let user = user.map(|limit| Found::Other(Limit::Nproc(attempt.uid), limit, attempt.processes));
        let is_users = user.is_some();
        let mut told = Vec::new();
        // The kernel asks it first. Of those that follow, what the hook has read then says less than a count that has grown.
        let (rest, is_seen) = match &user {
            Some(_) if attempt.fresh => (attempt.count, true),
            _ if is_elsewhere => (attempt.count, false),
            _ => self.claim(attempt, now, &mut told),
        };
        if rest > 0 {
            let node = || match self.node().map(|node| of_node(attempt, node)) {
                None => Found::Unread,
                Some(Found::Unknown) if !is_seen || attempt.unread => Found::Unread,
                Some(found) => found,
            };
            let found = user.unwrap_or_else(node);
            told.push(attempt.refusal(found, rest));
        }
        // A kretprobe does not see where the child was to be born. Version 1 knows no such forks.
        let is_blind = attempt.source == Source::Kretprobe && self.files().hierarchy() == Hierarchy::V2;
        let unclaimed = self.unclaimed();
        told.retain_mut(|refusal| {
            unclaimed.remember(attempt, refusal, now);
            let is_known = !matches!(refusal.found, Found::Unknown | Found::Unread);
            let is_held = is_elsewhere && !is_users || is_blind && !is_known;
            if is_held {
                unclaimed.hold(refusal.clone(), now);
            }
            !is_held
        });
        told
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
            } else if let Some(claimed) = self.unclaimed().claim(level, left) {
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
