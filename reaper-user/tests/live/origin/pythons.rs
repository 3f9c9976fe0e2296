//! The interpreters that there are: Debian's own; those of other Debian releases, which `cargo xtask test live` unpacks into
//! target/pythons; and those that a developer has in ~/.pyenv.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// An interpreter.
pub(super) struct Python {
    /// What is its root directory, where it is not the system's own.
    root: Option<PathBuf>,
    /// Its path there.
    path: PathBuf,
    minor: u32,
}

impl Python {
    fn new(root: Option<PathBuf>, path: PathBuf) -> Self {
        let mut python = Self { root, path, minor: 0 };
        let asked = python.command().args(["-c", "import sys; print(sys.version_info[1])"]).output().unwrap();
        assert!(asked.status.success(), "{}: {}", python.name(), String::from_utf8_lossy(&asked.stderr));
        python.minor = String::from_utf8(asked.stdout).unwrap().trim().parse().unwrap();
        python
    }

    /// Runs it.
    pub(super) fn command(&self) -> Command {
        match &self.root {
            None => Command::new(&self.path),
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(&self.path);
                command
            }
        }
    }

    /// What to call it.
    pub(super) fn name(&self) -> String {
        let root = self.root.as_deref().unwrap_or(Path::new(""));
        format!("3.{} {}{}", self.minor, root.display(), self.path.display())
    }

    /// Whether it has this way to fork.
    pub(super) fn has(&self, way: &str) -> bool {
        way != "posix-spawn" || self.minor >= 8
    }

    /// A new folder that it can see.
    pub(super) fn folder(&self) -> TempDir {
        match &self.root {
            None => tempfile::tempdir().unwrap(),
            Some(root) => tempfile::tempdir_in(root.join("tmp")).unwrap(),
        }
    }

    /// How it sees such a folder.
    pub(super) fn inside(&self, folder: &Path) -> PathBuf {
        match &self.root {
            None => folder.to_owned(),
            Some(root) => Path::new("/").join(folder.strip_prefix(root).unwrap()),
        }
    }
}

/// All of them.
pub(super) fn pythons() -> Vec<Python> {
    let debian = Path::new("/usr/bin/python3");
    assert!(debian.exists(), "{} is missing: `cargo xtask setup` installs it", debian.display());
    let mut all = vec![Python::new(None, debian.to_owned())];
    let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
    for version in entries(&home.join(".pyenv/versions")) {
        let path = version.join("bin/python3");
        if path.exists() {
            all.push(Python::new(None, path));
        }
    }
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/pythons");
    for root in entries(&unpacked) {
        let program = entries(&root.join("usr/bin")).into_iter().find(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.strip_prefix("python3.").is_some_and(|minor| minor.parse::<u32>().is_ok())
        });
        let program = program.unwrap_or_else(|| panic!("{}: no interpreter", root.display()));
        let inside = Path::new("/").join(program.strip_prefix(&root).unwrap());
        all.push(Python::new(Some(root), inside));
    }
    all
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}
