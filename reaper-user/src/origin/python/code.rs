//! What a code object says of itself, read from the process that has it and kept: its names stay what they are as long as it is
//! there, and a child that was forked has the same at the same addresses.

use std::{collections::HashMap, io, sync::Arc};

use reaper_ebpf::interpreter::{self, BYTES_BEHIND, TABLE_WORDS, Tag};

use super::{
    lines, memory,
    shape::{At, Shape},
};
use crate::{
    origin::{Frame, FrameKind},
    text::Untrusted,
};

/// Code objects that are kept.
const KEPT: usize = 16_384;
/// Characters of a name that are read.
const NAME: u64 = 512;
/// Characters of a path that are read.
const PATH: u64 = 4_096;
/// Bytes of a table of lines that are read.
const TABLE: u64 = 1 << 20;
/// Bytes of all that is kept.
const BYTES: usize = 32 << 20;

/// The memory that a code object is in: that of a process since it last exec'ed, and of all that were forked from it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::origin) struct Image {
    /// The process that exec'ed.
    pub(in crate::origin) id: u64,
    /// Its count of those.
    pub(in crate::origin) exec: u32,
}

impl Image {
    /// The pid of the process that exec'ed.
    const fn pid(self) -> u32 {
        reaper_ebpf::tgid_of(self.id)
    }
}

/// A code object and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    image: Image,
    address: u64,
    first_line: u32,
    tag: u32,
    table: u32,
}

#[derive(Debug)]
struct Code {
    function: Untrusted,
    file: Untrusted,
    table: Box<[u8]>,
}

/// Where a frame is, as far as that could be read.
#[derive(Debug)]
pub(in crate::origin) struct Place {
    pub(in crate::origin) frame: Frame,
    /// Everything of it is known, and is what it was at the fork.
    pub(in crate::origin) exact: bool,
}

impl Place {
    /// Whether it is the frame that 3.12 and later put below a constructor that they call by themselves.
    /// <https://github.com/python/cpython/blob/3.13/Objects/codeobject.c> (`_Py_InitCleanup`)
    pub(in crate::origin) fn is_shim(&self) -> bool {
        let Frame { function, file, line: None, .. } = &self.frame else { return false };
        [function, file].iter().all(|text| text.as_ref().is_some_and(|text| text.as_str() == "__init__"))
    }
}

/// The code objects that are known.
#[derive(Debug, Default)]
pub(in crate::origin) struct Codes {
    known: HashMap<Key, Arc<Code>>,
    bytes: usize,
}

impl Codes {
    /// Resolves a frame of the process `pid`, or of one that it was forked from. An error where its memory must not be
    /// read.
    pub(in crate::origin) fn place(
        &mut self,
        pid: u32,
        image: Image,
        shape: &Shape,
        frame: &interpreter::Frame,
    ) -> io::Result<Place> {
        let interpreter::Frame { code: address, at, first_line, tag, table, zero: _ } = *frame;
        let key = Key { image, address, first_line, tag, table };
        let code = match self.known.get(&key) {
            Some(code) => Arc::clone(code),
            // One that was forked for this one fork is gone by now, and has had from the first one what it has run.
            None => match read(pid, shape, frame).or_else(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => Err(error),
                _ => read(image.pid(), shape, frame),
            }) {
                Ok(code) => self.keep(key, code),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                Err(error) => {
                    tracing::trace!(pid, address, %error, "a code object could not be read");
                    let frame = Frame { kind: FrameKind::Python, ..Frame::default() };
                    return Ok(Place { frame, exact: false });
                }
            },
        };
        let line = shape
            .offset(address, at)
            .and_then(|offset| lines::line(shape.format, &code.table, first_line, offset));
        let frame = Frame {
            function: Some(code.function.clone()),
            file: Some(code.file.clone()),
            line,
            kind: FrameKind::Python,
            ..Frame::default()
        };
        Ok(Place { frame, exact: line.is_some() })
    }

    fn keep(&mut self, key: Key, code: Code) -> Arc<Code> {
        let code = Arc::new(code);
        self.bytes += code.size();
        if self.known.len() >= KEPT || self.bytes > BYTES {
            self.known.clear();
            self.bytes = code.size();
        }
        self.known.insert(key, Arc::clone(&code));
        code
    }
}

