//! A Python program's frames when it forks. A stage of the fork program, so that whoever is not followed pays nothing for it.
//!
//! The thread is found by its number, never by who holds the interpreter's lock: CPython 3.11 and 3.12 release that before
//! they fork. Only user memory is read, by a helper that cannot fault.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_ANY, helpers::generated::bpf_probe_read_user, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use reaper_ebpf::{
    counter, flag, id,
    interpreter::{
        BYTES_BEHIND, CODE_BYTES, FOLLOWED_WORDS, FRAMES, Followed, Frame, Layout, NONE, Scratch, Stack,
        TABLE_WORDS, THREAD_BYTES, THREADS, Tag, end, entry,
    },
};

use super::{native, ring};
use crate::{
    kernel::Task,
    ledger,
    maps::{FOLLOWED, STACK_SCRATCH, count},
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
    if followed.head == 0 {
        count(counter::FORK_EARLY);
        return native::follow(&ctx, caller);
    }
    let (tgid, child_start) = (child.tgid(), child.start());
    let own = id(tgid, child_start);
    // Before the child runs, and it does not run before this ends. One that shares its parent's memory will exec.
    if caller.memory() != child.memory() {
        inherit(followed, tgid, own, child_start);
    }
    if !ring::has_room::<ring::Stack>() {
        return count(counter::STACK_LOST);
    }
    let Some(scratch) = STACK_SCRATCH.get_ptr_mut(0) else { return };
    let frame = find(scratch, followed, child.thread_pointer());
    let (frames, end) = walk(scratch, &followed.layout, frame);
    if frames == 0 {
        count(counter::STACK_MISSED);
        return native::follow(&ctx, caller);
    }
    // SAFETY: the scratch is a per-CPU value of this program alone.
    unsafe {
        let head = &raw mut (*scratch).head;
        (&raw mut (*head).entry).write_volatile(entry::STACK);
        (&raw mut (*head).child).write_volatile(own);
        (&raw mut (*head).forker).write_volatile(forker);
        (&raw mut (*head).end).write_volatile(end);
        (&raw mut (*head).forker_start).write_volatile(start);
        (&raw mut (*head).image).write_volatile(followed.image);
        (&raw mut (*head).exec).write_volatile(followed.exec);
        (&raw mut (*head).shape).write_volatile(followed.shape);
        (&raw mut (*head).group).write_volatile(caller.group());
    }
    let length = size_of::<Stack>() as u64 + u64::from(frames & 0x7f) * size_of::<Frame>() as u64;
    ring::write::<ring::Stack>(scratch.cast_const().cast(), length);
}

/// A process that was forked and did not exec has the interpreter where its parent has it.
#[inline(always)]
fn inherit(followed: &Followed, tgid: u32, own: u64, start: u64) {
    let mut words = [0_u64; FOLLOWED_WORDS];
    let from = (&raw const *followed).cast::<u64>();
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: a `Followed` is that many words.
        *word = unsafe { from.add(index).read_volatile() };
    }
    // The start is the first of them.
    words[0] = start;
    // SAFETY: as above.
    let followed = unsafe { &*words.as_ptr().cast::<Followed>() };
    if FOLLOWED.insert(tgid, followed, u64::from(BPF_ANY)).is_err() {
        count(counter::FOLLOWED_LOST);
    } else if let Some(entry) = ledger::find(own) {
        entry.add_flags(flag::FOLLOWED);
    }
}

/// The current frame of the thread whose number is `thread`; 0 where it has none or could not be found.
///
/// What cannot be read is zeros, and leads nowhere: no path but one through here, or the verifier would walk all of them.
#[inline(always)]
fn find(scratch: *mut Scratch, followed: &Followed, thread: u64) -> u64 {
    let layout = &followed.layout;
    let mut interpreter = peek(followed.head);
    let mut state = peek(interpreter.wrapping_add(layout.interpreter_threads.into()));
    for _ in 0..THREADS {
        fill(scratch, state, THREAD_BYTES);
        if word(scratch, layout.thread_id) == thread {
            let frame = word(scratch, layout.thread_frame);
            return match layout.cframe_frame {
                NONE => frame,
                offset => peek(frame.wrapping_add(offset.into())),
            };
        }
        state = word(scratch, layout.thread_next);
        if state == 0 {
            interpreter = peek(interpreter.wrapping_add(layout.interpreter_next.into()));
            state = peek(interpreter.wrapping_add(layout.interpreter_threads.into()));
            if interpreter == 0 {
                return 0;
            }
        }
    }
    0
}

