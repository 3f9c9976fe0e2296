//! Stacks of interpreters: what the two sides say to each other about them.
//!
//! Userspace finds out which executable files are interpreters, and where in a process the interpreter's state is; the kernel
//! side walks its frames when the process forks. What it writes down are addresses: userspace reads names and lines there
//! later.

use crate::Group;

/// A file that is executed, as the kernel tells files apart; the last two members tell a file from another one that had its
/// inode number before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Executable {
    /// Number of its inode.
    pub inode: u64,
    /// The file system's device, as the kernel numbers it.
    pub device: u32,
    /// The inode's generation; 0 where the file system has none.
    pub generation: u32,
    /// The file's size.
    pub size: u64,
}

/// What is known of an executable file: [`Verdict::kind`].
pub mod kind {
    /// No interpreter that is known, and none is linked to it.
    pub const OTHER: u32 = 1;
    /// An interpreter: its state is at a fixed distance from its code.
    pub const INTERPRETER: u32 = 2;
    /// The interpreter is in a library that it is linked to: each process is looked at.
    pub const LINKED: u32 = 3;
}

/// What is known of an executable file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// One of [`kind`].
    pub kind: u32,
    /// As in [`Followed`].
    pub shape: u32,
    /// From where its code begins in a process to where the address of the first interpreter is; wraps.
    pub distance: u64,
    /// As in [`Followed`].
    pub layout: Layout,
}

/// More than the byte at [`Layout::frame_owner`] can say.
pub const EVERYBODYS: u16 = 256;

/// Says that there is no such member.
pub const NONE: u16 = u16::MAX;

/// How an interpreter of CPython lays out what is read: offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// `PyInterpreterState.next`
    pub interpreter_next: u16,
    /// The head of its list of thread states.
    pub interpreter_threads: u16,
    /// `PyThreadState.next`; this and the two below are in the first [`THREAD_BYTES`].
    pub thread_next: u16,
    /// `PyThreadState.thread_id`
    pub thread_id: u16,
    /// Where it has its current frame, or the `_PyCFrame` that has.
    pub thread_frame: u16,
    /// `_PyCFrame.current_frame`, or [`NONE`]
    pub cframe_frame: u16,
    /// Bytes of a frame that are read, at most [`FRAME_BYTES`].
    pub frame_bytes: u16,
    /// The frame that called it; this and the three below are in the first [`Self::frame_bytes`].
    pub frame_back: u16,
    /// Its code object.
    pub frame_code: u16,
    /// Where it is in the code: `f_lasti`, or a pointer to the instruction.
    pub frame_at: u16,
    /// What the frame belongs to, one byte;
    pub frame_owner: u16,
    /// from here on it runs no function. [`EVERYBODYS`] where each frame is an object; else they lie one behind the other, the
    /// innermost last.
    pub frame_nobodys: u16,
    /// `PyCodeObject.co_firstlineno`; the two below are behind it, in the first [`CODE_BYTES`].
    pub code_first_line: u16,
    /// `PyCodeObject.co_filename`; two more pointers are behind it.
    pub code_file: u16,
    /// `PyCodeObject.co_linetable`, or `co_lnotab`.
    pub code_table: u16,
    /// The size of a `PyBytesObject`; its bytes are [`BYTES_BEHIND`] behind it.
    pub bytes_size: u16,
    /// `sizeof(PyASCIIObject)`, behind which the characters of a text are that is all ASCII.
    pub ascii_head: u16,
    /// `sizeof(PyCompactUnicodeObject)`, behind which those of any other are.
    pub text_head: u16,
    /// Always zero: no padding.
    pub zero: [u16; 2],
}

/// Bytes of a thread's state that are read.
pub const THREAD_BYTES: u32 = 192;
/// The most bytes of a frame that are read.
pub const FRAME_BYTES: u32 = 128;
/// Bytes that are read of where frames lie one behind the other, a power of two.
pub const WINDOW_BYTES: u32 = 1024;
/// Up to here code objects are read, from the first line on: no version's is smaller.
pub const CODE_BYTES: u32 = 144;
/// From the size of a `PyBytesObject` to its bytes: a hash is between them.
pub const BYTES_BEHIND: u16 = 16;
/// Words of a table of lines, or of a text, that are read at a time.
pub const PART_WORDS: u16 = 16;
/// Bytes of those. Of a text as much is read, of what it ends with: what tells a path from another one is there.
pub const PART_BYTES: u64 = 8 * PART_WORDS as u64;
/// So many parts of a table of lines are read: those of some hundred lines.
pub const TABLE_PARTS: u16 = 64;
/// So many parts are read of all the frames of a stack, in so many turns.
pub const STACK_PARTS: u32 = PARTS_AT_ONCE * PARTS_TURNS;
/// A turn's.
pub const PARTS_AT_ONCE: u32 = 24;
/// Their number.
pub const PARTS_TURNS: u32 = 11;
/// `PyASCIIObject.length`; its hash and its state are behind it, each in a word.
pub const TEXT_LENGTH: u16 = 16;
/// `PyASCIIObject.hash`
pub const TEXT_HASH: u16 = 24;

