//! What a kubelet puts into a container for a pod's service account, where every client looks for it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{api_server::TOKEN, program};

/// Where that is in every container.
const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The folder. On this machine's own file system its place is empty, and gone when this is dropped.
pub(crate) struct ServiceAccount {
    directory: TempDir,
    made: Vec<PathBuf>,
}

impl ServiceAccount {
    /// With this authority's certificate.
    pub(crate) fn new(ca: &str) -> Self {
        let missing = Path::new(PLACE).ancestors().take_while(|folder| !folder.exists());
        let this =
            Self { directory: tempfile::tempdir().unwrap(), made: missing.map(Path::to_owned).collect() };
        fs::create_dir_all(PLACE).unwrap();
        this.write("token", TOKEN);
        this.write("namespace", "reaper");
        this.trust(ca);
        this
    }

    /// Has another authority's certificate from now on.
    pub(crate) fn trust(&self, ca: &str) {
        self.write("ca.crt", ca);
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    /// What runs a command in a mount namespace that has the folder in its place, with the environment of a container in a cluster
    /// whose API server is there.
    pub(crate) fn within(&self, server: SocketAddr) -> Command {
        let mut unshare = Command::new(program("unshare"));
        let script = format!("mount --bind \"$0\" {PLACE} && exec \"$@\"");
        unshare.args(["--mount", "--", "/bin/sh", "-c", &script]).arg(self.directory.path());
        unshare
            .env("KUBERNETES_SERVICE_HOST", server.ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", server.port().to_string());
        unshare
    }
}

impl Drop for ServiceAccount {
    fn drop(&mut self) {
        for folder in &self.made {
            if let Err(error) = fs::remove_dir(folder) {
                eprintln!("could not remove {}: {error}", folder.display());
            }
        }
    }
}
