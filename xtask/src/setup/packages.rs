//! Packages from apt. A package may bring a daemon; none of them may run because somebody built reaper.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{anyhow, bail};

use super::needs::{self, Kind, Need};
use crate::{command, root};

/// Those of our packages that bring a service, and its unit's name.
const SERVICES: &[&str] = &["prometheus-node-exporter", "prometheus-process-exporter"];

/// Runs as root. Both invoke-rc.d and systemd's own helper ask policy-rc.d before they start a service; 101 is
/// "forbidden". One that is there already is the administrator's and stays.
/// <https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt>
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
apt-get install --yes --no-install-recommends "$@"
"#;

/// Installs what packages the missing things come in, if any.
pub(crate) fn install(missing: &[&Need]) -> anyhow::Result<()> {
    let wanted: Vec<&Need> = missing.iter().copied().filter(|need| !need.packages().is_empty()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    if needs::program("apt-get").is_none() {
        return without_apt(&wanted);
    }
    println!("setup: fetching the lists of packages (apt-get update)");
    command::run(root::command("apt-get")?.args(["update", "--quiet=2"]))?;

    let mut packages = Vec::new();
    for need in wanted {
        if matches!(need.kind, Kind::Compiler { .. }) && !need.packages().iter().all(|name| is_known(name)) {
            add_source_of_core(need)?;
        } else {
            packages.extend_from_slice(need.packages());
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    println!("setup: installing {} (apt-get, without recommended packages)", packages.join(" "));
    let services: Vec<&str> = SERVICES.iter().copied().filter(|name| packages.contains(name)).collect();
    if !services.is_empty() {
        println!("setup: {} will not be started: policy-rc.d forbids it meanwhile", services.join(" and "));
    }
    let mut install = root::command("sh")?;
    install.args(["-c", INSTALL, "setup"]).args(&packages);
    // The script itself would only hide which command it was.
    command::run(&mut install).map_err(|_| {
        anyhow!(
            "`apt-get install --no-install-recommends {}` failed, for the reason above",
            packages.join(" ")
        )
    })?;
    disable(&services)
}

/// A package enables its unit even where starting it was forbidden: it would run after the next boot.
fn disable(services: &[&str]) -> anyhow::Result<()> {
    if services.is_empty() || needs::program("systemctl").is_none() {
        return Ok(());
    }
    println!(
        "setup: disabling {}, so that the next boot does not start what only the benchmark needs",
        services.join(" and ")
    );
    let mut disable = root::command("systemctl")?;
    disable.args(["--quiet", "disable"]);
    // Without a running systemd, in an image for example, there is a link to remove and nothing to stop.
    if Path::new("/run/systemd/system").exists() {
        disable.arg("--now");
    }
    command::run(disable.args(services))
}

fn is_known(package: &str) -> bool {
    let mut apt = Command::new("apt-cache");
    apt.args(["show", package]).stdout(Stdio::null()).stderr(Stdio::null());
    apt.status().is_ok_and(|status| status.success())
}

/// The way where the distribution has no compiler on the right LLVM: rustup's, if that is on it.
fn add_source_of_core(need: &Need) -> anyhow::Result<()> {
    if needs::program("rustup").is_none() {
        return without_apt(&[need]);
    }
    println!("setup: adding rust-src to the active toolchain of rustup: {}", need.why);
    command::run(Command::new("rustup").args(["component", "add", "rust-src"]))
}

fn without_apt(wanted: &[&Need]) -> anyhow::Result<()> {
    let lines: Vec<String> =
        wanted.iter().map(|need| format!("  {}: {} ({})", need.name, need.why, need.source())).collect();
    bail!(
        "these cannot be installed from here, because apt-get is missing or does not know them; install them with \
         your own package manager and start again:\n{}",
        lines.join("\n")
    );
}
