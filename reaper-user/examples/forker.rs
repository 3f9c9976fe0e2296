//! A program that forks until it is refused, as each line of its standard input says, and answers on standard output. It knows
//! nothing of `reaper`.
//!
//! - `nproc LIMIT`: may have LIMIT tasks of its user (RLIMIT_NPROC). Answers `done`.
//! - `user UID`: is that user from now on, without any capability. Answers `done`.
//! - `namespace PID_MAX`: goes on as the first process of a new pid namespace, and sets kernel.pid_max there. Answers `done`.
//! - `within COUNT`: so many zombies, of the first process of a pid namespace within its own, which rests until it ends. Answers `done`.
//! - `apart`: goes on in a new user namespace. Answers `done`.
//! - `uid UID`: is that user from now on. Answers `done`.
//! - `fill zombie|live MOST`: forks children, one after the other's exit, or that rest until it ends, until a fork is refused. Answers
//!   `refused AT MADE`: nanoseconds since 1970 when it was, and how many were made before; or `made MOST`.
//! - `fork TIMES`: forks so often, and waits for each child that it gets. Answers `refused COUNT` of them.
//! - `storm MS`: forks for so long, and waits for each child that it gets. Answers `refused COUNT` of them.
//! - `into FOLDER TIMES`: forks so often into another cgroup (CLONE_INTO_CGROUP), likewise. Answers `refused COUNT`.
//! - `users FIRST COUNT`: forks once as each of so many users, likewise. Answers `refused COUNT`.
//! - `linger BEGUN END`: forks a child that makes the file BEGUN and ends when there is the file END, and is held in the fork until then
//!   (CLONE_VFORK). Answers `done`.
//!
//! A fork is refused with EAGAIN: any other error ends it, and so does the end of its standard input.
#![expect(unsafe_code, reason = "fork, and what limits it, have no safe wrappers in std")]

use std::{
    fs::{self, File},
    io::{self, BufRead as _, Read as _, Write as _},
    os::fd::AsRawFd as _,
    path::Path,
    process, ptr, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};

/// Of the pid namespace of whoever writes it (from Linux 6.14 on), else of the machine.
const PID_MAX: &str = "/proc/sys/kernel/pid_max";

fn main() -> Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u32>().with_context(|| line.clone());
        let answer = match words[..] {
            ["nproc", limit] => nproc(number(limit)?)?,
            ["user", uid] => become_user(number(uid)?)?,
            ["namespace", pid_max] => enter_namespace(number(pid_max)?)?,
            ["within", count_of] => fill_within(number(count_of)?)?,
            // SAFETY: no memory is involved; there is one thread.
            ["apart"] => done(unsafe { libc::unshare(libc::CLONE_NEWUSER) }, "unshare")?,
            ["uid", uid] => be_only(number(uid)?)?,
            ["fill", "zombie", most] => fill(number(most)?, false)?,
            ["fill", "live", most] => fill(number(most)?, true)?,
            ["fork", times] => count(0..number(times)?, |_| fork())?,
            ["storm", ms] => {
                let end = Instant::now() + Duration::from_millis(number(ms)?.into());
                count(std::iter::repeat(()).take_while(|()| Instant::now() < end), |()| fork())?
            }
            ["into", folder, times] => {
                let folder = File::open(folder).with_context(|| line.clone())?;
                count(0..number(times)?, |_| fork_into(&folder))?
            }
            ["users", first, count_of] => {
                let first = number(first)?;
                let refused = count(first..first + number(count_of)?, |uid| {
                    be_really(uid)?;
                    fork()
                })?;
                be_really(0)?;
                refused
            }
            ["linger", begun, end] => linger(Path::new(begun), Path::new(end))?,
            _ => bail!("{line}: not a command"),
        };
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

fn done(result: i32, what: &str) -> Result<String> {
    if result == 0 { Ok("done".to_owned()) } else { Err(io::Error::last_os_error()).context(what.to_owned()) }
}

fn nproc(limit: u32) -> Result<String> {
    let limit = libc::rlimit { rlim_cur: limit.into(), rlim_max: limit.into() };
    // SAFETY: reads one rlimit.
    done(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit) }, "setrlimit")
}

fn become_user(uid: u32) -> Result<String> {
    // SAFETY: no memory is involved; there is one thread.
    let result = unsafe {
        match libc::setgroups(0, ptr::null()) {
            0 => libc::setresgid(uid, uid, uid),
            failed => failed,
        }
    };
    done(result, "setresgid")?;
    // SAFETY: as above.
    done(unsafe { libc::setresuid(uid, uid, uid) }, "setresuid")
}

fn be_only(uid: u32) -> Result<String> {
    // SAFETY: no memory is involved; there is one thread.
    done(unsafe { libc::setresuid(uid, uid, uid) }, "setresuid")
}

