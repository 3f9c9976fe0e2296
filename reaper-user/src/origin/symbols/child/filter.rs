//! The system calls that the symbolizing process may make, as a seccomp filter: memory, its socket, its end. It can open nothing.

/// What a filter's instruction is made of: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf_common.h>
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

/// `struct seccomp_data`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/seccomp.h>
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const THIRD_ARGUMENT: u32 = 32;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;

/// Fails with this error, as for a descriptor that is closed: what a panic writes goes nowhere.
const REFUSE: u32 = 0x0005_0000 | 9;

/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/audit.h>
const OURS: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

/// What the allocator, the socket and the standard library need. Of files only what is open already.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    // The standard library makes sure of each descriptor that it closes, where it is built for that.
    #[cfg(debug_assertions)]
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sigaltstack,
];

/// Allowed where the third argument does not ask for executable memory.
const NEVER_EXECUTABLE: &[libc::c_long] = &[libc::SYS_mmap, libc::SYS_mprotect];

/// What a panic does.
const REFUSED: &[libc::c_long] = &[libc::SYS_write, libc::SYS_writev];

/// The filter.
pub(super) fn program() -> Vec<libc::sock_filter> {
    let mut program = vec![
        statement(LOAD, ARCHITECTURE),
        jump(JUMP_EQUAL, OURS, 1, 0),
        statement(RETURN, KILL),
        // x32's numbers have a bit more, and are in none of the lists.
        statement(LOAD, NUMBER),
    ];
    let number = |call: &libc::c_long| u32::try_from(*call).unwrap_or(u32::MAX);
    for (calls, verdict) in [(ALLOWED, ALLOW), (REFUSED, REFUSE)] {
        for call in calls {
            program.extend([jump(JUMP_EQUAL, number(call), 0, 1), statement(RETURN, verdict)]);
        }
    }
    for call in NEVER_EXECUTABLE {
        let executable = libc::PROT_EXEC.unsigned_abs();
        program.extend([
            jump(JUMP_EQUAL, number(call), 0, 4),
            statement(LOAD, THIRD_ARGUMENT),
            jump(JUMP_SET, executable, 0, 1),
            statement(RETURN, KILL),
            statement(RETURN, ALLOW),
        ]);
    }
    program.push(statement(RETURN, KILL));
    program
}

const fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter returns, by the few instructions it is made of.
    fn verdict(call: libc::c_long, third: u32, architecture: u32) -> u32 {
        let program = program();
        let (mut at, mut loaded) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                LOAD => {
                    loaded = match k {
                        NUMBER => u32::try_from(call).unwrap(),
                        ARCHITECTURE => architecture,
                        THIRD_ARGUMENT => third,
                        _ => panic!("{k}"),
                    };
                }
                JUMP_EQUAL => at += jump(loaded == k),
                JUMP_SET => at += jump(loaded & k != 0),
                RETURN => return k,
                _ => panic!("{code}"),
            }
        }
    }

    #[test]
    fn nothing_can_be_opened_started_or_made_executable() {
        for call in [
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_ptrace,
            libc::SYS_kill,
            libc::SYS_process_vm_readv,
            libc::SYS_io_uring_setup,
            libc::SYS_bpf,
            libc::SYS_prctl,
        ] {
            assert_eq!(verdict(call, 0, OURS), KILL, "{call}");
        }
        let executable = libc::PROT_EXEC.unsigned_abs() | 1;
        assert_eq!(verdict(libc::SYS_mmap, executable, OURS), KILL);
        assert_eq!(verdict(libc::SYS_mprotect, executable, OURS), KILL);
        assert_eq!(verdict(libc::SYS_mmap, 1, OURS), ALLOW);
        assert_eq!(verdict(libc::SYS_recvmsg, 0, OURS), ALLOW);
        assert_eq!(verdict(libc::SYS_write, 0, OURS), REFUSE);
        // The numbers of 32-bit processes are others; those of x32 have a bit more.
        assert_eq!(verdict(libc::SYS_read, 0, 0x4000_0003), KILL);
        assert_eq!(verdict(libc::SYS_read | 0x4000_0000, 0, OURS), KILL);
    }
}
