//! The system calls that the standard library does not offer, each behind a safe function.
//!
//! Guarantee to the rest of the program: every process here has one thread when it forks, or its child calls
//! nothing but [`exit_now`], [`die_of`] and other plain system calls; so a fork is as safe as in C.
#![expect(unsafe_code, reason = "fork, clone, ptrace and raw thread exits have no safe wrappers")]

use std::{
    ffi::{CString, c_int, c_void},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
    sync::atomic::AtomicU64,
    time::Duration,
};

/// A process id, as the calling process's pid namespace numbers it.
pub(crate) type Pid = libc::pid_t;

/// Which side of a fork the caller is on.
pub(crate) enum Fork {
    /// In the child.
    Child,
    /// In the parent, with the child's pid.
    Parent(Pid),
}

fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: libc::c_long) -> io::Result<c_int> {
    check(c_int::try_from(result).unwrap_or(-1))
}

/// fork(2).
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: see the module's guarantee.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// clone(2) with no new stack and only `flags`: a fork with, for example, `CLONE_PARENT` or no exit signal.
pub(crate) fn clone(flags: c_int) -> io::Result<Fork> {
    // SAFETY: without CLONE_VM the child gets a copy of this stack, as after fork; all pointers are null.
    match check_long(unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

extern "C" fn return_code(code: *mut c_void) -> c_int {
    // The pointer carries a number; glibc passes what is returned to exit.
    c_int::try_from(code.addr()).unwrap_or(127)
}

/// A child made as vfork(2) makes one (it borrows this memory, and we stop until it is gone), which exits
/// with `code`.
pub(crate) fn vfork_and_exit(code: u8) -> io::Result<Pid> {
    let mut stack = vec![0_u8; 16 * 1024];
    let top = stack.as_mut_ptr_range().end;
    // The ABI wants 16-byte alignment.
    let top = top.map_addr(|address| address & !15).cast();
    // SAFETY: the stack is the child's alone and outlives it, because CLONE_VFORK returns only after its exit.
    check(unsafe {
        libc::clone(
            return_code,
            top,
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            ptr::without_provenance_mut(code.into()),
        )
    })
}

/// posix_spawn(3) of `path` with `arguments` (after the zeroth, which is `path`).
pub(crate) fn posix_spawn(path: &str, arguments: &[&str]) -> io::Result<Pid> {
    let words = std::iter::once(path)
        .chain(arguments.iter().copied())
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()?;
    let mut argv: Vec<_> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    argv.push(ptr::null_mut());
    let mut environment = [ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: argv and the environment end with null and live across the call; the attributes may be null.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            words[0].as_ptr(),
            ptr::null(),
            ptr::null(),
            argv.as_ptr(),
            environment.as_mut_ptr(),
        )
    };
    if error == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// execv(3); returns only where it fails.
pub(crate) fn exec(path: &str, arguments: &[&str]) -> io::Error {
    let words: Result<Vec<_>, _> =
        std::iter::once(path).chain(arguments.iter().copied()).map(CString::new).collect();
    let words = match words {
        Ok(words) => words,
        Err(error) => return error.into(),
    };
    let mut argv: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(ptr::null());
    // SAFETY: argv ends with null and lives across the call.
    unsafe { libc::execv(words[0].as_ptr(), argv.as_ptr()) };
    io::Error::last_os_error()
}

/// _exit(2): the whole process, without running anything at exit.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code.into()) }
}

/// The bare exit system call: this thread alone ends, whether or not it is the leader.
pub(crate) fn exit_thread(code: u8) -> ! {
    // SAFETY: the thread's stack is not freed by anybody, and nobody joins it.
    unsafe { libc::syscall(libc::SYS_exit, libc::c_long::from(code)) };
    unreachable!("exit does not return")
}

/// Dies of a signal.
pub(crate) fn die_of(signal: c_int) -> ! {
    // SAFETY: restores a default disposition and signals this process.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
    }
    exit_now(99)
}

