//! The release build: one for what the live tests run, what the virtual machines boot and what is shipped, so that all of it is compiled
//! once and what is shipped is what was tested.
//!
//! Which features a dependency has depends on everything that one cargo invocation names. Two that name different things compile
//! nearly all of it twice: here is the only one.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{aarch64, command, vm::Arch, workspace::Workspace};

/// PID 1 of the virtual machines, a program of xtask.
pub(crate) const INIT: &str = "vm-init";

/// What is shipped, a program of reaper-user.
pub(crate) const DAEMON: &str = "reaper";

/// Examples of reaper-user: the workloads of the tests,
const WORKLOADS: [&str; 4] = ["careless", "churn", "forker", "holder"];

/// and what writes man pages and shell completions.
pub(crate) const REFERENCE: &str = "reference";

/// The integration test of reaper-user for virtual machines.
pub(crate) const VM_TEST: &str = "vm";

/// The same where systemd is PID 1.
pub(crate) const SYSTEMD_TEST: &str = "systemd";

/// What was built: every program is statically linked, and the examples are in `examples` beside the daemon.
pub(crate) struct Release {
    /// What cargo said, a JSON object a line.
    messages: String,
}

impl Release {
    /// Builds it in a target directory of its own, so that no other build is thrown away.
    ///
    /// `object`: what reaper loads, where that is not the committed object.
    pub(crate) fn build(
        workspace: &Workspace,
        arch: Arch,
        object: Option<&Path>,
        deadline: Option<Instant>,
    ) -> Result<Self> {
        let mut cargo = cargo(workspace, arch, object)?;
        cargo
            .args(["--package", "xtask", "--bin", INIT, "--package", "reaper-user", "--bin", DAEMON])
            .args(WORKLOADS.iter().chain(&[REFERENCE]).flat_map(|name| ["--example", name]))
            .args(["--test", VM_TEST, "--test", SYSTEMD_TEST]);
        Ok(Self { messages: command::output_until(&mut cargo, deadline)? })
    }

    /// Builds the daemon alone, for an architecture that no tier tests.
    pub(crate) fn daemon(
        workspace: &Workspace,
        arch: Arch,
        object: Option<&Path>,
        deadline: Option<Instant>,
    ) -> Result<Self> {
        let mut cargo = cargo(workspace, arch, object)?;
        cargo.args(["--package", "reaper-user", "--bin", DAEMON]);
        Ok(Self { messages: command::output_until(&mut cargo, deadline)? })
    }

    /// Where a program is, by the name that it has above.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        executable(&self.messages, name).with_context(|| format!("cargo did not say where `{name}` is"))
    }
}

/// A cargo that builds what is still to be named, statically linked.
fn cargo(workspace: &Workspace, arch: Arch, object: Option<&Path>) -> Result<Command> {
    let mut cargo = match arch {
        Arch::X86 => {
            let mut cargo = workspace.cargo();
            cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
            // It would take precedence.
            cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
            cargo
        }
        Arch::Aarch64 => aarch64::cargo(workspace, "-Ctarget-feature=+crt-static")?,
    };
    cargo
        // With a target named, build scripts and procedural macros are spared the flag, which they cannot bear.
        .env("CARGO_BUILD_TARGET", arch.target())
        .env("CARGO_TARGET_DIR", workspace.target().join(format!("static{}", arch.suffix())))
        // Minutes for every program, and nothing that a kernel could notice.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .envs(object.map(|object| ("REAPER_BPF_OBJECT", object)))
        .args(["build", "--locked", "--release", "--message-format=json-render-diagnostics"])
        // Line numbers of our own code are enough to find a crash by, and what is shipped has none. Not in Cargo.toml: there it changes
        // the names of symbols in the BPF object.
        .args(["--config", "profile.release.package.'*'.debug=false"]);
    Ok(cargo)
}

/// Where cargo has put a program: a test's name has a hash in it.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_cargos_messages_and_libraries_of_their_name_are_not() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"reaper\"},\"executable\":null}\n",
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"reaper\"},\"executable\":\"/t/reaper\"}\n",
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"vm\"},\"executable\":\"/t/vm-1\"}\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n",
        );
        assert_eq!(executable(messages, "reaper"), Some("/t/reaper".into()));
        assert_eq!(executable(messages, "vm"), Some("/t/vm-1".into()));
        assert_eq!(executable(messages, "holder"), None);
    }
}
