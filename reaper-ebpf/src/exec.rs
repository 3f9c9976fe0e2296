//! `sched_process_exec(task, …)`, twice: [`exec`] keeps the exec counter of every process (always attached: it
//! is what tells an inherited zombie), [`exec_cmdline`] keeps command lines (attached while somebody asks).

use core::ffi::c_void;

use aya_ebpf::{
    Global, helpers::generated::bpf_probe_read_user, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use reaper_ebpf::{CMDLINE_BYTES, Cmdline, WORD_EXEC, id};

use crate::{
    kernel::Task,
    ledger,
    maps::{CMDLINE_SCRATCH, CMDLINES, WATCHED},
};

/// Not 0: every command line is wanted, not only those of the children of holders on probation.
#[unsafe(no_mangle)]
static ALL_CMDLINES: Global<u32> = Global::new(0);

#[btf_tracepoint(function = "sched_process_exec")]
fn exec(ctx: BtfTracePointContext) {
    // The thread that called exec is the leader by now, with the old leader's start.
    let task = Task(ctx.arg(0));
    if let Some(entry) = ledger::find(id(task.tgid(), task.start())) {
        entry.set_low(WORD_EXEC, task.exec_id());
    }
}

#[btf_tracepoint(function = "sched_process_exec")]
fn exec_cmdline(ctx: BtfTracePointContext) {
    let task = Task(ctx.arg(0));
    if ALL_CMDLINES.load() == 0 && WATCHED.get_ptr(task.real_parent().tgid()).is_none() {
        return;
    }
    let Some(scratch) = CMDLINE_SCRATCH.get_ptr_mut(0) else { return };
    let (start, length) = task.arguments();
    #[expect(clippy::cast_possible_truncation, reason = "at most CMDLINE_BYTES")]
    let kept = if length > CMDLINE_BYTES as u64 { CMDLINE_BYTES as u64 } else { length } as u32;
    // SAFETY: the scratch is a per-CPU value of this program alone (exec cannot happen in an interrupt); the
    // helper copies at most its size and cannot fault.
    unsafe {
        (&raw mut (*scratch).len).write_volatile(kept);
        (&raw mut (*scratch).cut).write_volatile(u32::from(length > u64::from(kept)));
        let bytes = (&raw mut (*scratch).bytes).cast::<c_void>();
        if bpf_probe_read_user(bytes, kept, start as *const c_void) != 0 {
            return;
        }
        let line: &Cmdline = &*scratch;
        let _full: Result<(), i32> = CMDLINES.insert(id(task.tgid(), task.start()), line, 0);
    }
}
