//! `sched_process_fork(parent, child)`: enters the new process, with the parent that will have to wait for it.
//! Always attached.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use reaper_ebpf::{
    Forker, WORD_EXEC, WORD_FLAGS, WORD_PARENT, WORD_PARENT_START, counter, flag, id, pack, start_high,
};

use crate::{
    atomic::{Keys, Store, Swap},
    kernel::Task,
    ledger,
    maps::{FORKERS, count},
};

#[btf_tracepoint(function = "sched_process_fork")]
fn fork(ctx: BtfTracePointContext) {
    enter::<Swap>(&ctx);
}

#[btf_tracepoint(function = "sched_process_fork")]
fn fork_plain(ctx: BtfTracePointContext) {
    enter::<Store>(&ctx);
}

#[inline(always)]
fn enter<K: Keys>(ctx: &BtfTracePointContext) {
    let child = Task(ctx.arg(1));
    let tgid = child.tgid();
    if child.pid() != tgid {
        return; // a thread
    }
    let start = child.start();
    let id = id(tgid, start);
    let Some(entry) = ledger::claim::<K>(id) else {
        return count(counter::FORK_UNRECORDED);
    };
    // With CLONE_PARENT the parent is not the one that called clone. A child's start is stamped before it is
    // put on its parent's list, and the parent may die meanwhile: then this is who got it.
    let parent = child.real_parent();
    let parent_tgid = parent.tgid();
    entry.set(WORD_PARENT_START, parent.leader().start());
    entry.set(WORD_PARENT, pack(start_high(start), parent_tgid));
    entry.set(WORD_EXEC, pack(child.parent_exec_id(), child.exec_id()));

    let caller = Task(ctx.arg(0));
    let mut flags = 0;
    if caller.tgid() != parent_tgid {
        let forker = Forker { tgid: caller.tgid(), zero: 0, start: caller.leader().start() };
        if FORKERS.insert(id, forker, 0).is_ok() {
            flags = flag::FORKER;
        }
    }
    entry.set(WORD_FLAGS, pack(flags, 0));
}
