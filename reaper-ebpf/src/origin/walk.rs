//! A Python program's stack, in turns: the thread that forks, its frames, what their code objects hold. A turn is a run of one program,
//! which the next turn follows by a tail call.
//!
//! All that one turn leaves to the next stands in memory, where the verifier does not follow it. It walks one turn, and not all of them
//! one behind the other: that was 546,000 instructions of the million that a kernel takes, half a second at each start.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use reaper_ebpf::{
    counter,
    interpreter::{Followed, Frame, Scratch, Stack, Walk, doing, entry, stage},
};

use super::{contents, frames, native, ring, threads};
use crate::{
    kernel::Task,
    maps::{FORK_STAGES, STACK_SCRATCH, count},
};

/// Takes the stack of who forks, an interpreter, for this child of it.
#[inline(always)]
pub(super) fn begin(ctx: &BtfTracePointContext, followed: &Followed, child: u64) {
    let Some(scratch) = STACK_SCRATCH.get_ptr_mut(0) else { return };
    let caller = Task(ctx.arg(0));
    // SAFETY: the scratch is a per-CPU value of these programs alone.
    unsafe {
        let head = &raw mut (*scratch).head;
        (&raw mut (*head).entry).write_volatile(entry::STACK);
        (&raw mut (*head).frames).write_volatile(0);
        (&raw mut (*head).child).write_volatile(child);
        (&raw mut (*head).forker).write_volatile(caller.tgid());
        (&raw mut (*head).end).write_volatile(0);
        (&raw mut (*head).forker_start).write_volatile(followed.start);
        (&raw mut (*head).image).write_volatile(followed.image);
        (&raw mut (*head).exec).write_volatile(followed.exec);
        (&raw mut (*head).shape).write_volatile(followed.shape);
        (&raw mut (*head).group).write_volatile(caller.group());
    }
    threads::begin(scratch, followed, caller.pid() == caller.tgid(), Task(ctx.arg(1)).thread_pointer());
    next(ctx);
}

#[btf_tracepoint(function = "sched_process_fork")]
fn fork_walk(ctx: BtfTracePointContext) {
    let Some(scratch) = STACK_SCRATCH.get_ptr_mut(0) else { return };
    if doing(scratch) == doing::THREADS {
        threads::turn(scratch);
    }
    if doing(scratch) == doing::FRAMES {
        frames::turn(scratch);
    }
    if doing(scratch) == doing::CONTENTS {
        contents::turn(scratch);
    }
    match doing(scratch) {
        doing::WRITE => write(scratch),
        doing::MISSED => {
            count(counter::STACK_MISSED);
            native::follow(&ctx, Task(ctx.arg(0)));
        }
        _ => next(&ctx),
    }
}

/// Goes on with the next turn.
#[inline(always)]
fn next(ctx: &BtfTracePointContext) {
    // SAFETY: a stage is a program of this same hook, with this context.
    unsafe { FORK_STAGES.tail_call(ctx, stage::WALK) };
    // It was taken away: nobody reads stacks any more.
    count(counter::STACK_MISSED);
}

#[inline(always)]
fn write(scratch: *mut Scratch) {
    // SAFETY: the scratch is a per-CPU value of these programs alone.
    let frames = unsafe { (&raw const (*scratch).head.frames).read_volatile() };
    let length = size_of::<Stack>() as u64 + u64::from(frames & 0x7f) * size_of::<Frame>() as u64;
    ring::write::<ring::Stack>(scratch.cast_const().cast(), length);
}

/// How far it is.
#[inline(always)]
pub(super) fn of(scratch: *mut Scratch) -> *mut Walk {
    // SAFETY: the scratch is a per-CPU value of these programs alone.
    unsafe { &raw mut (*scratch).walk }
}

#[inline(always)]
fn doing(scratch: *mut Scratch) -> u64 {
    // SAFETY: as above.
    unsafe { (&raw const (*of(scratch)).doing).read_volatile() }
}

/// What comes now, for this many turns.
#[inline(always)]
pub(super) fn go_on(walk: *mut Walk, doing: u64, turns: u32) {
    // SAFETY: it is the scratch's.
    unsafe {
        (&raw mut (*walk).doing).write_volatile(doing);
        (&raw mut (*walk).turns).write_volatile(turns.into());
    }
}

/// Whether that was the last turn for what the walk is at.
#[inline(always)]
pub(super) fn was_last(walk: *mut Walk) -> bool {
    // SAFETY: it is the scratch's.
    unsafe {
        let left = (&raw const (*walk).turns).read_volatile().wrapping_sub(1);
        (&raw mut (*walk).turns).write_volatile(left);
        left == 0
    }
}
