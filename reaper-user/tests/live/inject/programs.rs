//! The C programs of the matrix.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::support::{fixture, program};

/// The holder that checks itself.
pub(super) fn holder() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("holder"))
}

/// A debugger that does one thing, most often a wrong one.
pub(super) fn debugger() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("debugger"))
}

/// A holder that does something with its zombies at a moment that it is told.
pub(super) fn racer() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("racer"))
}

/// Compiles what is in the directory of this name.
fn build(name: &str) -> PathBuf {
    let directory = fixture("inject").join(name);
    let sources = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let sources = sources.filter(|path| {
        path.extension().is_some_and(|extension| ["c", "S"].iter().any(|kind| extension == *kind))
    });
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (built, fresh) = (target.join(name), target.join(format!("{name}.{}", std::process::id())));
    let output = Command::new(program("gcc"))
        // Bound at the start: a lazy binding saves all vectors on the stack, and one of them is small.
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-Wl,-z,now", "-o"])
        .arg(&fresh)
        .args(sources)
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    // Another run of the tests may be executing the one before.
    fs::rename(&fresh, &built).unwrap();
    built
}
