//! Enough of ELF to say which section of two objects differs.

use std::collections::BTreeMap;

/// The sections of a 64-bit little-endian ELF file by name, or nothing where the file is not one.
fn sections(file: &[u8]) -> Option<BTreeMap<&str, &[u8]>> {
    const SECTION_HEADERS: usize = 0x28;
    const HEADER_SIZE: usize = 0x3a;
    const HEADER_COUNT: usize = 0x3c;
    const NAMES_INDEX: usize = 0x3e;
    const NO_BITS: u64 = 8;

    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = number(file, SECTION_HEADERS, 8)?;
    let size = number(file, HEADER_SIZE, 2)?;
    // (name's offset, type, content)
    let header = |index: usize| {
        let at = table.checked_add(index.checked_mul(size)?)?;
        let kind = number(file, at.checked_add(4)?, 4)?;
        let start = number(file, at.checked_add(0x18)?, 8)?;
        let length = if kind as u64 == NO_BITS { 0 } else { number(file, at.checked_add(0x20)?, 8)? };
        Some((number(file, at, 4)?, file.get(start..start.checked_add(length)?)?))
    };
    let (_, names) = header(number(file, NAMES_INDEX, 2)?)?;
    (0..number(file, HEADER_COUNT, 2)?)
        .map(|index| {
            let (name, content) = header(index)?;
            let name = names.get(name..)?.split(|&byte| byte == 0).next()?;
            Some((str::from_utf8(name).ok()?, content))
        })
        .collect()
}

fn number(file: &[u8], at: usize, length: usize) -> Option<usize> {
    let mut bytes = [0; 8];
    bytes.get_mut(..length)?.copy_from_slice(file.get(at..at.checked_add(length)?)?);
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}

/// What differs between two objects, one line a section.
pub(crate) fn differences(before: &[u8], after: &[u8]) -> Vec<String> {
    let (Some(before), Some(after)) = (sections(before), sections(after)) else {
        return vec![format!("not both are objects ({} and {} bytes)", before.len(), after.len())];
    };
    let mut lines = Vec::new();
    for (name, old) in &before {
        match after.get(name) {
            None => lines.push(format!("{name}: gone")),
            Some(new) if new.len() != old.len() => {
                lines.push(format!("{name}: {} bytes, was {}", new.len(), old.len()));
            }
            Some(new) if new != old => {
                let places = old.iter().zip(*new).filter(|(old, new)| old != new).count();
                lines.push(format!("{name}: {places} of {} bytes", old.len()));
            }
            Some(_) => {}
        }
    }
    lines.extend(after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("{name}: new")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The headers of an object with one section besides the names.
    fn object(text: &[u8]) -> Vec<u8> {
        let names = b"\0.text\0.names\0";
        let mut file = vec![0; 0x40];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let names_at = file.len() as u64;
        file.extend_from_slice(names);
        let text_at = file.len() as u64;
        file.extend_from_slice(text);
        let table = file.len() as u64;
        for (name, start, length) in [(0, 0, 0), (1, text_at, text.len()), (7, names_at, names.len())] {
            let mut header = [0; 0x40];
            header[..4].copy_from_slice(&u32::to_le_bytes(name));
            header[0x18..0x20].copy_from_slice(&start.to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        file[0x3a..0x40].copy_from_slice(&[0x40, 0, 3, 0, 2, 0]);
        file
    }

    #[test]
    fn equal_objects_have_no_differences() {
        assert_eq!(differences(&object(b"code"), &object(b"code")), [""; 0]);
    }

    #[test]
    fn the_section_that_differs_is_named() {
        assert_eq!(differences(&object(b"code"), &object(b"core")), [".text: 1 of 4 bytes"]);
        assert_eq!(differences(&object(b"code"), &object(b"longer")), [".text: 6 bytes, was 4"]);
    }

    #[test]
    fn what_is_no_object_is_said_to_be_none() {
        let cut = &object(b"code")[..0x50];
        assert_eq!(differences(cut, b"text"), ["not both are objects (80 and 4 bytes)"]);
    }
}