fn enter_namespace(pid_max: u32) -> Result<String> {
    // SAFETY: no memory is involved.
    done(unsafe { libc::unshare(libc::CLONE_NEWPID) }, "unshare")?;
    let child = fork()?.context("refused before the namespace had anybody")?;
    if child != 0 {
        // Its end is that of the namespace.
        let code = wait(child)?;
        process::exit(code);
    }
    fs::write(PID_MAX, pid_max.to_string()).context(PID_MAX)?;
    Ok("done".to_owned())
}

fn fill_within(count_of: u32) -> Result<String> {
    let (filled, told) = io::pipe()?;
    if fork()?.context("refused before there was a namespace")? == 0 {
        rests_with_parent();
        // SAFETY: no memory is involved.
        done(unsafe { libc::unshare(libc::CLONE_NEWPID) }, "unshare")?;
        if fork()?.context("refused before the namespace had anybody")? == 0 {
            rests_with_parent();
            fill(count_of, false)?;
            (&told).write_all(b"\n")?;
        }
        rest();
    }
    drop(told);
    (&filled).read_exact(&mut [0])?;
    Ok("done".to_owned())
}

/// Ends with its parent.
fn rests_with_parent() {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

fn rest() -> ! {
    loop {
        // SAFETY: no memory is involved.
        unsafe { libc::pause() };
    }
}

fn fill(most: u32, live: bool) -> Result<String> {
    for made in 0..most {
        match fork()? {
            Some(0) if live => {
                rests_with_parent();
                rest()
            }
            // SAFETY: ends the process without running anything at exit.
            Some(0) => unsafe { libc::_exit(0) },
            Some(child) => {
                if !live {
                    await_end(child)?;
                }
            }
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                return Ok(format!("refused {} {made}", now.as_nanos()));
            }
        }
    }
    Ok(format!("made {most}"))
}

/// Another real user, with the privileges that it had.
fn be_really(uid: u32) -> Result<()> {
    // SAFETY: no memory is involved; there is one thread.
    done(unsafe { libc::setresuid(uid, 0, 0) }, "setresuid").map(drop)
}

/// How many of them were refused.
fn count<T>(all: impl Iterator<Item = T>, fork: impl Fn(T) -> Result<Option<i32>>) -> Result<String> {
    let mut refused = 0;
    for one in all {
        match fork(one)? {
            // SAFETY: ends the process without running anything at exit.
            Some(0) => unsafe { libc::_exit(0) },
            Some(child) => drop(wait(child)?),
            None => refused += 1,
        }
    }
    Ok(format!("refused {refused}"))
}

fn linger(begun: &Path, end: &Path) -> Result<String> {
    let flags = libc::c_long::from(libc::CLONE_VFORK | libc::SIGCHLD);
    // SAFETY: there is one thread; without CLONE_VM the child has its own copy of this stack, and all pointers are null.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        0 => {
            let made = fs::write(begun, "");
            while made.is_ok() && !end.exists() {
                thread::sleep(Duration::from_millis(5));
            }
            process::exit(i32::from(made.is_err()));
        }
        -1 => Err(io::Error::last_os_error()).context("clone"),
        child => {
            ensure!(wait(child.try_into()?)? == 0, "{}: not made", begun.display());
            Ok("done".to_owned())
        }
    }
}

/// The child's pid, 0 in the child; `None` where it was refused.
fn fork() -> Result<Option<i32>> {
    // SAFETY: there is one thread.
    forked(unsafe { libc::fork() }.into())
}

/// The same with the child in another cgroup.
fn fork_into(folder: &File) -> Result<Option<i32>> {
    /// Of linux/sched.h.
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    // `struct clone_args`: flags, three descriptors and ids, the signal at its end, stacks and such, and the cgroup as its last.
    let mut arguments = [0_u64; 11];
    arguments[0] = CLONE_INTO_CGROUP;
    arguments[4] = u64::try_from(libc::SIGCHLD)?;
    arguments[10] = u64::try_from(folder.as_raw_fd())?;
    // SAFETY: there is one thread; without CLONE_VM the child has its own copy of this stack, and reads what it is given.
    forked(unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) })
}

fn forked(result: libc::c_long) -> Result<Option<i32>> {
    match result {
        -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) => Ok(None),
        -1 => Err(io::Error::last_os_error()).context("fork"),
        pid => Ok(Some(pid.try_into()?)),
    }
}

/// Waits until a child has ended, and leaves it a zombie.
fn await_end(pid: i32) -> Result<()> {
    let flags = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: no siginfo is asked for.
    let result = unsafe { libc::waitid(libc::P_PID, pid.cast_unsigned(), ptr::null_mut(), flags) };
    done(result, "waitid").map(drop)
}

fn wait(pid: i32) -> Result<i32> {
    let mut status = 0;
    // SAFETY: writes one int.
    let found = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    ensure!(found == pid, "waitpid({pid}): {}", io::Error::last_os_error());
    Ok(libc::WEXITSTATUS(status))
}
