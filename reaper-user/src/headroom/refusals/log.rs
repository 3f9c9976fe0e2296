//! The kernel's log, which says in which cgroup a fork was refused, the first time for each.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::Instant,
};

use super::Refusals;
use crate::headroom::{files::CgroupPath, refusal::Source};

/// What the kernel writes to its log.
const LOGGED: &[u8] = b"cgroup: fork rejected by pids controller in ";

pub(super) fn open_log() -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut log = File::options().read(true).custom_flags(flags).open(Path::new("/dev/kmsg"))?;
    log.seek(SeekFrom::End(0))?;
    Ok(log)
}

impl Refusals {
    pub(super) fn read_log(&mut self, now: Instant) {
        let Some(log) = &mut self.log else { return };
        let mut record = [0; 8_192];
        loop {
            match log.read(&mut record) {
                Ok(0) => return,
                Ok(length) => {
                    if let Some(path) = record.get(..length).and_then(logged_path) {
                        self.named = Some((now, Arc::clone(&path)));
                        self.poked.add(path, Source::KernelLog, now);
                    }
                }
                // Messages were overwritten before they were read; what comes after them follows.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.lost.overflowed += 1,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// The cgroup that a message of the kernel's log says a fork was refused in: `6,518,14333742033,-;cgroup: fork rejected by pids
/// controller in /pod/box`, with everything that is not printable as `\xNN`.
/// <https://docs.kernel.org/admin-guide/abi-testing.html> (`/dev/kmsg`)
pub(super) fn logged_path(record: &[u8]) -> Option<CgroupPath> {
    let line = record.split(|byte| *byte == b'\n').next()?;
    let at = line.iter().position(|byte| *byte == b';')? + 1;
    let mut rest = line.get(at..)?.strip_prefix(LOGGED)?;
    let mut path = Vec::with_capacity(rest.len());
    while let Some((byte, tail)) = rest.split_first() {
        let escaped = rest.strip_prefix(br"\x").and_then(|digits| std::str::from_utf8(digits.get(..2)?).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = &rest[4..];
            }
            None => {
                path.push(*byte);
                rest = tail;
            }
        }
    }
    (path.len() > 1 && path.starts_with(b"/")).then(|| path.into())
}
