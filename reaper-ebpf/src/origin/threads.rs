//! The state of the thread that forks, among those of the interpreters.
//!
//! It is found by the thread's number, never by who holds the interpreter's lock: CPython 3.11 and 3.12 release that before they fork.

use reaper_ebpf::interpreter::{
    Followed, Layout, NONE, Scratch, THREAD_BYTES, THREADS_AT_ONCE, THREADS_TURNS, doing,
};

use super::{
    frames,
    memory::{fill, hop, note, peek, word},
    walk,
};
use crate::maps::FOLLOWED;

/// Words of a [`Layout`].
const LAYOUT_WORDS: usize = size_of::<Layout>() / 8;

/// Begins to look for the thread with this number, which is its process's main one or not.
#[inline(always)]
pub(super) fn begin(scratch: *mut Scratch, followed: &Followed, main: bool, thread: u64) {
    let walk = walk::of(scratch);
    walk::go_on(walk, doing::THREADS, THREADS_TURNS);
    // SAFETY: the scratch is a per-CPU value of these programs alone; a layout is that many words.
    unsafe {
        let (from, to) =
            ((&raw const followed.layout).cast::<u64>(), (&raw mut (*walk).layout).cast::<u64>());
        for index in 0..LAYOUT_WORDS {
            to.add(index).write_volatile(from.add(index).read_volatile());
        }
        (&raw mut (*walk).thread).write_volatile(thread);
        // One without a number is none of Python's, and what cannot be read has no number either.
        let has_number = thread != 0;
        (&raw mut (*walk).main).write_volatile((main && has_number).into());
        (&raw mut (*walk).before).write_volatile(followed.main);
        (&raw mut (*walk).unread).write_volatile(0);
        let unread = &raw mut (*walk).unread;
        let interpreter = if has_number { hop(unread, followed.head) } else { 0 };
        (&raw mut (*walk).interpreter).write_volatile(interpreter);
        (&raw mut (*walk).state).write_volatile(first_thread(unread, &followed.layout, interpreter));
    }
}

/// Looks through some threads. Where something on the way could not be read, the main thread's state is looked for where it was
/// before.
///
/// What cannot be read is zeros, and leads nowhere: no path but one through here, or the verifier would walk all of them.
#[inline(always)]
pub(super) fn turn(scratch: *mut Scratch) {
    let walk = walk::of(scratch);
    // SAFETY: the scratch is a per-CPU value of these programs alone.
    unsafe {
        let layout = &(*walk).layout;
        let unread = &raw mut (*walk).unread;
        let thread = (&raw const (*walk).thread).read_volatile();
        let mut interpreter = (&raw const (*walk).interpreter).read_volatile();
        let mut state = (&raw const (*walk).state).read_volatile();
        for _ in 0..THREADS_AT_ONCE {
            if interpreter == 0 {
                break;
            }
            note(unread, fill(scratch, state, THREAD_BYTES));
            if word(scratch, layout.thread_id) == thread {
                return found(scratch, state);
            }
            state = word(scratch, layout.thread_next);
            if state == 0 {
                interpreter = hop(unread, interpreter.wrapping_add(layout.interpreter_next.into()));
                state = first_thread(unread, layout, interpreter);
            }
        }
        (&raw mut (*walk).interpreter).write_volatile(interpreter);
        (&raw mut (*walk).state).write_volatile(state);
        if !walk::was_last(walk) && interpreter != 0 {
            return;
        }
        let before = (&raw const (*walk).before).read_volatile();
        if (&raw const (*walk).main).read_volatile() != 0 && unread.read_volatile() != 0 {
            fill(scratch, before, THREAD_BYTES);
            if word(scratch, layout.thread_id) == thread {
                return found(scratch, before);
            }
        }
        walk::go_on(walk, doing::MISSED, 0);
    }
}

/// The first of an interpreter's threads. Where there is no interpreter there is none, and nothing that could not be read.
#[inline(always)]
fn first_thread(unread: *mut u64, layout: &Layout, interpreter: u64) -> u64 {
    if interpreter == 0 {
        0
    } else {
        hop(unread, interpreter.wrapping_add(layout.interpreter_threads.into()))
    }
}

/// The thread's state is what was read last: goes on with its current frame.
#[inline(always)]
fn found(scratch: *mut Scratch, state: u64) {
    let walk = walk::of(scratch);
    // SAFETY: the scratch is a per-CPU value of these programs alone.
    unsafe {
        if (&raw const (*walk).main).read_volatile() != 0
            && state != (&raw const (*walk).before).read_volatile()
        {
            remember((&raw const (*scratch).head.forker).read_volatile(), state);
        }
        let layout = &(*walk).layout;
        let frame = word(scratch, layout.thread_frame);
        frames::begin(
            walk,
            match layout.cframe_frame {
                NONE => frame,
                offset => peek(frame.wrapping_add(offset.into())),
            },
        );
    }
}

/// Writes down where the main thread's state is.
#[inline(always)]
fn remember(forker: u32, state: u64) {
    if let Some(followed) = FOLLOWED.get_ptr_mut(forker) {
        // SAFETY: the pointer was checked.
        unsafe { (&raw mut (*followed).main).write_volatile(state) };
    }
}
