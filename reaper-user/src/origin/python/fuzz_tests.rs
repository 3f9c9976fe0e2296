//! What is decoded of interpreters: undamaged it is what the interpreters say, damaged it is something, soon and in little room.

use std::{fs, time::Duration};

use serde::Deserialize;

use super::{
    lines::{self, Format},
    recognize::libpython,
    shape::{At, Shape},
};
use crate::{
    origin::{
        fuzz::{Limits, damage},
        symbols::message::OFFSETS,
    },
    proc::maps::mappings,
};

const LIMITS: Limits = Limits { time: Duration::from_millis(200), memory: 1 << 20 };

/// A code object: the interpreter's minor version, its table, its first line, and the line at each offset (0 for none), by
/// `co_lines()`, before 3.10 by `dis.findlinestarts`.
#[derive(Deserialize)]
struct Code(u32, String, u32, Vec<(u64, u32)>);

/// Of each version from 3.6 to 3.13 some.
const CODES: &str = include_str!("seeds/lines.jsonl");

fn format(minor: u32) -> Format {
    match minor {
        ..=9 => Format::Steps,
        10 => Format::Ranges,
        _ => Format::Locations,
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.as_chunks::<2>().0.iter();
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn damaged_tables_of_lines_are_read_to_an_end() {
    let codes: Vec<Code> = CODES.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut seeds = [const { Vec::new() }; 3];
    for Code(minor, table, first, truth) in &codes {
        let table = bytes(table);
        for (offset, line) in truth {
            let found = lines::line(format(*minor), &table, true, *first, *offset).unwrap_or(0);
            assert_eq!(found, *line, "3.{minor} at {offset} of {table:02x?}");
        }
        seeds[format(*minor) as usize].push(table);
    }
    for (format, seeds) in [Format::Steps, Format::Ranges, Format::Locations].into_iter().zip(seeds) {
        damage(1_500, LIMITS, &seeds, |table| {
            for (first, offset) in [(1, 0), (1, 2), (100, 50), (u32::MAX, 1_000), (0, 1 << 40), (7, u64::MAX)]
            {
                assert_ne!(lines::line(format, table, true, first, offset), Some(0));
                assert_ne!(lines::line(format, table, false, first, offset), Some(0));
            }
        });
    }
}

#[test]
fn damaged_offsets_make_no_shape_that_reads_elsewhere() {
    let seed = bytes(include_str!("seeds/offsets-3.13"));
    let shape = |bytes: &[u8]| {
        let words = bytes.as_chunks::<8>().0.iter().take(OFFSETS);
        Shape::from_offsets(&words.map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>())
    };
    // By its own headers: `offsetof` of PyThreadState, _PyInterpreterFrame and PyCodeObject.
    let Shape { layout, at, .. } = shape(&seed).unwrap();
    assert_eq!((layout.thread_next, layout.thread_id, layout.thread_frame), (8, 152, 72));
    assert_eq!((layout.frame_code, layout.frame_back, layout.frame_at, layout.frame_owner), (0, 8, 56, 70));
    assert_eq!((layout.code_first_line, layout.code_file, layout.code_table), (68, 112, 136));
    assert_eq!(at, At::Pointer(200));
    damage(5_000, LIMITS, &[seed], |bytes| {
        let Some(Shape { layout, head, .. }) = shape(bytes) else { return };
        let frame = [layout.frame_back, layout.frame_code, layout.frame_at];
        assert!(frame.iter().all(|offset| offset % 8 == 0 && offset + 8 <= layout.frame_bytes));
        assert!(layout.frame_owner < layout.frame_bytes);
        assert!(head < 1 << 20);
    });
}

#[test]
fn damaged_maps_are_read_to_an_end() {
    let own = fs::read("/proc/self/maps").unwrap();
    // A library's mappings, as the kernel writes them, in the middle of them.
    let middle = own.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let library: &[u8] = b"7f0c2e400000-7f0c2e4d5000 r--p 00000000 08:01 393245                     /opt/my lib/libpython3.11.so.1.0\n\
        7f0c2e4d5000-7f0c2e6d5000 r-xp 000d5000 08:01 393245                     /opt/my lib/libpython3.11.so.1.0\n";
    let seed = [&own[..middle], library, &own[middle..]].concat();
    let process = tempfile::tempdir().unwrap();
    let path = process.path().join("maps");
    fs::write(&path, &seed).unwrap();
    let found = libpython(process.path()).unwrap();
    assert_eq!((found.start, found.device, found.inode), (0x7f0c_2e40_0000, 8 << 32 | 1, 393_245));
    fs::write(&path, &own).unwrap();
    assert_eq!(libpython(process.path()), None);
    damage(500, LIMITS, &[seed, library.to_vec()], |text| {
        fs::write(&path, text).unwrap();
        if let Some(mapping) = libpython(process.path()) {
            // It is some process's own mistake; where it leads to is opened as a file or not at all.
            assert!(mapping.inode != 0 && mapping.offset == 0);
        }
        // Not more than there are lines.
        let lines = text.split(|byte| *byte == b'\n').count();
        assert!(mappings(process.path()).len() <= lines);
    });
}
