//! Which BPF object goes into the binary: the committed one, unless `REAPER_BPF_OBJECT` names another at build time.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=REAPER_BPF_OBJECT");
    let committed =
        || PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("bpf/reaper.bpf.o");
    let object = env::var_os("REAPER_BPF_OBJECT").map_or_else(committed, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=REAPER_BPF_OBJECT={}", object.display());
}
