//! How each version of CPython lays out what is read of it, on 64-bit machines and without debugging.
//!
//! Up to 3.12 by a table, computed from each version's own headers; from 3.13 on the interpreter says it itself:
//! <https://github.com/python/cpython/blob/3.14/Include/internal/pycore_debug_offsets.h>.

use reaper_ebpf::interpreter::{
    BYTES_BEHIND, CODE_BYTES, EVERYBODYS, FRAME_BYTES, Layout, NONE, TEXT_HASH, TEXT_LENGTH, THREAD_BYTES,
};

use super::lines::Format;
use crate::origin::symbols::message::Version;

/// The layout of one version, or of one build of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::origin) struct Shape {
    /// What the kernel side reads.
    pub(super) layout: Layout,
    /// From the symbol to the address of the first interpreter.
    pub(super) head: u64,
    /// How a frame says where it is.
    pub(super) at: At,
    /// How the table of lines is written.
    pub(super) format: Format,
    /// Whether the third of the pointers from `co_filename` on is `co_qualname`.
    pub(super) qualified: bool,
}

/// How a frame says where it is in its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// In bytes.
    Bytes,
    /// In units of two bytes.
    Units,
    /// By a pointer into the code, which begins so far into the code object.
    Pointer(u64),
}

/// Frames of this owner or of one after it run no function; 3.11 has none of them:
/// <https://github.com/python/cpython/blob/3.14/Include/internal/pycore_interpframe_structs.h>
const NOBODYS: u16 = 3;

/// Bytes of a frame, where it is no object, that are there at least.
const SHORT: u16 = 80;

const OLD: Layout = Layout {
    interpreter_next: 0,
    interpreter_threads: 8,
    thread_next: 8,
    thread_id: 176,
    thread_frame: 24,
    cframe_frame: NONE,
    frame_bytes: 128,
    frame_back: 24,
    frame_code: 32,
    frame_at: 104,
    // Whatever it reads there.
    frame_owner: 0,
    frame_nobodys: EVERYBODYS,
    code_first_line: 40,
    code_file: 104,
    code_table: 120,
    bytes_size: 16,
    ascii_head: 48,
    text_head: 72,
    zero: [0; 2],
};

const OLD_SHAPE: Shape =
    Shape { layout: OLD, head: 32, at: At::Bytes, format: Format::Steps, qualified: false };

impl Shape {
    /// That of a version; `None` where it is not known.
    pub(super) fn of_version(version: &Version) -> Option<Self> {
        match version {
            Version::Minor(minor) => Self::of(*minor),
            Version::Offsets(words) => Self::from_offsets(words),
        }
    }

    /// That of version 3.`minor`; `None` where the interpreter says it itself, or is not known.
    pub(super) fn of(minor: u32) -> Option<Self> {
        let seven = Layout { code_first_line: 36, code_file: 96, code_table: 112, ..OLD };
        let eleven = Layout {
            interpreter_threads: 16,
            thread_id: 152,
            thread_frame: 56,
            cframe_frame: 8,
            frame_back: 48,
            frame_at: 56,
            frame_owner: 69,
            frame_bytes: SHORT,
            frame_nobodys: NOBODYS,
            code_first_line: 72,
            code_file: 112,
            code_table: 136,
            ..OLD
        };
        let twelve = Layout {
            interpreter_threads: 72,
            thread_id: 136,
            cframe_frame: 0,
            frame_back: 8,
            frame_code: 0,
            frame_owner: 70,
            code_first_line: 68,
            ascii_head: 40,
            text_head: 56,
            ..eleven
        };
        let eleven_shape = Shape {
            layout: eleven,
            head: 40,
            at: At::Pointer(184),
            format: Format::Locations,
            qualified: true,
        };
        Some(match minor {
            // The symbol is the pointer itself.
            6 => Self { layout: Layout { thread_id: 152, frame_at: 120, ..seven }, head: 0, ..OLD_SHAPE },
            7 => Self { layout: seven, head: 24, ..OLD_SHAPE },
            8 | 9 => OLD_SHAPE,
            10 => Self {
                layout: Layout { frame_at: 96, ..OLD },
                at: At::Units,
                format: Format::Ranges,
                ..OLD_SHAPE
            },
            11 => eleven_shape,
            12 => Self { layout: twelve, at: At::Pointer(192), ..eleven_shape },
            _ => return None,
        })
    }

    /// What an interpreter says of itself at the start of `_PyRuntime`. `None` where it is no version that is known, or where
    /// something is so that it cannot be read.
    pub(super) fn from_offsets(words: &[u64]) -> Option<Self> {
        if *words.first()? != u64::from_le_bytes(*b"xdebugpy") {
            return None;
        }
        let word = |index: usize| words.get(index).copied();
        // Where each of its parts begins differs from version to version.
        let (thread, frame, code, bytes, text) = match word(1)? >> 16 {
            0x030d => (19, 28, 34, 64, 67),
            0x030e => (22, 31, 39, 74, 77),
            _ => return None,
        };
        let offset =
            |index: usize| word(index).and_then(|word| u16::try_from(word).ok()).filter(|word| *word != NONE);
        let layout = Layout {
            interpreter_next: offset(8)?,
            interpreter_threads: offset(9)?,
            thread_next: offset(thread + 2)?,
            thread_frame: offset(thread + 4)?,
            thread_id: offset(thread + 5)?,
            cframe_frame: NONE,
            frame_bytes: SHORT,
            frame_back: offset(frame + 1)?,
            frame_code: offset(frame + 2)?,
            frame_at: offset(frame + 3)?,
            frame_owner: offset(frame + 5)?,
            frame_nobodys: NOBODYS,
            code_file: offset(code + 1)?,
            code_first_line: offset(code + 5)?,
            code_table: offset(code + 4)?,
            bytes_size: offset(bytes + 1)?,
            ascii_head: offset(text + 3)?,
            text_head: offset(text + 3)?.checked_add(16)?,
            zero: [0; 2],
        };
        let first = word(code + 1)?;
        let together = word(code + 2)? == first + 8
            && word(code + 3)? == first + 16
            && word(bytes + 2)? == word(bytes + 1)? + u64::from(BYTES_BEHIND)
            && (word(text + 2)?, word(text + 1)?) == (TEXT_LENGTH.into(), (TEXT_HASH + 8).into());
        let shape = Self {
            layout,
            head: word(5)?,
            at: At::Pointer(word(code + 9)?),
            format: Format::Locations,
            qualified: true,
        };
        (together && is_within(&layout) && shape.is_sane()).then_some(shape)
    }