/// Writes down the frames from this one on. Says how many, and how that ended.
///
/// How many there are is kept in memory, where the verifier does not follow it: it would walk each number apart. So is whether
/// one could not be read.
#[inline(always)]
fn walk(scratch: *mut Scratch, layout: &Layout, mut frame: u64) -> (u32, u32) {
    // SAFETY: the scratch is a per-CPU value of this program alone.
    let (count, torn) = unsafe { (&raw mut (*scratch).head.frames, &raw mut (*scratch).head.end) };
    // SAFETY: as above.
    unsafe {
        count.write_volatile(0);
        torn.write_volatile(0);
    }
    for _ in 0..FRAMES {
        if frame == 0 {
            break;
        }
        let refused = fill(scratch, frame, layout.frame_bytes.into());
        // SAFETY: as above.
        unsafe { torn.write_volatile(torn.read_volatile() | (refused.cast_unsigned() >> 63) as u32) };
        let owner = byte(scratch, layout.frame_owner);
        // The low bits are no part of the address where there are any.
        let code = word(scratch, layout.frame_code) & !3;
        let at = word(scratch, layout.frame_at);
        frame = word(scratch, layout.frame_back);
        fill(scratch, code, CODE_BYTES);
        let first_line = half(scratch, layout.code_first_line);
        let tag = pointers(scratch, layout);
        let table = table(scratch, layout);
        // SAFETY: seven bits are an index into 128 frames.
        unsafe {
            let number = count.read_volatile();
            let place = (&raw mut (*scratch).frames).cast::<Frame>().add((number & 0x7f) as usize);
            (&raw mut (*place).code).write_volatile(code);
            (&raw mut (*place).at).write_volatile(at);
            (&raw mut (*place).first_line).write_volatile(first_line);
            (&raw mut (*place).tag).write_volatile(tag);
            (&raw mut (*place).table).write_volatile(table);
            (&raw mut (*place).zero).write_volatile(0);
            // The next one takes its place where it is nobody's, or is none.
            if u16::from(owner) < layout.frame_nobodys && code != 0 {
                count.write_volatile(number + 1);
            }
        }
    }
    // SAFETY: as above.
    let (count, torn) = unsafe { (count.read_volatile(), torn.read_volatile()) };
    let cut = u32::from(frame != 0);
    (count, (cut * end::CUT) | (torn * end::TORN))
}

/// Of the code object that was read last.
#[inline(always)]
fn pointers(scratch: *mut Scratch, layout: &Layout) -> u32 {
    let mut tag = Tag::default();
    for pointer in 0..3 {
        tag = tag.with(word(scratch, layout.code_file + pointer * 8));
    }
    tag.number()
}

/// Of the code object that was read last; what was read is gone then.
#[inline(always)]
fn table(scratch: *mut Scratch, layout: &Layout) -> u32 {
    let table = word(scratch, layout.code_table).wrapping_add(layout.bytes_size.into());
    let size = peek(table);
    let most = 8 * u64::from(TABLE_WORDS);
    let read = if size > most { most } else { size };
    for index in 0..TABLE_WORDS {
        // SAFETY: the room for what is read is larger.
        unsafe { (&raw mut (*scratch).read).cast::<u64>().add(index.into()).write_volatile(0) };
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
    let refused = fill(scratch, table.wrapping_add(BYTES_BEHIND), read as u32);
    if refused != 0 || size == 0 {
        return 0;
    }
    let mut tag = Tag::default().with(size);
    for index in 0..TABLE_WORDS {
        tag = tag.with(word(scratch, index * 8));
    }
    tag.number()
}

/// A word of the process's memory; 0 where there is none.
#[inline(always)]
fn peek(at: u64) -> u64 {
    let mut value = 0_u64;
    read_user(&raw mut value, at);
    // SAFETY: it is on the stack.
    unsafe { (&raw const value).read_volatile() }
}

/// Zeros where it cannot be read.
#[inline(always)]
fn read_user<T>(value: *mut T, at: u64) {
    #[expect(clippy::cast_possible_truncation, reason = "small")]
    let size = size_of::<T>() as u32;
    // SAFETY: the helper writes as many bytes as the value has, zeros where it fails.
    unsafe { bpf_probe_read_user(value.cast(), size, at as *const c_void) };
}

/// Reads so many bytes, at most 255, to where [`word`] and [`byte`] find them; zeros where they cannot be read, and not 0.
#[inline(always)]
fn fill(scratch: *mut Scratch, at: u64, bytes: u32) -> i64 {
    // SAFETY: the room for what is read is larger; the helper writes as many bytes as it is told.
    unsafe { bpf_probe_read_user((&raw mut (*scratch).read).cast(), bytes & 0xff, at as *const c_void) }
}

/// A word of what was read last.
#[inline(always)]
fn word(scratch: *mut Scratch, offset: u16) -> u64 {
    // SAFETY: five bits are an index into 32 words.
    unsafe { (&raw const (*scratch).read).cast::<u64>().add(usize::from(offset >> 3 & 0x1f)).read_volatile() }
}

/// Four bytes of what was read last.
#[inline(always)]
fn half(scratch: *mut Scratch, offset: u16) -> u32 {
    // SAFETY: six bits are an index into 64 halves.
    unsafe { (&raw const (*scratch).read).cast::<u32>().add(usize::from(offset >> 2 & 0x3f)).read_volatile() }
}

/// A byte of what was read last.
#[inline(always)]
fn byte(scratch: *mut Scratch, offset: u16) -> u8 {
    // SAFETY: seven bits are an index into 256 bytes.
    unsafe { (&raw const (*scratch).read).cast::<u8>().add(usize::from(offset & 0x7f)).read_volatile() }
}
