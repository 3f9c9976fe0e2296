//! What a code object says of itself, read from the process that has it and kept: its names stay what they are as long as it is
//! there, and a child that was forked has the same at the same addresses.

use std::{collections::HashMap, io, sync::Arc};

use reaper_ebpf::interpreter::{self, BYTES_BEHIND, PART_BYTES, PART_WORDS, TABLE_PARTS, TEXT_HASH, Tag};

use super::{
    lines, memory,
    objects::{Text, bytes, take, text, words},
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
/// Bytes of a table of lines that are compared.
const TABLE: usize = 8 * PART_WORDS as usize * TABLE_PARTS as usize;
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
    /// 0 where that could not be read.
    table: u32,
    /// The same.
    texts: u32,
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
    /// The one that each address has had; `None` where it has had more than one.
    only: HashMap<(Image, u64), Option<Key>>,
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
        let key = match Key::of(image, frame) {
            key if key.is_whole() => self.seen(key),
            key => self.still_there(pid, shape, &key).unwrap_or(key),
        };
        let Key { address, first_line, .. } = key;
        let code = match self.known.get(&key) {
            Some(code) => Arc::clone(code),
            // One that was forked for this one fork is gone by now, and has had from the first one what it has run.
            None => match read(pid, shape, &key).or_else(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => Err(error),
                _ => read(image.pid(), shape, &key),
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
        // What could not all be read at the fork may have been another one, unless there is no other.
        let is_certain = key.is_whole() || code.is_frozen();
        // Behind what was compared of its table another one may be different.
        let table =
            if code.is_frozen() { &code.table[..] } else { code.table.get(..TABLE).unwrap_or(&code.table) };
        let whole = table.len() == code.table.len();
        let line = shape
            .offset(address, frame.at)
            .filter(|_| is_certain)
            .and_then(|offset| lines::line(shape.format, table, whole, first_line, offset));
        let is_named = is_certain || key.texts != 0;
        let frame = Frame {
            function: is_named.then(|| code.function.clone()),
            file: is_named.then(|| code.file.clone()),
            line,
            kind: FrameKind::Python,
            ..Frame::default()
        };
        Ok(Place { frame, exact: line.is_some() })
    }

    /// Remembers what was at its address.
    fn seen(&mut self, key: Key) -> Key {
        if self.only.len() >= KEPT {
            self.only.retain(|_, only| only.is_none());
        }
        if self.only.len() >= KEPT {
            self.only.clear();
        }
        let only = self.only.entry((key.image, key.address)).or_insert(Some(key));
        *only = only.filter(|only| *only == key);
        key
    }

    /// Which one it is of which not all could be read at a fork: the kernel may have been moving its page. It is the one that
    /// was there at an earlier fork, where no other one ever was, that is there still, and nothing that could be read is different.
    fn still_there(&self, pid: u32, shape: &Shape, part: &Key) -> Option<Key> {
        let was = (*self.only.get(&(part.image, part.address))?)?;
        let is = part.may_be(&was) && Said::read(pid, shape, was.address).is_ok_and(|said| said.is_of(&was));
        is.then_some(was)
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

impl Key {
    const fn of(image: Image, frame: &interpreter::Frame) -> Self {
        let interpreter::Frame { code: address, at: _, first_line, tag, table, texts } = *frame;
        Self { image, address, first_line, tag, table, texts }
    }

    /// Whether the kernel side could read all of it.
    const fn is_whole(&self) -> bool {
        self.table != 0 && self.texts != 0
    }

    /// Whether it is `other`, as far as the kernel side could read it. Where it could read nothing, it found zeros.
    fn may_be(&self, other: &Self) -> bool {
        let nothing = Tag::default().with(0).with(0).with(0).number();
        let is_blank = (self.first_line, self.tag) == (0, nothing);
        (is_blank || (self.first_line, self.tag) == (other.first_line, other.tag))
            && (self.table == 0 || self.table == other.table)
            && (self.texts == 0 || self.texts == other.texts)
    }
}

impl Code {
    /// Whether it came with the interpreter, and is there as long as that.
    fn is_frozen(&self) -> bool {
        self.file.as_str().starts_with("<frozen ")
    }

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
fn read(pid: u32, shape: &Shape, key: &Key) -> io::Result<Code> {
    let said = Said::read(pid, shape, key.address)?;
    if !said.is_of(key) {
        return Err(stale());
    }
    let Said { pointers: [file, name, third], table, .. } = said;
    let function = text(pid, shape, if shape.qualified { third } else { name }, NAME)?;
    let file = text(pid, shape, file, PATH)?;
    let table = bytes(pid, shape, table)?;
    // Nobody has put another one there meanwhile.
    if Said::read(pid, shape, key.address)?.is_of(key) {
        Ok(Code { function, file, table })
    } else {
        Err(stale())
    }
}

/// What a code object says of itself: what the kernel side read at the fork, read again, in the same way.
struct Said {
    first_line: u32,
    /// Of its file, its name, and a third one.
    pointers: [u64; 3],
    tag: u32,
    /// The address of its table of lines.
    table: u64,
    lines: u32,
    texts: u32,
}

impl Said {
    fn read(pid: u32, shape: &Shape, code: u64) -> io::Result<Self> {
        let at = |offset: u16| code.wrapping_add(offset.into());
        let first_line = u32::from_le_bytes(memory::array(pid, at(shape.layout.code_first_line))?);
        let pointers: [u8; 24] = memory::array(pid, at(shape.layout.code_file))?;
        let pointers = words::<3>(&pointers);
        let table = u64::from_le_bytes(memory::array(pid, at(shape.layout.code_table))?);
        let [file, name, _] = pointers;
        Ok(Self {
            first_line,
            pointers,
            tag: pointers.iter().fold(Tag::default(), |tag, word| tag.with(*word)).number(),
            table,
            lines: tag_of_table(pid, table.wrapping_add(shape.layout.bytes_size.into()))?,
            texts: tag_of_texts(pid, shape, file, name)?,
        })
    }

    /// Whether that is what the kernel side read. What lay untouched then is no new one.
    const fn is_of(&self, key: &Key) -> bool {
        self.first_line == key.first_line
            && self.tag == key.tag
            && (key.table == 0 || self.lines == key.table)
            && (key.texts == 0 || self.texts == key.texts)
    }
}

/// Of a table of lines whose size is there.
fn tag_of_table(pid: u32, table: u64) -> io::Result<u32> {
    let size = u64::from_le_bytes(memory::array(pid, table)?);
    let kept = size.min(TABLE as u64);
    let read = take(pid, table.wrapping_add(BYTES_BEHIND.into()), kept)?;
    let parts = read.chunks(8 * usize::from(PART_WORDS));
    Ok(parts.fold(Tag::default().with(size), |tag, part| tag.with_part(word_of(part))).number())
}

/// Of the texts of a file and of a name.
fn tag_of_texts(pid: u32, shape: &Shape, file: u64, name: u64) -> io::Result<u32> {
    let Text { length, width, start } = Text::read(pid, shape, file)?;
    let bytes = length.wrapping_mul(width);
    let kept = bytes.min(PART_BYTES);
    let end = take(pid, start.wrapping_add(bytes).wrapping_sub(kept), kept)?;
    let path = Tag::default().with(length).with_part(word_of(&end)).number();
    let hash = u64::from_le_bytes(memory::array(pid, name.wrapping_add(TEXT_HASH.into()))?);
    Ok(Tag::default().with(path.into()).with(hash).number())
}

/// A word of what was read, with zeros behind its end.
fn word_of(bytes: &[u8]) -> impl Fn(u16) -> u64 {
    |index| {
        let bytes = bytes.iter().skip(usize::from(index) * 8).take(8).rev();
        bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
    }
}

fn stale() -> io::Error {
    io::Error::other("it is not what it was at the fork")
}

#[cfg(test)]
mod tests;
