//! The daemon's own log: `tracing` to standard error, the kernel side's lines included.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    param::page_size,
};
use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config::LogLevel;

/// Sets another level while the program runs.
#[derive(Default)]
pub(super) struct Switch(Option<Box<dyn Fn(LogLevel)>>);

impl Switch {
    pub(super) fn set(&self, level: LogLevel) {
        match &self.0 {
            Some(set) => set(level),
            None => tracing::warn!("the log's level is RUST_LOG's and is kept"),
        }
    }
}

/// Starts it. `RUST_LOG` wins over `level`, and over every later one.
pub(super) fn start(level: LogLevel) -> Switch {
    let from_environment = EnvFilter::try_from_default_env().ok();
    let fixed = from_environment.is_some();
    let filter = from_environment.unwrap_or_else(|| filter(level));
    let subscriber = fmt()
        .with_writer(|| Patchy { to: io::stderr(), missing: &MISSING })
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        // Such an error would be told on standard error, which is what it is about, and with a panic.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    // Only a second start in one process can fail, and then there is a log already.
    let _already = subscriber.finish().try_init();
    if fixed {
        return Switch::default();
    }
    Switch(Some(Box::new(move |level| {
        if let Err(error) = handle.reload(self::filter(level)) {
            tracing::error!(%error, "the log's level could not be changed");
        }
    })))
}

fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(level.as_str())
}

/// Lines that nobody had room for since one was written.
static MISSING: AtomicU64 = AtomicU64::new(0);

/// A log that leaves lines out, and says how many, rather than wait for whoever does not read it: the pipeline, which
/// is what writes most of them, must not stand still for that.
struct Patchy<'a, D> {
    to: D,
    missing: &'a AtomicU64,
}

impl<D: Write + AsFd> Write for Patchy<'_, D> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let missing = self.missing.load(Relaxed);
        let notice = format!("{missing} lines of the log are missing here: nobody read it\n");
        let notice: &[u8] = if missing > 0 { notice.as_bytes() } else { &[] };
        // A pipe that takes anything takes a page.
        for part in notice.chunks(page_size()).chain(line.chunks(page_size())) {
            if !has_room(&self.to) {
                self.missing.fetch_add(1, Relaxed);
                return Ok(line.len());
            }
            self.to.write_all(part)?;
        }
        self.missing.fetch_sub(missing, Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn has_room(to: &impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Where it cannot be told, the write will say.
    poll(&mut [PollFd::new(to, PollFlags::OUT)], Some(&now)) != Ok(0)
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up_and_says_what_is_missing() {
        let missing = AtomicU64::new(0);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut log = Patchy { to: ours, missing: &missing };
        let line = [b'x'; 1024];
        for _ in 0..10_000 {
            assert_eq!(log.write(&line).unwrap(), line.len());
        }
        let lost = missing.load(Relaxed);
        assert!((1..10_000).contains(&lost), "{lost}");
        let mut written = vec![0; (10_000 - usize::try_from(lost).unwrap()) * line.len()];
        theirs.read_exact(&mut written).unwrap();
        log.write_all(b"again\n").unwrap();
        drop(log);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{lost} lines of the log are missing here: nobody read it\nagain\n"));
        assert_eq!(missing.load(Relaxed), 0);
    }
}
