//! A forking thread's registers and its stack, copied for userspace to unwind. A stage of the fork program, for processes in
//! workloads on probation, or for all.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::{
        bpf_get_current_task_btf, bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_probe_read_user,
        bpf_task_pt_regs,
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use reaper_ebpf::{
    counter, id,
    interpreter::{stage, wake},
    native::{Head, OF_ALL, OF_ONE, PAGE, STACK_BYTES, Scratch, mode},
};

use super::ring;
use crate::{
    kernel::Task,
    maps::{COPIED, COPY_SCRATCH, COPYING, FORK_STAGES, PROBATION, WAKES, count},
};

/// The members of a `pt_regs` that tell where a thread was: r15 to r8, the general ones, and the instruction's address.
const FIRST: usize = 17;
/// `cs`, of which newer kernels have the low half only.
const CODE_SEGMENT: usize = 17;
/// The stack pointer.
const STACK: usize = 19;

/// Goes on with the stage below, where native stacks of this process are wanted.
#[inline(always)]
pub(crate) fn follow(ctx: &BtfTracePointContext, caller: Task) {
    // SAFETY: a word of a map.
    let wanted = match COPYING.get_ptr(0).map_or(mode::OFF, |mode| unsafe { mode.read_volatile() }) {
        mode::OFF => false,
        mode::ALL => true,
        _ => PROBATION.get_ptr(caller.group()).is_some(),
    };
    if wanted {
        // SAFETY: the stage is a program of this same hook, with this context. Where there is none, nothing happens.
        unsafe { FORK_STAGES.tail_call(ctx, stage::NATIVE) };
    }
}

#[btf_tracepoint(function = "sched_process_fork")]
fn fork_native(ctx: BtfTracePointContext) {
    let (caller, child) = (Task(ctx.arg(0)), Task(ctx.arg(1)));
    let forker = caller.tgid();
    if !ring::has_room::<ring::Copy>() {
        return count(counter::STACK_LOST);
    }
    if !may_copy(forker) {
        return count(counter::STACK_LIMITED);
    }
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(scratch) = COPY_SCRATCH.get_ptr_mut(cpu) else { return };
    // SAFETY: the scratch is this CPU's; the helpers take and return what the verifier knows the type of.
    unsafe {
        let registers = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u64;
        let to = (&raw mut (*scratch).head.registers).cast::<u64>();
        for index in 0..FIRST {
            to.add(index).write_volatile(registers.add(index).read_volatile());
        }
        let segment = registers.add(CODE_SEGMENT).cast::<u16>().read_volatile();
        to.add(CODE_SEGMENT).write_volatile(segment.into());
        let stack = registers.add(STACK).read_volatile();
        to.add(STACK).write_volatile(stack);
        let head = &raw mut (*scratch).head;
        (&raw mut (*head).forker).write_volatile(forker);
        (&raw mut (*head).child).write_volatile(id(child.tgid(), child.start()));
        (&raw mut (*head).forker_start).write_volatile(caller.leader().start());
        (&raw mut (*head).group).write_volatile(caller.group());
        copy(scratch, stack);
        let length = size_of::<Head>() as u64
            + u64::from((&raw const (*head).bytes).read_volatile() & (STACK_BYTES - 1));
        ring::write::<ring::Copy>(scratch.cast_const().cast(), length);
    }
}

/// Copies page by page. One that was never touched is not there, and zeros: a function may have more room on the stack than it
/// uses. Behind the end of the stack nothing is.
///
/// How much that is stands in memory, where the verifier does not follow it.
#[inline(always)]
fn copy(scratch: *mut Scratch, mut at: u64) {
    // SAFETY: the scratch is this CPU's; a page that begins inside of it ends inside of it, and the helper writes zeros where it
    // can read none.
    unsafe {
        let bytes = &raw mut (*scratch).head.bytes;
        bytes.write_volatile(0);
        let reached = &raw mut (*scratch).reached;
        reached.write_volatile(0);
        for _ in 0..=STACK_BYTES / PAGE {
            let from = reached.read_volatile();
            // What the verifier can follow: to the end of a page, or not at all.
            #[expect(clippy::cast_possible_truncation, reason = "less than a page")]
            let length = PAGE - (at as u32 & (PAGE - 1));
            if from >= STACK_BYTES - PAGE {
                break;
            }
            let to = (&raw mut (*scratch).stack).cast::<u8>().add((from & (STACK_BYTES - 1)) as usize);
            if bpf_probe_read_user(to.cast(), length, at as *const c_void) == 0 {
                bytes.write_volatile(from + length);
            }
            reached.write_volatile(from + length);
            at = at.wrapping_add(length.into());
        }
    }
}

/// Whether there is time for one more of this process, and of all. Two CPUs may both take the last one.
#[inline(always)]
fn may_copy(forker: u32) -> bool {
    // SAFETY: a helper without arguments, and words of maps.
    unsafe {
        let now = bpf_ktime_get_ns();
        let Some(all) = WAKES.get_ptr_mut(wake::COPIES_DUE) else { return false };
        let Some(next) = OF_ALL.take(all.read_volatile(), now) else { return false };
        let own = COPIED.get_ptr_mut(forker);
        let due = own.map_or(0, |due| due.read_volatile());
        let Some(due) = OF_ONE.take(due, now) else { return false };
        match own {
            Some(own) => own.write_volatile(due),
            None => {
                let _full: Result<(), i32> = COPIED.insert(forker, due, u64::from(BPF_ANY));
            }
        }
        all.write_volatile(next);
    }
    true
}
