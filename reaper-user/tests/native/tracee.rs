//! A program that is stopped at its fork, and what a kernel program would capture there, taken by ptrace.
#![expect(unsafe_code, reason = "there is no safe interface to ptrace")]

use std::{
    ffi::OsStr,
    fs,
    io::{Error, IoSliceMut},
    mem::{MaybeUninit, zeroed},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use reaper::{
    identity::{BootTime, Identity},
    origin::{
        native::{PT_REGS, Registers},
        symbols::message::STACK,
    },
    proc::Proc,
};

/// A program at its fork, and all that it forked. Killed at the end.
pub(crate) struct Tracee {
    child: Child,
    /// Who it is.
    pub(crate) identity: Identity,
    /// Its registers.
    pub(crate) registers: Registers,
    /// Its stack from the stack pointer on.
    pub(crate) stack: Vec<u8>,
}

impl Tracee {
    /// Runs a program until it forks for the `nth` time.
    pub(crate) fn at_fork(program: &Path, arguments: &[impl AsRef<OsStr>], nth: usize) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: Makes one system call.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(Error::last_os_error()),
            });
        }
        let child = command.spawn().unwrap();
        let pid = child.id();
        let mut tracee = Self {
            child,
            identity: Identity { pid, start: BootTime(0) },
            registers: Registers::default(),
            stack: Vec::new(),
        };
        let mut left = nth;
        let mut is_set_up = false;
        loop {
            let (thread, status) = next_stop();
            if thread == pid && libc::WIFEXITED(status) {
                panic!("{} ended without a fork", program.display());
            }
            if !libc::WIFSTOPPED(status) {
                continue;
            }
            if !is_set_up {
                let options = libc::PTRACE_O_EXITKILL
                    | libc::PTRACE_O_TRACEFORK
                    | libc::PTRACE_O_TRACEVFORK
                    | libc::PTRACE_O_TRACECLONE;
                request(libc::PTRACE_SETOPTIONS, thread, options.cast_unsigned() as usize);
                is_set_up = true;
            }
            let event = status >> 16;
            let forks = [libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_CLONE];
            if forks.contains(&event) && thread_group(thread) == pid {
                let born = message(thread);
                if thread_group(born) == born {
                    left -= 1;
                }
                if left == 0 {
                    tracee.capture(thread);
                    return tracee;
                }
            }
            let signal = libc::WSTOPSIG(status);
            let is_ptrace = event != 0 || signal == libc::SIGTRAP || signal == libc::SIGSTOP;
            request(libc::PTRACE_CONT, thread, if is_ptrace { 0 } else { signal.cast_unsigned() as usize });
        }
    }

    fn capture(&mut self, thread: u32) {
        self.identity.start = Proc::at("/proc").see(self.identity.pid).unwrap().start();
        // SAFETY: Numbers.
        let mut registers: libc::user_regs_struct = unsafe { zeroed() };
        request(libc::PTRACE_GETREGS, thread, (&raw mut registers) as usize);
        // SAFETY: As many words, in the order of `pt_regs`; what follows are segments.
        let words: [u64; PT_REGS] = unsafe { *(&raw const registers).cast() };
        self.registers = Registers::from_pt_regs(&words).unwrap();
        // Page by page, as a kernel program does.
        let mut at = self.registers.sp();
        while self.stack.len() < STACK {
            let to_page_end = usize::try_from(4096 - (at & 4095)).unwrap();
            let length = to_page_end.min(STACK - self.stack.len());
            let mut page = vec![0; length];
            let read = read_memory(self.identity.pid, at, &mut page);
            self.stack.extend(&page[..read]);
            if read < length {
                break;
            }
            at += length as u64;
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        for end in ["", "-elsewhere"] {
            // Where it has written any.
            let _none = fs::remove_file(format!("/tmp/perf-{}.map{end}", self.identity.pid));
        }
        // What it forked is traced too, and must not be left as a zombie of this thread.
        let mut status = 0;
        loop {
            // SAFETY: The status outlives the call.
            let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
            if thread <= 0 {
                break;
            }
            if libc::WIFSTOPPED(status) {
                // SAFETY: A thread that this one traces and that stands.
                unsafe { libc::kill(thread, libc::SIGKILL) };
                // SAFETY: The same; it may be dead by now.
                unsafe { libc::ptrace(libc::PTRACE_CONT, thread, 0, libc::SIGKILL) };
            }
        }
    }
}

fn next_stop() -> (u32, i32) {
    let mut status = 0;
    // Only what this thread traces: other tests run in other threads.
    // SAFETY: The status outlives the call.
    let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    assert!(thread > 0, "{}", Error::last_os_error());
    (thread.cast_unsigned(), status)
}

fn request(request: libc::c_uint, thread: u32, data: usize) {
    // SAFETY: What data points to, where it does, outlives the call.
    let done = unsafe { libc::ptrace(request, thread.cast_signed(), 0, data) };
    assert_eq!(done, 0, "{}", Error::last_os_error());
}

fn message(thread: u32) -> u32 {
    let mut message = MaybeUninit::<libc::c_ulong>::zeroed();
    request(libc::PTRACE_GETEVENTMSG, thread, message.as_mut_ptr() as usize);
    // SAFETY: Zeroed at least.
    unsafe { message.assume_init() }.try_into().unwrap()
}

fn thread_group(thread: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.map_or(0, |tgid| tgid.trim().parse().unwrap())
}

fn read_memory(pid: u32, at: u64, into: &mut [u8]) -> usize {
    let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: into.len() };
    let mut local = [IoSliceMut::new(into)];
    // SAFETY: An IoSliceMut is an iovec, and outlives the call.
    let read = unsafe {
        libc::process_vm_readv(pid.cast_signed(), local.as_mut_ptr().cast(), 1, &raw const remote, 1, 0)
    };
    usize::try_from(read).unwrap_or(0)
}
