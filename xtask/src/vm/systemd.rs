//! Debian's systemd for the guest: what the deployed unit runs under. Unpacked into target/vm/systemd, never installed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use crate::debian::Apt;

/// The suite whose release is the oldest that people run.
pub(super) const SUITE: &str = "bookworm";

/// It, what its unit calls (kill), the runtime that has it make the cgroups of containers, and the bus that it is asked over.
const PACKAGES: [&str; 4] = ["systemd", "procps", "runc", "dbus"];

/// What a guest that is to boot in seconds does without.
const LEFT_OUT: [&str; 6] =
    ["usr/share", "usr/lib/udev", "lib/udev", "usr/lib/x86_64-linux-gnu/gconv", "var", "usr/include"];

/// Of what is left out: what may be said on the bus, and by whom.
const BUS: &str = "usr/share/dbus-1";

/// Where it is started from, and the last that was added to [`PACKAGES`].
const PROGRAMS: [&str; 2] = ["lib/systemd/systemd", "usr/bin/dbus-daemon"];

/// What the deployed unit is called, and where it and its addition are.
const UNITS: [(&str, &str); 2] = [
    ("deploy/systemd/reaper.service", "etc/systemd/system/reaper.service"),
    ("deploy/systemd/remedies.conf", "vm/remedies.conf"),
];

/// Runs the tests when the machine is up. The init does it, and turns the machine off.
const TESTS: &str = "\
[Unit]
Description=The tests
DefaultDependencies=no
Requires=basic.target
After=basic.target

[Service]
Type=oneshot
ExecStart=/init tests
TimeoutStartSec=infinity
";

/// Those that packages would make are only made when they are installed: the bus runs as one of its own.
const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
messagebus:x:100:100::/:/bin/sh
nobody:x:65534:65534::/:/bin/sh
";

/// The root that it is unpacked into.
pub(super) fn root(directory: &Path) -> PathBuf {
    directory.join("systemd")
}

/// Whether it is there.
pub(super) fn is_there(directory: &Path) -> bool {
    PROGRAMS.iter().all(|program| root(directory).join(program).is_file())
}

/// Fetches it with all that it depends on, as if nothing were installed.
pub(super) fn fetch(apt: &Apt, directory: &Path) -> Result<()> {
    println!("vm: downloading {} of Debian {SUITE} and what they need", PACKAGES.join(", "));
    apt.unpack_whole(&PACKAGES, &directory.join("fetch"), &root(directory))
}

/// Adds it to an initramfs, with the deployed unit and a unit that runs the tests.
pub(super) fn add(archive: &mut Archive, root: &Path, workspace: &Path) -> Result<()> {
    add_directory(archive, root, Path::new(""))?;
    for directory in ["etc/systemd", "etc/systemd/system", "usr", "usr/bin", "usr/share", BUS, "var"] {
        archive.directory(directory)?;
    }
    add_directory(archive, root, Path::new(BUS))?;
    for (file, place) in UNITS {
        let file = workspace.join(file);
        archive.file(place, &fs::read(&file).with_context(|| file.display().to_string())?)?;
    }
    archive.file("etc/systemd/system/vm-tests.service", TESTS.as_bytes())?;
    archive.file("etc/passwd", PASSWD.as_bytes())?;
    archive.file("etc/group", b"root:x:0:\nmessagebus:x:100:\nnogroup:x:65534:\n")?;
    // Without one it asks, on the console, about the machine that it finds new.
    archive.file("etc/machine-id", b"0123456789abcdef0123456789abcdef\n")?;
    archive.symlink("usr/bin/reaper", "/bin/reaper")
}

fn add_directory(archive: &mut Archive, root: &Path, below: &Path) -> Result<()> {
    let directory = root.join(below);
    let mut entries = fs::read_dir(&directory)
        .with_context(|| directory.display().to_string())?
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        let name = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        if LEFT_OUT.contains(&name) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            archive.directory(name)?;
            add_directory(archive, root, &path)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path())?;
            archive.symlink(name, target.to_str().with_context(|| format!("{name}: not UTF-8"))?)?;
        } else {
            let contents = fs::read(entry.path()).with_context(|| name.to_owned())?;
            if entry.metadata()?.permissions().mode() & 0o111 == 0 {
                archive.file(name, &contents)?;
            } else {
                archive.executable(name, &contents)?;
            }
        }
    }
    Ok(())
}
