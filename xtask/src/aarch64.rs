//! Building for aarch64: whether reaper compiles for it, and what its virtual machines run. That takes the standard library for it,
//! of the very compiler: from the distribution, whose package for that architecture is unpacked into target/aarch64, or by
//! rustup.
//!
//! For the check nothing is linked, so that no linker and no C library for it are needed.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{
    command,
    compiler::{self, Compiler},
    debian::{self, Apt},
    workspace::Workspace,
};

pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Debian's name for it.
pub(crate) const ARCHITECTURE: &str = "arm64";

/// Checks the library and the program. Tests and examples are of x86_64, some of them.
pub(crate) fn check(workspace: &Workspace, deadline: Instant) -> Result<()> {
    let mut cargo = cargo(workspace, "")?;
    cargo.env("CARGO_TARGET_DIR", directory(workspace).join("build")).args([
        "check",
        "--locked",
        "--package",
        "reaper-user",
        "--lib",
        "--bins",
        "--target",
        TARGET,
    ]);
    command::run_until(&mut cargo, deadline)
}

/// A cargo that builds for it where that is the target, with these flags for the compiler; its linker is the cross compiler's.
pub(crate) fn cargo(workspace: &Workspace, flags: &str) -> Result<Command> {
    const FLAGS: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS";
    let (mut cargo, flags) = match Sysroot::find(workspace)? {
        // Not through a cargo that takes the first rustc on the PATH.
        Sysroot::Unpacked { at, compiler } => {
            let mut cargo = Command::new(&compiler.cargo);
            for variable in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"] {
                cargo.env_remove(variable);
            }
            cargo.current_dir(workspace.root()).env("RUSTC", &compiler.rustc);
            (cargo, format!("--sysroot={} {flags}", at.display()))
        }
        Sysroot::Rustup => (workspace.cargo(), flags.to_owned()),
    };
    // They would take precedence over those that are only for the target: build scripts have the compiler's own library.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        cargo.env_remove(variable);
    }
    cargo.env(FLAGS, flags).env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    Ok(cargo)
}

/// The cross compiler.
pub(crate) const LINKER: &str = "aarch64-linux-gnu-gcc";

/// Of the linker's own package, or one that it needs.
pub(crate) const STRIP: &str = "aarch64-linux-gnu-strip";

/// Whether the standard library is there.
pub(crate) fn is_there(workspace: &Workspace) -> bool {
    Sysroot::find(workspace).is_ok()
}

/// Where the standard library for it is.
enum Sysroot {
    /// In the active toolchain of rustup.
    Rustup,
    /// Beside the distribution's compiler.
    Unpacked { at: PathBuf, compiler: Compiler },
}

impl Sysroot {
    fn find(workspace: &Workspace) -> Result<Self> {
        if has_std(&compiler::active_sysroot()?) {
            return Ok(Self::Rustup);
        }
        let compiler = Compiler::find()?;
        let at = directory(workspace).join("sysroot");
        // Another version's would not be read.
        let of = fs::read_to_string(at.join(VERSION)).unwrap_or_default();
        if of != compiler.version || !has_std(&at) {
            anyhow::bail!("no standard library for {TARGET}: `cargo xtask setup lint` brings it");
        }
        Ok(Self::Unpacked { at, compiler })
    }
}

/// Says which compiler an unpacked library is for.
const VERSION: &str = "version";

fn has_std(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target().join("aarch64")
}

