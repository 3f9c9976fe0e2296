//! Namespaces within namespaces: a process counts in its own and in all above it.

#![expect(unsafe_code, reason = "there is no safe interface to the requests that namespaces answer")]

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use rustix::io::Errno;

/// The initial user namespace's inode number.
/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/proc_ns.h> (`PROC_USER_INIT_INO`)
pub const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// So deep they may lie in each other, and one more.
/// <https://man7.org/linux/man-pages/man7/user_namespaces.7.html>
const DEPTH: usize = 33;

/// The inode number of a process' user namespace; of a zombie's, too.
pub fn user_namespace(proc: &Path, pid: u32) -> io::Result<u64> {
    Ok(fs::metadata(proc.join(format!("{pid}/ns/user")))?.ino())
}

/// Which user of the initial user namespace has made the one that a process is in, or the outermost of those around it: it counts as that
/// one's there.
pub fn outermost_owner(proc: &Path, pid: u32) -> io::Result<u32> {
    let mut namespace = File::open(proc.join(format!("{pid}/ns/user")))?;
    for _ in 0..DEPTH {
        match above(&namespace)? {
            Some(next) if next.metadata()?.ino() != INITIAL_USER_NAMESPACE => namespace = next,
            Some(_) => return owner(&namespace),
            None => break,
        }
    }
    Err(Errno::PERM.into())
}

/// The inode numbers of the pid namespaces that a process has a number in, the innermost first.
pub fn pid_namespaces(proc: &Path, pid: u32) -> io::Result<Vec<u64>> {
    let mut next = Some(File::open(proc.join(format!("{pid}/ns/pid")))?);
    let mut all = Vec::new();
    while let Some(namespace) = next.filter(|_| all.len() < DEPTH) {
        all.push(namespace.metadata()?.ino());
        next = above(&namespace)?;
    }
    Ok(all)
}

/// The namespace around one; `None` around the initial one.
/// <https://man7.org/linux/man-pages/man2/NS_GET_PARENT.2const.html>
fn above(namespace: &File) -> io::Result<Option<File>> {
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    // SAFETY: the request has no argument.
    let found = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    if found == -1 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EPERM) { Ok(None) } else { Err(error) };
    }
    // SAFETY: the kernel has just opened it for whoever asked.
    Ok(Some(unsafe { File::from_raw_fd(found) }))
}

/// Who has made a user namespace.
/// <https://man7.org/linux/man-pages/man2/NS_GET_OWNER_UID.2const.html>
fn owner(namespace: &File) -> io::Result<u32> {
    const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;
    let mut user: libc::uid_t = 0;
    // SAFETY: the kernel writes one such number.
    let done = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut user) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(user) }
}

#[cfg(test)]
mod tests;
