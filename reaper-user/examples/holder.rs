//! A holder under command: it forks, waits and leaks as each line of its standard input says, and answers on standard
//! output. It knows nothing of `reaper`.
//!
//! - `churn LIVES LEAKS`: fork, exit and wait, one after the other, as fast as it can; every (LIVES/LEAKS)th child is not waited
//!   for. Answers `leaked PID CODE` for those, then `done`.
//! - `succeed PIDS LIVES`: LIVES children one after the other with the same pid, of which the last is not waited for, and that with
//!   PIDS pids. Answers as `churn` does. Needs `CAP_SYS_ADMIN`.
//! - `leak CODE`: a child in a process group of its own that exits with CODE. Answers `leaked PID CODE`.
//! - `waits ROUNDS`: a wait call of every shape, ROUNDS times, that takes no leaked child away. Answers `waited CALLS`.
//! - `reap PID`: waits for a leaked child. Answers `reaped PID CODE`.
//! - `matrix`: switches the matrix register of SME on, on aarch64 where the processor has it. Answers `matrix on`, or `none`.
//! - `rest CALL MILLISECONDS`: rests in `nanosleep`, in `poll`, or in `read` of standard input, which has no timeout. Goes on where
//!   it is interrupted, unless by SIGUSR1. Answers `rested RETURNED ELAPSED INTERRUPTIONS LEFT`, times in microseconds: LEFT is
//!   what the kernel says is left of a nanosleep.
//! - `clock`: says `ticking` and reads the clock again and again, by a call, until SIGUSR1. Answers `clock LONGEST`: the longest
//!   time between two readings, in nanoseconds.
//!
//! It ends when its standard input does.
#![expect(unsafe_code, reason = "fork, the shapes of wait and raw calls have no safe wrappers")]

#[cfg(target_arch = "aarch64")]
#[path = "holder/registers.rs"]
mod registers;

use std::{
    io::{self, BufRead as _, Write as _},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

fn main() -> Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| -> Result<i32> {
            words.get(at).with_context(|| format!("{line}: too short"))?.parse().with_context(|| line.clone())
        };
        let answer = match words.first() {
            Some(&"churn") => churn(number(1)?, number(2)?)?,
            Some(&"succeed") => succeed(number(1)?, number(2)?)?,
            Some(&"leak") => format!("leaked {} {}", leak(number(1)?)?, number(1)?),
            Some(&"waits") => format!("waited {}", waits(number(1)?)?),
            Some(&"reap") => format!("reaped {} {}", number(1)?, wait(number(1)?, 0)?),
            #[cfg(target_arch = "aarch64")]
            Some(&"matrix") => format!("matrix {}", if registers::matrix_on() { "on" } else { "none" }),
            Some(&"clock") => clock()?,
            Some(&"rest") => rest(words.get(1).copied().unwrap_or_default(), number(2)?)?,
            _ => bail!("{line}: not a command"),
        };
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

fn churn(lives: i32, leaks: i32) -> Result<String> {
    let every = if leaks > 0 { lives / leaks } else { i32::MAX };
    let mut leaked = String::new();
    for life in 1..=lives {
        let code = code_of(life);
        let pid = fork(libc::SIGCHLD, || code)?;
        if life % every == 0 {
            leaked += &format!("leaked {pid} {code}\n");
        } else {
            end(pid, code)?;
        }
    }
    Ok(leaked + "done")
}

fn succeed(pids: i32, lives: i32) -> Result<String> {
    let mut leaked = String::new();
    for line in 1..=pids {
        let pid = fork(libc::SIGCHLD, || 0)?;
        end(pid, 0)?;
        for life in 2..=lives {
            let code = code_of(line + life);
            fork_as(pid, code)?;
            if life == lives {
                leaked += &format!("leaked {pid} {code}\n");
            } else {
                end(pid, code)?;
            }
        }
    }
    Ok(leaked + "done")
}

fn code_of(number: i32) -> i32 {
    number % 250 + 1
}

/// Waits for a child that must have exited with `code`.
fn end(pid: i32, code: i32) -> Result<()> {
    let seen = wait(pid, 0)?;
    ensure!(seen == code, "{pid} exited with {seen}, not {code}");
    Ok(())
}

fn leak(code: i32) -> Result<i32> {
    fork(libc::SIGCHLD, || {
        own_group(0);
        code
    })
}

/// What the calls have in common: none of them can return a leaked child, which is in a process group of its own.
fn waits(rounds: i32) -> Result<u32> {
    let mut calls = 0;
    for _ in 0..rounds {
        // wait4: any child (of those that clone made), one child, own group, another group, nobody's child.
        fork(0, || 0)?;
        wait(-1, libc::__WCLONE)?;
        wait(fork(libc::SIGCHLD, || 0)?, 0)?;
        fork(libc::SIGCHLD, || 0)?;
        wait(0, 0)?;
        let leader = grouped()?;
        wait(-leader, 0)?;
        for pid in [i32::MAX, i32::MIN] {
            ensure!(wait(pid, libc::WNOHANG).is_err(), "{pid} cannot be a child");
        }

        // waitid: one child, a group, a pidfd, and any child without taking it.
        let child = fork(libc::SIGCHLD, || 0)?;
        wait_id(libc::P_PID, child, libc::WEXITED)?;
        let leader = grouped()?;
        wait_id(libc::P_PGID, leader, libc::WEXITED)?;
        let child = fork(libc::SIGCHLD, || 0)?;
        let fd = pidfd(child)?;
        wait_id(libc::P_PIDFD, fd, libc::WEXITED)?;
        close(fd);
        wait_id(libc::P_ALL, 0, libc::WEXITED | libc::WNOWAIT)?;
        // Dead children do not count here: there may be none.
        let _ = wait_id(libc::P_ALL, 0, libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG);
        calls += 11;
    }
    Ok(calls)
}

/// A child that exits at once and leads a process group.
fn grouped() -> Result<i32> {
    let pid = fork(libc::SIGCHLD, || {
        own_group(0);
        0
    })?;
    // Whoever is first: the child, or we before its exit. After the exit it is the child that was.
    own_group(pid);
    Ok(pid)
}

fn fork(signal: i32, child: impl FnOnce() -> i32) -> Result<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // SAFETY: one thread forks; without CLONE_VM the child has its own copy of this stack, and all pointers are null.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(signal), 0, 0, 0, 0) };
        match pid {
            0 => {
                let code = child();
                // SAFETY: ends the process without running anything at exit.
                unsafe { libc::_exit(code) }
            }
            // No pid is free for the moment.
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
                && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            -1 => return Err(io::Error::last_os_error()).context("clone"),
            pid => return Ok(i32::try_from(pid)?),
        }
    }
}

