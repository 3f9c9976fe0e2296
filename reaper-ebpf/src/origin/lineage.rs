//! Dead ancestors: who forked whom is in the ledger as long as both live; what a dead process was called is kept here until
//! its last descendant is gone.
//!
//! Costs nothing for a process that dies without children, but a look at its own list and its first thread's. Where
//! those cannot tell, [`flag::FOREBEAR`] says that there may be descendants.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use reaper_ebpf::{Ancestor, CMDLINE_BYTES, WORD_PARENT, WORD_PARENT_START, counter, flag, id, state};

use crate::{
    kernel::Task,
    ledger::{self, Entry},
    maps::{ANCESTOR_SCRATCH, ANCESTORS, FORKERS, count},
};

/// A process may have descendants that its lists do not show.
#[inline(always)]
pub(crate) fn mark(id: u64) {
    if let Some(entry) = ledger::find(id)
        // One that is dead has left what it leaves.
        && entry.state() == state::ALIVE
        && entry.flags() & flag::FOREBEAR == 0
    {
        entry.add_flags(flag::FOREBEAR);
    }
}

/// The last thread of a process dies: leaves behind what its descendants will be asked about, but for its command line. True
/// where it has left anything.
#[inline(always)]
pub(crate) fn leave(entry: Entry, task: Task, own: u64, start: u64) -> bool {
    let leader = task.leader();
    let any = entry.flags() & flag::FOREBEAR != 0 || leader.has_children() || task.has_children();
    if any {
        record(entry, leader, own, start);
    }
    any
}

/// A stage of the exit program, so that the kernels that let no program read user memory lose nothing else
/// (`lockdown=confidentiality`).
#[btf_tracepoint(function = "sched_process_exit")]
fn exit_cmdline(ctx: BtfTracePointContext) {
    let task = Task(ctx.arg(0));
    let Some(ancestor) = ANCESTORS.get_ptr_mut(id(task.tgid(), task.leader().start())) else { return };
    let (arguments, length) = task.arguments();
    #[expect(clippy::cast_possible_truncation, reason = "at most CMDLINE_BYTES")]
    let kept = if length > CMDLINE_BYTES as u64 { CMDLINE_BYTES as u64 } else { length } as u32;
    // SAFETY: the pointer was checked, and only the last thread of the process comes here; the helper copies at most what
    // there is room for, and cannot fault.
    unsafe {
        let bytes = (&raw mut (*ancestor).cmdline.bytes).cast::<c_void>();
        if bpf_probe_read_user(bytes, kept, arguments as *const c_void) == 0 {
            (&raw mut (*ancestor).cmdline.len).write_volatile(kept);
            (&raw mut (*ancestor).cmdline.cut).write_volatile(u32::from(length > u64::from(kept)));
        }
    }
}

#[inline(always)]
fn record(entry: Entry, leader: Task, own: u64, start: u64) {
    let flags = entry.flags();
    let mut forker_tgid = (entry.get(WORD_PARENT) & 0xffff_ffff) as u32;
    let mut forker_start = entry.get(WORD_PARENT_START);
    if flags & flag::FORKER != 0 {
        let Some(forker) = FORKERS.get_ptr(own) else { return count(counter::ANCESTOR_LOST) };
        // SAFETY: the pointer was checked.
        unsafe {
            forker_tgid = (&raw const (*forker).tgid).read_volatile();
            forker_start = (&raw const (*forker).start).read_volatile();
        }
    }
    let Some(scratch) = ANCESTOR_SCRATCH.get_ptr_mut(0) else { return };
    let [first, second] = leader.comm();
    // SAFETY: the scratch is a per-CPU value, and exit does not happen in an interrupt.
    unsafe {
        (&raw mut (*scratch).start).write_volatile(start);
        (&raw mut (*scratch).forker_start).write_volatile(forker_start);
        (&raw mut (*scratch).forker_tgid).write_volatile(forker_tgid);
        (&raw mut (*scratch).flags).write_volatile(flags);
        (&raw mut (*scratch).comm[0]).write_volatile(first);
        (&raw mut (*scratch).comm[1]).write_volatile(second);
        (&raw mut (*scratch).cmdline.len).write_volatile(0);
        (&raw mut (*scratch).cmdline.cut).write_volatile(0);
        let ancestor: &Ancestor = &*scratch;
        match ANCESTORS.insert(own, ancestor, 0) {
            Ok(()) => count(counter::ANCESTOR_IN),
            Err(_full) => count(counter::ANCESTOR_LOST),
        }
    }
    mark(id(forker_tgid, forker_start));
}
