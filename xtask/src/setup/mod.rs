//! `cargo xtask setup`: what build and tests need. [`needs`] is the table, [`packages`] speaks to apt; the rest
//! is installed into the tree.

mod needs;
mod packages;

use std::{fs, process::Command};

use anyhow::{Context as _, bail};

pub(crate) use self::needs::{Group, program};
use self::needs::{Kind, NEEDS, Need};
use crate::{aarch64, command, compiler::Llvm, root, vm, workspace::Workspace};

/// Installs what build and tests need and is not there yet, saying what and why before.
///
/// `cargo build` and `cargo xtask run` need stable Rust and a C linker and nothing of this. Packages come from apt and
/// mounts are made as root (through `sudo -n` where you are not root); bpf-linker and cargo-deny go into target/tools,
/// kernels into target/vm, and there too what cannot be installed without removing something.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to prepare for; everything where nothing is named.
    #[arg(value_name = "GROUP")]
    groups: Vec<Group>,

    /// Say what is missing and change nothing; fails when something is.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let groups = if args.groups.is_empty() { Group::ALL } else { &args.groups };
    let missing = missing(workspace, groups)?;
    if missing.is_empty() {
        println!("setup: nothing is missing for {}", names(groups));
        return Ok(());
    }
    if args.check {
        say(&missing);
        bail!("not everything is there; `cargo xtask setup` brings what is missing");
    }
    install(workspace, &missing, groups)
}

/// Says and does nothing when all is there.
pub(crate) fn ensure(workspace: &Workspace, groups: &[Group]) -> anyhow::Result<()> {
    let missing = missing(workspace, groups)?;
    if missing.is_empty() { Ok(()) } else { install(workspace, &missing, groups) }
}

fn missing(workspace: &Workspace, groups: &[Group]) -> anyhow::Result<Vec<&'static Need>> {
    let mut missing = Vec::new();
    for need in NEEDS.iter().filter(|need| need.groups.iter().any(|group| groups.contains(group))) {
        if !need.is_met(workspace)? {
            missing.push(need);
        }
    }
    Ok(missing)
}

fn install(workspace: &Workspace, missing: &[&Need], groups: &[Group]) -> anyhow::Result<()> {
    say(missing);
    packages::install(workspace, missing)?;
    for need in missing {
        match need.kind {
            Kind::Tool { version, options, with_llvm } => {
                install_tool(workspace, need.name, version, options, with_llvm)?;
            }
            Kind::Component { .. } if need.packages().is_empty() => add_component(need, need.name)?,
            Kind::Mount { kind, at } => mount(kind, at)?,
            Kind::Pypi { packages } => install_from_pypi(workspace, packages)?,
            Kind::Kernels => vm::fetch_kernels(workspace)?,
            Kind::Aarch64 => aarch64::fetch(workspace)?,
            Kind::Component { .. }
            | Kind::Program { .. }
            | Kind::File { .. }
            | Kind::Compiler { .. }
            | Kind::Llvm { .. }
            | Kind::Module { .. }
            | Kind::Unpacked { .. } => {}
        }
    }
    // Installing may not be enough: a package of that name may hold another version.
    for need in missing {
        if !need.is_met(workspace)? {
            bail!("{} is still missing after the installation ({})", need.name, need.why);
        }
    }
    println!("setup: done; nothing is missing for {}", names(groups));
    Ok(())
}

fn say(missing: &[&Need]) {
    println!("setup: {} missing", count(missing.len()));
    for need in missing {
        println!("  {}: {} ({})", need.name, need.why, need.source());
    }
}

fn install_tool(
    workspace: &Workspace,
    name: &str,
    version: &str,
    options: &[&str],
    with_llvm: bool,
) -> anyhow::Result<()> {
    println!("setup: building {name} {version} into {}", workspace.tools().display());
    let mut cargo = workspace.cargo();
    cargo
        .args(["install", "--quiet", "--locked", name, "--version", version, "--no-default-features"])
        .args(options)
        .arg("--root")
        .arg(workspace.tools())
        // Cargo's own temporary directory: nothing of it is needed again.
        .env_remove("CARGO_TARGET_DIR");
    if with_llvm {
        cargo.env("LLVM_PREFIX", Llvm::find()?.prefix());
    }
    command::run(&mut cargo)
}

fn install_from_pypi(workspace: &Workspace, packages: &[&str]) -> anyhow::Result<()> {
    let record = needs::pypi_record(workspace);
    let folder = record.parent().context("a record without a folder")?;
    println!("setup: installing {} into {}", packages.join(" "), folder.display());
    command::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
    let mut pip = Command::new(folder.join("bin/pip"));
    command::run(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages))?;
    let lines: String = packages.iter().map(|package| format!("{package}\n")).collect();
    fs::write(&record, lines).with_context(|| record.display().to_string())
}

fn add_component(need: &Need, component: &str) -> anyhow::Result<()> {
    if program("rustup").is_none() {
        bail!(
            "{} is missing ({}), and there is neither a package of it nor rustup to add it: bring {component} for \
             your compiler and start again",
            need.name,
            need.why
        );
    }
    println!("setup: adding {component} to the active toolchain of rustup");
    command::run(Command::new("rustup").args(["component", "add", component]))
}

fn mount(kind: &str, at: &str) -> anyhow::Result<()> {
    command::run(root::command("mount")?.args(["-t", kind, kind, at]))
        .with_context(|| format!("could not mount {kind} at {at}; a container may not be allowed to"))?;
    println!("setup: mounted {kind} at {at}, until it is unmounted or the machine restarts");
    Ok(())
}

fn count(missing: usize) -> String {
    format!("{missing} {}", if missing == 1 { "thing is" } else { "things are" })
}

fn names(groups: &[Group]) -> String {
    groups.iter().map(|group| group.name()).collect::<Vec<_>>().join(", ")
}