/// Brings the standard library for the distribution's compiler, where that is in packages; else by rustup.
pub(crate) fn fetch(workspace: &Workspace) -> Result<()> {
    let compiler = Compiler::find()?;
    let Some(package) = package_of(&compiler.rustc) else {
        println!("setup: adding {TARGET} to the active toolchain of rustup");
        return command::run(Command::new("rustup").args(["target", "add", TARGET]));
    };
    let directory = directory(workspace);
    let scratch = directory.join("fetch");
    debian::emptied(&scratch)?;
    let name = std_of(&package.name);
    let listed = command::output(Command::new("apt-cache").args(["madison", &package.name]))?;
    let source = source_of(&listed, &package.version)
        .with_context(|| format!("apt's sources do not list {} {}", package.name, package.version))?;
    let apt = Apt::of_source(&scratch.join("apt"), ARCHITECTURE, &source)?;
    apt.update()?;
    println!("setup: downloading {name} {} for {ARCHITECTURE}", package.version);
    let packages = scratch.join("packages");
    fs::create_dir(&packages)?;
    let unpacked = scratch.join("unpacked");
    fs::create_dir(&unpacked)?;
    for package in apt.download(&[format!("{name}={}", package.version)], &packages)? {
        debian::unpack(&package, &unpacked)?;
    }

    // The compiler looks for both libraries in one place.
    let sysroot = scratch.join("sysroot");
    let rustlib = sysroot.join("lib/rustlib");
    fs::create_dir_all(&rustlib)?;
    fs::rename(unpacked.join("usr/lib/rustlib").join(TARGET), rustlib.join(TARGET))
        .with_context(|| format!("{name} has no library for {TARGET}"))?;
    let own = compiler::own_libraries(&compiler)?;
    symlink(&own, rustlib.join(own.file_name().context("no target's name")?))?;
    fs::write(sysroot.join(VERSION), &compiler.version)?;
    let target = directory.join("sysroot");
    debian::remove(&target)?;
    fs::rename(&sysroot, &target).with_context(|| target.display().to_string())?;
    debian::remove(&scratch)
}

/// A package that is installed.
struct Installed {
    name: String,
    version: String,
}

/// Whose a compiler is. `None` where it came otherwise, or there is no dpkg.
fn package_of(rustc: &Path) -> Option<Installed> {
    let owner = command::output(Command::new("dpkg-query").arg("--search").arg(rustc)).ok()?;
    let name = owner.split([':', ',']).next()?.to_owned();
    let mut query = Command::new("dpkg-query");
    let version = command::output(query.args(["--show", "--showformat", "${Version}", &name])).ok()?;
    Some(Installed { name, version })
}

/// `rustc-web` comes with `libstd-rust-web-dev`, `rustc` with `libstd-rust-dev`.
fn std_of(package: &str) -> String {
    format!("{}-dev", package.replacen("rustc", "libstd-rust", 1))
}

/// Where a version comes from, by what `apt-cache madison` lists: `package | version | address suite/component
/// architecture Packages`. As a line of sources wants it: `address suite component`.
fn source_of(listed: &str, version: &str) -> Option<String> {
    listed.lines().find_map(|line| {
        let mut fields = line.split('|').map(str::trim);
        let (_, listed, source) = (fields.next()?, fields.next()?, fields.next()?);
        let mut words = source.split(' ');
        let (address, (suite, component)) = (words.next()?, words.next()?.rsplit_once('/')?);
        (listed == version && words.next_back() == Some("Packages"))
            .then(|| format!("{address} {suite} {component}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_fetched_from_where_the_compilers_came() {
        let listed = " rustc-web | 1.96.0-1 | http://d/debian-security s-security/main amd64 Packages\n \
                      rustc-web | 1.85.0-3 | http://d/debian s/main amd64 Packages\n \
                      rustc-web | 1.85.0-3 | http://d/debian s/main Sources\n";
        let of = |version| source_of(listed, version);
        assert_eq!(of("1.96.0-1").as_deref(), Some("http://d/debian-security s-security main"));
        assert_eq!(of("1.85.0-3").as_deref(), Some("http://d/debian s main"));
        assert_eq!(of("1.63.0-2"), None);
        assert_eq!(source_of(" a | 1 | http://d/debian s/main Sources\n", "1"), None);
    }

    #[test]
    fn the_librarys_package_is_called_after_the_compilers() {
        assert_eq!(std_of("rustc-web"), "libstd-rust-web-dev");
        assert_eq!(std_of("rustc"), "libstd-rust-dev");
    }
}
