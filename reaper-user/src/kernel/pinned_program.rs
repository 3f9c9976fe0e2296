//! A pinned program, opened. aya's own types open with it the BTF that it is attached by, by that one's id, and so want CAP_SYS_ADMIN of
//! whoever has CAP_BPF: <https://elixir.bootlin.com/linux/v6.12/source/kernel/bpf/syscall.c> (`bpf_btf_get_fd_by_id`)

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper that opens a program and nothing else")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use aya::programs::{ProgramError, ProgramInfo};

/// `BPF_OBJ_GET` of linux/bpf.h.
const OBJECT_GET: libc::c_int = 7;

/// The part of `union bpf_attr` that the command reads.
#[repr(C)]
struct Request {
    path: u64,
    fd: u32,
    flags: u32,
}

/// A pinned program. It stays loaded as long as this is there.
#[derive(Debug)]
pub(super) struct PinnedProgram {
    path: PathBuf,
    fd: OwnedFd,
}

impl PinnedProgram {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let request = Request { path: name.as_ptr().addr() as u64, fd: 0, flags: 0 };
        // SAFETY: the kernel reads the name, which ends with NUL, and the request; both outlive the call.
        let fd =
            unsafe { libc::syscall(libc::SYS_bpf, OBJECT_GET, &raw const request, size_of::<Request>()) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel has just made it, and nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { path: path.to_owned(), fd })
    }

    /// What the kernel says of what is pinned there.
    pub(super) fn info(&self) -> Result<ProgramInfo, ProgramError> {
        ProgramInfo::from_pin(&self.path)
    }
}

impl AsFd for PinnedProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
