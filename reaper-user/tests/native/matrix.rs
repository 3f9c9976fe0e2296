//! Programs × ways to fork.

use std::path::{Path, PathBuf};

use reaper::{
    origin::{Frame, FrameKind, Quality, Stack, native::NativeStacks, symbols::Symbolizer},
    proc::Proc,
};

use crate::{
    build::{self, Program},
    tracee::Tracee,
};

/// How C and Rust fork.
const WAYS: [&str; 5] = ["fork", "vfork", "posix_spawn", "system", "popen"];

const GO_WAYS: [&str; 3] = ["exec", "start", "fork-exec"];

/// The reaper that is tested.
pub(crate) fn reaper() -> PathBuf {
    std::env::var_os("REAPER_BIN").map_or_else(|| env!("CARGO_BIN_EXE_reaper").into(), PathBuf::from)
}

/// The stack at a program's fork.
fn stack(program: &Program, arguments: &[&str]) -> (Stack, Quality) {
    let tracee = Tracee::at_fork(&program.path, arguments, 1);
    let mut stacks = NativeStacks::new(Proc::at("/proc"), Symbolizer::new(reaper()));
    let stack = stacks.unwind(&tracee.identity, &tracee.registers, &tracee.stack).unwrap();
    let quality = stack.quality;
    (stacks.name(&stack).0, quality)
}

fn shown(stack: &Stack) -> String {
    let text =
        |text: &Option<reaper::text::Untrusted>| text.as_ref().map_or("-", |text| text.as_str()).to_owned();
    let mut lines: Vec<_> = stack
        .frames
        .iter()
        .map(|frame| {
            let (function, file, module) = (text(&frame.function), text(&frame.file), text(&frame.module));
            format!("{function} {file}:{:?} {module}+{:x?} {:?}", frame.line, frame.offset, frame.kind)
        })
        .collect();
    lines.push(if stack.cut { "cut".to_owned() } else { "complete".to_owned() });
    lines.join("\n")
}

fn named<'a>(stack: &'a Stack, function: &str) -> Option<&'a Frame> {
    stack.frames.iter().find(|frame| frame.function.as_ref().is_some_and(|name| name.as_str() == function))
}

/// Whose lines a program tells.
#[derive(Clone, Copy)]
enum Lines {
    All,
    /// Of a function into which another was inlined there, that one's.
    NotAroundInlined,
    None,
}

/// The function is there by its name; with its line where the program tells.
fn assert_names(program: &Program, ways: &[&str], function: &str, lines: Lines, expected: Quality) {
    for way in ways {
        let (stack, quality) = stack(program, &[way]);
        let frame = named(&stack, function).unwrap_or_else(|| panic!("{way}:\n{}", shown(&stack)));
        match lines {
            Lines::All => assert_eq!(frame.line, Some(program.line(way)), "{way}:\n{}", shown(&stack)),
            Lines::NotAroundInlined => {
                let at = stack.frames.iter().position(|other| std::ptr::eq(other, frame)).unwrap();
                let around = stack.frames[at - 1].kind == FrameKind::Inlined;
                let line = (!around).then(|| program.line(way));
                assert_eq!(frame.line, line, "{way}:\n{}", shown(&stack));
            }
            Lines::None => assert_eq!(frame.line, None, "{way}:\n{}", shown(&stack)),
        }
        assert!(quality <= expected, "{way} {quality:?}:\n{}", shown(&stack));
        assert_eq!(frame.kind, FrameKind::Native);
        assert!(stack.frames.len() < 64, "{way}:\n{}", shown(&stack));
        // What called it, as often as it did.
        let through = stack
            .frames
            .iter()
            .filter(|frame| frame.function.as_ref().is_some_and(|name| name.as_str().ends_with("through")));
        assert_eq!(through.count(), 4, "{way}:\n{}", shown(&stack));
        // musl has no tables for what calls main.
        if expected == Quality::Exact {
            assert!(!stack.cut, "{way}:\n{}", shown(&stack));
        }
    }
}

