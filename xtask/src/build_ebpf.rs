//! `cargo xtask build-ebpf`: the BPF object, which is committed so that nothing else needs this toolchain.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, bail};

use crate::{
    command,
    compiler::{self, Compiler, Llvm},
    object,
    setup::{self, Group},
    workspace::Workspace,
};

/// The separator of `CARGO_ENCODED_RUSTFLAGS`, so that a path with a space stays one flag.
const FLAG_SEPARATOR: &str = "\u{1f}";

/// What the kernel runs, on both architectures.
const TARGET: &str = "bpfel-unknown-none";

/// The program of reaper-ebpf that ships.
const SHIPPED: &str = "reaper-bpf";

/// Builds the BPF object from reaper-ebpf and puts it, with what it was built by, into reaper-user/bpf/.
///
/// What is missing is set up first.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build and compare with the committed object, which stays as it is. The same toolchain must give the same bytes; with
    /// another one only the build is demanded.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    setup::ensure(workspace, &[Group::Object])?;
    if args.check { check(workspace, None).map(drop) } else { write(workspace) }
}

/// An object that was just built.
struct Built {
    path: PathBuf,
    bytes: Vec<u8>,
    toolchain: Toolchain,
}

/// What determines the bytes besides the source, as it stands in toolchain.toml.
#[derive(PartialEq, Eq)]
struct Toolchain {
    rustc: String,
    llvm: String,
    bpf_linker: String,
    bpf_linker_llvm: String,
}

impl Toolchain {
    fn to_toml(&self, sha256: &str) -> String {
        let Self { rustc, llvm, bpf_linker, bpf_linker_llvm } = self;
        format!(
            "# What reaper.bpf.o was built with. Written by `cargo xtask build-ebpf`.\n\
             rustc = \"{rustc}\"\n\
             llvm = \"{llvm}\"\n\
             bpf_linker = \"{bpf_linker}\"\n\
             bpf_linker_llvm = \"{bpf_linker_llvm}\"\n\
             sha256 = \"{sha256}\"\n"
        )
    }

    /// The file is ours and has one `key = "value"` a line; anything else counts as another toolchain.
    fn from_toml(text: &str) -> Option<(Self, String)> {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
            Some(line.strip_suffix('"')?.to_owned())
        };
        let toolchain = Self {
            rustc: value("rustc")?,
            llvm: value("llvm")?,
            bpf_linker: value("bpf_linker")?,
            bpf_linker_llvm: value("bpf_linker_llvm")?,
        };
        Some((toolchain, value("sha256")?))
    }
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rustc, llvm, bpf_linker, bpf_linker_llvm } = self;
        write!(f, "{rustc} with LLVM {llvm}, bpf-linker {bpf_linker} with LLVM {bpf_linker_llvm}")
    }
}

