//! What the code objects of a stack hold, written down so that userspace can tell one from another that lies in its place later: a
//! program that runs one file after the other puts them where the one before was, and so do processes that were forked from one.
//!
//! In steps that each read a part of one of them. What is done is kept in memory, where the verifier does not follow it: it walks
//! a step once, and not each way through all of them.

use reaper_ebpf::interpreter::{
    BYTES_BEHIND, Frame, Layout, PART_BYTES, PART_WORDS, PARTS_AT_ONCE, PARTS_TURNS, Parts, Reading, Scratch,
    TABLE_PARTS, TEXT_HASH, TEXT_LENGTH, Tag, characters, doing,
};

use super::{
    memory::{fill, half, peek, word},
    walk,
};

/// The values of [`Reading::what`]: a frame has not begun, or it is the one or the other.
const NOTHING: u64 = 0;
const TABLE: u64 = 1;
const FILE_TO_COME: u64 = 2;
const FILE: u64 = 3;

/// Begins with the innermost frame.
#[inline(always)]
pub(super) fn begin(scratch: *mut Scratch) {
    walk::go_on(walk::of(scratch), doing::CONTENTS, PARTS_TURNS);
    // SAFETY: the scratch is a per-CPU value of these programs alone; its members are aligned.
    unsafe {
        let reading = &raw mut (*scratch).reading;
        (&raw mut (*reading).index).write_volatile(0);
        (&raw mut (*reading).what).write_volatile(NOTHING);
        (&raw mut (*reading).file).write_volatile(0);
        (&raw mut (*reading).path).write_volatile(0);
    }
}

/// Reads some parts. Where there are more than are read, those of the outermost frames remain unread.
#[inline(always)]
pub(super) fn turn(scratch: *mut Scratch) {
    let walk = walk::of(scratch);
    // SAFETY: as above.
    unsafe {
        let layout = &(*walk).layout;
        let reading = &raw mut (*scratch).reading;
        for _ in 0..PARTS_AT_ONCE {
            let index = (&raw const (*reading).index).read_volatile();
            if index >= u64::from((&raw const (*scratch).head.frames).read_volatile()) {
                return walk::go_on(walk, doing::WRITE, 0);
            }
            step(scratch, layout, reading, (index & 0x7f) as usize);
        }
        if walk::was_last(walk) {
            walk::go_on(walk, doing::WRITE, 0);
        }
    }
}

/// # Safety
///
/// `reading` is the scratch's; `index` has seven bits.
#[inline(always)]
unsafe fn step(scratch: *mut Scratch, layout: &Layout, reading: *mut Reading, index: usize) {
    // SAFETY: the caller's; the scratch has room for any such index.
    unsafe {
        let parts = (&raw const (*scratch).parts).cast::<Parts>().add(index);
        match (&raw const (*reading).what).read_volatile() {
            NOTHING if index != 0 && is_again(parts) => return again(scratch, reading, index),
            NOTHING => begin_table(reading, (&raw const (*parts).table).read_volatile()),
            FILE_TO_COME => begin_file(scratch, layout, reading, (&raw const (*parts).file).read_volatile()),
            _ => {}
        }
        if read_part(scratch, reading) {
            end(reading, parts, (&raw mut (*scratch).frames).cast::<Frame>().add(index));
        }
    }
}

/// Whether a function has called itself: the frame before has the same parts.
///
/// # Safety
///
/// There is one before.
#[inline(always)]
unsafe fn is_again(parts: *const Parts) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let [this, before] = [parts, parts.sub(1)].map(|parts| {
            let Parts { file, name, table } = parts.read_volatile();
            [file, name, table]
        });
        this == before
    }
}

/// What lies at the same addresses at the same moment is the same.
///
/// # Safety
///
/// `reading` is the scratch's; `index` has seven bits and is not 0.
#[inline(always)]
unsafe fn again(scratch: *mut Scratch, reading: *mut Reading, index: usize) {
    // SAFETY: the caller's.
    unsafe {
        let frame = (&raw mut (*scratch).frames).cast::<Frame>().add(index);
        let before = frame.sub(1);
        (&raw mut (*frame).table).write_volatile((&raw const (*before).table).read_volatile());
        (&raw mut (*frame).texts).write_volatile((&raw const (*before).texts).read_volatile());
        (&raw mut (*reading).index).write_volatile(index as u64 + 1);
    }
}

