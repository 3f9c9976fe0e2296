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
        ASKED, CODE_BYTES, EVERYBODYS, FOLLOWED_WORDS, FRAMES, Followed, Frame, Layout, NONE, Parts, Scratch,
        Stack, THREAD_BYTES, THREADS, Tag, UNASKED, WINDOW_BYTES, end, entry, kind,
    },
};

use super::{contents, exec, native, ring};
use crate::{
    kernel::Task,
    ledger,
    maps::{EXECUTABLES, FOLLOWED, STACK_SCRATCH, count},
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
    let Some(scratch) = STACK_SCRATCH.get_ptr_mut(0) else { return };
    let (main, thread) = (caller.pid() == forker, child.thread_pointer());
    let state = find(scratch, followed, thread, main);
    if main && state != 0 && state != followed.main {
        remember(forker, state);
    }
    let frame = frame_of(scratch, &followed.layout, state);
    let (frames, end) = walk(scratch, &followed.layout, frame);
    if frames == 0 {
        count(counter::STACK_MISSED);
        return native::follow(&ctx, caller);
    }
    contents::read(scratch, &followed.layout);
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

/// The state of the thread whose number is `thread`, which is what was read last then; 0 where it has none or could not be found.
/// Where something on the way to it could not be read, the `main` thread's is looked for where it was before.
///
/// What cannot be read is zeros, and leads nowhere: no path but one through here, or the verifier would walk all of them.
#[inline(always)]
fn find(scratch: *mut Scratch, followed: &Followed, thread: u64, main: bool) -> u64 {
    let layout = &followed.layout;
    // SAFETY: the scratch is a per-CPU value of this program alone. It is kept where the verifier does not follow it.
    let unread = unsafe { &raw mut (*scratch).head.end };
    // SAFETY: as above.
    unsafe { unread.write_volatile(0) };
    let mut interpreter = hop(unread, followed.head);
    let mut state = first_thread(unread, layout, interpreter);
    for _ in 0..THREADS {
        if interpreter == 0 {
            break;
        }
        note(unread, fill(scratch, state, THREAD_BYTES));
        if word(scratch, layout.thread_id) == thread {
            return state;
        }
        state = word(scratch, layout.thread_next);
        if state == 0 {
            interpreter = hop(unread, interpreter.wrapping_add(layout.interpreter_next.into()));
            state = first_thread(unread, layout, interpreter);
        }
    }
    // SAFETY: as above.
    if main && unsafe { unread.read_volatile() } != 0 {
        let before = followed.main;
        fill(scratch, before, THREAD_BYTES);
        if word(scratch, layout.thread_id) == thread {
            return before;
        }
    }
    0
}

/// The first of an interpreter's threads. Where there is no interpreter there is none, and nothing that could not be read.
#[inline(always)]
fn first_thread(unread: *mut u32, layout: &Layout, interpreter: u64) -> u64 {
    if interpreter == 0 {
        0
    } else {
        hop(unread, interpreter.wrapping_add(layout.interpreter_threads.into()))
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

/// The current frame of the thread whose state was read last; 0 where there is none.
#[inline(always)]
fn frame_of(scratch: *mut Scratch, layout: &Layout, state: u64) -> u64 {
    if state == 0 {
        return 0;
    }
    let frame = word(scratch, layout.thread_frame);
    match layout.cframe_frame {
        NONE => frame,
        offset => peek(frame.wrapping_add(offset.into())),
    }
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
    // Where the window begins, and up to where a frame that begins in it ends in it.
    let (mut begin, mut reach) = (frame.wrapping_add(1), 0);
    // Of the code object that was read last.
    let (mut last, mut first_line, mut tag) = (0, 0, 0);
    let (mut file, mut name, mut table) = (0, 0, 0);
    for _ in 0..FRAMES {
        if frame == 0 {
            break;
        }
        if frame.wrapping_sub(begin) > reach {
            reach = if has_callers(scratch, layout, frame) { before(layout) } else { 0 };
            begin = frame.wrapping_sub(reach);
            if reach == 0 && !has_frame(scratch, layout, frame) {
                // SAFETY: as above.
                unsafe { torn.write_volatile(1) };
            }
        }
        let within = frame.wrapping_sub(begin);
        let owner = seen_byte(scratch, within, layout.frame_owner);
        // The low bits are no part of the address where there are any.
        let code = seen(scratch, within, layout.frame_code) & !3;
        let at = seen(scratch, within, layout.frame_at);
        frame = seen(scratch, within, layout.frame_back);
        // A function that calls itself is read once.
        if code != last {
            last = code;
            let from = layout.code_first_line & !7;
            fill(scratch, code.wrapping_add(from.into()), CODE_BYTES.wrapping_sub(from.into()));
            first_line = half(scratch, layout.code_first_line & 7);
            tag = pointers(scratch, layout);
            let names = in_code(layout, layout.code_file);
            (file, name) = (word(scratch, names), word(scratch, names.wrapping_add(8)));
            table = word(scratch, in_code(layout, layout.code_table)).wrapping_add(layout.bytes_size.into());
        }
        // SAFETY: seven bits are an index into 128 frames.
        unsafe {
            let number = count.read_volatile();
            let place = (&raw mut (*scratch).frames).cast::<Frame>().add((number & 0x7f) as usize);
            (&raw mut (*place).code).write_volatile(code);
            (&raw mut (*place).at).write_volatile(at);
            (&raw mut (*place).first_line).write_volatile(first_line);
            (&raw mut (*place).tag).write_volatile(tag);
            (&raw mut (*place).table).write_volatile(0);
            (&raw mut (*place).texts).write_volatile(0);
            let parts = (&raw mut (*scratch).parts).cast::<Parts>().add((number & 0x7f) as usize);
            (&raw mut (*parts).file).write_volatile(file);
            (&raw mut (*parts).name).write_volatile(name);
            (&raw mut (*parts).table).write_volatile(table);
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

/// What is read before a frame, where frames lie one behind the other.
#[inline(always)]
fn before(layout: &Layout) -> u64 {
    u64::from(WINDOW_BYTES).wrapping_sub(layout.frame_bytes.into())
}

/// Reads a frame and what lies before it: most often those that called it. False where they are elsewhere, or that is not there.
#[inline(always)]
fn has_callers(scratch: *mut Scratch, layout: &Layout, frame: u64) -> bool {
    let from = frame.wrapping_sub(before(layout)) as *const c_void;
    // SAFETY: the scratch is a per-CPU value of this program alone; there is room for more.
    layout.frame_nobodys != EVERYBODYS
        && unsafe { bpf_probe_read_user((&raw mut (*scratch).window).cast(), WINDOW_BYTES, from) } == 0
}

/// Reads a frame. False where it cannot be read: zeros then.
#[inline(always)]
fn has_frame(scratch: *mut Scratch, layout: &Layout, frame: u64) -> bool {
    let bytes = u32::from(layout.frame_bytes) & 0xff;
    // SAFETY: as above.
    unsafe { bpf_probe_read_user((&raw mut (*scratch).window).cast(), bytes, frame as *const c_void) == 0 }
}

/// Where a member is in what was read of a code object, which is from its first line on.
#[inline(always)]
fn in_code(layout: &Layout, member: u16) -> u16 {
    member.wrapping_sub(layout.code_first_line & !7)
}

/// Of the code object that was read last.
#[inline(always)]
fn pointers(scratch: *mut Scratch, layout: &Layout) -> u32 {
    let (mut tag, first) = (Tag::default(), in_code(layout, layout.code_file));
    for pointer in 0..3 {
        tag = tag.with(word(scratch, first.wrapping_add(pointer * 8)));
    }
    tag.number()
}

/// A word of the process's memory; 0 where there is none.
#[inline(always)]
pub(super) fn peek(at: u64) -> u64 {
    let mut value = 0_u64;
    read_user(&raw mut value, at);
    // SAFETY: it is on the stack.
    unsafe { (&raw const value).read_volatile() }
}

/// The same, and notes whether it could be read.
#[inline(always)]
fn hop(unread: *mut u32, at: u64) -> u64 {
    let mut value = 0_u64;
    note(unread, read_user(&raw mut value, at));
    // SAFETY: it is on the stack.
    unsafe { (&raw const value).read_volatile() }
}

/// Notes what a helper says, which is 0 where it could read: any bit stays.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an error's low bits are some")]
fn note(unread: *mut u32, said: i64) {
    // SAFETY: it is in the scratch, which is of this program alone.
    unsafe { unread.write_volatile(unread.read_volatile() | said as u32) };
}

/// Zeros where it cannot be read, and not 0.
#[inline(always)]
fn read_user<T>(value: *mut T, at: u64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "small")]
    let size = size_of::<T>() as u32;
    // SAFETY: the helper writes as many bytes as the value has, zeros where it fails.
    unsafe { bpf_probe_read_user(value.cast(), size, at as *const c_void) }
}

/// Reads so many bytes, at most 255, to where [`word`] and [`half`] find them; zeros where they cannot be read, and not 0.
#[inline(always)]
pub(super) fn fill(scratch: *mut Scratch, at: u64, bytes: u32) -> i64 {
    // SAFETY: the room for what is read is larger; the helper writes as many bytes as it is told.
    unsafe { bpf_probe_read_user((&raw mut (*scratch).read).cast(), bytes & 0xff, at as *const c_void) }
}

/// A word of a frame in the window.
#[inline(always)]
fn seen(scratch: *mut Scratch, within: u64, offset: u16) -> u64 {
    // SAFETY: seven bits above three, and four above three, are within the window with what is behind it.
    unsafe { seen_at(scratch, within, offset & 0x78).cast::<u64>().read_volatile() }
}

/// A byte of it.
#[inline(always)]
fn seen_byte(scratch: *mut Scratch, within: u64, offset: u16) -> u8 {
    // SAFETY: as above.
    unsafe { seen_at(scratch, within, offset & 0x7f).read_volatile() }
}

/// Masked here, where it is used: older verifiers forget what they know of a number that is kept on the stack.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a pointer has 64 bits here")]
unsafe fn seen_at(scratch: *mut Scratch, within: u64, offset: u16) -> *mut u8 {
    let within = (within & u64::from(WINDOW_BYTES - 8)) as usize;
    // SAFETY: the caller's.
    unsafe { (&raw mut (*scratch).window).cast::<u8>().add(within).add(offset.into()) }
}

/// A word of what was read last.
#[inline(always)]
pub(super) fn word(scratch: *mut Scratch, offset: u16) -> u64 {
    // SAFETY: five bits are an index into 32 words.
    unsafe { (&raw const (*scratch).read).cast::<u64>().add(usize::from(offset >> 3 & 0x1f)).read_volatile() }
}

/// Four bytes of what was read last.
#[inline(always)]
pub(super) fn half(scratch: *mut Scratch, offset: u16) -> u32 {
    // SAFETY: six bits are an index into 64 halves.
    unsafe { (&raw const (*scratch).read).cast::<u32>().add(usize::from(offset >> 2 & 0x3f)).read_volatile() }
}
