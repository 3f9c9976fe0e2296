//! Held against what interpreters say themselves of the code of their own library.

use std::{path::Path, process::Command};

use serde::Deserialize;

use super::*;

/// Prints the tables of some modules' functions, and the line of every instruction.
const DUMP: &str = r#"
import dis, json, sys, types
import argparse, ast, collections, inspect, json.decoder, subprocess, threading, traceback

def codes(code):
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from codes(const)

def lines(code):
    if sys.version_info >= (3, 10):
        # By the interpreter's own decoder, for every code unit.
        return [(at, line or 0) for start, end, line in code.co_lines() for at in range(start, end, 2)]
    starts, found, line = dict(dis.findlinestarts(code)), [], code.co_firstlineno
    for at in range(0, len(code.co_code), 2):
        line = starts.get(at, line)
        found.append((at, line))
    return found

odd = "def f(a):\n" + "\n" * 700 + "    x = (a,\n" + "\n" * 300 + "  a)\n    return [\n i for i in x\n if i] if a else None\n"
modules = [argparse, ast, collections, inspect, json.decoder, subprocess, threading, traceback]
sources = [(m.__file__, open(m.__file__).read()) for m in modules] + [("odd", odd)]
for name, source in sources:
    for code in codes(compile(source, name, "exec")):
        table = code.co_linetable if sys.version_info >= (3, 10) else code.co_lnotab
        print(json.dumps([sys.version_info[1], table.hex(), code.co_firstlineno, lines(code)]))
"#;

/// A code object: the interpreter's minor version, its table, its first line, and the line at each offset (0 for none).
#[derive(Deserialize)]
struct Dumped(u32, String, u32, Vec<(u64, u32)>);

/// The interpreters there are: Debian's, and those that a developer has.
fn interpreters() -> Vec<std::path::PathBuf> {
    let debian = Path::new("/usr/bin/python3");
    assert!(debian.exists(), "{} is missing: `cargo xtask setup` installs it", debian.display());
    let mut all = vec![debian.to_owned()];
    let home = std::env::var_os("HOME").unwrap_or_default();
    let versions = std::fs::read_dir(Path::new(&home).join(".pyenv/versions"));
    let found = versions.into_iter().flatten().flatten().map(|version| version.path());
    all.extend(found.map(|version| version.join("bin/python3")).filter(|python| python.exists()));
    all
}

fn format(minor: u32) -> Format {
    match minor {
        ..=9 => Format::Steps,
        10 => Format::Ranges,
        _ => Format::Locations,
    }
}

#[test]
fn every_line_is_the_one_that_the_interpreter_says() {
    for python in interpreters() {
        let dumped = Command::new(&python).args(["-I", "-c", DUMP]).output().unwrap();
        assert!(dumped.status.success(), "{}: {}", python.display(), String::from_utf8_lossy(&dumped.stderr));
        let (mut codes, mut checked) = (0, 0);
        for dump in String::from_utf8(dumped.stdout).unwrap().lines() {
            let Dumped(minor, table, first, lines) = serde_json::from_str(dump).unwrap();
            let table: Vec<u8> = (0..table.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&table[at..at + 2], 16).unwrap())
                .collect();
            for (offset, expected) in lines {
                let found = line(format(minor), &table, true, first, offset);
                assert_eq!(found.unwrap_or(0), expected, "{} at {offset} of {table:02x?}", python.display());
                checked += 1;
            }
            codes += 1;
        }
        println!("{}: {codes} code objects, {checked} offsets", python.display());
        assert!(codes > 500);
    }
}

/// A generator of numbers that need not be good, only many and always the same.
fn noise() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

#[test]
fn whatever_a_table_holds_reading_it_ends() {
    let mut next = noise();
    for _ in 0..20_000 {
        let table: Vec<u8> = (0..next() % 200).map(|_| next().to_le_bytes()[0]).collect();
        for format in [Format::Steps, Format::Ranges, Format::Locations] {
            let (first, offset) = (next().to_le_bytes(), next());
            let first = u32::from_le_bytes([first[0], first[1], first[2], first[3]]);
            let offset = if offset % 2 == 0 { offset % 500 } else { offset };
            line(format, &table, true, first, offset);
        }
    }
}

#[test]
fn a_table_that_ends_too_soon_has_no_line_to_tell() {
    assert_eq!(line(Format::Locations, &[0x80 | 13 << 3], true, 7, 0), None);
    assert_eq!(line(Format::Locations, &[0x80 | 14 << 3, 2], true, 7, 0), None);
    assert_eq!(
        line(Format::Locations, &[0x80 | 13 << 3, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f], true, 7, 0),
        None
    );
    assert_eq!(line(Format::Ranges, &[4, 1], true, 7, 4), None);
    assert_eq!(line(Format::Locations, &[], true, 7, 0), None);
}
