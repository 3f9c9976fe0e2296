//! `sched_process_free(task)`: gives the entry back, and says so where the zombie had been reported. It comes
//! from RCU, up to tens of milliseconds after the wait, when the pid may long be somebody else's. Always attached.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use reaper_ebpf::{Notice, counter, flag, id, notice, state};

use crate::{
    atomic::{Keys, Store, Swap},
    kernel::Task,
    ledger,
    maps::FORKERS,
    notice::send,
};

#[btf_tracepoint(function = "sched_process_free")]
fn free(ctx: BtfTracePointContext) {
    give_back::<Swap>(&ctx);
}

#[btf_tracepoint(function = "sched_process_free")]
fn free_plain(ctx: BtfTracePointContext) {
    give_back::<Store>(&ctx);
}

#[inline(always)]
fn give_back<K: Keys>(ctx: &BtfTracePointContext) {
    let task = Task(ctx.arg(0));
    let tgid = task.tgid();
    if task.pid() != tgid {
        return; // a thread, or the old leader after another thread's exec
    }
    let id = id(tgid, task.start());
    let (state, flags) = ledger::release::<K>(id);
    if flags & flag::FORKER != 0 {
        let _gone: Result<(), i32> = FORKERS.remove(id);
    }
    if state == state::STANDING {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        let released = Notice { kind: notice::RELEASED, number: tgid, id, time: now, comm: [0; 2] };
        send(released, counter::RELEASE_LOST);
    }
}
