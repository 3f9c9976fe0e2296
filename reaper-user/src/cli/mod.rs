//! The command line, one file a subcommand.

pub mod args;
mod check;
pub mod config;
mod explain;
mod headroom;
mod leaks;
mod log;
mod ls;
mod notify;
mod reap;
mod reload;
mod run;
mod session;
mod source;
mod top;
mod trace;
mod unload;
mod writer;

use std::{io, io::Write as _, process::ExitCode};

use self::args::{Command, CommandLine};
use crate::{
    config::{LogLevel, Natives},
    exit_code,
    kernel::Copying,
    origin::symbols::child,
    remedy::inject,
};

/// Why a command ended badly: an exit code and one line that says what to do.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: String) -> Self {
        Self { code, message }
    }

    /// Where privileges are what is missing: this is what they are missing for.
    fn or_rather(self, error: impl Into<Self>) -> Self {
        if self.code == exit_code::PERMISSION { error.into() } else { self }
    }
}

/// Does what the process's arguments say.
#[must_use]
pub fn main() -> ExitCode {
    // Not a command: how reaper starts the process that makes a holder wait. It is to be small, and reads no arguments.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == inject::ARGUMENT) {
        return inject::main();
    }
    // Nor this: how reaper starts the process that reads the files of others.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == child::ARGUMENT) {
        return child::main();
    }
    let line = match CommandLine::from_process() {
        Ok(line) => line,
        Err(code) => return code.into(),
    };
    let CommandLine { output, command } = line;
    let done = match command {
        Command::Run(args) => run::run(&args, output),
        Command::Trace(args) => trace::run(&args, output.unwrap_or_default()),
        Command::Ls(args) => ls::run(&args, output.unwrap_or_default()),
        Command::Explain(args) => explain::run(&args, output.unwrap_or_default()),
        Command::Leaks(args) => leaks::run(&args, output),
        Command::Headroom(args) => headroom::run(&args, output.unwrap_or_default()),
        Command::Top(args) => top::run(&args, output),
        Command::Reap(args) => reap::run(&args, output.unwrap_or_default()),
        Command::Check(args) => check::run(&args, output.unwrap_or_default()),
        Command::Config(args) => {
            config::run(&args.command, output.unwrap_or_default(), &mut io::stdout(), &mut io::stderr())
                .map_err(written)
        }
        Command::Unload(args) => unload::run(&args, output.unwrap_or_default()),
    };
    match done {
        Ok(code) => code.into(),
        Err(Failure { code, message }) => {
            if !message.is_empty() {
                // Nobody is left to tell where standard error is gone.
                let _unheard = writeln!(io::stderr(), "reaper: {message}");
            }
            code.into()
        }
    }
}

/// A reader that left is a clean end; anything else is said.
#[expect(clippy::needless_pass_by_value, reason = "made to be handed to map_err")]
fn written(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(exit_code::OK, String::new()),
        _ => Failure::new(exit_code::UNAVAILABLE, format!("writing to standard output: {error}")),
    }
}

/// Slots for every pid there can be, up to a bound.
fn pid_max() -> u32 {
    // Where it cannot be read, the largest that the kernel allows is assumed.
    std::fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(4_194_304)
}

fn start_log(level: LogLevel) -> log::Switch {
    log::start(level)
}

/// Of whose forks native stacks are taken, as the kernel side has it.
const fn copying(natives: Natives) -> Option<Copying> {
    match natives {
        Natives::Probation => Some(Copying::Probation),
        Natives::All => Some(Copying::All),
        Natives::Off => None,
    }
}
