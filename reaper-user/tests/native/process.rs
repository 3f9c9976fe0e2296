//! The symbolizing process: what it may not do, and what becomes of requests that it dies of.

use std::{
    fs::{self, File},
    os::fd::AsFd as _,
    process::Command,
};

use reaper::origin::{
    native::Registers,
    symbols::{
        Symbolizer, Unanswered,
        message::{Answer, Place, Request, Span},
    },
};

use crate::{build, matrix::reaper};

/// Asks something that it can always answer.
fn ping(symbolizer: &Symbolizer) {
    let answer = symbolizer.ask(&Request::Symbolize { addresses: vec![], debug: vec![] }, &[], &[]);
    assert!(matches!(answer, Ok(Answer::Symbolized(names)) if names.is_empty()));
}

#[test]
fn it_has_no_privileges_and_can_open_nothing() {
    let symbolizer = Symbolizer::new(reaper());
    ping(&symbolizer);
    let directory = format!("/proc/{}", symbolizer.pid().unwrap());
    let status = fs::read_to_string(format!("{directory}/status")).unwrap();
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    for id in ["Uid", "Gid"] {
        assert_eq!(field(id), ["65534"; 4], "{id}");
    }
    assert_eq!(field("Groups"), [""; 0]);
    let descriptors: Vec<_> = fs::read_dir(format!("{directory}/fd")).unwrap().collect();
    assert_eq!(descriptors.len(), 3);
    let limits = fs::read_to_string(format!("{directory}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((limit("Max core file size"), limit("Max file size"), limit("Max cpu time")), (0, 0, 60));
    assert!(limit("Max data size") <= 1 << 30 && limit("Max address space") <= 16 << 30);
}

#[test]
fn one_that_dies_is_counted_and_replaced() {
    let symbolizer = Symbolizer::new(reaper());
    ping(&symbolizer);
    let first = symbolizer.pid().unwrap();
    // SIGKILL, as the kernel does where memory is short.
    assert!(Command::new("kill").args(["-KILL", &first.to_string()]).status().unwrap().success());
    let died = symbolizer.ask(&Request::PerfMap { addresses: vec![] }, &[], &[]);
    assert!(matches!(died, Err(Unanswered::Died(_))), "{died:?}");
    ping(&symbolizer);
    let counts = symbolizer.counts();
    assert_eq!((counts.started, counts.died, counts.late), (2, 1, 0));
    assert_eq!((counts.answered, counts.unanswered), (2, 1));
    assert_ne!(symbolizer.pid().unwrap(), first);
}

#[test]
fn one_that_does_not_answer_is_killed() {
    let symbolizer = Symbolizer::new(reaper());
    ping(&symbolizer);
    let pid = symbolizer.pid().unwrap();
    assert!(Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap().success());
    let late = symbolizer.ask(&Request::PerfMap { addresses: vec![] }, &[], &[]);
    assert!(matches!(late, Err(Unanswered::Late)), "{late:?}");
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    ping(&symbolizer);
    assert_eq!(symbolizer.counts().late, 1);
}

#[test]
fn it_ends_with_the_daemon() {
    let symbolizer = Symbolizer::new(reaper());
    ping(&symbolizer);
    let pid = symbolizer.pid().unwrap();
    drop(symbolizer);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
}

#[test]
fn forged_files_harm_nobody_else() {
    let program = build::c("gcc", &["-O1", "-g"], false);
    let original = fs::read(&program.path).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let symbolizer = Symbolizer::new(reaper());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut frames = 0;
    let function = program.range("leak_here").start;
    for round in 0..300 {
        let mut bytes = original.clone();
        for _ in 0..1 + next(64) {
            // The headers as often as all the rest.
            let most = if round % 2 == 0 { 1024 } else { bytes.len() as u64 };
            bytes[usize::try_from(next(most)).unwrap()] = u8::try_from(next(256)).unwrap();
        }
        // So that the stack is unwound.
        let at = usize::try_from(function).unwrap();
        bytes[at..at + 2].copy_from_slice(&[0x0f, 0x05]);
        bytes.truncate(usize::try_from(next(4 * original.len() as u64)).unwrap().max(at + 2));
        let path = directory.path().join(format!("forged-{round}"));
        fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        let mut registers = Registers { ip: 0x40_0000 + function + 2, ..Registers::default() };
        registers.general[4] = 0x7fff_0000;
        registers.general[5] = 0x7fff_0000 + 8 * next(64);
        let stack: Vec<u8> =
            (0..512).flat_map(|_| (0x40_0000 + function + next(0x400)).to_le_bytes()).collect();
        let spans =
            vec![Span { start: 0x40_1000, end: 0x40_8000, offset: 0x1000, file: Some(0), anonymous: false }];
        let addresses = (0..32).map(|_| Place { file: 0, address: next(0x5000) }).collect();
        for (request, bytes) in [
            (Request::Unwind { registers, spans }, &stack[..]),
            (Request::Symbolize { addresses, debug: vec![(0, 0)] }, &[]),
        ] {
            match symbolizer.ask(&request, bytes, &[file.as_fd()]) {
                Ok(Answer::Unwound(unwound)) => {
                    assert!(unwound.frames.len() <= 128);
                    frames += unwound.frames.len();
                }
                Ok(Answer::Symbolized(names)) => assert_eq!(names.len(), 32),
                // It may die of it: that is what it is for.
                Err(Unanswered::Died(_) | Unanswered::Paused) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let counts = symbolizer.counts();
    assert_eq!(counts.answered + counts.unanswered, 600);
    assert!(frames > 300, "{frames} frames, {counts:?}");
}
