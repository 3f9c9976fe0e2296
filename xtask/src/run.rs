//! `cargo xtask run`: the daemon in the foreground, from nothing but stable Rust and the committed object.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::bail;

use crate::{command, root, workspace::Workspace};

/// Builds reaper for release and runs it as root: `reaper trace` unless told otherwise.
///
/// Examples: `cargo xtask run`, `cargo xtask run -- --age 1s` (flags go to trace), `cargo xtask run -- ls --output
/// json` (a subcommand replaces trace). Installs nothing. Where you are not root, sudo is asked for the run, not for the build.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A subcommand of reaper with its arguments, or flags of `reaper trace`.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    println!("run: building reaper (release)");
    command::run(workspace.cargo().args([
        "build",
        "--release",
        "--package",
        "reaper-user",
        "--bin",
        "reaper",
    ]))?;

    let mut reaper = if root::is_root() {
        Command::new(workspace.reaper())
    } else {
        println!("run: loading programs into the kernel needs root, so sudo is asked");
        let mut sudo = Command::new("sudo");
        sudo.arg("--").arg(workspace.reaper());
        sudo
    };
    reaper.args(arguments(&args.args));
    println!("run: {}", command::line(&reaper));
    // Replaces this process: Ctrl-C, the terminal and the exit code are then the daemon's own.
    let error = reaper.exec();
    bail!("could not start `{}`: {error}", command::line(&reaper));
}

fn arguments(given: &[OsString]) -> Vec<OsString> {
    let names_subcommand = given.first().is_some_and(|first| !first.as_encoded_bytes().starts_with(b"-"));
    let default = if names_subcommand { None } else { Some(OsString::from("trace")) };
    default.into_iter().chain(given.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(given: &[&str]) -> Vec<OsString> {
        arguments(&given.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn trace_is_what_runs_unless_a_subcommand_is_named() {
        assert_eq!(parsed(&[]), ["trace"]);
        assert_eq!(parsed(&["--age", "1s"]), ["trace", "--age", "1s"]);
        assert_eq!(parsed(&["ls", "--output", "json"]), ["ls", "--output", "json"]);
    }
}
