//! What objects of CPython hold, read from the process that has them.

use std::io;

use reaper_ebpf::interpreter::BYTES_BEHIND;

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

pub(super) fn take(pid: u32, address: u64, length: u64) -> io::Result<Vec<u8>> {
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
}
