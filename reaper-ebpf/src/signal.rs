//! `signal_generate(sig, info, task, group, result)`: what became of a dying child's SIGCHLD, which only the
//! dying task can see. Always attached; every other signal leaves at the first comparison.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_get_current_task_btf, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use reaper_ebpf::{WORD_FLAGS, WORD_PARENT, flag, id, state};

use crate::{
    kernel::Task,
    ledger::{self, Entry},
    maps::DYING,
};

const SIGCHLD: u32 = 17;

#[btf_tracepoint(function = "signal_generate")]
fn signal(ctx: BtfTracePointContext) {
    if ctx.arg::<u32>(0) != SIGCHLD {
        return;
    }
    // SAFETY: a helper without arguments; there always is a current task.
    let current = Task(unsafe { bpf_get_current_task_btf() }.cast_const().cast());
    let id = id(current.tgid(), current.leader().start());
    if let Some(entry) = ledger::find(id).filter(|entry| entry.state() == state::DEAD) {
        note(&ctx, entry);
    }
}

/// For kernels before 5.11, which have no typed current task: the exit hook has left behind who it is.
#[btf_tracepoint(function = "signal_generate")]
fn signal_plain(ctx: BtfTracePointContext) {
    if ctx.arg::<u32>(0) != SIGCHLD {
        return;
    }
    let Some(id) = DYING.get_ptr(ctx.tgid()) else { return };
    // SAFETY: a map's value. The writer is this very process, or a namesake that is dead.
    let id = unsafe { id.read_volatile() };
    if let Some(entry) = ledger::find(id).filter(|entry| entry.state() == state::DEAD) {
        note(&ctx, entry);
    }
}

/// Writes down what became of the signal.
#[inline(always)]
fn note(ctx: &BtfTracePointContext, entry: Entry) {
    // A dying process also passes its own dead children on, in this same context: only the signal to the parent
    // it was forked under is about itself. The second argument, `info`, may be a number: it is never read.
    let target = Task(ctx.arg::<*const c_void>(2));
    if u64::from(target.tgid()) != entry.get(WORD_PARENT) & 0xffff_ffff {
        return;
    }
    // <https://elixir.bootlin.com/linux/v6.12/source/include/trace/events/signal.h#L29>
    let result = match ctx.arg::<u32>(4) {
        0 => flag::SIGCHLD_DELIVERED,
        1 => flag::SIGCHLD_IGNORED,
        2 => flag::SIGCHLD_COALESCED,
        _ => return,
    };
    let word = entry.get(WORD_FLAGS) & !(u64::from(flag::SIGCHLD_MASK) << 32);
    entry.set(WORD_FLAGS, word | (u64::from(result) << 32));
}
