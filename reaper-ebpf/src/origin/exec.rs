//! Which processes are interpreters: what is known of the file that a process executes, or else userspace is told to find
//! out. Beside the other programs at the same hook, so that nothing depends on it.

use aya_ebpf::{bindings::BPF_ANY, macros::btf_tracepoint, programs::BtfTracePointContext};
use reaper_ebpf::{
    counter, flag, id,
    interpreter::{ASKED, Exec, Executable, Followed, UNASKED, entry, kind},
};

use super::ring;
use crate::{
    census::{self, Iteration},
    kernel::Task,
    ledger,
    maps::{EXECUTABLES, FOLLOWED, count},
};

#[btf_tracepoint(function = "sched_process_exec")]
fn exec_origin(ctx: BtfTracePointContext) {
    let task = Task(ctx.arg(0));
    let tgid = task.tgid();
    if FOLLOWED.get_ptr(tgid).is_some() {
        // What is known is of the program before.
        let _gone: Result<(), i32> = FOLLOWED.remove(tgid);
    }
    let executable = task.executable();
    let (mut head, mut shape, mut layout) = (0, ASKED, None);
    let mut look = true;
    if let Some(verdict) = EXECUTABLES.get_ptr(executable) {
        // SAFETY: the pointer was checked.
        let verdict = unsafe { &*verdict };
        match verdict.kind {
            kind::OTHER => return,
            kind::INTERPRETER => {
                look = false;
                head = task.code().wrapping_add(verdict.distance);
                shape = verdict.shape;
                layout = Some(verdict.layout);
            }
            _ => {}
        }
    }
    let (start, own) = (task.start(), id(tgid, task.start()));
    let layout = layout.unwrap_or_default();
    let followed = Followed { start, image: own, head, exec: task.exec_id(), shape, layout, main: 0 };
    if FOLLOWED.insert(tgid, followed, u64::from(BPF_ANY)).is_err() {
        count(counter::FOLLOWED_LOST);
    } else if let Some(entry) = ledger::find(own) {
        entry.add_flags(flag::FOLLOWED);
    }
    if look {
        ask(task, executable, own);
    }
}

/// Asks userspace what a process is that is followed already. Where there is no room, it is asked at the next fork.
#[inline(always)]
pub(super) fn ask(task: Task, executable: Executable, image: u64) {
    let exec = describe(task, executable, image);
    if !ring::write::<ring::Exec>((&raw const exec).cast(), size_of::<Exec>() as u64) {
        mark(task.tgid(), UNASKED);
    }
}

/// Writes down whether userspace has been asked. No shape has such a number: where another thread has found out meanwhile what the
/// process is, its stacks cannot be read, and are not taken for others.
#[inline(always)]
pub(super) fn mark(tgid: u32, asked: u32) {
    if let Some(followed) = FOLLOWED.get_ptr_mut(tgid) {
        // SAFETY: the pointer was checked.
        unsafe { (&raw mut (*followed).shape).write_volatile(asked) };
    }
}

#[inline(always)]
fn describe(task: Task, executable: Executable, image: u64) -> Exec {
    Exec {
        entry: entry::EXEC,
        tgid: task.tgid(),
        start: task.start(),
        code: task.code(),
        exec: task.exec_id(),
        zero: 0,
        image,
        executable,
    }
}

/// Writes out which process executes which file, for those that were there before the hook.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn executables(iteration: *mut Iteration) -> i32 {
    let Some(task) = census::leader(iteration) else { return 0 };
    let executable = task.executable();
    if executable.inode != 0 {
        let mut exec = describe(task, executable, id(task.tgid(), task.start()));
        census::write(iteration, &raw mut exec);
    }
    0
}
