//! Programs of Debian's that this task runs: the system's, else unpacked into target/vm, where installing them would remove
//! what is there or let something run that nobody asked for.

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

/// Boots the kernels.
pub(crate) const QEMU: Program = Program { name: "qemu-system-x86_64", folder: "qemu" };

/// The same of aarch64.
pub(crate) const QEMU_AARCH64: Program = Program { name: "qemu-system-aarch64", folder: "qemu-aarch64" };

/// Compiles AppArmor's profiles.
pub(crate) const APPARMOR_PARSER: Program = Program { name: "apparmor_parser", folder: "apparmor" };

/// Where packages put programs.
const FOLDERS: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// A program.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// Of target/vm, for where it is unpacked.
    folder: &'static str,
}

/// A program that is there.
pub(crate) struct Found {
    program: PathBuf,
    /// Where its libraries are, if not where the system has its own.
    libraries: Vec<PathBuf>,
}

impl Program {
    /// `None` where it is neither installed nor unpacked.
    pub(crate) fn find(&self, workspace: &Workspace) -> Result<Option<Found>> {
        if let Some(program) = setup::program(self.name) {
            return Ok(Some(Found { program, libraries: Vec::new() }));
        }
        self.unpacked_in(&self.directory(workspace))
    }

    /// As [`Self::find`], but an error that says what provides it.
    pub(crate) fn get(&self, workspace: &Workspace) -> Result<Found> {
        self.find(workspace)?.with_context(|| format!("{} is missing: `cargo xtask setup vm`", self.name))
    }

    /// Brings it without touching the system's packages: unpacks these, as `name=version`.
    pub(crate) fn fetch(&self, workspace: &Workspace, packages: &[String]) -> Result<()> {
        let cache = Cache::open(workspace, None)?;
        let scratch = cache.directory().join("fetch");
        debian::emptied(&scratch)?;
        println!("setup: downloading {}", packages.join(" "));
        let packages = Apt::of_this_system().download(packages, &scratch)?;
        let root = scratch.join("unpacked");
        fs::create_dir(&root)?;
        for package in packages {
            debian::unpack(&package, &root)?;
        }
        let found = self.unpacked_in(&root)?;
        let found = found.with_context(|| format!("no {} in these packages", self.name))?;
        let version = command::output(found.command()?.arg("--version"))?;

        let target = self.directory(workspace);
        debian::remove(&target)?;
        // Within one file system: either all of it is there or none.
        fs::rename(&root, &target).with_context(|| target.display().to_string())?;
        println!("setup: {} is in {}", version.lines().next().unwrap_or_default(), target.display());
        debian::remove(&scratch)
    }

    fn directory(&self, workspace: &Workspace) -> PathBuf {
        kernel::directory(workspace).join(self.folder)
    }

    fn unpacked_in(&self, root: &Path) -> Result<Option<Found>> {
        let mut places = FOLDERS.iter().map(|folder| root.join(folder).join(self.name));
        let Some(program) = places.find(|place| place.is_file()) else { return Ok(None) };
        let mut libraries = Vec::new();
        collect_libraries(root, &mut libraries)?;
        libraries.sort();
        Ok(Some(Found { program, libraries }))
    }
}

impl Found {
    /// A command without arguments. Firmware and modules of qemu's are found by where the program is: it reckons from there.
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
    fn an_unpacked_program_runs_with_the_libraries_it_came_with() {
        let root = tempfile::tempdir().unwrap();
        assert!(QEMU.unpacked_in(root.path()).unwrap().is_none());
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
        let command = QEMU.unpacked_in(root.path()).unwrap().unwrap().command().unwrap();
        assert_eq!(command.get_program(), root.path().join("usr/bin/qemu-system-x86_64"));
        let (name, libraries) = command.get_envs().next().unwrap();
        assert_eq!(name, "LD_LIBRARY_PATH");
        let libraries: Vec<PathBuf> = env::split_paths(libraries.unwrap()).collect();
        assert_eq!(libraries[..2], ["lib/b", "usr/lib/a"].map(|end| root.path().join(end)));
    }
}