fn write(workspace: &Workspace) -> anyhow::Result<()> {
    let Built { path, bytes, toolchain } = build(workspace, SHIPPED, false, None)?;
    let record = toolchain.to_toml(&sha256(&path)?);
    let (object, record_path) = (workspace.object(), workspace.object_record());
    let folder = object.parent().context("the object lies in no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    let changed = fs::read(&object).map_or(true, |before| before != bytes);
    replace(&object, &bytes)?;
    replace(&record_path, record.as_bytes())?;
    println!(
        "build-ebpf: {} {} ({} bytes)",
        if changed { "wrote" } else { "unchanged:" },
        object.display(),
        bytes.len()
    );
    Ok(())
}

/// Builds, demands identical bytes of an identical toolchain, and returns the rebuilt object where it differs.
pub(crate) fn check(workspace: &Workspace, deadline: Option<Instant>) -> anyhow::Result<Option<PathBuf>> {
    let (committed, record) = (workspace.object(), workspace.object_record());
    let hint = "`cargo xtask build-ebpf` writes it";
    let expected = fs::read(&committed).with_context(|| format!("no {}: {hint}", committed.display()))?;
    let text = fs::read_to_string(&record).with_context(|| format!("no {}: {hint}", record.display()))?;
    let (recorded, sum) = Toolchain::from_toml(&text)
        .with_context(|| format!("{} is not as it was written: {hint}", record.display()))?;
    if sha256(&committed)? != sum {
        bail!("{} is not the object that {} records: {hint}", committed.display(), record.display());
    }

    let Built { path, bytes, toolchain } = build(workspace, SHIPPED, true, deadline)?;
    if bytes == expected {
        println!("build-ebpf: the committed object is what the source gives, byte for byte");
        return Ok(None);
    }
    let differences = object::differences(&expected, &bytes).join("\n  ");
    if toolchain == recorded {
        bail!(
            "the committed object is not what the source gives ({toolchain}); where they differ:\n  {differences}\n\
             Commit the result of `cargo xtask build-ebpf`. The rebuilt object is {}",
            path.display()
        );
    }
    println!(
        "build-ebpf: builds, and differs from the committed object, as it may: built here by {toolchain}, \
         committed from {recorded}"
    );
    Ok(Some(path))
}

/// Builds another of reaper-ebpf's programs by the same recipe, for use in this tree only.
pub(crate) fn build_unrecorded(workspace: &Workspace, program: &str) -> anyhow::Result<()> {
    build(workspace, program, false, None).map(drop)
}

/// Where [`build_unrecorded`] puts it.
pub(crate) fn unrecorded(workspace: &Workspace, program: &str) -> PathBuf {
    target(workspace).join(format!("{}.bpf.o", program.trim_end_matches("-bpf")))
}

fn build(
    workspace: &Workspace,
    program: &str,
    check: bool,
    deadline: Option<Instant>,
) -> anyhow::Result<Built> {
    let compiler = Compiler::find()?;
    let llvm = Llvm::find()?;
    if !compiler::tool_is(workspace, "bpf-linker", compiler::BPF_LINKER) {
        bail!(
            "{} is not bpf-linker {}: `cargo xtask setup object` installs it",
            workspace.tool("bpf-linker").display(),
            compiler::BPF_LINKER
        );
    }
    let toolchain = Toolchain {
        rustc: compiler.version.clone(),
        llvm: compiler.llvm.clone(),
        bpf_linker: compiler::BPF_LINKER.to_owned(),
        bpf_linker_llvm: llvm.version()?,
    };
    println!("build-ebpf: building the BPF object with {toolchain}");

    let mut cargo = Command::new(&compiler.cargo);
    cargo.arg("build");
    for_bpf(&mut cargo, workspace, &compiler)?.args(["--bin", program]);
    if check {
        // Warnings are not a flag of the compiler here: that would be a different build, and build twice.
        cargo.args(["--locked", "-Zwarnings", "--config", "build.warnings=\"deny\""]);
    }
    command::run_until(&mut cargo, deadline)?;

    let path = unrecorded(workspace, program);
    let mut objcopy = Command::new(llvm.objcopy());
    // DWARF goes; .BTF and .BTF.ext, which the kernel reads, stay.
    let linked = target(workspace).join(TARGET).join("release").join(program);
    objcopy.arg("--strip-debug").arg(linked).arg(&path);
    command::run(&mut objcopy)?;
    let bytes = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
    Ok(Built { path, bytes, toolchain })
}

/// Checks the lints of all BPF programs, with the clippy of the compiler that builds them: the workspace's own sees
/// only what both sides share.
pub(crate) fn lint(workspace: &Workspace, deadline: Instant) -> anyhow::Result<()> {
    let compiler = Compiler::find()?;
    // Not through cargo, which would take the first clippy on the PATH. What cargo names it by comes first.
    let mut clippy = Command::new(compiler.clippy());
    clippy.env("CARGO", &compiler.cargo).arg("clippy");
    for_bpf(&mut clippy, workspace, &compiler)?.args(["--bins", "--locked", "--", "-D", "warnings"]);
    command::run_until(&mut clippy, deadline)
}

/// A folder of its own: what another compiler built would be thrown away again and again.
fn target(workspace: &Workspace) -> PathBuf {
    workspace.target().join("bpf")
}

/// Makes a subcommand of cargo one for the BPF target.
fn for_bpf<'a>(
    cargo: &'a mut Command,
    workspace: &Workspace,
    compiler: &Compiler,
) -> anyhow::Result<&'a mut Command> {
    // What would change the bytes behind our back, or belongs to the toolchain that runs this task.
    for variable in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(variable);
    }
    cargo
        .current_dir(workspace.root())
        .args(["--release", "--package", "reaper-ebpf", "--features", "bpf", "--target", TARGET])
        .args(["-Zbuild-std=core", "--target-dir"])
        .arg(target(workspace))
        .env("RUSTC", &compiler.rustc)
        // For -Zbuild-std and the BPF target's intrinsics; on this child only.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(workspace, compiler)?.join(FLAG_SEPARATOR))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", workspace.tool("bpf-linker"))
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    Ok(cargo)
}

/// -Cdebuginfo=2 is not for people: without it the linker has nothing to make .BTF.ext from, and the kernel
/// refuses the object. <https://github.com/aya-rs/aya/issues/1649>
fn flags(workspace: &Workspace, compiler: &Compiler) -> anyhow::Result<Vec<String>> {
    let mut flags: Vec<String> = ["--cfg", "bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf"]
        .map(str::to_owned)
        .into();
    // BTF carries the paths of source lines: they must not depend on whose machine this is.
    let [source, real_source] = &compiler.sources;
    let cargo_home = cargo_home()?;
    let paths: [(&Path, &str); 4] =
        [(workspace.root(), "/reaper"), (&cargo_home, "/cargo"), (source, "/rust"), (real_source, "/rust")];
    for (from, to) in paths {
        let from = from.to_str().with_context(|| format!("{} is not UTF-8", from.display()))?;
        flags.push(format!("--remap-path-prefix={from}={to}"));
    }
    Ok(flags)
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = env::home_dir().context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join(".cargo"))
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let line = command::output(Command::new("sha256sum").arg("--").arg(path))?;
    let sum = line.split_ascii_whitespace().next().context("sha256sum wrote nothing")?;
    Ok(sum.trim_start_matches('\\').to_owned())
}

/// Leaves the old file or the new one, never half of one.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let new = path.with_added_extension("new");
    fs::write(&new, bytes).with_context(|| format!("could not write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("could not put {} in place", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolchain() -> Toolchain {
        Toolchain {
            rustc: "rustc 1.96.0 (ac68faa20 2026-05-25)".into(),
            llvm: "22.1.8".into(),
            bpf_linker: "0.13.0".into(),
            bpf_linker_llvm: "22.1.8".into(),
        }
    }

    #[test]
    fn the_record_reads_back_as_it_was_written() {
        let (read, sum) = Toolchain::from_toml(&toolchain().to_toml("beef")).unwrap();
        assert!(read == toolchain());
        assert_eq!(sum, "beef");
    }

    #[test]
    fn a_record_that_lacks_a_key_is_no_record() {
        let text = toolchain().to_toml("beef").replace("llvm", "lvm");
        assert!(Toolchain::from_toml(&text).is_none());
    }
}