/// Waits for one child, of whatever exit signal; its wait status.
pub(crate) fn wait_for(pid: Pid) -> io::Result<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: writes one int.
        match check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }) {
            Ok(_) => return Ok(status),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits until there is no child left (those of a parent that ignores SIGCHLD vanish by themselves).
pub(crate) fn wait_until_childless() {
    // SAFETY: a null status is allowed.
    while unsafe { libc::waitpid(-1, ptr::null_mut(), libc::__WALL) } != -1
        || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Takes one dead child, if there is one. An error means that there is no child at all.
pub(crate) fn reap_one() -> io::Result<Option<Pid>> {
    // SAFETY: a null status is allowed.
    match check(unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG | libc::__WALL) })? {
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// A FIFO for this user alone.
pub(crate) fn make_fifo(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a null and lives across the call.
    check(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }).map(drop)
}

/// kill(2).
pub(crate) fn kill(pid: Pid, signal: c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// The caller's parent.
pub(crate) fn parent() -> Pid {
    // SAFETY: no memory is involved.
    unsafe { libc::getppid() }
}

/// The caller dies when its parent does.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

/// Orphans below the caller are given to it.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }).map(drop)
}

/// The caller's later children are in a new pid namespace, the first of them is its PID 1.
pub(crate) fn unshare_pids() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::unshare(libc::CLONE_NEWPID) }).map(drop)
}

/// The caller's later children are in the pid namespace of `namespace`, an open /proc/PID/ns/pid.
pub(crate) fn enter_pid_namespace(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWPID) }).map(drop)
}

/// The caller becomes the tracer of `pid`, which runs on.
pub(crate) fn trace(pid: Pid) -> io::Result<()> {
    // SAFETY: PTRACE_SEIZE takes no address and here no options.
    check_long(unsafe {
        libc::ptrace(libc::PTRACE_SEIZE, pid, ptr::null_mut::<c_void>(), ptr::null_mut::<c_void>())
    })
    .map(drop)
}

/// What the caller does about SIGCHLD.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum OnChild {
    /// SIG_IGN: children vanish, no signal is sent.
    Ignore,
    /// A handler with SA_NOCLDWAIT: children vanish, the signal is sent.
    NoWait,
    /// A handler which waits for one child a signal: the well-known mistake.
    WaitOnce,
}

extern "C" fn do_nothing(_signal: c_int) {}

extern "C" fn wait_once(_signal: c_int) {
    // SAFETY: waitpid is async-signal-safe; a null status is allowed.
    unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) };
}

/// Sets what the caller does about SIGCHLD.
pub(crate) fn on_child(what: OnChild) -> io::Result<()> {
    let (handler, flags) = match what {
        OnChild::Ignore => (libc::SIG_IGN, 0),
        OnChild::NoWait => (do_nothing as extern "C" fn(c_int) as usize, libc::SA_NOCLDWAIT),
        OnChild::WaitOnce => (wait_once as extern "C" fn(c_int) as usize, libc::SA_RESTART),
    };
    // SAFETY: an all-zero sigaction is valid; the handlers are async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        check(libc::sigaction(libc::SIGCHLD, &raw const action, ptr::null_mut())).map(drop)
    }
}

/// Blocks or unblocks SIGCHLD.
pub(crate) fn block_child_signal(block: bool) -> io::Result<()> {
    let how = if block { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: the set is initialized by sigemptyset before use.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(how, &raw const set, ptr::null_mut())).map(drop)
    }
}

/// A descriptor that becomes readable when `pid` is dead with all its threads. Polling it is not a wait.
pub(crate) fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open returns a descriptor that nobody else owns.
    unsafe { check_long(libc::syscall(libc::SYS_pidfd_open, pid, 0)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Whether `fd` is readable (or at its end) within `timeout`.
pub(crate) fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: one pollfd, which lives across the call.
    unsafe { libc::poll(&raw mut poll, 1, timeout) == 1 }
}

/// `CLOCK_BOOTTIME`, ns.
pub(crate) fn boot_now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Zeroed counters that every process forked from here shares.
pub(crate) fn shared_counters(number: usize) -> io::Result<&'static [AtomicU64]> {
    // SAFETY: a fresh shared mapping is zeroed, aligned to a page and never unmapped; zero is a valid counter.
    unsafe {
        let address = libc::mmap(
            ptr::null_mut(),
            number * size_of::<AtomicU64>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(std::slice::from_raw_parts(address.cast(), number))
    }
}
