//! The lint tier: all checks run, so that one round shows everything there is to mend.

use std::process::Command;

use anyhow::bail;

use super::Session;
use crate::{aarch64, build_ebpf, command};

pub(super) fn run(session: &mut Session<'_>) -> anyhow::Result<()> {
    let workspace = session.workspace;
    let mut failed = Vec::new();
    let mut check = |name, result: anyhow::Result<()>| {
        if let Err(error) = result {
            println!("test: {name}: {error:#}");
            failed.push(name);
        }
    };

    let mut format = workspace.cargo();
    format.args(["fmt", "--all", "--check"]);
    check("formatting", command::run_until(&mut format, session.deadline));

    let mut clippy = workspace.cargo();
    clippy.args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    check("clippy", command::run_until(&mut clippy, session.deadline));
    check("clippy of the BPF programs", build_ebpf::lint(workspace, session.deadline));

    check("the code for aarch64", aarch64::check(workspace, session.deadline));

    let mut deny = Command::new(workspace.tool("cargo-deny"));
    // Not the advisories: those need the network and change without us.
    deny.current_dir(workspace.root()).args(["--locked", "check", "licenses", "bans", "sources"]);
    check("dependencies", command::run_until(&mut deny, session.deadline));

    let object = build_ebpf::check(workspace, Some(session.deadline));
    check("the object", object.map(|rebuilt| session.rebuilt = rebuilt));

    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
