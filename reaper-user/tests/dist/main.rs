//! What is shipped and what it is deployed with. `cargo xtask test dist` makes target/dist first and runs this as root.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "clippy.toml's exceptions reach test functions but not what they call"
)]

mod capabilities;
mod container;
mod files;
mod manifests;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The working tree.
fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf()
}

fn deploy(name: &str) -> PathBuf {
    tree().join("deploy").join(name)
}

/// What `cargo xtask dist` has made.
fn dist() -> PathBuf {
    let dist = tree().join("target/dist");
    assert!(
        dist.join("SHA256SUMS").is_file(),
        "{} is not there: `cargo xtask dist` makes it",
        dist.display()
    );
    dist
}

/// A program of those that `cargo xtask setup dist` installs from PyPI.
fn validators(name: &str) -> PathBuf {
    let program = tree().join("target/tools/python/bin").join(name);
    assert!(program.is_file(), "{} is missing: `cargo xtask setup dist`", program.display());
    program
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What it writes, where it succeeds.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; what is missing is installed by `cargo xtask setup dist`")
    });
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}