impl Code {
    fn size(&self) -> usize {
        self.table.len() + self.file.as_str().len() + self.function.as_str().len()
    }
}

impl Shape {
    /// How many bytes into its code a frame is.
    fn offset(&self, code: u64, at: u64) -> Option<u64> {
        // An int, with something else behind it.
        let [a, b, c, d, ..] = at.to_le_bytes();
        let index = u64::try_from(i32::from_le_bytes([a, b, c, d])).ok();
        match self.at {
            At::Bytes => index,
            At::Units => index.map(|index| index * 2),
            At::Pointer(start) => at.checked_sub(code.checked_add(start)?),
        }
    }
}

/// Reads a code object that is what it was at the fork.
fn read(pid: u32, shape: &Shape, frame: &interpreter::Frame) -> io::Result<Code> {
    let said = Said::read(pid, shape, frame.code)?;
    if !said.is_of(frame) {
        return Err(stale());
    }
    let Said { pointers: [file, name, third], table, .. } = said;
    let function = text(pid, shape, if shape.qualified { third } else { name }, NAME)?;
    let file = text(pid, shape, file, PATH)?;
    let table = bytes(pid, shape, table)?;
    // Nobody has put another one there meanwhile.
    if Said::read(pid, shape, frame.code)?.is_of(frame) {
        Ok(Code { function, file, table })
    } else {
        Err(stale())
    }
}

/// What a code object says of itself: what the kernel side read at the fork, read again.
struct Said {
    first_line: u32,
    /// Of its file, its name, and a third one.
    pointers: [u64; 3],
    tag: u32,
    /// The address of its table of lines.
    table: u64,
    lines: u32,
}

impl Said {
    fn read(pid: u32, shape: &Shape, code: u64) -> io::Result<Self> {
        let at = |offset: u16| code.wrapping_add(offset.into());
        let first_line = u32::from_le_bytes(memory::array(pid, at(shape.layout.code_first_line))?);
        let pointers: [u8; 24] = memory::array(pid, at(shape.layout.code_file))?;
        let pointers = words::<3>(&pointers);
        let table = u64::from_le_bytes(memory::array(pid, at(shape.layout.code_table))?);
        let lines = table.wrapping_add(shape.layout.bytes_size.into());
        let size = u64::from_le_bytes(memory::array(pid, lines)?);
        let head = take(pid, lines.wrapping_add(BYTES_BEHIND.into()), size.min(8 * u64::from(TABLE_WORDS)))?;
        let word = |index: u16| {
            let bytes = head.iter().skip(usize::from(index) * 8).take(8).rev();
            bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
        };
        Ok(Self {
            first_line,
            pointers,
            tag: pointers.iter().fold(Tag::default(), |tag, word| tag.with(*word)).number(),
            table,
            lines: interpreter::tag_of_table(size, word),
        })
    }

    /// Whether that is what the kernel side read. What lay untouched then is no new one.
    const fn is_of(&self, frame: &interpreter::Frame) -> bool {
        self.first_line == frame.first_line
            && self.tag == frame.tag
            && (frame.table == 0 || self.lines == frame.table)
    }
}

fn stale() -> io::Error {
    io::Error::other("it is not what it was at the fork")
}

fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

/// A `PyBytesObject`.
fn bytes(pid: u32, shape: &Shape, address: u64) -> io::Result<Box<[u8]>> {
    let address = address.wrapping_add(shape.layout.bytes_size.into());
    let size = u64::from_le_bytes(memory::array(pid, address)?);
    take(pid, address.wrapping_add(BYTES_BEHIND.into()), size.min(TABLE)).map(Vec::into_boxed_slice)
}