/// The function's module and offset are there.
fn assert_places(program: &Program, ways: &[&str], function: &str, expected: Quality) {
    let range = program.range(function);
    for way in ways {
        let (stack, quality) = stack(program, &[way]);
        let module = program.path.to_str().unwrap();
        let frame = stack.frames.iter().find(|frame| {
            frame.module.as_ref().is_some_and(|name| name.as_str() == module)
                && frame.offset.is_some_and(|offset| range.contains(&offset))
        });
        let frame = frame.unwrap_or_else(|| panic!("{way} {range:x?}:\n{}", shown(&stack)));
        assert_eq!(frame.function, None, "{way}:\n{}", shown(&stack));
        assert_eq!(frame.build_id, Some(program.build_id()), "{way}");
        assert!(quality <= expected, "{way} {quality:?}:\n{}", shown(&stack));
    }
}

#[test]
fn c_without_frame_pointers() {
    let program = build::c("gcc", &["-O2", "-g", "-fomit-frame-pointer"], false);
    assert_names(&program, &WAYS, "leak_here", Lines::All, Quality::Exact);
}

/// The unwinder would take the frame pointer for it, and be right about one caller, and wrong about the next.
#[test]
fn c_that_aligns_its_stack_anew() {
    let program = build::c("gcc", &["-O2", "-g", "-fomit-frame-pointer", "-DREALIGNED"], false);
    let tables = std::process::Command::new("readelf").arg("--debug-dump=frames").arg(&program.path).output();
    let tables = String::from_utf8(tables.unwrap().stdout).unwrap();
    assert!(tables.contains("DW_OP_deref"), "this is about rows that dereference:\n{tables}");
    assert_names(&program, &WAYS, "leak_here", Lines::All, Quality::Exact);
}

#[test]
fn c_with_frame_pointers() {
    let program = build::c("gcc", &["-O2", "-fno-omit-frame-pointer"], false);
    assert_names(&program, &WAYS, "leak_here", Lines::None, Quality::Exact);
}

#[test]
fn c_at_a_fixed_address_with_compressed_debug_information() {
    let program = build::c("gcc", &["-O1", "-g", "-gz", "-no-pie"], false);
    assert_names(&program, &WAYS, "leak_here", Lines::All, Quality::Exact);
}

#[test]
fn static_c() {
    let program = build::c("gcc", &["-O2", "-static", "-fomit-frame-pointer"], false);
    assert_names(&program, &WAYS, "leak_here", Lines::None, Quality::Exact);
}

#[test]
fn stripped_c() {
    let program = build::c("gcc", &["-O2", "-fomit-frame-pointer"], true);
    assert_places(&program, &WAYS, "leak_here", Quality::Exact);
}

#[test]
fn stripped_c_whose_debug_information_is_kept_elsewhere() {
    let program = build::c("gcc", &["-O2", "-g"], true);
    let directory = program.split_off_debug_information();
    let tracee = Tracee::at_fork(&program.path, &["fork"], 1);
    let stacks = NativeStacks::new(Proc::at("/proc"), Symbolizer::new(reaper()));
    let mut stacks = stacks.with_debug_directory(directory.path().into());
    let stack = stacks.unwind(&tracee.identity, &tracee.registers, &tracee.stack).unwrap();
    let (stack, _) = stacks.name(&stack);
    let frame = named(&stack, "leak_here").unwrap_or_else(|| panic!("{}", shown(&stack)));
    assert_eq!(frame.line, Some(program.line("fork")), "{}", shown(&stack));
}

#[test]
fn static_c_with_musl() {
    let program = build::c("musl-gcc", &["-O2", "-g", "-static", "-fomit-frame-pointer"], false);
    assert_names(&program, &WAYS, "leak_here", Lines::All, Quality::Approximate);
}

