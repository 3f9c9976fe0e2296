//! What turns reaper-ebpf into a BPF object: a compiler with the source of `core`, bpf-linker on the same LLVM,
//! and that LLVM's objcopy.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, anyhow, bail};

use crate::{command, workspace::Workspace};

/// Compiler and linker exchange LLVM bitcode: their LLVM must be of the same major version, and the linker's not
/// the older one. <https://github.com/aya-rs/bpf-linker/issues/387>
pub(crate) const LLVM_MAJOR: u32 = 22;

/// The release of bpf-linker that `setup` installs.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// Where a distribution's packages put a compiler.
const DISTRIBUTION: &str = "/usr";

/// A compiler that can build `core` for the BPF target.
pub(crate) struct Compiler {
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    /// Where the source of `core` is, as the compiler names it and as it is after symbolic links.
    pub(crate) sources: [PathBuf; 2],
    /// `rustc --version`, with the commit and whose build it is.
    pub(crate) version: String,
    /// Its LLVM, three numbers.
    pub(crate) llvm: String,
}

impl Compiler {
    /// The distribution's compiler, else the active one of rustup.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let distribution = Self::at(Path::new(DISTRIBUTION));
        let Err(distribution) = distribution else { return distribution };
        let rustup = active_sysroot().and_then(|sysroot| Self::at(&sysroot));
        rustup.map_err(|rustup| {
            anyhow!(
                "no compiler can build `core` for BPF: {distribution:#}; {rustup:#}. `cargo xtask setup object` \
                 installs one"
            )
        })
    }

    fn at(sysroot: &Path) -> anyhow::Result<Self> {
        let [cargo, rustc] = ["bin/cargo", "bin/rustc"].map(|program| sysroot.join(program));
        for program in [&cargo, &rustc] {
            if !program.is_file() {
                bail!("{} does not exist", program.display());
            }
        }
        let source = sysroot.join("lib/rustlib/src/rust");
        if !source.join("library/core/src/lib.rs").is_file() {
            bail!("{} lacks the source of core (package rust-src)", sysroot.display());
        }
        let real =
            source.canonicalize().with_context(|| format!("could not resolve {}", source.display()))?;
        let verbose = command::output(Command::new(&rustc).arg("-vV"))?;
        let version = verbose.lines().next().unwrap_or_default().to_owned();
        let llvm = verbose
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .with_context(|| format!("{} -vV names no LLVM version", rustc.display()))?;
        if major(llvm) != Some(LLVM_MAJOR) {
            bail!("{} has LLVM {llvm}, and LLVM {LLVM_MAJOR} is needed", rustc.display());
        }
        Ok(Self { cargo, rustc, sources: [source, real], version, llvm: llvm.to_owned() })
    }

    /// Where its clippy is, if it has one.
    pub(crate) fn clippy(&self) -> PathBuf {
        self.cargo.with_file_name("cargo-clippy")
    }
}

/// The LLVM that bpf-linker is built with.
pub(crate) struct Llvm {
    prefix: PathBuf,
}

impl Llvm {
    /// `LLVM_PREFIX`, which bpf-linker's build reads as well, else where Debian's packages put it.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let prefix = env::var_os("LLVM_PREFIX")
            .map_or_else(|| PathBuf::from(format!("/usr/lib/llvm-{LLVM_MAJOR}")), PathBuf::from);
        let llvm = Self { prefix };
        for file in ["bin/llvm-objcopy", "bin/llvm-config", "include/llvm-c/Core.h"] {
            if !llvm.prefix.join(file).exists() {
                bail!(
                    "{} does not exist: `cargo xtask setup object` installs LLVM, and LLVM_PREFIX names another place",
                    llvm.prefix.join(file).display()
                );
            }
        }
        Ok(llvm)
    }

    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    pub(crate) fn objcopy(&self) -> PathBuf {
        self.prefix.join("bin/llvm-objcopy")
    }

    pub(crate) fn version(&self) -> anyhow::Result<String> {
        command::output(Command::new(self.prefix.join("bin/llvm-config")).arg("--version"))
    }
}

/// Whether the tree's own copy of a tool is there in the release that is asked for.
pub(crate) fn tool_is(workspace: &Workspace, name: &str, version: &str) -> bool {
    Command::new(workspace.tool(name))
        .arg("--version")
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == format!("{name} {version}").as_bytes())
}

/// Where the compiler of this task keeps its files.
pub(crate) fn active_sysroot() -> anyhow::Result<PathBuf> {
    Ok(command::output(Command::new("rustc").args(["--print", "sysroot"]))?.into())
}

/// Whether the compiler of this task came in packages, and not by rustup.
pub(crate) fn is_the_distributions() -> bool {
    active_sysroot().is_ok_and(|sysroot| sysroot == Path::new(DISTRIBUTION))
}

/// The folder of a compiler's own standard library, which is called by its target's name.
pub(crate) fn own_libraries(compiler: &Compiler) -> anyhow::Result<PathBuf> {
    let libraries = command::output(Command::new(&compiler.rustc).args(["--print", "target-libdir"]))?;
    let folder = Path::new(&libraries).parent();
    Ok(folder.with_context(|| format!("{libraries} is in no folder"))?.to_path_buf())
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}
