//! `sched_process_exit(task)`: marks the thread group dead when its last thread passes. Whether it becomes a
//! zombie or is released at once is not decided yet; the free hook settles that. Always attached.

use aya_ebpf::{helpers::generated::bpf_jiffies64, macros::btf_tracepoint, programs::BtfTracePointContext};
use reaper_ebpf::{
    WORD_CGROUP_V1, WORD_CGROUP_V2, WORD_EXEC, WORD_EXIT, WORD_FLAGS, WORD_PARENT, WORD_PARENT_START,
    counter, exit_word, flag, id, key, pack, start_high, state,
};

use crate::{
    atomic::{Keys, Store, Swap},
    kernel::Task,
    ledger::{self, Entry},
    maps::count,
};

#[btf_tracepoint(function = "sched_process_exit")]
fn exit(ctx: BtfTracePointContext) {
    mark::<Swap>(&ctx);
}

#[btf_tracepoint(function = "sched_process_exit")]
fn exit_plain(ctx: BtfTracePointContext) {
    mark::<Store>(&ctx);
}

#[inline(always)]
fn mark<K: Keys>(ctx: &BtfTracePointContext) {
    let task = Task(ctx.arg(0));
    // The tracepoint's second argument says the same, but old kernels have none. Two last threads can both read
    // zero here: the second finds the entry dead.
    if task.live() != 0 {
        return;
    }
    let start = task.leader().start();
    let id = id(task.tgid(), start);
    let Some(entry) = ledger::find(id).or_else(|| enter::<K>(task, id, start)) else {
        return count(counter::DEATH_LOST);
    };
    if entry.state() != state::ALIVE {
        return;
    }
    fill(entry, task, 0);
    entry.publish::<K>(key(state::DEAD, id));
}

/// Enters a process whose fork was not recorded.
#[inline(always)]
fn enter<K: Keys>(task: Task, id: u64, start: u64) -> Option<Entry> {
    let entry = ledger::claim::<K>(id)?;
    entry.set(WORD_PARENT_START, 0);
    entry.set(WORD_PARENT, pack(start_high(start), 0));
    entry.set(WORD_EXEC, pack(task.parent_exec_id(), task.exec_id()));
    entry.set(WORD_FLAGS, pack(flag::FORK_UNSEEN, 0));
    Some(entry)
}

/// Writes what a dead process is known by. `more` are flags to add.
#[inline(always)]
pub(crate) fn fill(entry: Entry, task: Task, more: u32) {
    // Jiffies, because reading the boot clock costs a hundred times as much when it is cold.
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_jiffies64() };
    entry.set(WORD_EXIT, exit_word(now, task.wait_status()));
    entry.set(WORD_CGROUP_V2, task.cgroup_v2());
    entry.set(WORD_CGROUP_V1, task.cgroup_v1());
    let (pid_ns, first) = task.pid_namespace();
    let mut flags = (entry.get(WORD_FLAGS) >> 32) as u32 | more;
    if first {
        flags |= flag::NAMESPACE_INIT;
    }
    entry.set(WORD_FLAGS, pack(flags, pid_ns));
}
