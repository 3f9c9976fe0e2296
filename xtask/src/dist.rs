//! `cargo xtask dist`: everything that is shipped, into target/dist, in one go. A second run makes the same again.

mod image;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    aarch64, command, debian,
    release::{DAEMON, REFERENCE, Release},
    setup::{self, Group},
    vm::Arch,
    workspace::Workspace,
};

/// What lies beside the binaries as it is in the tree.
const FILES: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// The sums of all files, as sha256sum(1) has them.
const SUMS: &str = "SHA256SUMS";

/// Make what is shipped: static binaries, an image, man pages, shell completions, the list of components, sums.
///
/// All of it is in target/dist afterwards. aarch64 is cross-compiled where what that takes is there (`cargo xtask setup aarch64`);
/// otherwise it is said that it is not. Nothing is pulled and nothing is pushed.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(workspace: &Workspace, _: &Args) -> Result<()> {
    setup::ensure(workspace, &[Group::Dist])?;
    make(workspace, None, None)
}

/// Where it all is.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target().join("dist")
}

/// The daemon for this machine among it.
pub(crate) fn reaper(workspace: &Workspace) -> PathBuf {
    folder(workspace).join(Arch::X86.target()).join(DAEMON)
}

/// With what [`setup`] brings for it. `object`: what reaper loads, where that is not the committed object.
pub(crate) fn make(workspace: &Workspace, object: Option<&Path>, deadline: Option<Instant>) -> Result<()> {
    let dist = folder(workspace);
    debian::emptied(&dist)?;
    let mut left_out = Vec::new();
    for arch in [Arch::X86, Arch::Aarch64] {
        if let Some(missing) = missing_for(workspace, arch) {
            left_out.push(format!("{} is left out: {missing} (`cargo xtask setup aarch64`)", arch.target()));
            continue;
        }
        println!("dist: {}: building reaper, statically linked", arch.target());
        let release = match arch {
            Arch::X86 => Release::build(workspace, arch, object, deadline)?,
            Arch::Aarch64 => Release::daemon(workspace, arch, object, deadline)?,
        };
        binary(&release, arch, &dist.join(arch.target()))?;
        if arch == Arch::X86 {
            println!("dist: man pages and shell completions");
            // Made of the description of the command line, by a program that has it.
            command::run(Command::new(release.program(REFERENCE)?).arg(&dist))?;
        }
        println!("dist: {}: listing its components", arch.target());
        let name = format!("reaper-{}.cdx.json", arch.target());
        fs::write(dist.join(name), sbom::of(workspace, arch.target())?)?;
    }
    println!("dist: the image");
    image::make(workspace, &dist.join(Arch::X86.target()), &dist)?;
    for file in FILES {
        fs::copy(workspace.root().join(file), dist.join(file)).with_context(|| file.to_owned())?;
    }
    println!("dist: sums");
    let sums = sums(&dist)?;
    fs::write(dist.join(SUMS), &sums)?;
    for line in sums.lines() {
        println!("  {}", line.split_once("  ").map_or(line, |(_, file)| file));
    }
    for line in left_out {
        println!("dist: {line}");
    }
    println!("dist: all of it is in {}", dist.display());
    Ok(())
}

/// What keeps it from being built for this architecture.
fn missing_for(workspace: &Workspace, arch: Arch) -> Option<&'static str> {
    match arch {
        Arch::X86 => None,
        Arch::Aarch64 if !aarch64::is_there(workspace) => Some("its standard library is not there"),
        Arch::Aarch64 if setup::program(aarch64::LINKER).is_none() => Some("its linker is not there"),
        Arch::Aarch64 if setup::program(aarch64::STRIP).is_none() => Some("its strip is not there"),
        Arch::Aarch64 => None,
    }
}

/// The program, without what only a debugger wants. Where in the source it panicked it says all the same.
fn binary(release: &Release, arch: Arch, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let strip = match arch {
        Arch::X86 => "strip",
        Arch::Aarch64 => aarch64::STRIP,
    };
    let mut strip = Command::new(strip);
    strip.args(["--strip-debug", "-o"]).arg(folder.join(DAEMON)).arg(release.program(DAEMON)?);
    command::run(&mut strip)
}

/// Of every file below the folder, by their paths from there.
fn sums(dist: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(dist, Path::new(""), &mut files)?;
    if files.is_empty() {
        bail!("{}: there is nothing", dist.display());
    }
    files.sort();
    let mut sums = command::output(Command::new("sha256sum").current_dir(dist).arg("--").args(files))?;
    sums.push('\n');
    Ok(sums)
}

fn collect(root: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_of_every_file_by_its_path_from_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("man")).unwrap();
        for file in ["reaper", "man/reaper.1"] {
            fs::write(folder.path().join(file), file).unwrap();
        }
        let sums = sums(folder.path()).unwrap();
        let names: Vec<&str> = sums.lines().map(|line| line.split_once("  ").unwrap().1).collect();
        assert_eq!(names, ["man/reaper.1", "reaper"]);
    }
}
