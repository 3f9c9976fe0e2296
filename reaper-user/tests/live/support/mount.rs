//! A file system of one test's own.

use std::{path::Path, process::Command};

use tempfile::TempDir;

use super::run_briefly;

/// Mounted on a temporary directory until it is dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    directory: TempDir,
}

impl Mount {
    /// One of this kind, with these options.
    pub(crate) fn new(kind: &str, options: &str) -> Self {
        let mount = Self { directory: tempfile::tempdir().unwrap() };
        mount.call("mount", &["-t", kind, "-o", options, kind]);
        mount
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Mounts it again with other options.
    pub(crate) fn change(&self, options: &str) {
        self.call("mount", &["-o", &format!("remount,{options}")]);
    }

    /// Takes it away under whoever uses it.
    pub(crate) fn detach(&self) {
        self.call("umount", &["--lazy"]);
    }

    fn call(&self, program: &str, arguments: &[&str]) {
        let output = run_briefly(Command::new(program).args(arguments).arg(self.path()));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Fails where it was detached already.
        let _ = Command::new("umount").args(["--quiet", "--lazy"]).arg(self.path()).output();
    }
}
