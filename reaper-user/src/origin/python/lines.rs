//! From a place in a code object to a line of its source.
//!
//! Three formats: up to 3.9 <https://github.com/python/cpython/blob/3.9/Objects/lnotab_notes.txt>, in 3.10
//! <https://github.com/python/cpython/blob/3.10/Objects/lnotab_notes.txt>, from 3.11 on
//! <https://github.com/python/cpython/blob/3.13/InternalDocs/code_objects.md>.

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Format {
    /// Up to 3.9: steps of addresses and lines.
    Steps,
    /// 3.10: ranges of addresses.
    Ranges,
    /// From 3.11 on: an entry for each run of code units.
    Locations,
}

/// The line of the code at `offset` bytes into it. `None` where it has none, or where the table does not reach so far: it may be only
/// the beginning of one, and not `whole`.
pub(super) fn line(format: Format, table: &[u8], whole: bool, first: u32, offset: u64) -> Option<u32> {
    let line = match format {
        Format::Steps => steps(table, whole, first, offset),
        Format::Ranges => ranges(table, first, offset),
        Format::Locations => locations(table, first, offset / 2),
    }?;
    u32::try_from(line).ok().filter(|line| *line > 0)
}

fn steps(table: &[u8], whole: bool, first: u32, offset: u64) -> Option<i64> {
    let (mut address, mut line) = (0, i64::from(first));
    for [bytes, lines] in table.as_chunks::<2>().0 {
        address += u64::from(*bytes);
        if address > offset {
            return Some(line);
        }
        line += i64::from(lines.cast_signed());
    }
    // The last line goes up to the end of the code.
    whole.then_some(line)
}

fn ranges(table: &[u8], first: u32, offset: u64) -> Option<i64> {
    /// A range without a line.
    const NONE: i8 = -128;
    let (mut end, mut line) = (0, i64::from(first));
    for [bytes, lines] in table.as_chunks::<2>().0 {
        end += u64::from(*bytes);
        let lines = lines.cast_signed();
        if lines != NONE {
            line += i64::from(lines);
        }
        if end > offset {
            return (lines != NONE).then_some(line);
        }
    }
    None
}

fn locations(table: &[u8], first: u32, unit: u64) -> Option<i64> {
    let (mut bytes, mut end, mut line) = (table.iter().copied(), 0, i64::from(first));
    while let Some(head) = bytes.next() {
        end += u64::from(head & 7) + 1;
        let mut has_line = true;
        match head >> 3 & 15 {
            0..=9 => skip(&mut bytes, 1)?,
            code @ 10..=12 => {
                line += i64::from(code) - 10;
                skip(&mut bytes, 2)?;
            }
            13 => line += signed(&mut bytes)?,
            14 => {
                line += signed(&mut bytes)?;
                for _ in 0..3 {
                    unsigned(&mut bytes)?;
                }
            }
            _ => has_line = false,
        }
        if end > unit {
            return has_line.then_some(line);
        }
    }
    None
}

fn skip(bytes: &mut impl Iterator<Item = u8>, number: usize) -> Option<()> {
    bytes.nth(number - 1).map(drop)
}

/// Six bits a byte, the lowest first.
fn unsigned(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut value = 0_i64;
    for shift in (0..36).step_by(6) {
        let byte = bytes.next()?;
        value |= i64::from(byte & 0x3f) << shift;
        if byte & 0x40 == 0 {
            return Some(value);
        }
    }
    // No line is so far away.
    None
}

fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let value = unsigned(bytes)?;
    Some(if value & 1 == 0 { value >> 1 } else { -(value >> 1) })
}

#[cfg(test)]
mod tests;