/// Bytes of a character of a text in this state (`PyASCIIObject.state`), 0 where there is none such, and whether all are ASCII. The bits
/// are behind those for `interned`, of which there are two, and since 3.14 sixteen:
/// <https://github.com/python/cpython/blob/3.14/Include/cpython/unicodeobject.h>
#[must_use]
#[inline(always)]
pub const fn characters(state: u32) -> (u64, bool) {
    const COMPACT: u32 = 8;
    const ASCII: u32 = 16;
    let (old, new) = (state >> 2, state >> 16);
    let bits = if old & COMPACT != 0 { old } else { new };
    match bits & (7 | COMPACT) {
        // Compact, of that many bytes.
        9 => (1, bits & ASCII != 0),
        10 => (2, bits & ASCII != 0),
        12 => (4, bits & ASCII != 0),
        _ => (0, false),
    }
}

/// A process whose forks are looked at more closely.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Start of its leader, ns since boot.
    pub start: u64,
    /// Identity bits of the process that exec'ed the program: the memory is the same, at the same addresses, in those that were
    /// forked from it since.
    pub image: u64,
    /// The address where the address of the first interpreter is; 0 where it is not known yet whether there is one.
    pub head: u64,
    /// How often that process had exec'ed, by the kernel's counter: the low half.
    pub exec: u32,
    /// Which interpreter, by userspace's own number. While that is not known, [`ASKED`], or [`UNASKED`] where the ring buffer
    /// had no room for the question.
    pub shape: u32,
    /// How it is laid out.
    pub layout: Layout,
    /// The state of its main thread, where it was found last; 0 where it was not looked for yet. That thread's is there as long
    /// as the interpreter is. What leads to it lies elsewhere, is seldom used, and cannot be read while the kernel moves it.
    pub main: u64,
}

/// Userspace has been asked what it is: [`Followed::shape`], which is no number of a shape then.
pub const ASKED: u32 = u32::MAX;
/// It has not been asked.
pub const UNASKED: u32 = u32::MAX - 1;

/// Words of a [`Followed`].
pub const FOLLOWED_WORDS: usize = 10;

/// Frames of a stack that are looked at, in so many turns.
pub const FRAMES: u32 = FRAMES_AT_ONCE * FRAMES_TURNS;
/// A turn's.
pub const FRAMES_AT_ONCE: u32 = 12;
/// Their number.
pub const FRAMES_TURNS: u32 = 8;
/// Threads of a process that are looked through, in so many turns.
pub const THREADS: u32 = THREADS_AT_ONCE * THREADS_TURNS;
/// A turn's.
pub const THREADS_AT_ONCE: u32 = 32;
/// Their number.
pub const THREADS_TURNS: u32 = 8;

/// A function on the stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The code object's address.
    pub code: u64,
    /// Where in the code, as [`Layout::frame_at`] has it.
    pub at: u64,
    /// Its first line; 0 where the code object could not be read.
    pub first_line: u32,
    /// A [`Tag`] of the three pointers at [`Layout::code_file`].
    pub tag: u32,
    /// A [`Tag`] of the table of lines: its size, and all of it up to [`TABLE_PARTS`]. 0 where that could not be read, because it was
    /// never touched (in a frozen module) or not for long.
    pub table: u32,
    /// A [`Tag`] of the texts of its file and its name. 0 where they could not be read.
    pub texts: u32,
}

/// What tells a code object from another one that lies in the same place later, or in another process that was forked from the same
/// one. Its pointers alone do not: what a program compiles, runs and forgets again and again has the same ones.
///
/// Two halves that take words in turns: neither waits for the other, and half the multiplications come one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tag(u64, u64);

impl Tag {
    /// With one word more.
    #[must_use]
    #[inline(always)]
    pub const fn with(self, word: u64) -> Self {
        Self(self.1, mixed(self.0, word))
    }

    /// As a number, never 0.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u32 {
        (mixed(self.0, self.1) >> 32) as u32 | 1
    }
}

