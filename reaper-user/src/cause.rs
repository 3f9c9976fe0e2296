//! Why a zombie is still there, from what the kernel shows.

use reaper_ebpf::{Record, flag};

use crate::{
    identity::{BootTime, Identity},
    observe::Scene,
    proc::{Seen, ticks},
    zombie::{Cause, Evidence, Party, Sigchld, Waits},
};

/// What the kernel side knows about a zombie and its holder, beside its record.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The holder, where the ledger has it.
    pub holder: Option<Record>,
    /// The holder at half the threshold.
    pub at_probation: Option<Look>,
    /// The holder's wait calls while it was watched.
    pub waits: Option<Waits>,
    /// The first process of the zombie's pid namespace, where that is dead.
    pub namespace_init: Option<Identity>,
}

/// What tells a holder that is stuck from one that is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The kernel's letter for its state.
    pub state: char,
    /// How often it has been scheduled away.
    pub switches: u64,
}

impl Look {
    /// From what was seen of it.
    #[must_use]
    pub const fn at(seen: &Seen) -> Self {
        Self { state: seen.state, switches: seen.switches }
    }
}

/// Names the cause: the first that holds, in the order of [`Cause`].
#[must_use]
pub fn judge(record: &Record, scene: &Scene, facts: &Facts) -> (Cause, Evidence) {
    let parent = parent_at_fork(record);
    let holder = facts.holder.filter(|holder| holder.tgid() == scene.zombie.parent);
    let exec_since = holder.map(|holder| holder.exec_id != record.parent_exec_id);
    let tracer = scene.tracer.as_ref().filter(|tracer| tracer.pid != scene.zombie.parent);
    let namespace_init = facts.namespace_init.filter(|init| init.pid != record.tgid());
    let evidence = Evidence {
        parent_at_fork: parent,
        sigchld: sigchld(record),
        tracer: tracer.map(|tracer| party(tracer.pid, tracer.seen.as_ref(), None)),
        holder_state_at_probation: facts.at_probation.map(|look| look.state),
        // An orphan's counter compares with another process's and says nothing.
        holder_exec_since_fork: exec_since.filter(|_| parent.is_some_and(|parent| is_holder(parent, scene))),
        namespace_init,
        pid_ns: Some(record.pid_ns).filter(|pid_ns| *pid_ns != 0),
        waits: facts.waits,
    };
    let now = scene.holder.seen.as_ref().map(|(seen, _)| Look::at(seen));
    let cause = if tracer.is_some() {
        Cause::HeldByTracer
    } else if namespace_init.is_some() {
        Cause::NamespaceDying
    } else if is_stopped(now, facts.at_probation) {
        Cause::HolderStopped
    } else if is_adopted(record, scene, parent) {
        Cause::Adopted
    } else if parent.is_none() {
        // Whether it was inherited or adopted is not known, but that this program never knew it is: the kernel keeps in
        // the child the parent's exec counter at the fork, and nothing but an exec changes a process's own.
        // <https://elixir.bootlin.com/linux/v6.12/source/fs/exec.c> (`begin_new_exec`)
        if exec_since == Some(true) { Cause::Inherited } else { Cause::Unknown }
    } else if evidence.holder_exec_since_fork == Some(true) {
        Cause::Inherited
    } else if evidence.sigchld == Some(Sigchld::Coalesced) && heeds_sigchld(scene) {
        Cause::NotificationCoalesced
    } else {
        Cause::NeverWaited
    };
    (cause, evidence)
}

/// The parent when it was forked, where the fork itself was seen.
#[must_use]
pub fn parent_at_fork(record: &Record) -> Option<Identity> {
    if record.flags & (flag::PREDATES_FORK | flag::FORK_UNSEEN) != 0 {
        return None;
    }
    Some(Identity { pid: record.parent_tgid, start: BootTime(record.parent_start) })
}

/// A process beside a zombie, as it is reported. `start` is its exact start where it is known.
#[must_use]
pub fn party(
    pid: u32,
    seen: Option<&(Seen, Option<crate::text::Untrusted>)>,
    start: Option<BootTime>,
) -> Party {
    let (seen, cmdline) = seen.map_or((None, None), |(seen, cmdline)| (Some(seen), cmdline.clone()));
    Party {
        pid,
        start: start.filter(|start| seen.is_none_or(|seen| seen.start_ticks == ticks(*start))),
        comm: seen.map(|seen| seen.comm.clone()),
        cmdline,
        state: seen.map(|seen| seen.state),
    }
}

fn is_holder(parent: Identity, scene: &Scene) -> bool {
    parent.pid == scene.holder.pid
        && scene.holder.seen.as_ref().is_none_or(|(seen, _)| seen.start_ticks == ticks(parent.start))
}

/// Stopped, or in the same uninterruptible sleep as at probation: a holder that is merely busy with a disk is found
/// in D twice as well, but has run in between.
fn is_stopped(now: Option<Look>, at_probation: Option<Look>) -> bool {
    now.is_some_and(|look| matches!(look.state, 'T' | 't') || (look.state == 'D' && at_probation == now))
}

/// An orphan: its holder is not the parent it was forked under, or is younger than it.
fn is_adopted(record: &Record, scene: &Scene, parent: Option<Identity>) -> bool {
    let younger =
        scene.holder.seen.as_ref().is_some_and(|(seen, _)| seen.start_ticks > ticks(BootTime(record.start)));
    let moved = match parent {
        Some(parent) => !is_holder(parent, scene),
        // The census noted whose it was then. Dead already at that time, it may have been moved before.
        None => record.parent_tgid != 0 && record.parent_tgid != scene.holder.pid,
    };
    younger || moved
}

const fn sigchld(record: &Record) -> Option<Sigchld> {
    match record.flags & flag::SIGCHLD_MASK {
        flag::SIGCHLD_DELIVERED => Some(Sigchld::Delivered),
        flag::SIGCHLD_IGNORED => Some(Sigchld::Ignored),
        flag::SIGCHLD_COALESCED => Some(Sigchld::Coalesced),
        _ => None,
    }
}

/// A holder without a handler may still have had the signal pending for a moment, while a library blocked it
/// around a fork; that it was merged then explains nothing.
fn heeds_sigchld(scene: &Scene) -> bool {
    scene.holder.seen.as_ref().is_some_and(|(seen, _)| seen.heeds_sigchld)
}

#[cfg(test)]
mod tests;
