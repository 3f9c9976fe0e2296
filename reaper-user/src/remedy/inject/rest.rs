//! Where a thread rests: which system calls go on as if nothing had been, and which end early. From a table that was
//! measured, call by call; what is not in it counts as one that ends early.

use super::arch::INTERRUPTED;

/// How a call goes on after its thread was stopped and let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rest {
    /// As if nothing had been.
    Exact,
    /// It ends with EINTR, unless it is made again, which is the same: it has no timeout.
    Untimed,
    /// It is not in a call.
    Running,
    /// It ends early with EINTR, as it does when a debugger attaches; or nothing is known of it.
    Timed,
}

/// A call without a timeout in the place that is looked at.
const NONE: u64 = 0;

/// The same where it is a number of milliseconds.
const INFINITE: u32 = u32::MAX;

/// Marks a set of arguments behind a pointer, which may hold a timeout.
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/io_uring.h>
const IORING_ENTER_EXT_ARG: u64 = 1 << 3;

/// How a thread that is blocked in this call would go on, as far as its arguments tell. A socket's own timeout is not among them.
#[must_use]
pub fn expected(call: i64, arguments: [u64; 6]) -> Rest {
    let [_, second, third, fourth, fifth, _] = arguments;
    // The kernel takes 32 bits of an int.
    #[expect(clippy::cast_possible_truncation, reason = "the kernel takes so many of an int")]
    let int = |value: u64| value as u32;
    match call {
        libc::SYS_nanosleep
        | libc::SYS_clock_nanosleep
        | libc::SYS_pselect6
        | libc::SYS_ppoll
        | libc::SYS_read
        | libc::SYS_write
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_openat
        | libc::SYS_wait4
        | libc::SYS_waitid
        | libc::SYS_rt_sigsuspend
        | libc::SYS_flock
        // One of these that was stopped before, and goes on.
        | libc::SYS_restart_syscall
        | libc::SYS_msgrcv => Rest::Exact,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select | libc::SYS_poll | libc::SYS_open | libc::SYS_pause => Rest::Exact,
        // Waiting, by value or by bits; not for a lock with inheritance.
        libc::SYS_futex if matches!(second & 0x7f, 0 | 9) => Rest::Exact,
        // For a lock of a file, the process's or the open file's.
        libc::SYS_fcntl if matches!(second, 7 | 38) => Rest::Exact,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait if int(fourth) == INFINITE => Rest::Untimed,
        libc::SYS_epoll_pwait if int(fourth) == INFINITE => Rest::Untimed,
        libc::SYS_epoll_pwait2 if fourth == NONE => Rest::Untimed,
        libc::SYS_rt_sigtimedwait if third == NONE => Rest::Untimed,
        libc::SYS_semop => Rest::Untimed,
        libc::SYS_semtimedop if fourth == NONE => Rest::Untimed,
        libc::SYS_io_getevents if fifth == NONE => Rest::Untimed,
        // Nothing to submit, so that making it again does nothing twice.
        libc::SYS_io_uring_enter if second == 0 && fourth & IORING_ENTER_EXT_ARG == 0 => Rest::Untimed,
        _ => Rest::Timed,
    }
}

/// How a thread that was stopped in this call, with this result, goes on.
#[must_use]
pub fn stopped(call: u64, arguments: [u64; 6], result: i64) -> Rest {
    if result != INTERRUPTED {
        return Rest::Exact;
    }
    match expected(i64::try_from(call).unwrap_or(-1), arguments) {
        Rest::Untimed => Rest::Untimed,
        // One that is made again by itself and was interrupted all the same: by a timeout of its socket, or by its own doing.
        _ => Rest::Timed,
    }
}

