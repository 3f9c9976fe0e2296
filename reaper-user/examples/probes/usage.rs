//! CPU time of this process and of its children that were waited for.
#![expect(unsafe_code, reason = "getrusage has no safe wrapper among our dependencies")]

use std::time::Duration;

/// User and system time, of both.
pub(crate) fn cpu() -> Duration {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].into_iter().map(of).sum()
}

fn of(who: libc::c_int) -> Duration {
    // SAFETY: an all-zero rusage is valid, and getrusage writes one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &raw mut usage);
        usage
    };
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
}