/// A `PyUnicodeObject`, at most `most` characters of it.
fn text(pid: u32, shape: &Shape, address: u64, most: u64) -> io::Result<Untrusted> {
    let (length, state) = shape.text;
    let length = u64::from_le_bytes(memory::array(pid, address.wrapping_add(length))?);
    let state = u32::from_le_bytes(memory::array(pid, address.wrapping_add(state))?);
    let (width, ascii) = width(state).ok_or_else(|| io::Error::other("it is no text"))?;
    let (ascii_head, head) = shape.text_heads;
    let start = address.wrapping_add(if ascii { ascii_head } else { head });
    let raw = take(pid, start, length.min(most) * width)?;
    let characters: String = match width {
        1 => raw.iter().map(|byte| char::from(*byte)).collect(),
        2 => {
            let units = raw.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
            char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        _ => {
            let units = raw.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit));
            units.map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
    };
    Ok(Untrusted::new(characters.as_bytes()))
}

/// Bytes of a character, and whether all are ASCII. The bits are behind those for `interned`, of which there are two, and
/// since 3.14 sixteen: <https://github.com/python/cpython/blob/3.14/Include/cpython/unicodeobject.h>
fn width(state: u32) -> Option<(u64, bool)> {
    [2, 16].into_iter().find_map(|shift| {
        let bits = state >> shift;
        let (kind, compact, ascii) = (bits & 7, bits & 8 != 0, bits & 16 != 0);
        (compact && matches!(kind, 1 | 2 | 4)).then_some((kind.into(), ascii))
    })
}

fn take(pid: u32, address: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
    if buffer.is_empty() {
        return Ok(buffer);
    }
    let read = memory::read(pid, address, &mut buffer)?;
    if read == buffer.len() { Ok(buffer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_texts_state_is_read_in_both_layouts_and_nonsense_in_none() {
        let state =
            |interned: u32, kind: u32, ascii: u32, shift: u32| interned | (kind | 8 | ascii << 4) << shift;
        assert_eq!(width(state(1, 1, 1, 2)), Some((1, true)));
        assert_eq!(width(state(0, 2, 0, 2)), Some((2, false)));
        assert_eq!(width(state(3, 4, 0, 16)), Some((4, false)));
        assert_eq!(width(state(1, 1, 1, 16)), Some((1, true)));
        assert_eq!((width(0), width(1 << 2), width(state(0, 3, 0, 2))), (None, None, None));
    }

    #[test]
    fn where_a_frame_is_is_read_as_its_version_says_it() {
        let of = |minor: u32, at: u64| Shape::of(minor).unwrap().offset(0x1000, at);
        assert_eq!(of(8, 0xdead_beef_0000_0006), Some(6));
        assert_eq!(of(8, u64::from(u32::MAX)), None, "it has not begun");
        assert_eq!(of(10, 3), Some(6));
        assert_eq!(of(11, 0x1000 + 184 + 8), Some(8));
        assert_eq!(of(12, 0x1000), None, "not in its own code");
    }

    #[test]
    fn forged_memory_is_read_and_believed_in_nothing() {
        // A page of noise that is our own.
        let mut state = 1_u64;
        let page: Vec<u64> = (0..4_096)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state >> (state % 64)
            })
            .collect();
        let (image, me) = (Image { id: 1, exec: 0 }, std::process::id());
        for minor in 6..=12 {
            let shape = Shape::of(minor).unwrap();
            let mut codes = Codes::default();
            for word in (0..4_000).step_by(7) {
                let code = (&raw const page[word]).addr() as u64;
                let frame =
                    interpreter::Frame { code, at: page[word], first_line: 3, tag: 9, table: 0, zero: 0 };
                let place = codes.place(me, image, &shape, &frame).unwrap();
                assert!(!place.exact && place.frame.function.is_none());
            }
        }
    }
}
