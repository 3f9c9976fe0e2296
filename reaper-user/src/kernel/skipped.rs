//! How often the kernel has skipped a program: it knows, and aya does not ask it.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper that hands out this number")]

use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `BPF_OBJ_GET_INFO_BY_FD` of linux/bpf.h.
const GET_INFO: libc::c_int = 15;

/// `struct bpf_prog_info` up to `recursion_misses` (since 5.12), in words of 64 bits.
const WORDS: usize = 27;

/// The part of `union bpf_attr` that the command reads.
#[repr(C)]
struct Request {
    fd: u32,
    length: u32,
    info: u64,
}

/// How often a program was not run because the same program was running on that CPU. `None` where the kernel does not
/// count.
pub(super) fn skipped(program: BorrowedFd<'_>) -> Option<u64> {
    let mut info = [0_u64; WORDS];
    let length = u32::try_from(size_of_val(&info)).ok()?;
    let mut request =
        Request { fd: program.as_raw_fd().try_into().ok()?, length, info: info.as_mut_ptr().addr() as u64 };
    // SAFETY: the kernel writes at most `length` bytes to `info` and the true length to `request`; both outlive the
    // call. All pointers in `info` are zero: it fills no arrays.
    let done = unsafe { libc::syscall(libc::SYS_bpf, GET_INFO, &raw mut request, size_of::<Request>()) };
    (done == 0 && request.length >= length).then_some(info[WORDS - 1])
}