    fn is_sane(&self) -> bool {
        const FAR: u64 = 1 << 20;
        let Self { head, at: At::Pointer(code), .. } = *self else { return false };
        [head, code].iter().all(|offset| *offset < FAR)
    }
}

/// Whether the kernel side reads all of it.
fn is_within(layout: &Layout) -> bool {
    let words = |offsets: &[u16], room: u32| {
        offsets.iter().all(|offset| offset % 8 == 0 && u32::from(*offset) + 8 <= room)
    };
    let room = u32::from(layout.frame_bytes);
    words(&[layout.thread_next, layout.thread_id, layout.thread_frame], THREAD_BYTES)
        && room <= FRAME_BYTES
        && words(&[layout.frame_back, layout.frame_code, layout.frame_at], room)
        && u32::from(layout.frame_owner) < room
        && words(&[layout.code_file, layout.code_table], CODE_BYTES)
        && u32::from(layout.code_file) + 24 <= CODE_BYTES
        && layout.code_first_line < layout.code_file.min(layout.code_table)
        && layout.code_first_line.is_multiple_of(4)
        && u32::from(layout.code_first_line) + 4 <= CODE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::symbols::message::OFFSETS;

    /// As 3.14.10 has them on x86_64, from its file.
    fn offsets() -> [u64; OFFSETS] {
        let mut words = [0_u64; OFFSETS];
        words[0] = u64::from_le_bytes(*b"xdebugpy");
        words[1] = 0x030e_0af0;
        for (index, word) in [(5, 808), (8, 7_272), (9, 7_344), (22, 832), (24, 8), (26, 72), (27, 152)] {
            words[index] = word;
        }
        for (index, word) in [(32, 8), (33, 0), (34, 56), (36, 74)] {
            words[index] = word;
        }
        for (index, word) in [(40, 112), (41, 120), (42, 128), (43, 136), (44, 68), (48, 208)] {
            words[index] = word;
        }
        for (index, word) in [(75, 16), (76, 32), (78, 32), (79, 16), (80, 40)] {
            words[index] = word;
        }
        words
    }

    fn with(index: usize, word: u64) -> Option<Shape> {
        let mut words = offsets();
        words[index] = word;
        Shape::from_offsets(&words)
    }

    #[test]
    fn what_an_interpreter_says_of_itself_is_believed() {
        let shape = Shape::from_offsets(&offsets()).unwrap();
        let Shape { layout, head, at, .. } = shape;
        assert_eq!((head, at), (808, At::Pointer(208)));
        assert_eq!((layout.code_table, layout.bytes_size), (136, 16));
        assert_eq!((layout.interpreter_threads, layout.thread_id, layout.thread_frame), (7_344, 152, 72));
        assert_eq!((layout.frame_owner, layout.code_first_line, layout.code_file), (74, 68, 112));
        assert_eq!((layout.ascii_head, layout.text_head), (40, 56));
    }

    #[test]
    fn what_the_kernel_side_could_not_read_is_refused() {
        assert!(with(0, 5).is_none(), "no cookie");
        assert!(with(1, 0x0310_0000).is_none(), "a version that is not known");
        assert!(with(27, 200).is_none(), "a thread's number out of reach");
        assert!(with(27, 153).is_none(), "and not aligned");
        assert!(with(36, 80).is_none(), "an owner out of reach");
        assert!(with(41, 136).is_none(), "names that are not side by side");
        assert!(with(9, 70_000).is_none(), "an offset that is too large");
        assert!(with(80, u64::MAX).is_none());
        assert!(with(43, 144).is_none(), "a table of lines out of reach");
        assert!(with(76, 40).is_none(), "bytes that are not where their size is");
        assert!(
            with(78, 24).is_none() && with(79, 24).is_none(),
            "a text that says elsewhere how long it is"
        );
    }

    #[test]
    fn the_tables_are_within_what_the_kernel_side_reads() {
        for minor in 6..=12 {
            assert!(is_within(&Shape::of(minor).unwrap().layout), "3.{minor}");
        }
        assert_eq!((Shape::of(5), Shape::of(13)), (None, None));
    }

    #[test]
    fn forged_offsets_make_no_shape_that_reads_elsewhere() {
        let mut state = 88_172_645_463_325_252_u64;
        for _ in 0..50_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let index = 2 + usize::try_from(state % 80).unwrap();
            if let Some(shape) = with(index, state >> (state % 60)) {
                assert!(is_within(&shape.layout) && shape.is_sane());
            }
        }
    }
}
