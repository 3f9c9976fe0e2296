//! CPython of other Debian releases, for the tests that follow interpreters. Unpacked into target/pythons, each with all that it
//! needs and a root directory of its own; never installed.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context as _, Result};

use crate::{debian::Apt, workspace::Workspace};

/// The suites, and what each calls its CPython. This system's own is tested anyway.
const PYTHONS: [(&str, &str); 3] =
    [("bullseye", "python3.9"), ("trixie", "python3.13"), ("sid", "python3.14")];

/// What the tests' programs run: a shell, `sleep` and `true`. And where `/bin` leads.
const BESIDE: [&str; 3] = ["dash", "coreutils", "base-files"];

/// The one of Debian's architectures that the tests run on.
const ARCHITECTURE: &str = "amd64";

/// Fetches those that are not there.
pub(crate) fn fetch(workspace: &Workspace) -> Result<()> {
    let all = workspace.target().join("pythons");
    for (suite, package) in PYTHONS {
        let root = all.join(package);
        if root.is_dir() {
            continue;
        }
        // Not among them: whatever is in that directory is one.
        let scratch = workspace.target().join("pythons-fetch");
        let fetched = || -> Result<()> {
            let apt = Apt::of_suite(&scratch.join("apt"), ARCHITECTURE, None, suite)?;
            println!("test: downloading {package} of Debian {suite}, and what it needs");
            apt.update()?;
            let unpacked = scratch.join("root");
            apt.unpack_whole(&[&[package], &BESIDE[..]].concat(), &scratch.join("packages"), &unpacked)?;
            complete(&unpacked)?;
            fs::create_dir_all(&all)?;
            // Either the whole of it is there or none.
            fs::rename(&unpacked, &root)?;
            Ok(fs::remove_dir_all(&scratch)?)
        };
        fetched().with_context(|| format!("could not fetch {package} from Debian {suite}"))?;
    }
    Ok(())
}

/// What an installation would have made.
fn complete(root: &Path) -> Result<()> {
    let shell = root.join("bin/sh");
    if !shell.exists() {
        symlink("dash", &shell)?;
    }
    for directory in ["tmp", "dev"] {
        fs::create_dir_all(root.join(directory))?;
    }
    // Empty, and that is all that is wanted of it: a device would take root.
    Ok(fs::write(root.join("dev/null"), "")?)
}