impl Tag {
    /// What it consists of.
    #[must_use]
    #[inline(always)]
    pub const fn halves(self) -> [u64; 2] {
        [self.0, self.1]
    }

    /// The other way round.
    #[must_use]
    #[inline(always)]
    pub const fn of_halves([first, second]: [u64; 2]) -> Self {
        Self(first, second)
    }

    /// With as many words as are read at a time.
    #[must_use]
    #[inline(always)]
    pub fn with_part(mut self, word: impl Fn(u16) -> u64) -> Self {
        for index in 0..PART_WORDS {
            self = self.with(word(index));
        }
        self
    }
}

#[inline(always)]
const fn mixed(so_far: u64, word: u64) -> u64 {
    (so_far.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What an entry of the ring buffer is.
pub mod entry {
    /// A stack: [`super::Stack`].
    pub const STACK: u32 = 1;
    /// A process executes a file that is to be looked at, or was forked by one that does: [`super::Exec`].
    pub const EXEC: u32 = 2;
}

/// How a stack ends: [`Stack::end`], 0 where the last frame is the outermost.
pub mod end {
    /// There are more frames than are kept.
    pub const CUT: u32 = 1;
    /// There may be more: one could not be read.
    pub const TORN: u32 = 2;
}

/// The head of a stack in the ring buffer; its frames follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// [`entry::STACK`]
    pub entry: u32,
    /// How many frames follow.
    pub frames: u32,
    /// Identity bits of the process that was forked.
    pub child: u64,
    /// The process that forked it.
    pub forker: u32,
    /// How it ends: of [`end`].
    pub end: u32,
    /// Its start, ns since boot.
    pub forker_start: u64,
    /// As in [`Followed`].
    pub image: u64,
    /// As in [`Followed`].
    pub exec: u32,
    /// As in [`Followed`].
    pub shape: u32,
    /// The forker's.
    pub group: Group,
}

/// A process that executes a file, in the ring buffer: since it exec'ed, or since it was forked by one of which that was not known
/// yet; or one that does already, from the census.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exec {
    /// [`entry::EXEC`]
    pub entry: u32,
    /// Its tgid.
    pub tgid: u32,
    /// Its start, ns since boot.
    pub start: u64,
    /// Where its code begins.
    pub code: u64,
    /// How often it has exec'ed, by the kernel's counter: the low half.
    pub exec: u32,
    /// Always zero: no padding.
    pub zero: u32,
    /// As in [`Followed`].
    pub image: u64,
    /// The file.
    pub executable: Executable,
}

/// Where the parts of a code object are that tell it from others.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parts {
    /// `co_filename`
    pub file: u64,
    /// `co_name`
    pub name: u64,
    /// Its table of lines, where that says how long it is.
    pub table: u64,
}

/// How far the reading of those is.
#[repr(C)]
pub struct Reading {
    /// The frame.
    pub index: u64,
    /// Which of its parts: 0 for one that has not begun.
    pub what: u64,
    /// Where to go on,
    pub at: u64,
    /// and how many bytes.
    pub left: u64,
    /// The [`Tag`] so far.
    pub tag: [u64; 2],
    /// Not 0 where something could not be read.
    pub unread: u64,
    /// The file that was read last,
    pub file: u64,
    /// and its tag.
    pub path: u64,
}

/// What a walk is at: [`Walk::doing`].
pub mod doing {
    /// It looks for the thread.
    pub const THREADS: u64 = 0;
    /// It goes from frame to frame.
    pub const FRAMES: u64 = 1;
    /// It reads what their code objects hold.
    pub const CONTENTS: u64 = 2;
    /// All is there.
    pub const WRITE: u64 = 3;
    /// There is no such thread, or it runs nothing.
    pub const MISSED: u64 = 4;
}

/// How far a walk is: all that one turn leaves to the next.
#[repr(C)]
pub struct Walk {
    /// Of [`doing`].
    pub doing: u64,
    /// How many turns are left for that.
    pub turns: u64,
    /// How the interpreter is laid out.
    pub layout: Layout,
    /// The thread's number.
    pub thread: u64,
    /// 1 where that is the main thread.
    pub main: u64,
    /// The state of the main thread, where it was found before.
    pub before: u64,
    /// The interpreter that is looked at,
    pub interpreter: u64,
    /// and a state of one of its threads.
    pub state: u64,
    /// Not 0 where something on the way could not be read.
    pub unread: u64,
    /// The frame that comes next,
    pub frame: u64,
    /// where what is read around it begins,
    pub begin: u64,
    /// and up to where in it a frame may begin.
    pub reach: u64,
    /// The code object that was read last: its address,
    pub code: u64,
    /// its first line,
    pub first_line: u32,
    /// the [`Tag`] of its pointers,
    pub tag: u32,
    /// and its parts.
    pub parts: Parts,
}

