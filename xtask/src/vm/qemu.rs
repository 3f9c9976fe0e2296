//! qemu: the system's, else an unpacked one in target/vm, for a system whose packages leave no room for it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::kernel::{self, Cache};
use crate::{
    command,
    debian::{self, Apt},
    setup,
    workspace::Workspace,
};

pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// A qemu to boot with.
pub(crate) struct Qemu {
    program: PathBuf,
    /// Where its libraries are, if not where the system has its own.
    libraries: Vec<PathBuf>,
}

impl Qemu {
    /// `None` where there is none.
    pub(crate) fn find(workspace: &Workspace) -> Result<Option<Self>> {
        if let Some(program) = setup::program(PROGRAM) {
            return Ok(Some(Self { program, libraries: Vec::new() }));
        }
        Self::unpacked_in(&unpacked(workspace))
    }

    fn unpacked_in(root: &Path) -> Result<Option<Self>> {
        let program = root.join("usr/bin").join(PROGRAM);
        if !program.is_file() {
            return Ok(None);
        }
        let mut libraries = Vec::new();
        collect_libraries(root, &mut libraries)?;
        libraries.sort();
        Ok(Some(Self { program, libraries }))
    }

    /// A command without arguments. Firmware and modules are found by where the program is: qemu reckons from there.
    /// <https://gitlab.com/qemu-project/qemu/-/blob/v7.2.0/util/cutils.c> (`get_relocated_path`)
    pub(crate) fn command(&self) -> Result<Command> {
        let Self { program, libraries } = self;
        let mut command = Command::new(program);
        if !libraries.is_empty() {
            let others = env::var_os("LD_LIBRARY_PATH").filter(|others| !others.is_empty());
            let others: Vec<PathBuf> = others.iter().flat_map(env::split_paths).collect();
            let all = env::join_paths(libraries.iter().chain(&others))
                .with_context(|| format!("{} cannot run from here", program.display()))?;
            command.env("LD_LIBRARY_PATH", all);
        }
        Ok(command)
    }
}

/// Brings qemu without touching the system's packages: unpacks what apt would install.
pub(crate) fn fetch(workspace: &Workspace, installs: &[String]) -> Result<()> {
    let cache = Cache::open(workspace, None)?;
    let scratch = cache.directory().join("fetch");
    debian::emptied(&scratch)?;
    println!("setup: downloading {}", installs.join(" "));
    let packages = Apt::of_this_system().download(installs, &scratch)?;
    let root = scratch.join("unpacked");
    fs::create_dir(&root)?;
    for package in packages {
        debian::unpack(&package, &root)?;
    }
    let qemu = Qemu::unpacked_in(&root)?.with_context(|| format!("no {PROGRAM} in these packages"))?;
    let version = command::output(qemu.command()?.arg("--version"))?;

    let target = unpacked(workspace);
    debian::remove(&target)?;
    // Within one file system: either all of it is there or none.
    fs::rename(&root, &target).with_context(|| target.display().to_string())?;
    println!("setup: {} is in {}", version.lines().next().unwrap_or_default(), target.display());
    debian::remove(&scratch)
}

fn unpacked(workspace: &Workspace) -> PathBuf {
    kernel::directory(workspace).join("qemu")
}

/// The directories below `directory` that hold shared libraries. Some libraries have one to themselves.
fn collect_libraries(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let mut holds = false;
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_libraries(&entry.path(), found)?;
        } else {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            holds |= name.starts_with("lib") && name.contains(".so");
        }
    }
    if holds {
        found.push(directory.to_path_buf());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_qemu_runs_with_the_libraries_it_came_with() {
        let root = tempfile::tempdir().unwrap();
        assert!(Qemu::unpacked_in(root.path()).unwrap().is_none());
        for file in [
            "usr/bin/qemu-system-x86_64",
            "usr/lib/a/libfdt.so.1",
            "usr/lib/a/qemu/tcg.so",
            "lib/b/libusb.so",
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let command = Qemu::unpacked_in(root.path()).unwrap().unwrap().command().unwrap();
        assert_eq!(command.get_program(), root.path().join("usr/bin/qemu-system-x86_64"));
        let (name, libraries) = command.get_envs().next().unwrap();
        assert_eq!(name, "LD_LIBRARY_PATH");
        let libraries: Vec<PathBuf> = env::split_paths(libraries.unwrap()).collect();
        assert_eq!(libraries[..2], ["lib/b", "usr/lib/a"].map(|end| root.path().join(end)));
    }
}
