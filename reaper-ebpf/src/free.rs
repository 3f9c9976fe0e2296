//! `sched_process_free(task)`: gives the entry back, and says so where the zombie had been reported. It comes
//! from RCU, up to tens of milliseconds after the wait, when the pid may long be somebody else's. Always attached.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use reaper_ebpf::{Notice, WORDS, counter, flag, id, notice, state, tgid_of};

use crate::{
    atomic::{Keys, Store, Swap},
    kernel::Task,
    ledger::{self, Entry},
    maps::{FORKERS, LOST},
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
    let (state, flags) = ledger::release::<K>(id, announce);
    if flags & flag::FORKER != 0 {
        let _gone: Result<(), i32> = FORKERS.remove(id);
    }
    if state == state::FREE {
        let _counted: Result<(), i32> = LOST.remove(id);
    }
}

/// Says that a reported zombie goes, with all that was recorded of it: the daemon that reported it may be gone, too.
#[inline(always)]
fn announce(id: u64, entry: Option<Entry>) {
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_boot_ns() };
    let words = entry.map_or([0; WORDS], Entry::words);
    send(Notice { kind: notice::RELEASED, number: tgid_of(id), id, time, words }, counter::RELEASE_LOST);
}
