//! A Python program that forks: whether it is one, and that the child is one, too. A stage of the fork program, so that whoever is not
//! followed pays nothing for it.

use aya_ebpf::{bindings::BPF_ANY, macros::btf_tracepoint, programs::BtfTracePointContext};
use reaper_ebpf::{
    counter, flag, id,
    interpreter::{ASKED, FOLLOWED_WORDS, Followed, UNASKED, kind},
};

use super::{exec, native, ring, walk};
use crate::{
    kernel::Task,
    ledger,
    maps::{EXECUTABLES, FOLLOWED, count},
};

#[btf_tracepoint(function = "sched_process_fork")]
fn fork_python(ctx: BtfTracePointContext) {
    let (caller, child) = (Task(ctx.arg(0)), Task(ctx.arg(1)));
    let forker = caller.tgid();
    let Some(followed) = FOLLOWED.get_ptr(forker) else { return };
    // SAFETY: the pointer was checked. Userspace may replace the value meanwhile: what is read then fits nothing, and ends.
    let followed = unsafe { &*followed };
    let start = caller.leader().start();
    if followed.start != start {
        // Of one that had this number before: it was there before its end could be noted.
        let _gone: Result<(), i32> = FOLLOWED.remove(forker);
        return native::follow(&ctx, caller);
    }
    let mut followed = followed;
    if followed.head == 0 {
        match recognized(caller, forker, followed) {
            Recognized::Interpreter(known) => followed = known,
            Recognized::Other => return native::follow(&ctx, caller),
            Recognized::NotYet => {
                count(counter::FORK_EARLY);
                early(caller, child, followed);
                return native::follow(&ctx, caller);
            }
        }
    }
    let (tgid, child_start) = (child.tgid(), child.start());
    let own = id(tgid, child_start);
    // Before the child runs, and it does not run before this ends. One that shares its parent's memory will exec.
    if caller.memory() != child.memory() {
        inherit(followed, caller, tgid, own, child_start);
    }
    if !ring::has_room::<ring::Stack>() {
        return count(counter::STACK_LOST);
    }
    walk::begin(&ctx, followed, own);
}

/// What a process is of which that was not known when it was asked.
enum Recognized<'a> {
    NotYet,
    Other,
    Interpreter(&'a Followed),
}

/// Looks whether what its file is has been found out since, for this process or another one.
#[inline(always)]
fn recognized<'a>(caller: Task, forker: u32, followed: &Followed) -> Recognized<'a> {
    let Some(verdict) = EXECUTABLES.get_ptr(caller.executable()) else { return Recognized::NotYet };
    // SAFETY: the pointer was checked.
    let verdict = unsafe { &*verdict };
    if verdict.kind == kind::OTHER {
        let _gone: Result<(), i32> = FOLLOWED.remove(forker);
        return Recognized::Other;
    }
    if verdict.kind != kind::INTERPRETER {
        return Recognized::NotYet;
    }
    let Followed { start, image, exec, .. } = *followed;
    let head = caller.code().wrapping_add(verdict.distance);
    let known = Followed { start, image, head, exec, shape: verdict.shape, layout: verdict.layout, main: 0 };
    let _full: Result<(), i32> = FOLLOWED.insert(forker, known, u64::from(BPF_ANY));
    match FOLLOWED.get_ptr(forker) {
        // SAFETY: the pointer was checked.
        Some(known) if unsafe { (*known).head } != 0 => Recognized::Interpreter(unsafe { &*known }),
        _ => Recognized::NotYet,
    }
}

/// A fork by a process of which nothing is known yet. A child that does not exec will turn out to be what its parent is, and
/// userspace is asked for it, too: whoever is forked until the answer is there is found by it.
#[inline(always)]
fn early(caller: Task, child: Task, followed: &Followed) {
    let (image, executable) = (followed.image, caller.executable());
    if followed.shape == UNASKED {
        // First, for userspace may answer at once.
        exec::mark(caller.tgid(), ASKED);
        exec::ask(caller.leader(), executable, image);
    }
    if caller.memory() != child.memory() {
        let (tgid, start) = (child.tgid(), child.start());
        inherit(followed, caller, tgid, id(tgid, start), start);
        exec::mark(tgid, ASKED);
        exec::ask(child, executable, image);
    }
}

/// A process that was forked and did not exec has the interpreter where its parent has it.
#[inline(always)]
fn inherit(followed: &Followed, caller: Task, tgid: u32, own: u64, start: u64) {
    let mut words = [0_u64; FOLLOWED_WORDS];
    let from = (&raw const *followed).cast::<u64>();
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: a `Followed` is that many words.
        *word = unsafe { from.add(index).read_volatile() };
    }
    // The start is the first of them, the main thread's state the last: the main thread of a child is the one that forked it.
    words[0] = start;
    if caller.pid() != caller.tgid() {
        words[FOLLOWED_WORDS - 1] = 0;
    }
    // SAFETY: as above.
    let followed = unsafe { &*words.as_ptr().cast::<Followed>() };
    if FOLLOWED.insert(tgid, followed, u64::from(BPF_ANY)).is_err() {
        count(counter::FOLLOWED_LOST);
    } else if let Some(entry) = ledger::find(own) {
        entry.add_flags(flag::FOLLOWED);
    }
}
