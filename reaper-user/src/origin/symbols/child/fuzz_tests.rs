//! What is decoded of programs' files and of packets: undamaged it is what other tools say, damaged it is something, soon and in
//! little room.

use std::{
    fs::{self, File},
    io::Read as _,
    os::fd::OwnedFd,
    time::Duration,
};

use super::{
    answer, cpython,
    elf::Elf,
    files::{Files, Module},
    go, perf_map,
};
use crate::origin::{
    fuzz::{Limits, damage, lend},
    native::Registers,
    symbols::message::{
        Answer, Cpython, FRAMES, Function, Interpreter, NAME, Place, Request, Span, Unnamed, Unwound,
        Version, pack, unpack,
    },
};

const LIMITS: Limits = Limits { time: Duration::from_millis(500), memory: 4 << 20 };

/// Twelve functions of a program that Go 1.19 made, in their places of its table; the rest of it is zeros.
const GO: &[u8] = include_bytes!("seeds/gopclntab.gz");

/// What `go tool addr2line` says of some addresses in them: address, function, file:line.
const GO_LINES: &str = include_str!("seeds/gopclntab.lines");

/// The beginning of what CPython 3.12 writes with `-X perf`.
const PERF_MAP: &[u8] = include_bytes!("seeds/perf-map");

fn go_table() -> Vec<u8> {
    let mut table = Vec::new();
    flate2::read::GzDecoder::new(GO).read_to_end(&mut table).unwrap();
    table
}

#[test]
fn a_real_table_of_go_says_what_gos_own_tool_says() {
    let table: &'static [u8] = go_table().leak();
    let mut told = 0;
    for line in GO_LINES.lines() {
        let [address, function, place] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let functions = go::tests::names(table, u64::from_str_radix(address, 16).unwrap());
        let (file, number) = place.rsplit_once(':').unwrap();
        // The line is that of the innermost; the tool names the outermost, as the table does.
        let innermost = functions.first().unwrap_or_else(|| panic!("nothing at {line}"));
        assert_eq!(innermost.file.as_deref(), Some(file), "{line}");
        assert_eq!(innermost.line, number.parse().ok(), "{line}");
        assert_eq!(functions.last().unwrap().name.as_deref(), Some(function), "{line}");
        told += 1;
    }
    assert!(told > 20, "{told}");
}

#[test]
fn damaged_tables_of_go_are_read_to_an_end() {
    let real = go_table();
    // What is zero says nothing; what is not is in few places, which are damaged as if they stood side by side.
    let places: Vec<usize> = (0..real.len()).filter(|at| real[*at] != 0).collect();
    let dense: Vec<u8> = places.iter().map(|at| real[*at]).collect();
    let addresses: Vec<u64> = GO_LINES
        .lines()
        .map(|line| u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap())
        .collect();
    let ask = |table: &[u8], addresses: &[u64]| {
        lend(table, |table| {
            for address in addresses.iter().copied().chain([0, u64::MAX]) {
                for Function { name, file, .. } in go::tests::names(table, address) {
                    assert!(name.into_iter().chain(file).all(|text| text.len() <= NAME));
                }
            }
        });
    };
    damage(60, LIMITS, &[dense], |bytes| {
        let mut table = real.clone();
        for (at, byte) in places.iter().zip(bytes) {
            table[*at] = *byte;
        }
        ask(&table, &addresses);
    });
    let small: Vec<_> = go::tests::LAYOUTS.into_iter().map(go::tests::table).collect();
    let text = go::tests::TEXT;
    damage(3_000, LIMITS, &small, |table| ask(table, &[text, text + 0x25, text + 0x35, text + 0x60]));
}

#[test]
fn damaged_perf_maps_are_read_to_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("map");
    let lines: Vec<_> = std::str::from_utf8(PERF_MAP).unwrap().lines().collect();
    let addresses: Vec<u64> =
        lines.iter().map(|line| u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()).collect();
    fs::write(&path, PERF_MAP).unwrap();
    let names = perf_map::names(File::open(&path).unwrap(), &addresses);
    for (line, name) in lines.iter().zip(names) {
        assert_eq!(line.splitn(3, ' ').last(), name.as_deref());
    }
    damage(500, LIMITS, &[PERF_MAP.to_vec()], |text| {
        fs::write(&path, text).unwrap();
        let names =
            perf_map::names(File::open(&path).unwrap(), &[addresses[0], addresses[5] + 1, 0, u64::MAX]);
        assert!(names.len() == 4 && names.into_iter().flatten().all(|name| name.len() <= NAME));
    });
}

#[test]
fn damaged_elf_files_are_read_to_an_end() {
    let limits = Limits { time: Duration::from_secs(5), memory: 64 << 20 };
    let seed = fs::read("/bin/true").unwrap();
    damage(1_000, limits, &[seed], |bytes| {
        lend(bytes, |bytes| {
            let Some(elf) = Elf::parse(bytes) else { return };
            elf.relocated(0);
            elf.bias(0x1000, 0x1000);
            let Some(module) = Module::parse(bytes) else { return };
            for address in (0..0x10000).step_by(0x400).chain([u64::MAX]) {
                module.symbols().at(address);
                module.lines().map(|lines| lines.at(address));
                module.tables().cover(address);
                module.elf.bytes_before::<7>(address);
            }
        });
    });
}

