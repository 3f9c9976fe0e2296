//! The daemon's own log: `tracing` to standard error, the kernel side's lines included.

use std::io;

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config::LogLevel;

/// Starts it. `RUST_LOG` wins over `level`.
pub(super) fn start(level: LogLevel) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level.as_str()));
    let started = fmt()
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .with_env_filter(filter)
        .finish()
        .try_init();
    // Only a second start in one process can fail, and then there is a log already.
    let _already = started;
}
