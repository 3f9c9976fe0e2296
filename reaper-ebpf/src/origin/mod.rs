//! Where processes come from.

mod contents;
mod exec;
mod frames;
pub(crate) mod lineage;
mod memory;
mod native;
mod python;
mod ring;
mod threads;
mod walk;

use aya_ebpf::programs::BtfTracePointContext;
use reaper_ebpf::interpreter::stage;

use crate::{
    kernel::Task,
    maps::{FOLLOWED, FORK_STAGES},
};

/// Goes on with the stage that takes the stack of who forks, where one is wanted.
#[inline(always)]
pub(crate) fn follow(ctx: &BtfTracePointContext, caller: Task, forker: u32) {
    // SAFETY: a stage is a program of this same hook, with this context. Where there is none, nothing happens.
    unsafe {
        if FOLLOWED.get_ptr(forker).is_some() {
            FORK_STAGES.tail_call(ctx, stage::PYTHON);
        }
    }
    native::follow(ctx, caller);
}
