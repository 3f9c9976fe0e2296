//! `sched_process_fork` for a ledger in a hash map: fills the same words as the real one, on the stack.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use reaper_ebpf::{
    Forker, Slot, WORD_EXEC, WORD_FLAGS, WORD_KEY, WORD_PARENT, WORD_PARENT_START, WORDS, counter, flag, id,
    key, pack, start_high, state,
};

use crate::{
    kernel::Task,
    ledger,
    maps::{FORKERS, count},
};

#[btf_tracepoint(function = "sched_process_fork")]
fn fork(ctx: BtfTracePointContext) {
    let child = Task(ctx.arg(1));
    let tgid = child.tgid();
    if child.pid() != tgid {
        return;
    }
    let start = child.start();
    let id = id(tgid, start);
    let parent = child.real_parent();
    let parent_tgid = parent.tgid();
    let mut slot = Slot { words: [0; WORDS] };
    slot.words[WORD_KEY] = key(state::ALIVE, id);
    slot.words[WORD_PARENT_START] = parent.leader().start();
    slot.words[WORD_PARENT] = pack(start_high(start), parent_tgid);
    slot.words[WORD_EXEC] = pack(child.parent_exec_id(), child.exec_id());

    let (pid_ns, first) = child.pid_namespace();
    let mut flags = if first { flag::NAMESPACE_INIT } else { 0 };
    let caller = Task(ctx.arg(0));
    if caller.tgid() != parent_tgid {
        let forker = Forker { tgid: caller.tgid(), zero: 0, start: caller.leader().start() };
        let _full: Result<(), i32> = FORKERS.insert(id, forker, 0);
        flags |= flag::FORKER;
    }
    slot.words[WORD_FLAGS] = pack(flags, pid_ns);
    if !ledger::insert(tgid, &slot) {
        count(counter::FORK_UNRECORDED);
    }
}
