//! The programs, built as people build theirs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A program.
pub(crate) struct Program {
    /// Where it is.
    pub(crate) path: PathBuf,
    source: PathBuf,
    /// The same with its symbols, where it has none.
    twin: Option<PathBuf>,
    _directory: TempDir,
}

/// A C program by this compiler. A `stripped` one has a twin that is not.
pub(crate) fn c(compiler: &str, flags: &[&str], stripped: bool) -> Program {
    let needs = if compiler == "gcc" { "gcc" } else { "musl-tools" };
    build("leak.c", needs, stripped.then_some(["--strip-all"].as_slice()), |source, target| {
        let mut command = Command::new(compiler);
        command.args(flags).arg("-o").arg(target).arg(source);
        command
    })
}

/// A Go program with these flags for its linker.
pub(crate) fn go(linker: &str, mode: &str) -> Program {
    build("leak.go", "golang-go", None, |source, target| {
        let mut command = Command::new("go");
        let root = source.parent().unwrap();
        command
            .env("GOCACHE", std::env::temp_dir().join("reaper-test-go"))
            .env("GOFLAGS", "")
            .current_dir(root);
        command.args(["build", "-ldflags", linker, "-buildmode", mode, "-o"]).arg(target).arg("leak.go");
        command
    })
}

/// A Rust program.
pub(crate) fn rust(flags: &[&str]) -> Program {
    build("leak.rs", "rustc", None, |source, target| {
        let mut command = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"));
        command.args(["--edition", "2024", "-O"]).args(flags).arg("-o").arg(target).arg(source);
        command
    })
}

fn build(
    source: &str,
    needs: &str,
    strip: Option<&[&str]>,
    compile: impl Fn(&Path, &Path) -> Command,
) -> Program {
    let directory = tempfile::tempdir().unwrap();
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/programs").join(source);
    let source = directory.path().join(source);
    fs::copy(original, &source).unwrap();
    let path = directory.path().join("leak");
    run(&mut compile(&source, &path), needs);
    let twin = strip.map(|arguments| {
        let twin = directory.path().join("twin");
        fs::copy(&path, &twin).unwrap();
        run(Command::new("strip").args(arguments).arg(&path), "binutils");
        twin
    });
    Program { path, source, twin, _directory: directory }
}

fn run(command: &mut Command, needs: &str) {
    let output = command.output();
    let output =
        output.unwrap_or_else(|error| panic!("{command:?}: {error}: {needs} is missing: cargo xtask setup"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Program {
    /// The line that is marked in the source.
    pub(crate) fn line(&self, mark: &str) -> u32 {
        let source = fs::read_to_string(&self.source).unwrap();
        let mark = format!("// {mark}");
        let line = source.lines().position(|line| line.trim_end().ends_with(&mark)).unwrap();
        u32::try_from(line).unwrap() + 1
    }

    /// Where a function is in the file, as `nm` and `readelf` tell.
    pub(crate) fn range(&self, function: &str) -> std::ops::Range<u64> {
        let file = self.twin.as_ref().unwrap_or(&self.path);
        let symbols = Command::new("nm").args(["--print-size", "--defined-only"]).arg(file).output().unwrap();
        let symbols = String::from_utf8(symbols.stdout).unwrap();
        let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        let symbol = symbols.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let symbol = symbol.into_iter().find(|fields| fields.last() == Some(&function)).unwrap();
        let (address, size) = (hex(symbol[0]), hex(symbol[1]));
        let segments = Command::new("readelf").args(["--segments", "--wide"]).arg(file).output().unwrap();
        let segments = String::from_utf8(segments.stdout).unwrap();
        let loads = segments.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let load = loads.filter(|fields| fields.first() == Some(&"LOAD")).find(|fields| {
            let (start, length) = (hex(fields[2]), hex(fields[5]));
            (start..start + length).contains(&address)
        });
        let load = load.unwrap();
        let offset = address - hex(load[2]) + hex(load[1]);
        offset..offset + size
    }

    /// The build id, as `readelf` tells.
    pub(crate) fn build_id(&self) -> String {
        let notes = Command::new("readelf").arg("--notes").arg(&self.path).output().unwrap();
        let notes = String::from_utf8(notes.stdout).unwrap();
        notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).unwrap().to_owned()
    }

    /// A directory that has its debug information by its build id.
    pub(crate) fn split_off_debug_information(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        let id = self.build_id();
        let (first, rest) = id.split_at(2);
        fs::create_dir(directory.path().join(first)).unwrap();
        let target = directory.path().join(first).join(format!("{rest}.debug"));
        let mut command = Command::new("objcopy");
        command.arg("--only-keep-debug").arg(self.twin.as_ref().unwrap()).arg(target);
        run(&mut command, "binutils");
        directory
    }
}