#[test]
fn damaged_interpreters_are_looked_at_to_their_end() {
    let limits = Limits { time: Duration::from_secs(2), memory: 96 << 20 };
    for path in ["/usr/bin/python3", "/bin/sh"] {
        let original =
            fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}: `cargo xtask setup` installs it"));
        let look = |bytes: &[u8]| {
            let mut found = None;
            lend(bytes, |bytes| found = Elf::parse(bytes).map(|elf| cpython::find(&elf)));
            found
        };
        let truth = look(&original).unwrap();
        assert_eq!(matches!(truth, Cpython::Interpreter(_)), path.contains("python"), "{truth:?}");
        // What decides is at both ends: the headers, and the sections' headers.
        let tail = original.len().saturating_sub(4_096);
        for (at, end) in [(0, &original[..4_096]), (tail, &original[tail..])] {
            damage(150, limits, &[end.to_vec()], |damaged| {
                let mut bytes = original.clone();
                let length = damaged.len().min(end.len());
                bytes[at..at + length].copy_from_slice(&damaged[..length]);
                look(&bytes);
            });
        }
    }
}

fn requests() -> Vec<Request> {
    let span = Span { start: 0x40_0000, end: 0x41_0000, offset: 0, file: Some(0), anonymous: false };
    let place = Place { file: 0, address: 0x2000 };
    let registers = Registers { ip: 0x40_2010, ..Registers::default() };
    vec![
        Request::Unwind { registers, spans: vec![span, Span { file: None, anonymous: true, ..span }] },
        Request::Symbolize { addresses: vec![place; 3], debug: vec![(0, 0)] },
        Request::PerfMap { addresses: vec![0x7f00_0000_1000, u64::MAX] },
        Request::Cpython,
    ]
}

#[test]
fn damaged_requests_are_answered_or_refused() {
    let limits = Limits { time: Duration::from_secs(2), memory: 64 << 20 };
    let stack: Vec<u8> = (0_u64..64).flat_map(|word| (0x40_2000 + word * 16).to_le_bytes()).collect();
    let mut seeds = Vec::new();
    for request in requests() {
        let packet = pack(&request, &stack).unwrap();
        assert_eq!(unpack::<Request>(&packet).unwrap(), (request, &*stack));
        seeds.push(packet);
    }
    damage(500, limits, &seeds, |packet| {
        let Ok((request, stack)) = unpack::<Request>(packet) else { return };
        let file = OwnedFd::from(File::open("/bin/true").unwrap());
        // They are kept for as long as the process lives: a new one each time would map the file anew.
        thread_local!(static FILES: std::cell::RefCell<Files> = std::cell::RefCell::default());
        let answer = FILES.with_borrow_mut(|files| answer(&request, stack, vec![file], files));
        if let Answer::Unwound(unwound) = &answer {
            assert!(unwound.frames.len() <= FRAMES);
        }
        pack(&answer, &[]).unwrap();
    });
}

#[test]
fn damaged_answers_are_understood_or_refused() {
    let function = Function {
        name: Some("leak".to_owned()),
        file: Some("/a.c".to_owned()),
        line: Some(3),
        inlined: true,
    };
    let place = Some(Place { file: 0, address: 1 });
    let unwound = Unwound {
        frames: vec![Unnamed { at: 7, place, guessed: false }; 9],
        complete: true,
        build_ids: vec![None, Some("0123abcd".to_owned())],
    };
    let interpreter =
        |version| Cpython::Interpreter(Interpreter { symbol: 0x7000, version, code: 0x1000, first: 0 });
    let answers = [
        Answer::Unwound(unwound),
        Answer::Symbolized(vec![vec![function; 3], Vec::new()]),
        Answer::Cpython(interpreter(Version::Minor(12))),
        Answer::Cpython(interpreter(Version::Offsets(vec![0x3072_6470; 84]))),
        Answer::PerfMap(vec![None, Some("LazyCompile:~a b.js:1".to_owned())]),
        Answer::Refused("no file".to_owned()),
    ];
    let mut seeds = Vec::new();
    for answer in answers {
        let packet = pack(&answer, &[]).unwrap();
        assert_eq!(unpack::<Answer>(&packet).unwrap(), (answer, &b""[..]));
        seeds.push(packet);
    }
    damage(5_000, LIMITS, &seeds, |packet| {
        // What is understood can be said again, and means the same.
        let Ok((answer, _)) = unpack::<Answer>(packet) else { return };
        let again = pack(&answer, &[]).unwrap();
        assert_eq!(unpack::<Answer>(&again).unwrap().0, answer);
    });
}
