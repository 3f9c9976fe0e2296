//! A container of a real runc whose cgroup systemd makes, as the kubelet's and containerd's systemd driver has it done.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::unit::run;

/// A pod's container that holds a zombie, until it is dropped.
pub(crate) struct Container {
    id: String,
    bundle: PathBuf,
    runc: Child,
}

impl Container {
    /// In the slice of a pod with this UID. The driver names the cgroup; `id` is what a runtime would have called it.
    pub(crate) fn start(pod_uid: &str, id: &str) -> Self {
        let bundle = Path::new("/run").join(id);
        let root = bundle.join("rootfs");
        for directory in ["proc", "dev"] {
            fs::create_dir_all(root.join(directory)).expect("a tmpfs");
        }
        fs::copy("/bin/churn", root.join("churn")).expect("a tmpfs");
        // What containerd is given by the kubelet: a slice, a prefix and a name.
        let slice = format!("kubepods-besteffort-pod{}.slice", pod_uid.replace('-', "_"));
        let config = config(&format!("{slice}:cri-containerd:{id}"));
        fs::write(bundle.join("config.json"), config.to_string()).expect("a tmpfs");
        let runc = Command::new("runc")
            // The root is in memory: it cannot be exchanged.
            .args(["--systemd-cgroup", "run", "--no-pivot", "--bundle"])
            .arg(&bundle)
            .arg(id)
            .stdin(Stdio::piped())
            .spawn()
            .expect("it is in the machine");
        Self { id: id.to_owned(), bundle, runc }
    }

    /// Its first process, or none where it does not run yet.
    pub(crate) fn init(&self) -> Option<u32> {
        let state: Value = serde_json::from_slice(&run("runc", &["state", &self.id]).stdout).ok()?;
        (state["status"] == "running").then(|| state["pid"].as_u64())?.and_then(|pid| pid.try_into().ok())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What is left goes with the machine.
        run("runc", &["delete", "--force", &self.id]);
        let _ended = self.runc.wait();
        let _gone = fs::remove_dir_all(&self.bundle);
    }
}

fn config(cgroup: &str) -> Value {
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|namespace| json!({ "type": namespace }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/churn", "standing", "1"],
            "env": ["PATH=/"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "resources": { "devices": [{ "allow": true, "access": "rwm" }] },
        },
    })
}