#[test]
fn static_c_with_musl_and_frame_pointers() {
    let program = build::c("musl-gcc", &["-O2", "-static", "-fno-omit-frame-pointer"], false);
    assert_names(&program, &WAYS, "leak_here", Lines::None, Quality::Approximate);
}

#[test]
fn c_with_musl() {
    let program = build::c("musl-gcc", &["-O2", "-fomit-frame-pointer"], false);
    assert_names(&program, &WAYS, "leak_here", Lines::None, Quality::Approximate);
}

#[test]
fn go() {
    assert_names(&build::go("", "exe"), &GO_WAYS, "main.leakHere", Lines::All, Quality::Exact);
}

#[test]
fn stripped_go() {
    assert_names(
        &build::go("-s -w", "exe"),
        &GO_WAYS,
        "main.leakHere",
        Lines::NotAroundInlined,
        Quality::Exact,
    );
}

#[test]
fn stripped_go_at_any_address() {
    assert_names(
        &build::go("-s -w", "pie"),
        &GO_WAYS,
        "main.leakHere",
        Lines::NotAroundInlined,
        Quality::Exact,
    );
}

#[test]
fn rust() {
    assert_names(&build::rust(&["-g"]), &WAYS, "leak::leak_here", Lines::All, Quality::Exact);
}

#[test]
fn rust_without_debug_information() {
    assert_names(&build::rust(&[]), &WAYS, "leak::leak_here", Lines::None, Quality::Exact);
}

#[test]
fn a_program_that_only_its_own_mount_namespace_has() {
    let program = build::c("gcc", &["-O2", "-g"], false);
    let inside = "/mnt/only-here";
    let script = format!(
        "mount -t tmpfs none /mnt && cp {} {inside} && chmod 700 {inside} && exec {inside} fork",
        program.path.display()
    );
    // The shell forks for mount, cp and chmod before it becomes the program.
    let arguments = ["--mount", "--propagation", "private", "sh", "-c", &script];
    let tracee = Tracee::at_fork(Path::new("unshare"), &arguments, 4);
    assert!(!Path::new(inside).exists());
    let mut stacks = NativeStacks::new(Proc::at("/proc"), Symbolizer::new(reaper()));
    let stack = stacks.unwind(&tracee.identity, &tracee.registers, &tracee.stack).unwrap();
    let (stack, _) = stacks.name(&stack);
    let frame = named(&stack, "leak_here").unwrap_or_else(|| panic!("{}", shown(&stack)));
    assert_eq!(frame.line, Some(program.line("fork")), "{}", shown(&stack));
    assert_eq!(frame.module.as_ref().map(|module| module.as_str()), Some(inside));
}

/// What the stack has between `leak_here` and what called the code that was compiled at run time.
fn compiled(way: &str) -> (Frame, Quality) {
    let program = build::c("gcc", &["-O2", "-g", "-fomit-frame-pointer"], false);
    let (stack, quality) = stack(&program, &[way]);
    let at = |function: &str| {
        stack
            .frames
            .iter()
            .position(|frame| frame.function.as_ref().is_some_and(|name| name.as_str() == function))
    };
    let (inner, outer) = (at("leak_here").unwrap(), at("compile").unwrap());
    assert_eq!(outer - inner, 2, "{}", shown(&stack));
    assert!(!stack.cut, "{}", shown(&stack));
    (stack.frames[inner + 1].clone(), quality)
}

#[test]
fn what_was_compiled_at_run_time_has_the_name_in_the_perf_map() {
    let (frame, quality) = compiled("compiled");
    assert_eq!(frame.function.unwrap().as_str(), "JS:~leakHere /srv/leak.js:2:18");
    assert_eq!((frame.kind, frame.module, quality), (FrameKind::Jit, None, Quality::Approximate));
}

#[test]
fn a_perf_map_that_is_a_link_is_not_read() {
    let (frame, _) = compiled("compiled-linked");
    assert_eq!((frame.kind, frame.function), (FrameKind::Jit, None));
}
