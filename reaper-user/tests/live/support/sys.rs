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

/// Of `struct seccomp_data`: the system call's number, and the lower half of its third argument.
const NUMBER: u32 = 0;
const THIRD: u32 = 32;

const EQUALS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const HAS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;

/// The command will run under a seccomp filter that answers bpf(2) with EPERM, as Docker's default one does.
pub(crate) fn deny_bpf(command: &mut Command) {
    deny(command, &[(NUMBER, EQUALS, u32::try_from(libc::SYS_bpf).unwrap())]);
}

/// The command will run under a seccomp filter that answers a wait4(2) for children of every kind with EPERM, and allows others.
pub(crate) fn deny_wait_for_every_kind(command: &mut Command) {
    let wait4 = u32::try_from(libc::SYS_wait4).unwrap();
    deny(command, &[(NUMBER, EQUALS, wait4), (THIRD, HAS, libc::__WALL.cast_unsigned())]);
}

/// Answers with EPERM what passes all of these tests: of what stands there, by which instruction, against what.
fn deny(command: &mut Command, tests: &[(u32, u32, u32)]) {
    let step = |code: u32, jf: usize, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf: u8::try_from(jf).unwrap(),
        k,
    };
    let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut steps = Vec::new();
    for (place, (offset, test, value)) in tests.iter().enumerate() {
        steps.push(step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, *offset));
        // Over the tests behind it and the denial.
        steps.push(step(*test, 2 * (tests.len() - 1 - place) + 1, *value));
    }
    steps
        .extend([denied, libc::SECCOMP_RET_ALLOW].map(|answer| step(libc::BPF_RET | libc::BPF_K, 0, answer)));
    filter(command, steps);
}

fn filter(command: &mut Command, mut filter: Vec<libc::sock_filter>) {
    let install = move || {
        let len = u16::try_from(filter.len()).unwrap_or(0);
        let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
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

/// The command will have its standard input for its own terminal, as from a login: what is typed and its size come to it as signals.
pub(super) fn in_terminal(command: &mut Command) {
    let own = || {
        // SAFETY: no memory is involved.
        let refused = unsafe { libc::setsid() == -1 || libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 };
        if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure makes two system calls and does not allocate.
    unsafe { command.pre_exec(own) };
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
