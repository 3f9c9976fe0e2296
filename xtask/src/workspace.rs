//! Where things are in the working tree.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

/// What cargo sets for the programs it runs.
const MANIFEST: &str = "CARGO_MANIFEST_DIR";

/// The working tree this task was started in.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Asks the environment that cargo sets up, not the path at compile time: two trees may share a binary
    /// when they share a target directory.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let manifest = env::var_os(MANIFEST).context("start this as `cargo xtask`")?;
        let root = Path::new(&manifest).parent().context("xtask lies in no workspace")?;
        Ok(Self { root: root.to_path_buf() })
    }

    /// What makes [`Self::find`] find this tree, as an argument of `env`.
    pub(crate) fn variable(&self) -> OsString {
        let mut variable = OsString::from(MANIFEST);
        variable.push("=");
        variable.push(self.root.join("xtask"));
        variable
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Always the tree's own, whatever `CARGO_TARGET_DIR` says: tools and objects are looked for here.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// What `cargo install --root` fills: programs of fixed versions for this tree only.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }

    /// A program in [`Self::tools`].
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.tools().join("bin").join(name)
    }

    /// The committed BPF object.
    pub(crate) fn object(&self) -> PathBuf {
        self.root.join("reaper-user/bpf/reaper.bpf.o")
    }

    /// What the committed object was built with.
    pub(crate) fn object_record(&self) -> PathBuf {
        self.root.join("reaper-user/bpf/toolchain.toml")
    }

    /// The daemon as `cargo xtask run` and `cargo xtask bench` build it, for this machine: what is tested and shipped is another
    /// ([`crate::release`]).
    pub(crate) fn reaper(&self) -> PathBuf {
        self.target().join("release/reaper")
    }

    /// The cargo that started this task, at the root and with the tree's own target directory.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", self.target());
        command
    }

    /// The same, building reaper with this object where it is not to be the committed one.
    pub(crate) fn cargo_with(&self, object: Option<&Path>) -> Command {
        let mut command = self.cargo();
        command.envs(object.map(|object| ("REAPER_BPF_OBJECT", object)));
        command
    }
}
