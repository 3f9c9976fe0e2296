//! What an entry says of a process from its birth on. Written at fork, where the kernel has just touched all of it;
//! for a process whose fork was missed, at its exit or by the census.

use reaper_ebpf::{WORD_EXEC, WORD_FLAGS, WORD_PARENT, WORD_PARENT_START, flag, pack, start_high};

use crate::{kernel::Task, ledger::Entry};

/// Writes down who the parent is, and says its tgid. With CLONE_PARENT it is not the one that called clone.
#[inline(always)]
pub(crate) fn parent(entry: Entry, task: Task, start: u64) -> u32 {
    let parent = task.real_parent();
    let tgid = parent.tgid();
    entry.set(WORD_PARENT_START, parent.leader().start());
    entry.set(WORD_PARENT, pack(start_high(start), tgid));
    tgid
}

/// Writes down that the parent is not known.
#[inline(always)]
pub(crate) fn no_parent(entry: Entry, start: u64) {
    entry.set(WORD_PARENT_START, 0);
    entry.set(WORD_PARENT, pack(start_high(start), 0));
}

/// Writes down all the rest, with `flags`.
#[inline(always)]
pub(crate) fn rest(entry: Entry, task: Task, flags: u32) {
    entry.set(WORD_EXEC, pack(task.parent_exec_id(), task.exec_id()));
    let (pid_ns, first) = task.pid_namespace();
    entry.set(WORD_FLAGS, pack(flags | if first { flag::NAMESPACE_INIT } else { 0 }, pid_ns));
}
