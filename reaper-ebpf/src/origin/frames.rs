//! The frames of a thread, from the innermost on.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use reaper_ebpf::interpreter::{
    CODE_BYTES, EVERYBODYS, FRAMES_AT_ONCE, FRAMES_TURNS, Frame, Layout, Parts, Scratch, Tag, WINDOW_BYTES,
    Walk, doing, end,
};

use super::{
    contents,
    memory::{fill, half, word},
    walk,
};

/// Begins with this one.
#[inline(always)]
pub(super) fn begin(walk: *mut Walk, frame: u64) {
    walk::go_on(walk, doing::FRAMES, FRAMES_TURNS);
    // SAFETY: it is the scratch's.
    unsafe {
        (&raw mut (*walk).frame).write_volatile(frame);
        // Nothing is read yet: the frame is not in it.
        (&raw mut (*walk).begin).write_volatile(frame.wrapping_add(1));
        (&raw mut (*walk).reach).write_volatile(0);
        (&raw mut (*walk).code).write_volatile(0);
        (&raw mut (*walk).first_line).write_volatile(0);
        (&raw mut (*walk).tag).write_volatile(0);
        (&raw mut (*walk).parts).write_volatile(Parts { file: 0, name: 0, table: 0 });
    }
}

/// Writes down some frames.
#[inline(always)]
pub(super) fn turn(scratch: *mut Scratch) {
    let walk = walk::of(scratch);
    // SAFETY: the scratch is a per-CPU value of these programs alone.
    unsafe {
        for _ in 0..FRAMES_AT_ONCE {
            if (&raw const (*walk).frame).read_volatile() == 0 {
                break;
            }
            step(scratch, walk);
        }
        let is_cut = (&raw const (*walk).frame).read_volatile() != 0;
        if is_cut && !walk::was_last(walk) {
            return;
        }
        if is_cut {
            ends(scratch, end::CUT);
        }
        if (&raw const (*scratch).head.frames).read_volatile() == 0 {
            walk::go_on(walk, doing::MISSED, 0);
        } else {
            contents::begin(scratch);
        }
    }
}

/// # Safety
///
/// `walk` is the scratch's.
#[inline(always)]
unsafe fn step(scratch: *mut Scratch, walk: *mut Walk) {
    // SAFETY: the caller's.
    unsafe {
        let layout = &(*walk).layout;
        let frame = (&raw const (*walk).frame).read_volatile();
        if frame.wrapping_sub((&raw const (*walk).begin).read_volatile())
            > (&raw const (*walk).reach).read_volatile()
        {
            look_around(scratch, walk, frame);
        }
        let within = frame.wrapping_sub((&raw const (*walk).begin).read_volatile());
        let owner = seen_byte(scratch, within, layout.frame_owner);
        // The low bits are no part of the address where there are any.
        let code = seen(scratch, within, layout.frame_code) & !3;
        let at = seen(scratch, within, layout.frame_at);
        (&raw mut (*walk).frame).write_volatile(seen(scratch, within, layout.frame_back));
        // A function that calls itself is read once.
        if code != (&raw const (*walk).code).read_volatile() {
            read_code(scratch, walk, code);
        }
        // Seven bits are an index into 128 frames.
        let count = &raw mut (*scratch).head.frames;
        let number = count.read_volatile();
        let place = (&raw mut (*scratch).frames).cast::<Frame>().add((number & 0x7f) as usize);
        (&raw mut (*place).code).write_volatile(code);
        (&raw mut (*place).at).write_volatile(at);
        (&raw mut (*place).first_line).write_volatile((&raw const (*walk).first_line).read_volatile());
        (&raw mut (*place).tag).write_volatile((&raw const (*walk).tag).read_volatile());
        (&raw mut (*place).table).write_volatile(0);
        (&raw mut (*place).texts).write_volatile(0);
        let parts = (&raw mut (*scratch).parts).cast::<Parts>().add((number & 0x7f) as usize);
        parts.write_volatile((&raw const (*walk).parts).read_volatile());
        // The next one takes its place where it is nobody's, or is none.
        if u16::from(owner) < layout.frame_nobodys && code != 0 {
            count.write_volatile(number + 1);
        }
    }
}

/// Notes how the stack ends.
#[inline(always)]
fn ends(scratch: *mut Scratch, how: u32) {
    // SAFETY: the scratch is a per-CPU value of these programs alone.
    unsafe {
        let end = &raw mut (*scratch).head.end;
        end.write_volatile(end.read_volatile() | how);
    }
}

/// Reads a frame, and what lies before it where frames lie one behind the other: most often those that called it.
///
/// # Safety
///
/// `walk` is the scratch's.
#[inline(always)]
unsafe fn look_around(scratch: *mut Scratch, walk: *mut Walk, frame: u64) {
    // SAFETY: the caller's; there is room for more than is read.
    unsafe {
        let layout = &(*walk).layout;
        let before = u64::from(WINDOW_BYTES).wrapping_sub(layout.frame_bytes.into());
        let window = (&raw mut (*scratch).window).cast::<c_void>();
        let mut reach = before;
        if layout.frame_nobodys == EVERYBODYS
            || bpf_probe_read_user(window, WINDOW_BYTES, frame.wrapping_sub(before) as *const c_void) != 0
        {
            // They are elsewhere, or that is not there.
            reach = 0;
            let bytes = u32::from(layout.frame_bytes) & 0xff;
            if bpf_probe_read_user(window, bytes, frame as *const c_void) != 0 {
                ends(scratch, end::TORN);
            }
        }
        (&raw mut (*walk).reach).write_volatile(reach);
        (&raw mut (*walk).begin).write_volatile(frame.wrapping_sub(reach));
    }
}

/// Reads the code object of a function.
///
/// # Safety
///
/// `walk` is the scratch's.
#[inline(always)]
unsafe fn read_code(scratch: *mut Scratch, walk: *mut Walk, code: u64) {
    // SAFETY: the caller's.
    unsafe {
        let layout = &(*walk).layout;
        let from = layout.code_first_line & !7;
        fill(scratch, code.wrapping_add(from.into()), CODE_BYTES.wrapping_sub(from.into()));
        let names = in_code(layout, layout.code_file);
        let (file, name) = (word(scratch, names), word(scratch, names.wrapping_add(8)));
        let table = word(scratch, in_code(layout, layout.code_table)).wrapping_add(layout.bytes_size.into());
        (&raw mut (*walk).code).write_volatile(code);
        (&raw mut (*walk).first_line).write_volatile(half(scratch, layout.code_first_line & 7));
        (&raw mut (*walk).tag).write_volatile(pointers(scratch, names));
        (&raw mut (*walk).parts).write_volatile(Parts { file, name, table });
    }
}

/// Where a member is in what was read of a code object, which is from its first line on.
#[inline(always)]
fn in_code(layout: &Layout, member: u16) -> u16 {
    member.wrapping_sub(layout.code_first_line & !7)
}

/// Of the code object that was read last.
#[inline(always)]
fn pointers(scratch: *mut Scratch, first: u16) -> u32 {
    let mut tag = Tag::default();
    for pointer in 0..3 {
        tag = tag.with(word(scratch, first.wrapping_add(pointer * 8)));
    }
    tag.number()
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
