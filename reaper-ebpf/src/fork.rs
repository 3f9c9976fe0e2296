//! `sched_process_fork(parent, child)`: enters the new process, with the parent that will have to wait for it.
//! Always attached.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use reaper_ebpf::{Forker, counter, flag, id};

use crate::{
    atomic::{Keys, Store, Swap},
    birth,
    kernel::Task,
    ledger,
    maps::{FORKERS, count},
    origin::{self, lineage},
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
    // A child's start is stamped before it is put on its parent's list, and the parent may die meanwhile: then this
    // is who got it.
    let parent = birth::parent(entry, child, start);
    let caller = Task(ctx.arg(0));
    let forker = caller.tgid();
    let mut flags = 0;
    if forker != parent {
        let forker = Forker { tgid: forker, zero: 0, start: caller.leader().start() };
        // Where there is no room for it, the forker is not known; that it is another is.
        let _full: Result<(), i32> = FORKERS.insert(id, forker, 0);
        flags = flag::FORKER;
    }
    if forker != parent || caller.pid() != forker {
        lineage::mark(reaper_ebpf::id(forker, caller.leader().start()));
    }
    birth::rest(entry, child, flags);
    origin::follow(ctx, caller, forker);
}