/// Where a stack is put together.
#[repr(C)]
pub struct Scratch {
    /// What goes into the ring buffer: the head,
    pub head: Stack,
    /// and the frames. More than are looked at, so that any index of seven bits is inside.
    pub frames: [Frame; 128],
    /// Beside each.
    pub parts: [Parts; 128],
    /// How far the walk is,
    pub walk: Walk,
    /// and the reading of those.
    pub reading: Reading,
    /// What was read last.
    pub read: [u64; 32],
    /// Memory that has the frame that is looked at, and most often those that called it. A frame more than is read, so that any
    /// that begins inside ends inside.
    pub window: [u64; ((WINDOW_BYTES + FRAME_BYTES) / 8) as usize],
}

/// Bytes of the ring buffer.
pub const RING_BYTES: u32 = 2 << 20;

/// No wake-up for stacks sooner than this after the last, ns, unless the ring buffer is half full. A zombie may be reported a tenth of a
/// second after it was forked, and its stack is to be read by then.
pub const STACKS_APART: u64 = 25_000_000;
/// No wake-up for executables sooner than this after the last, ns.
pub const EXECS_APART: u64 = 5_000_000;

/// Places in the array of wake-ups.
pub mod wake {
    /// The last one for a stack, on the monotonic clock.
    pub const STACK: u32 = 0;
    /// The last one for an executable.
    pub const EXEC: u32 = 1;
    /// The last one for a native stack.
    pub const COPY: u32 = 2;
    /// No wake-up: until when native stacks are spoken for, of all processes together.
    pub const COPIES_DUE: u32 = 3;
    /// How many there are.
    pub const COUNT: u32 = 4;
}

/// What follows the fork program.
pub mod stage {
    /// Begins with a Python program's stack.
    pub const PYTHON: u32 = 0;
    /// Copies registers and stack.
    pub const NATIVE: u32 = 1;
    /// Goes on with a Python program's stack: a turn of it, which the next one follows.
    pub const WALK: u32 = 2;
    /// How many there are.
    pub const COUNT: u32 = 3;
    /// So many may follow one another: `MAX_TAIL_CALL_CNT`, which was 32 before Linux 5.17 and is 33 since.
    pub const MOST: u32 = 32;
}

// The first stage, all turns, and the native one behind them.
const _: () = assert!(THREADS_TURNS + FRAMES_TURNS + PARTS_TURNS + 2 <= stage::MOST);

const _: () = assert!(size_of::<Executable>() == 24);
const _: () = assert!(size_of::<Layout>() == 40);
const _: () = assert!(size_of::<Verdict>() == 56);
const _: () = assert!(size_of::<Followed>() == FOLLOWED_WORDS * 8);
const _: () = assert!(size_of::<Frame>() == 32);
const _: () = assert!(size_of::<Stack>() == 64);
const _: () = assert!(size_of::<Exec>() == 64);
const _: () = assert!(size_of::<Walk>() == 16 * 8 + 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_of_a_part_counts() {
        let bytes: [u8; 8 * PART_WORDS as usize] =
            core::array::from_fn(|index| (index * 37 + 1).to_le_bytes()[0]);
        let tag = |bytes: &[u8]| {
            let word = |index: u16| u64::from_le_bytes(bytes.as_chunks().0[usize::from(index)]);
            Tag::default().with_part(word).number()
        };
        for changed in 0..bytes.len() {
            let mut other = bytes;
            other[changed] ^= 0x80;
            assert_ne!(tag(&bytes), tag(&other), "byte {changed}");
        }
    }

    #[test]
    fn a_texts_state_is_read_in_both_layouts_and_nonsense_in_none() {
        let state =
            |interned: u32, kind: u32, ascii: u32, shift: u32| interned | (kind | 8 | ascii << 4) << shift;
        assert_eq!(characters(state(1, 1, 1, 2)), (1, true));
        assert_eq!(characters(state(0, 2, 0, 2)), (2, false));
        assert_eq!(characters(state(3, 4, 0, 16)), (4, false));
        assert_eq!(characters(state(1, 1, 1, 16)), (1, true));
        let nonsense = [0, 1 << 2, state(0, 3, 0, 2), state(0, 3, 0, 16)];
        assert!(nonsense.iter().all(|state| characters(*state).0 == 0));
    }
}
