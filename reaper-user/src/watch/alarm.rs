//! An alarm on the boot clock: unlike a runtime's timers it counts the time that the machine sleeps, and wakes nobody
//! before it is due.

#![expect(unsafe_code, reason = "tokio wants a promise that a descriptor stays open while it is watched")]

use std::{io, os::fd::OwnedFd};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::identity::BootTime;

/// Goes off once each time it is set.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: AsyncFd<OwnedFd>,
}

impl Alarm {
    /// Not set. Must be called inside a runtime.
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: the descriptor is owned by what is made here, for as long as it is watched.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }
            .map_err(|error| error.into_parts().1)?;
        Ok(Self { timer })
    }

    /// Sets it to `when`; at once where that is past.
    pub(super) fn set(&self, when: BootTime) -> io::Result<()> {
        // Zero would mean never.
        let nanoseconds = i64::try_from(when.0.max(1)).unwrap_or(i64::MAX);
        let it_value = Timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
        Ok(())
    }

    /// Waits until it goes off.
    pub(super) async fn goes_off(&self) -> io::Result<()> {
        loop {
            let mut guard = self.timer.readable().await?;
            let mut count = [0; 8];
            match guard.try_io(|timer| Ok(rustix::io::read(timer, &mut count)?)) {
                Ok(read) => return read.map(drop),
                // It was set anew in between.
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kernel::boot_now;

    #[test]
    fn it_goes_off_when_it_is_due_and_not_before() {
        tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(async {
            let alarm = Alarm::new().unwrap();
            let due = boot_now().plus(Duration::from_millis(30));
            alarm.set(boot_now().plus(Duration::from_secs(60))).unwrap();
            alarm.set(due).unwrap();
            alarm.goes_off().await.unwrap();
            assert!(boot_now() >= due);
            alarm.set(BootTime(0)).unwrap();
            alarm.goes_off().await.unwrap();
        });
    }
}
