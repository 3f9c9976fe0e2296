//! `sched_process_exit(task)`: marks the thread group dead when its last thread passes. Whether it becomes a
//! zombie or is released at once is not decided yet; the free hook settles that. Always attached.

use aya_ebpf::{
    bindings::BPF_NOEXIST, helpers::generated::bpf_jiffies64, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use reaper_ebpf::{WORD_CGROUP_V2, WORD_EXIT, counter, exit_word, flag, id, key, state};

use crate::{
    atomic::{Keys, Store, Swap},
    birth,
    kernel::Task,
    ledger::{self, Entry},
    maps::{DYING, EXIT_STAGES, FOLLOWED, LOST, count},
    origin::lineage,
};

#[btf_tracepoint(function = "sched_process_exit")]
fn exit(ctx: BtfTracePointContext) {
    if mark::<Swap>(Task(ctx.arg(0))) {
        take_cmdline(&ctx);
    }
}

/// Leaves behind for [`crate::signal`] who it is, which that cannot find out by itself on these kernels.
#[btf_tracepoint(function = "sched_process_exit")]
fn exit_plain(ctx: BtfTracePointContext) {
    let task = Task(ctx.arg(0));
    // The death of one thread of several is nobody's news.
    if task.live() == 0 {
        let tgid = task.tgid();
        let _full: Result<(), i32> = DYING.insert(tgid, id(tgid, task.leader().start()), 0);
        if mark::<Store>(task) {
            take_cmdline(&ctx);
        }
    }
}

#[inline(always)]
fn take_cmdline(ctx: &BtfTracePointContext) {
    // SAFETY: the stage is a program of this same hook, with this context. Where there is none, nothing happens.
    unsafe { EXIT_STAGES.tail_call(ctx, 0) };
}

/// True where its descendants will be asked about it.
#[inline(always)]
fn mark<K: Keys>(task: Task) -> bool {
    // The tracepoint's second argument says the same, but old kernels have none. Two last threads can both read
    // zero here: the second finds the entry dead.
    if task.live() != 0 {
        return false;
    }
    let start = task.leader().start();
    let id = id(task.tgid(), start);
    let Some(entry) = ledger::find(id).or_else(|| enter::<K>(task, id, start)) else {
        lose(id, true);
        return false;
    };
    if entry.state() != state::ALIVE {
        return false;
    }
    fill(entry, task);
    let left = lineage::leave(entry, task, id, start);
    if entry.flags() & flag::FOLLOWED != 0 {
        let _exec_ed: Result<(), i32> = FOLLOWED.remove(task.tgid());
    }
    entry.publish::<K>(key(state::DEAD, id));
    left
}

/// Counts a death that there is no room for; once, though two last threads may come here, and each census. Where there is no
/// room to remember it either, only the `first` to come counts it.
#[inline(always)]
pub(crate) fn lose(id: u64, first: bool) {
    const EXISTS: i32 = -17;
    match LOST.insert(id, 0, u64::from(BPF_NOEXIST)) {
        Err(EXISTS) => {}
        Err(_) if !first => {}
        _ => count(counter::DEATH_LOST),
    }
}

/// Enters a process whose fork was not recorded.
#[inline(always)]
fn enter<K: Keys>(task: Task, id: u64, start: u64) -> Option<Entry> {
    // The dead are what the ledger is for: where it is full, a living process gives way.
    let entry = ledger::claim::<K>(id).or_else(|| ledger::displace::<K>(id))?;
    birth::no_parent(entry, start);
    birth::rest(entry, task, flag::FORK_UNSEEN);
    Some(entry)
}

/// Writes what a dead process is known by and a living one is not.
#[inline(always)]
pub(crate) fn fill(entry: Entry, task: Task) {
    // Jiffies, because reading the boot clock costs a hundred times as much when it is cold.
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_jiffies64() };
    entry.set(WORD_EXIT, exit_word(now, task.wait_status()));
    entry.set(WORD_CGROUP_V2, task.cgroup_v2());
}
