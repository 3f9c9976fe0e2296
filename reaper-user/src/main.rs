//! The `reaper` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    reaper::cli::main()
}
