//! The file in which a virtual machine says where it has put what it compiled.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};

use crate::origin::{
    files::{owner, regular},
    mounts::{Mounts, Unopened},
};

/// Opens a process's perf map. `pid` is the process's own for itself, `uid` whom it runs as: what anybody else has put
/// there says nothing.
pub(super) fn find(directory: &Path, pid: u32, uid: u32, mounts: &Mounts) -> Result<OwnedFd, Unopened> {
    let root =
        open(directory.join("root"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat2(root, format!("tmp/perf-{pid}.map"), flags, Mode::empty(), resolve)?;
    if ![0, uid].contains(&owner(&found)?) {
        return Err(Errno::ACCESS.into());
    }
    regular(found, mounts)
}
