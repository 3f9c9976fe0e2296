//! An image with one program in it, made of what is on this machine, and the program: it leaves zombies, or waits for the end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use tempfile::TempDir;

use super::{program, run_briefly};

/// What it is called.
pub(crate) const IMAGE: &str = "reaper.test/leak:1";

/// With an argument it forks a child every 100 ms, at most 200, and waits for none; without, as a pod's own process, it pauses.
const SOURCE: &str = r#"
#include <unistd.h>
int main(int argc, char **argv) {
    for (int child = 0; argc > 1 && child < 200; child++) {
        if (fork() == 0) _exit(3);
        usleep(100000);
    }
    for (;;) pause();
}
"#;

/// An archive as `docker save` writes it; it is removed when this is dropped.
pub(crate) struct Image {
    directory: TempDir,
}

impl Image {
    pub(crate) fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("root")).unwrap();
        fs::write(at("leak.c"), SOURCE).unwrap();
        let compile = ["-O2", "-static", "-o"].map(PathBuf::from);
        run(Command::new(program("musl-gcc")).args(compile).arg(at("root/leak")).arg(at("leak.c")));
        tar(&at("layer.tar"), &at("root"), &["leak"]);
        let sum = run(Command::new(program("sha256sum")).arg(at("layer.tar")));
        let sum = sum.split(' ').next().unwrap();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Entrypoint": ["/leak"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
        });
        fs::write(at("config.json"), config.to_string()).unwrap();
        let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
        fs::write(at("manifest.json"), manifest.to_string()).unwrap();
        tar(&at("image.tar"), directory.path(), &["manifest.json", "config.json", "layer.tar"]);
        Self { directory }
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.directory.path().join("image.tar")
    }
}

fn tar(archive: &Path, directory: &Path, names: &[&str]) {
    run(Command::new(program("tar")).arg("-cf").arg(archive).arg("-C").arg(directory).args(names));
}

/// Runs a command that must do well, and returns what it said.
pub(crate) fn run(command: &mut Command) -> String {
    let output = run_briefly(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
