//! Root, when a step needs it and only for that step.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
};

use anyhow::bail;

/// Whether this process has the effective user id 0.
pub(crate) fn is_root() -> bool {
    // The kernel makes the effective user the owner of /proc/self; std has no geteuid.
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// A command that runs as root, through sudo where we are not, without a question at the terminal.
pub(crate) fn command(program: &str) -> anyhow::Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if !sudo_answers() {
        bail!(
            "the next step, `{program}`, has to run as root, and `sudo -n` does not work here: run `sudo -v` first \
             so that sudo remembers you, or start this task as root"
        );
    }
    Ok(through_sudo(program))
}

/// The same where root can be had, else as we are.
pub(crate) fn command_if_possible(program: &str) -> Command {
    command(program).unwrap_or_else(|_| Command::new(program))
}

fn through_sudo(program: &str) -> Command {
    let mut command = Command::new("sudo");
    command.args(["-n", "--", program]);
    command
}

fn sudo_answers() -> bool {
    through_sudo("true")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