/// A child with this very pid, which must be free, that exits with `code`.
fn fork_as(pid: i32, code: i32) -> Result<()> {
    // SAFETY: an all-zero clone_args is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    args.set_tid = u64::try_from((&raw const pid).addr())?;
    args.set_tid_size = 1;
    // SAFETY: as in `fork`; the arguments and the pid live across the call.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) } {
        // SAFETY: ends the process without running anything at exit.
        0 => unsafe { libc::_exit(code) },
        -1 => Err(io::Error::last_os_error()).with_context(|| format!("clone3 as {pid}")),
        _ => Ok(()),
    }
}

/// The exit code of the child that wait4 returns.
fn wait(pid: i32, options: i32) -> Result<i32> {
    let mut status = 0;
    // SAFETY: writes one int.
    let found = unsafe { libc::wait4(pid, &raw mut status, options, ptr::null_mut()) };
    if found < 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("wait4({pid}, {options:#x})"));
    }
    ensure!(found > 0 && libc::WIFEXITED(status), "wait4({pid}) returned {found} with status {status:#x}");
    Ok(libc::WEXITSTATUS(status))
}

fn wait_id(kind: libc::idtype_t, id: i32, options: i32) -> Result<()> {
    // SAFETY: no siginfo is asked for.
    let result = unsafe { libc::waitid(kind, id.cast_unsigned(), ptr::null_mut(), options) };
    if result < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("waitid({kind}, {id}, {options:#x})"));
    }
    Ok(())
}

/// Whether SIGUSR1 has come.
static ENOUGH: AtomicBool = AtomicBool::new(false);

extern "C" fn enough(_signal: i32) {
    ENOUGH.store(true, Ordering::Relaxed);
}

/// Has SIGUSR1 set [`ENOUGH`].
fn until_enough() {
    ENOUGH.store(false, Ordering::Relaxed);
    // SAFETY: an all-zero action is valid; the handler only stores to an atomic.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = enough as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut());
    }
}