/// With what the kernel means a call that was interrupted to be made again, where its arguments tell and the registers do not. `None`
/// of all but those that go on exactly.
#[must_use]
pub fn restart(call: i64, arguments: [u64; 6]) -> Option<i64> {
    /// ERESTARTSYS, ERESTARTNOHAND, `ERESTART_RESTARTBLOCK`.
    const UNLESS_HANDLED_SO: i64 = -512;
    const UNLESS_HANDLED: i64 = -514;
    const BY_ANOTHER_CALL: i64 = -516;
    const TIMER_ABSTIME: u64 = 1;
    let [_, second, _, fourth, ..] = arguments;
    if expected(call, arguments) != Rest::Exact {
        return None;
    }
    Some(match call {
        libc::SYS_nanosleep | libc::SYS_restart_syscall => BY_ANOTHER_CALL,
        // kernel/time/hrtimer.c (`hrtimer_nanosleep`)
        libc::SYS_clock_nanosleep if second & TIMER_ABSTIME == 0 => BY_ANOTHER_CALL,
        // With a time to wait for. kernel/futex/waitwake.c (`futex_wait`)
        libc::SYS_futex if fourth != NONE => BY_ANOTHER_CALL,
        // fs/select.c (`poll_select_finish`), kernel/signal.c (`sigsuspend`), ipc/msg.c (`do_msgrcv`)
        libc::SYS_clock_nanosleep
        | libc::SYS_ppoll
        | libc::SYS_pselect6
        | libc::SYS_rt_sigsuspend
        | libc::SYS_msgrcv => UNLESS_HANDLED,
        _ => UNLESS_HANDLED_SO,
    })
}

/// Calls that go on by `restart_syscall`, which a filter may deny to a thread.
#[must_use]
pub fn goes_on_by_another_call(call: i64) -> bool {
    match call {
        libc::SYS_nanosleep | libc::SYS_clock_nanosleep | libc::SYS_futex | libc::SYS_restart_syscall => true,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll => true,
        _ => false,
    }
}

/// Calls on a socket that has a timeout of its own end with EINTR. Says which of the two timeouts is asked for.
#[must_use]
pub const fn socket_timeout(call: i64) -> Option<SocketTimeout> {
    match call {
        libc::SYS_read | libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_accept | libc::SYS_accept4 => {
            Some(SocketTimeout::Receive)
        }
        libc::SYS_write => Some(SocketTimeout::Send),
        _ => None,
    }
}

/// `SO_RCVTIMEO` or `SO_SNDTIMEO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketTimeout {
    /// Of what is received.
    Receive,
    /// Of what is sent.
    Send,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_whose_arguments_prove_that_they_have_no_timeout_are_made_again() {
        let wait = |timeout: u64| expected(libc::SYS_epoll_pwait, [4, 0, 64, timeout, 0, 8]);
        assert_eq!(wait(u64::MAX), Rest::Untimed);
        assert_eq!(wait(0xffff_ffff), Rest::Untimed, "an int in a register of 64 bits");
        assert_eq!(wait(800), Rest::Timed);
        assert_eq!(expected(libc::SYS_rt_sigtimedwait, [1, 0, 0, 8, 0, 0]), Rest::Untimed);
        assert_eq!(expected(libc::SYS_rt_sigtimedwait, [1, 0, 0x7fff_0000, 8, 0, 0]), Rest::Timed);
        assert_eq!(expected(libc::SYS_io_uring_enter, [3, 0, 1, 1, 0, 0]), Rest::Untimed);
        assert_eq!(expected(libc::SYS_io_uring_enter, [3, 1, 1, 1, 0, 0]), Rest::Timed);
        assert_eq!(expected(libc::SYS_io_uring_enter, [3, 0, 1, 1 | 8, 0x7fff, 24]), Rest::Timed);
        assert_eq!(expected(libc::SYS_connect, [3, 0, 16, 0, 0, 0]), Rest::Timed, "not in the table");
        assert_eq!(expected(libc::SYS_futex, [0, 128, 2, 0, 0, 0]), Rest::Exact);
        assert_eq!(expected(libc::SYS_futex, [0, 6, 2, 0, 0, 0]), Rest::Timed, "a lock with inheritance");
    }

    #[test]
    fn a_result_that_is_there_is_kept_and_an_interruption_is_judged_by_the_call() {
        let number = |call: i64| u64::try_from(call).unwrap();
        assert_eq!(stopped(number(libc::SYS_read), [0; 6], -512), Rest::Exact);
        assert_eq!(stopped(number(libc::SYS_close), [0; 6], 0), Rest::Exact);
        assert_eq!(stopped(number(libc::SYS_semop), [0; 6], INTERRUPTED), Rest::Untimed);
        assert_eq!(stopped(number(libc::SYS_recvfrom), [0; 6], INTERRUPTED), Rest::Timed);
        assert_eq!(stopped(number(libc::SYS_close), [0; 6], INTERRUPTED), Rest::Timed);
    }
}
