//! `reaper unload`: removes what a daemon that has ended left in the kernel.

use std::io::{self, Write as _};

use serde::Serialize;

use super::{Failure, args::UnloadArgs, start_log, written};
use crate::{
    config::{LogLevel, Output, shown},
    exit_code, kernel,
    lock::{Lock, directory},
    report::SCHEMA,
    text::Untrusted,
};

/// One line of JSON.
#[derive(Debug, Serialize)]
struct Line {
    schema: u32,
    event: &'static str,
    path: Untrusted,
}

/// Removes it, unless a daemon runs: what that records would be lost without a word.
pub(super) fn run(args: &UnloadArgs, output: Output) -> Result<u8, Failure> {
    start_log(LogLevel::Warn);
    let path = args.pin_path.get();
    // Held until it is done: no daemon starts meanwhile.
    let _lock = Lock::take(&directory())?;
    let removed = kernel::unload(path)?;
    let mut text = String::new();
    for path in &removed {
        let path = Untrusted::from(path.as_str());
        match output {
            Output::Json => {
                let line = Line { schema: SCHEMA, event: "unloaded", path };
                text.push_str(&serde_json::to_string(&line).map_err(|error| written(error.into()))?);
            }
            Output::Human => text.push_str(&format!("removed {path}")),
        }
        text.push('\n');
    }
    if removed.is_empty() && output == Output::Human {
        text = format!("nothing is pinned under {}\n", shown(path));
    }
    io::stdout().write_all(text.as_bytes()).map_err(written)?;
    Ok(exit_code::OK)
}