fn clock() -> Result<String> {
    until_enough();
    writeln!(io::stdout(), "ticking")?;
    let mut reading: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let (mut longest, mut last) = (0, None);
    while !ENOUGH.load(Ordering::Relaxed) {
        // By a real call: nobody can stop it in its own code without taking it to the next.
        // SAFETY: writes one timespec.
        unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut reading) };
        let now = reading.tv_sec * 1_000_000_000 + reading.tv_nsec;
        longest = longest.max(now - last.replace(now).unwrap_or(now));
    }
    Ok(format!("clock {longest}"))
}

/// The calls are raw: what the kernel says is what is answered. On aarch64 with something in every register, which is looked at
/// afterwards.
fn rest(call: &str, milliseconds: i32) -> Result<String> {
    until_enough();
    let asked = Duration::from_millis(milliseconds.try_into()?);
    let began = Instant::now();
    let mut left = libc::timespec { tv_sec: asked.as_secs().try_into()?, tv_nsec: 0 };
    left.tv_nsec = asked.subsec_nanos().into();
    let mut interruptions = 0_u32;
    let mask = signal_mask();
    let returned = loop {
        let returned = match call {
            // Reads and writes one timespec, which may be the same.
            "nanosleep" => {
                let left = (&raw mut left).expose_provenance();
                raw(libc::SYS_nanosleep, [left, left, 0, 0, 0, 0])?
            }
            "poll" => {
                // Not less than what is left.
                let left = asked.saturating_sub(began.elapsed()).as_micros().div_ceil(1_000);
                let left = i32::try_from(left)?;
                poll(left)?
            }
            "read" => {
                let mut bytes = [0_u8; 64];
                let length = bytes.len();
                raw(libc::SYS_read, [0, bytes.as_mut_ptr().expose_provenance(), length, 0, 0, 0])?
            }
            _ => bail!("{call}: not a call to rest in"),
        };
        ensure!(signal_mask() == mask, "the signal mask was changed");
        let interrupted = returned == -libc::c_long::from(libc::EINTR);
        interruptions += u32::from(interrupted);
        if !interrupted || ENOUGH.load(Ordering::Relaxed) {
            break returned;
        }
    };
    let elapsed = began.elapsed().as_micros();
    let left = left.tv_sec * 1_000_000 + left.tv_nsec / 1_000;
    Ok(format!("rested {returned} {elapsed} {interruptions} {left}"))
}

/// Waits so many milliseconds for nothing.
#[cfg(target_arch = "x86_64")]
fn poll(milliseconds: i32) -> Result<libc::c_long> {
    raw(libc::SYS_poll, [0, 0, usize::try_from(milliseconds)?, 0, 0, 0])
}

/// The same where there is one poll only: it writes what is left of its time.
#[cfg(not(target_arch = "x86_64"))]
fn poll(milliseconds: i32) -> Result<libc::c_long> {
    let (seconds, rest) = (milliseconds / 1_000, milliseconds % 1_000);
    let mut left = libc::timespec { tv_sec: seconds.into(), tv_nsec: libc::c_long::from(rest) * 1_000_000 };
    raw(libc::SYS_ppoll, [0, 0, (&raw mut left).expose_provenance(), 0, 0, 0])
}

/// A call, with what the kernel returns: a negated error number where it fails.
#[cfg(target_arch = "aarch64")]
fn raw(number: libc::c_long, arguments: [usize; 6]) -> Result<libc::c_long> {
    registers::call(number, arguments)
}

/// The same.
#[cfg(not(target_arch = "aarch64"))]
#[expect(clippy::unnecessary_wraps, reason = "where registers are looked at it may fail")]
fn raw(number: libc::c_long, arguments: [usize; 6]) -> Result<libc::c_long> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: whoever calls this passes what the call takes.
    let returned = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    let error = || libc::c_long::from(-io::Error::last_os_error().raw_os_error().unwrap_or_default());
    Ok(if returned < 0 { error() } else { returned })
}

/// The signals that are blocked, of the first 64.
fn signal_mask() -> u64 {
    let mut mask = 0_u64;
    // SAFETY: writes eight bytes.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, 0, ptr::null::<u64>(), &raw mut mask, size_of::<u64>());
    }
    mask
}

fn own_group(pid: i32) {
    // SAFETY: no memory is involved.
    unsafe {
        libc::setpgid(pid, 0);
    }
}

fn pidfd(pid: i32) -> Result<i32> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    ensure!(fd >= 0, "pidfd_open({pid}): {}", io::Error::last_os_error());
    Ok(i32::try_from(fd)?)
}

fn close(fd: i32) {
    // SAFETY: the descriptor is ours and not used again.
    unsafe {
        libc::close(fd);
    }
}
