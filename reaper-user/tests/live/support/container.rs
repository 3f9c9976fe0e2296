//! A real runc container around one program, with a bundle written by hand.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{program, run_briefly};

/// What is in a container besides /proc, /dev and the directory it shares with the test, /seed.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Rootfs {
    /// Nothing.
    Empty,
    /// The host's programs and libraries, to be read only.
    HostPrograms,
}

/// A running container; it is killed and deleted when this is dropped.
pub(crate) struct Container {
    /// Its id.
    pub(crate) id: String,
    runc: PathBuf,
    shared: PathBuf,
    bundle: TempDir,
}

impl Container {
    /// Starts one that runs `arguments`. `shared` is filled before and seen inside as /seed.
    pub(crate) fn start(name: &str, rootfs: Rootfs, fill: impl FnOnce(&Path), arguments: &[&str]) -> Self {
        Self::start_limited(name, rootfs, fill, arguments, &json!({}))
    }

    /// The same, with more in the section `linux` of its configuration.
    pub(crate) fn start_limited(
        name: &str,
        rootfs: Rootfs,
        fill: impl FnOnce(&Path),
        arguments: &[&str],
        linux: &Value,
    ) -> Self {
        let runc = program("runc");
        let bundle = tempfile::tempdir().unwrap();
        let (root, shared) = (bundle.path().join("rootfs"), bundle.path().join("shared"));
        for directory in ["proc", "dev", "seed", "tmp"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::create_dir(&shared).unwrap();
        fill(&shared);
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] }),
            json!({ "destination": "/seed", "type": "bind", "source": shared, "options": ["rbind", "rw"] }),
        ];
        if rootfs == Rootfs::HostPrograms {
            mounts.extend(host_programs(&root));
        }
        let mut config = config(arguments, &mounts);
        merge(&mut config["linux"], linux);
        fs::write(bundle.path().join("config.json"), config.to_string()).unwrap();
        let container = Self { id: format!("reaper-{name}-{}", std::process::id()), runc, shared, bundle };
        let errors = container.shared.join("errors");
        let status = Command::new(&container.runc)
            .args(["run", "--detach", "--bundle"])
            .args([container.bundle.path().as_os_str(), container.id.as_ref()])
            .stdin(Stdio::null())
            // The container keeps these: a pipe would never end.
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors).unwrap())
            .status()
            .unwrap();
        assert!(status.success(), "runc: {}", fs::read_to_string(&errors).unwrap());
        container
    }

    /// The directory that is /seed inside.
    pub(crate) fn shared(&self) -> &Path {
        &self.shared
    }

    /// The host's pid of its PID 1.
    pub(crate) fn init(&self) -> u32 {
        let state = run_briefly(Command::new(&self.runc).args(["state", &self.id]));
        let state: Value = serde_json::from_slice(&state.stdout)
            .unwrap_or_else(|_| panic!("runc state: {}", String::from_utf8_lossy(&state.stderr)));
        u32::try_from(state["pid"].as_u64().unwrap()).unwrap()
    }

    /// Kills it.
    pub(crate) fn kill(&self) {
        run_briefly(Command::new(&self.runc).args(["kill", &self.id, "KILL"]));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let deleted = Command::new(&self.runc)
                .args(["delete", "--force", &self.id])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success());
            if deleted {
                return;
            }
            if Instant::now() > deadline {
                eprintln!("could not delete the container {}", self.id);
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Adds what is missing, at every depth.
fn merge(to: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        if value.is_object() && to[key].is_object() {
            merge(&mut to[key], value);
        } else {
            to[key] = value.clone();
        }
    }
}

/// Binds the host's directories of programs and libraries, and repeats its symbolic links to them.
fn host_programs(root: &Path) -> Vec<Value> {
    let mut mounts = Vec::new();
    for name in ["usr", "bin", "sbin", "lib", "lib64"] {
        let host = Path::new("/").join(name);
        if let Ok(target) = fs::read_link(&host) {
            symlink(target, root.join(name)).unwrap();
        } else if host.exists() {
            fs::create_dir(root.join(name)).unwrap();
            mounts.push(
                json!({ "destination": host, "type": "bind", "source": host, "options": ["rbind", "ro"] }),
            );
        }
    }
    mounts
}

fn config(arguments: &[&str], mounts: &[Value]) -> Value {
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|namespace| json!({ "type": namespace }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": arguments,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "hostname": "seed",
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "resources": { "devices": [{ "allow": true, "access": "rwm" }] },
        },
    })
}