/// # Safety
///
/// `reading` is the scratch's.
#[inline(always)]
unsafe fn begin_part(reading: *mut Reading, what: u64, length: u64, at: u64, bytes: u64, unread: u64) {
    // SAFETY: the caller's.
    unsafe {
        (&raw mut (*reading).what).write_volatile(what);
        (&raw mut (*reading).at).write_volatile(at);
        (&raw mut (*reading).left).write_volatile(bytes);
        (&raw mut (*reading).tag).write_volatile(Tag::default().with(length).halves());
        (&raw mut (*reading).unread).write_volatile(unread);
    }
}

/// A table of lines: its size, and what it begins with.
#[inline(always)]
unsafe fn begin_table(reading: *mut Reading, table: u64) {
    const MOST: u64 = PART_BYTES * TABLE_PARTS as u64;
    let size = peek(table);
    let bytes = if size > MOST { MOST } else { size };
    let at = table.wrapping_add(BYTES_BEHIND.into());
    // SAFETY: the caller's.
    unsafe { begin_part(reading, TABLE, size, at, bytes, u64::from(size == 0)) }
}

/// A path: its length, and what it ends with.
#[inline(always)]
unsafe fn begin_file(scratch: *mut Scratch, layout: &Layout, reading: *mut Reading, file: u64) {
    let unread = fill(scratch, file.wrapping_add(TEXT_LENGTH.into()), 24).cast_unsigned();
    let (length, (width, ascii)) = (word(scratch, 0), characters(half(scratch, 16)));
    let head = if ascii { layout.ascii_head } else { layout.text_head };
    let bytes = length.wrapping_mul(width);
    let kept = if bytes > PART_BYTES { PART_BYTES } else { bytes };
    let at = file.wrapping_add(head.into()).wrapping_add(bytes).wrapping_sub(kept);
    // SAFETY: the caller's.
    unsafe {
        (&raw mut (*reading).file).write_volatile(file);
        begin_part(reading, FILE, length, at, kept, unread);
    }
}

/// Reads on, with zeros behind what there is. True where that was the last.
#[inline(always)]
unsafe fn read_part(scratch: *mut Scratch, reading: *mut Reading) -> bool {
    // SAFETY: the caller's; there is room for more than a part.
    unsafe {
        for index in 0..PART_WORDS {
            (&raw mut (*scratch).read).cast::<u64>().add(index.into()).write_volatile(0);
        }
        let (at, left) =
            ((&raw const (*reading).at).read_volatile(), (&raw const (*reading).left).read_volatile());
        let bytes = if left > PART_BYTES { PART_BYTES } else { left };
        #[expect(clippy::cast_possible_truncation, reason = "at most 128")]
        let unread = fill(scratch, at, bytes as u32).cast_unsigned();
        let before = (&raw const (*reading).unread).read_volatile();
        (&raw mut (*reading).unread).write_volatile(before | unread);
        let tag = Tag::of_halves((&raw const (*reading).tag).read_volatile());
        let tag = tag.with_part(|index| word(scratch, index * 8));
        (&raw mut (*reading).tag).write_volatile(tag.halves());
        (&raw mut (*reading).at).write_volatile(at.wrapping_add(bytes));
        (&raw mut (*reading).left).write_volatile(left - bytes);
        left == bytes
    }
}

/// Writes down what was read, and what comes next.
#[inline(always)]
unsafe fn end(reading: *mut Reading, parts: *const Parts, frame: *mut Frame) {
    // SAFETY: the caller's.
    unsafe {
        let tag = Tag::of_halves((&raw const (*reading).tag).read_volatile()).number();
        let tag = if (&raw const (*reading).unread).read_volatile() == 0 { tag } else { 0 };
        if (&raw const (*reading).what).read_volatile() == TABLE {
            (&raw mut (*frame).table).write_volatile(tag);
            // Most often a function is in the same file as the one that it has called.
            if (&raw const (*parts).file).read_volatile() != (&raw const (*reading).file).read_volatile() {
                return (&raw mut (*reading).what).write_volatile(FILE_TO_COME);
            }
        } else {
            (&raw mut (*reading).path).write_volatile(tag.into());
        }
        let path = (&raw const (*reading).path).read_volatile();
        // CPython keeps it in the text, and makes it when it makes the name of a function.
        let hash = peek((&raw const (*parts).name).read_volatile().wrapping_add(TEXT_HASH.into()));
        let texts = if path == 0 || hash == 0 { 0 } else { Tag::default().with(path).with(hash).number() };
        (&raw mut (*frame).texts).write_volatile(texts);
        let index = (&raw const (*reading).index).read_volatile();
        (&raw mut (*reading).index).write_volatile(index + 1);
        (&raw mut (*reading).what).write_volatile(NOTHING);
    }
}
