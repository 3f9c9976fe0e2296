//! `reaper explain`: all that is known of one pid, from the running daemon, else what a census can say.

use std::{fs, path::Path};

use jiff::Timestamp;

use super::{Failure, args::ExplainArgs, ls, source::daemon_else_census, start_log, written};
use crate::{
    config::{LogLevel, Output},
    control, exit_code,
    proc::{Proc, ReadError},
    report::{Explained, ExplanationEvent, Reporter, What, numbered},
};

/// Explains it.
pub(super) fn run(args: &ExplainArgs, output: Output) -> Result<u8, Failure> {
    start_log(LogLevel::Warn);
    let pid = args.pid;
    let (source, explained) = daemon_else_census(control::explain(&control::socket(), pid), || census(pid))?;
    let (what, message) = about(pid, &explained, &Proc::at("/proc"));
    let zombies = explained.zombies.len();
    let head = ExplanationEvent {
        time: Timestamp::now(),
        pid,
        what,
        source,
        zombies,
        message: message.as_str().into(),
    };
    Reporter::stdout(output).without_head().explanation(&head, &explained).map_err(written)?;
    Ok(if what == What::None { exit_code::UNAVAILABLE } else { exit_code::OK })
}

fn census(pid: u32) -> Result<Explained, Failure> {
    let mut zombies = ls::census()?;
    let itself = zombies.iter().any(|zombie| zombie.pid == pid);
    zombies.retain(|zombie| if itself { zombie.pid == pid } else { zombie.holder.pid == pid });
    Ok(Explained { zombies, ..Explained::default() })
}

/// What a pid is, and a sentence that says so.
fn about(pid: u32, explained: &Explained, proc: &Proc) -> (What, String) {
    let known = explained.zombies.as_slice();
    match known {
        [zombie, ..] if zombie.pid == pid => {
            return (What::Zombie, format!("pid {pid} is a zombie"));
        }
        [first, ..] => {
            let name = first.holder.comm.as_ref().map(|comm| format!(" ({comm})")).unwrap_or_default();
            let zombies = numbered(known.len(), "zombie", "zombies");
            return (What::Holder, format!("pid {pid}{name} lives, and holds {zombies}"));
        }
        [] => {}
    }
    match proc.see(pid) {
        Err(ReadError::Gone(_)) => (What::None, format!("there is no process with pid {pid} (any more)")),
        Err(error) => (
            What::Process,
            format!("pid {pid} is no zombie and holds none; it could not be looked at: {error}"),
        ),
        Ok(seen) if seen.tgid != pid => (
            What::Process,
            format!("pid {pid} is a thread of process {} ({}): ask about that", seen.tgid, seen.comm),
        ),
        // /proc shows the state of the first thread.
        Ok(seen) if seen.state == 'Z' && threads(&proc.of(pid)) > 1 => {
            let message = format!(
                "pid {pid} ({}) is no zombie: its first thread has ended, which shows as Z, but others live",
                seen.comm
            );
            (What::Process, message)
        }
        Ok(seen) if seen.state == 'Z' => (
            What::Process,
            format!(
                "pid {pid} ({}) has ended, and was not a zombie when it was asked about: ask again",
                seen.comm
            ),
        ),
        Ok(seen) => (
            What::Process,
            format!("pid {pid} ({}) is no zombie: it lives (state {}) and holds none", seen.comm, seen.state),
        ),
    }
}

fn threads(process: &Path) -> usize {
    fs::read_dir(process.join("task")).map_or(0, Iterator::count)
}
