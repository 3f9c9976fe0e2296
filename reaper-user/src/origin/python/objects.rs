//! What objects of CPython hold, read from the process that has them.

use std::io;

use reaper_ebpf::interpreter::{BYTES_BEHIND, Layout, TEXT_LENGTH, characters};

use super::{memory, shape::Shape};
use crate::text::Untrusted;

/// Bytes of a table of lines that are read.
const TABLE: u64 = 1 << 20;

pub(super) fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

/// A `PyBytesObject`.
pub(super) fn bytes(pid: u32, shape: &Shape, address: u64) -> io::Result<Box<[u8]>> {
    let address = address.wrapping_add(shape.layout.bytes_size.into());
    let size = u64::from_le_bytes(memory::array(pid, address)?);
    take(pid, address.wrapping_add(BYTES_BEHIND.into()), size.min(TABLE)).map(Vec::into_boxed_slice)
}

/// A `PyUnicodeObject`, at most `most` characters of it.
pub(super) fn text(pid: u32, shape: &Shape, address: u64, most: u64) -> io::Result<Untrusted> {
    let Text { length, width, start } = Text::read(pid, shape, address)?;
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

/// What a `PyUnicodeObject` says of itself.
pub(super) struct Text {
    /// Its characters.
    pub(super) length: u64,
    /// Bytes of each: 1, 2 or 4.
    pub(super) width: u64,
    /// Where they begin.
    pub(super) start: u64,
}

impl Text {
    pub(super) fn read(pid: u32, shape: &Shape, address: u64) -> io::Result<Self> {
        let head: [u8; 24] = memory::array(pid, address.wrapping_add(TEXT_LENGTH.into()))?;
        let [length, _hash, state] = words(&head);
        #[expect(clippy::cast_possible_truncation, reason = "it is the first half of that word")]
        let (width, ascii) = characters(state as u32);
        if width == 0 {
            return Err(io::Error::other("it is no text"));
        }
        let Layout { ascii_head, text_head, .. } = shape.layout;
        let start = address.wrapping_add(if ascii { ascii_head } else { text_head }.into());
        Ok(Self { length, width, start })
    }
}

pub(super) fn take(pid: u32, address: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
    if buffer.is_empty() {
        return Ok(buffer);
    }
    let read = memory::read(pid, address, &mut buffer)?;
    if read == buffer.len() { Ok(buffer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
