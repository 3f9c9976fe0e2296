//! What the kernel side says of itself: notices by ring buffer, and its own log lines.

#![expect(unsafe_code, reason = "tokio wants a promise that a descriptor stays open while it is watched")]

use std::{io, os::fd::AsRawFd as _};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use reaper_ebpf::{Notice, WORDS};
use tokio::io::{Interest, unix::AsyncFd};

use super::{KernelError, low};

/// The ring buffer with the kernel's notices.
pub struct Notices(AsyncFd<RingBuf<MapData>>);

impl Notices {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, KernelError> {
        // SAFETY: the ring buffer owns its map's descriptor, hands out no other, and is owned by what is made here.
        unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map(Self)
            .map_err(|error| KernelError::system("watching the ring buffer", error.into_parts().1))
    }

    /// Waits until there are some and takes out all that are there.
    pub async fn next(&mut self) -> Result<Vec<Notice>, KernelError> {
        let mut guard = self
            .0
            .readable_mut()
            .await
            .map_err(|error| KernelError::system("watching the ring buffer", error))?;
        let mut notices = Vec::new();
        while let Some(bytes) = guard.get_inner_mut().next() {
            if let Some(parts) = bytes.as_chunks::<8>().0.first_chunk::<{ 3 + WORDS }>() {
                let [who, id, time, words @ ..] = parts.map(u64::from_ne_bytes);
                notices.push(Notice { kind: low(who), number: low(who >> 32), id, time, words });
            }
        }
        guard.clear_ready();
        Ok(notices)
    }
}

/// The object's own log lines.
pub struct LogLines(AsyncFd<EbpfLogger<&'static dyn log::Log>>);

impl LogLines {
    pub(super) fn new(logger: EbpfLogger<&'static dyn log::Log>) -> io::Result<Self> {
        tracing::trace!(descriptor = logger.as_raw_fd(), "the kernel side's log");
        // SAFETY: as above: the logger owns the ring buffer that owns the descriptor.
        unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map(Self)
            .map_err(|error| error.into_parts().1)
    }

    /// Waits until there are some and passes them on to the daemon's log.
    pub async fn pass_on(&mut self) {
        if let Ok(mut guard) = self.0.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
