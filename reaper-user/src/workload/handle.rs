//! The one system call that turns a cgroup's id into a file. All the unsafe code of this folder is here.
#![expect(unsafe_code, reason = "open_by_handle_at has no safe wrapper in the standard library")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `struct file_handle` with the 8 bytes that kernfs puts into it.
/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/fs.h>
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    id: u64,
}

/// `FILEID_KERNFS`: <https://elixir.bootlin.com/linux/v6.12/source/include/linux/exportfs.h>
const FILEID_KERNFS: i32 = 0xfe;

/// Opens (`O_PATH`) what has the id `id` in the cgroup hierarchy that `mount` is an open directory of.
///
/// `ESTALE`: no cgroup has this id, or not any more, or it is being made and not yet visible. `EPERM`: the caller
/// lacks `CAP_DAC_READ_SEARCH`. `EBADF`: `mount` was opened with `O_PATH`, which does not serve here.
/// <https://elixir.bootlin.com/linux/v6.12/source/fs/fhandle.c>
pub(super) fn open_by_id(mount: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    let handle = FileHandle { bytes: 8, kind: FILEID_KERNFS, id };
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `handle` is laid out as `struct file_handle` with room for the 8 bytes that its first field names, and
    // it outlives the call, which reads it only.
    let fd =
        unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw const handle, flags) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
