//! Where a daemon of one test pins its state.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{reaper, run_briefly};

/// A directory on a bpffs; what is pinned there is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Pins {
    path: PathBuf,
}

impl Pins {
    /// One of this test's own.
    pub(crate) fn new(name: &str) -> Self {
        Self::at(Path::new("/sys/fs/bpf").join(format!("reaper-live-{}-{name}", std::process::id())))
    }

    /// This one, which is on a bpffs.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// What `--pin-path` is given.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the only set below it; one that is not there where there is none.
    pub(crate) fn set(&self) -> PathBuf {
        let entries = fs::read_dir(&self.path).into_iter().flatten();
        let sets: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        match sets.as_slice() {
            [] => self.path.join(reaper_ebpf::ABI.to_string()),
            [only] => only.clone(),
            several => panic!("several sets: {several:?}"),
        }
    }

    /// The names of the pins in it, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.set()).into_iter().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// `reaper unload` of it.
    pub(crate) fn unload(&self) -> Output {
        run_briefly(Command::new(reaper()).arg("unload").arg("--pin-path").arg(&self.path))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Not the code under test: it may be what has failed.
        if self.path.exists()
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}
