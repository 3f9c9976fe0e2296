//! The image: the Containerfile that is deployed, built by podman from local files alone.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use crate::{command, root, workspace::Workspace};

/// What it is called in the archive.
const NAME: &str = "localhost/reaper";

const CONTAINERFILE: &str = "deploy/container/Containerfile";

/// Writes `reaper.oci.tar` into `dist`, of the folder with the binary. podman keeps nothing of it anywhere else.
pub(super) fn make(workspace: &Workspace, binary: &Path, dist: &Path) -> Result<()> {
    let storage = tempfile::Builder::new().prefix("reaper-dist").tempdir()?;
    let tag = format!("{NAME}:{}", env!("CARGO_PKG_VERSION"));
    let podman = || {
        let mut podman = Command::new("podman");
        podman.args(["--storage-driver=vfs", "--events-backend=none", "--cgroup-manager=cgroupfs"]);
        podman.arg("--root").arg(storage.path().join("root"));
        podman.arg("--runroot").arg(storage.path().join("run"));
        podman
    };
    // The same file has the same image, whenever it is built.
    let mut build = podman();
    build.args(["build", "--quiet", "--pull=never", "--network=none", "--timestamp=0", "--tag", &tag]);
    build.arg("--file").arg(workspace.root().join(CONTAINERFILE)).arg(binary);
    let built = command::output(&mut build).and_then(|_id| {
        let mut save = podman();
        save.args(["save", "--quiet", "--format=oci-archive", "--output"]);
        command::output(save.arg(dist.join("reaper.oci.tar")).arg(&tag))
    });
    // Where it is not root's, layers belong to users that only podman can name; in that case the command is the way out.
    let mut clear = podman();
    let cleared = command::output(clear.args(["system", "reset", "--force"]));
    if !root::is_root() {
        cleared?;
    }
    built?;
    fs::metadata(dist.join("reaper.oci.tar"))?;
    Ok(())
}
