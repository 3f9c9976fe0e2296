//! The few system calls of the tests that the standard library does not offer.
#![expect(unsafe_code, reason = "clocks, signals, limits and seccomp have no safe wrappers")]

use std::{
    io,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::Command,
    ptr,
};

/// `CLOCK_BOOTTIME`, ns.
pub(crate) fn boot_now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) }, 0);
    u64::try_from(now.tv_sec).unwrap() * super::SECOND + u64::try_from(now.tv_nsec).unwrap()
}

/// Whether the tests run as root.
pub(super) fn is_root() -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::geteuid() == 0 }
}

/// kill(2); that the process is gone is no error.
pub(crate) fn signal(pid: u32, signal: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid.try_into().unwrap(), signal) };
}

/// sigqueue(3), with a number.
pub(crate) fn queue(pid: u32, signal: i32, number: i32) {
    let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(number.try_into().unwrap()) };
    // SAFETY: the value is a number to whoever gets it; no memory is involved.
    let sent = unsafe { libc::sigqueue(pid.try_into().unwrap(), signal, value) };
    assert_eq!(sent, 0, "{}", io::Error::last_os_error());
}

/// Sets how many files another process may have open (the soft limit); what it was.
pub(crate) fn limit_files(pid: u32, number: u64) -> u64 {
    let pid = pid.try_into().unwrap();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit.
    let read = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, ptr::null(), &raw mut limit) };
    assert_eq!(read, 0, "{}", io::Error::last_os_error());
    let changed = libc::rlimit { rlim_cur: number, ..limit };
    // SAFETY: reads one rlimit.
    let set = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const changed, ptr::null_mut()) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    limit.rlim_cur
}

/// Bytes in a pipe that nobody has read.
pub(crate) fn waiting_bytes(pipe: &io::PipeReader) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: writes one int.
    assert_eq!(unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) }, 0);
    bytes.try_into().unwrap()
}

/// The command will run under a seccomp filter that answers bpf(2) with EPERM, as Docker's default one does.
pub(crate) fn deny_bpf(command: &mut Command) {
    let load = u16::try_from(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS).unwrap();
    let jump = u16::try_from(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K).unwrap();
    let answer = u16::try_from(libc::BPF_RET | libc::BPF_K).unwrap();
    let denied = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap();
    let bpf = u32::try_from(libc::SYS_bpf).unwrap();
    // Offset 0 of seccomp_data is the system call's number.
    let mut filter = [
        libc::sock_filter { code: load, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: jump, jt: 0, jf: 1, k: bpf },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: denied },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let install = move || {
        let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
        // SAFETY: the filter lives across the call.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
        };
        if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure makes two system calls and does not allocate.
    unsafe { command.pre_exec(install) };
}

/// The command will be given the orphans among its descendants.
pub(crate) fn adopt_orphans(command: &mut Command) {
    let adopt = || {
        // SAFETY: no memory is involved.
        let refused = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 };
        if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure makes one system call and does not allocate.
    unsafe { command.pre_exec(adopt) };
}
