//! Packages from apt. A package may bring a daemon; none of them may run because somebody built reaper.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{anyhow, bail};

use super::needs::{self, Kind, Need};
use crate::{command, debian::Apt, root, vm, workspace::Workspace};

/// Runs as root. Both invoke-rc.d and systemd's own helper ask policy-rc.d before they start a service; 101 is
/// "forbidden". One that is there already is the administrator's and stays. A machine that has just started may be
/// updating itself: that is waited for.
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
apt-get install --yes --quiet --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300 "$@"
"#;

/// Installs what packages the missing things come in, if any.
pub(crate) fn install(workspace: &Workspace, missing: &[&Need]) -> anyhow::Result<()> {
    let wanted: Vec<&Need> = missing.iter().copied().filter(|need| !need.packages().is_empty()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let has_apt = needs::program("apt-get").is_some();
    if has_apt {
        update()?;
    }
    let mut packaged = Vec::new();
    for need in wanted {
        match need.kind {
            // The distribution has no compiler on the right LLVM; rustup's may be.
            Kind::Compiler { packages, component, .. } if !packages.iter().all(|name| is_known(name)) => {
                super::add_component(need, component)?;
            }
            _ => packaged.push(need),
        }
    }
    if packaged.is_empty() {
        return Ok(());
    }
    if !has_apt {
        return without_apt(&packaged);
    }
    // Apart and last: where there is no room for one of them, the others are to be there all the same.
    let (apart, others): (Vec<&Need>, Vec<&Need>) =
        packaged.into_iter().partition(|need| matches!(need.kind, Kind::Unpacked { .. }));
    let mut packages: Vec<&str> = others.iter().flat_map(|need| need.packages()).copied().collect();
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        apt_install(&packages)?;
    }
    for need in apart {
        if let Kind::Unpacked { program, package, installs } = need.kind {
            install_or_unpack(workspace, program, package, installs)?;
        }
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> anyhow::Result<()> {
    println!(
        "setup: installing {} (apt-get, without recommended packages, removing none)",
        packages.join(" ")
    );
    println!("setup: no service of theirs will be started: policy-rc.d forbids it meanwhile");
    let before = enabled()?;
    let mut install = root::command("sh")?;
    install.args(["-c", INSTALL, "setup"]).args(packages);
    // The script itself would only hide which command it was.
    command::run(&mut install).map_err(|_| {
        anyhow!(
            "`apt-get install --no-install-recommends --no-remove {}` failed, for the reason above",
            packages.join(" ")
        )
    })?;
    let units: Vec<String> = enabled()?.difference(&before).cloned().collect();
    disable(&units)
}

/// A package of another release, from backports say, may keep one out. It is somebody's: it stays as it is.
fn install_or_unpack(
    workspace: &Workspace,
    program: &vm::Program,
    package: &str,
    installs: bool,
) -> anyhow::Result<()> {
    let plan = Apt::of_this_system().plan(package)?;
    if !installs {
        println!("setup: {package} is not installed, only unpacked into target/vm");
    } else if plan.removes.is_empty() {
        return apt_install(&[package]);
    } else {
        println!(
            "setup: installing {package} would remove {}; so it is not installed, only unpacked into target/vm",
            plan.removes.join(", ")
        );
    }
    program.fetch(workspace, &plan.installs)
}

/// The units that the next boot starts; none where there is no systemd. Systemd need not be running for that.
fn enabled() -> anyhow::Result<BTreeSet<String>> {
    if needs::program("systemctl").is_none() {
        return Ok(BTreeSet::new());
    }
    let mut list = Command::new("systemctl");
    list.args(["list-unit-files", "--state=enabled", "--plain", "--no-legend"]);
    Ok(command::output(&mut list)?.lines().filter_map(unit).map(str::to_owned).collect())
}

/// The unit of one line of the list.
fn unit(line: &str) -> Option<&str> {
    line.split_whitespace().next()
}

/// A package, or one that it needs, enables its units even where starting them was forbidden: they would run after the next boot.
fn disable(units: &[String]) -> anyhow::Result<()> {
    if units.is_empty() {
        return Ok(());
    }
    println!(
        "setup: disabling {}, so that the next boot does not start what only tests and the benchmark need",
        units.join(", ")
    );
    let mut disable = root::command("systemctl")?;
    disable.args(["--quiet", "disable"]);
    // Without a running systemd, in an image for example, there is a link to remove and nothing to stop.
    if Path::new("/run/systemd/system").exists() {
        disable.arg("--now");
    }
    command::run(disable.args(units))
}

fn update() -> anyhow::Result<()> {
    println!("setup: fetching the lists of packages (apt-get update)");
    // An archive of somebody else's that is out of reach is no reason to stop: what is not found will be.
    if let Err(error) = command::run(root::command("apt-get")?.args(["update", "--quiet=2"])) {
        println!("setup: {error:#}; going on with the lists there are");
    }
    Ok(())
}

fn is_known(package: &str) -> bool {
    let mut apt = Command::new("apt-cache");
    apt.args(["show", package]).stdout(Stdio::null()).stderr(Stdio::null());
    apt.status().is_ok_and(|status| status.success())
}

fn without_apt(wanted: &[&Need]) -> anyhow::Result<()> {
    let lines: Vec<String> =
        wanted.iter().map(|need| format!("  {}: {} ({})", need.name, need.why, need.source())).collect();
    bail!(
        "these cannot be installed from here, because there is no apt-get; install them with your own package \
         manager and start again:\n{}",
        lines.join("\n")
    );
}
