//! Another process's memory.

#![expect(unsafe_code, reason = "process_vm_readv is a system call on raw memory")]

use std::io;

/// Reads what another process has from `address` on, as much as there is, into `buffer`; says how much that was. Needs
/// `PTRACE_MODE_ATTACH_REALCREDS`: <https://man7.org/linux/man-pages/man2/process_vm_readv.2.html>
pub(super) fn read(pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let (Ok(pid), Ok(address)) = (libc::pid_t::try_from(pid), usize::try_from(address)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: buffer.len() };
    // SAFETY: `local` is the buffer, writable and as long as it says; `remote` is only an address to the kernel, which
    // checks it against the other process.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// As [`read`], but all of `N` bytes.
pub(super) fn array<const N: usize>(pid: u32, address: u64) -> io::Result<[u8; N]> {
    let mut buffer = [0; N];
    if read(pid, address, &mut buffer)? == N { Ok(buffer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_far_as_there_is_any() {
        let (me, word) = (std::process::id(), 0x0123_4567_89ab_cdef_u64);
        let address = (&raw const word).addr() as u64;
        assert_eq!(u64::from_ne_bytes(array(me, address).unwrap()), word);
        assert_eq!(array::<8>(me, 8).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert!(array::<8>(0, address).is_err());
        assert!(array::<8>(u32::MAX, address).is_err());
    }
}
