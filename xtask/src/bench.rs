//! `cargo xtask bench`: what reaper costs and how fast it is, beside what it is measured against, on this machine.
//!
//! Everything that is compared is measured in the same run and in turns, because a machine's speed drifts by more
//! than the differences. What counts is counted by others: bpftool, the scheduler, the processes themselves.

mod cgroups;
mod daemon;
mod delay;
mod headroom;
mod idle;
mod instrument;
mod lives;
mod numbers;
mod origin;
mod programs;
mod reap;
mod scrape;
mod soak;
mod spawn;
mod standing;
mod table;
mod top;

use std::{env, fs, os::unix::process::CommandExt as _, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;

use crate::{
    build_ebpf, command, root,
    setup::{self, Group},
    workspace::Workspace,
};

/// The BPF programs that ours are compared with,
const PROGRAMS: &str = "reaper-bench-bpf";
/// and the fork program without what takes stacks.
const BARE: &str = "reaper-bench-fork-bpf";

/// Measures cost and delay, and says which targets are reached. Takes about ten minutes.
///
/// What is missing is set up first. Where you are not root, `sudo -n` is asked for the measuring, not for the build.
/// Figures are of this machine as it is now: end what else it does. A target that is missed is a failure, at the end.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure. [default: everything but the soak]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// A third of the rounds, three minutes of the soak: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Measure what was built last time, set up nothing.
    #[arg(long)]
    no_build: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// Nanoseconds per process life in the BPF programs
    Lives,
    /// A loop of fork, exec and wait with and without the daemon
    Spawn,
    /// Nanoseconds per fork of what takes stacks, and what is lost at many forks a second
    Origin,
    /// From a zombie's age to its report
    Delay,
    /// CPU and wake-ups without zombies
    Idle,
    /// CPU and memory with standing zombies, beside other tools
    Standing,
    /// How long metrics take with zombies in 500 workloads
    Scrape,
    /// What looking at limits on processes costs with 1,000 workloads
    Headroom,
    /// What `reaper top` costs the daemon and itself with 1,000 workloads
    Top,
    /// How long a holder stands still that is made to wait for its zombies
    Reap,
    /// Memory, descriptors and list after half an hour of lives and leaks
    Soak,
}

/// What all parts share.
struct Bench<'a> {
    workspace: &'a Workspace,
    object: PathBuf,
    bare: PathBuf,
    quick: bool,
}

impl Bench<'_> {
    fn example(&self, name: &str) -> Command {
        Command::new(self.workspace.target().join("release/examples").join(name))
    }

    fn probes(&self, mode: &str) -> Command {
        let mut probes = self.example("probes");
        probes.arg(mode);
        probes
    }

    /// The instrument that attaches this set of programs.
    fn attach(&self, set: &str) -> Command {
        let mut probes = self.probes("attach");
        let object = if set == "bare" { &self.bare } else { &self.object };
        probes.arg(set).arg("--object").arg(object);
        probes
    }

    fn rounds(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(3) } else { full }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    if !args.no_build {
        setup::ensure(workspace, &[Group::Object, Group::Bench])?;
        build(workspace)?;
    }
    if !root::is_root() {
        return again_as_root(workspace, args);
    }

    let object = build_ebpf::unrecorded(workspace, PROGRAMS);
    let bare = build_ebpf::unrecorded(workspace, BARE);
    let bench = Bench { workspace, object, bare, quick: args.quick };
    let started = Instant::now();
    describe_machine();
    let wanted = |part| args.parts.is_empty() || args.parts.contains(&part);
    if wanted(Part::Lives) {
        lives::run(&bench)?;
    }
    if wanted(Part::Spawn) {
        spawn::run(&bench)?;
    }
    if wanted(Part::Origin) {
        origin::run(&bench)?;
    }
    if wanted(Part::Delay) {
        delay::run(&bench)?;
    }
    if wanted(Part::Idle) {
        idle::run(&bench)?;
    }
    if wanted(Part::Standing) {
        standing::run(&bench)?;
    }
    if wanted(Part::Scrape) {
        scrape::run(&bench)?;
    }
    if wanted(Part::Headroom) {
        headroom::run(&bench)?;
    }
    if wanted(Part::Top) {
        top::run(&bench)?;
    }
    if wanted(Part::Reap) {
        reap::run(&bench)?;
    }
    // Half an hour: only where it is asked for.
    if args.parts.contains(&Part::Soak) {
        soak::run(&bench)?;
    }
    println!("\nbench: measured in {}", command::human(started.elapsed()));
    // All is measured first: each figure says something.
    let missed = table::missed();
    ensure!(missed == 0, "{missed} of the targets above were MISSED");
    Ok(())
}

/// This task once more, without the building, which should not be root's.
fn again_as_root(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    println!("bench: measuring loads programs into the kernel: it goes on through sudo -n");
    // sudo drops the environment.
    let mut again = root::command("env")?;
    again.arg(workspace.variable());
    again.arg(env::current_exe().context("this program does not know where it is")?);
    again.args(env::args_os().skip(1)).args((!args.no_build).then_some("--no-build"));
    let error = again.exec();
    bail!("could not start `{}`: {error}", command::line(&again));
}

fn build(workspace: &Workspace) -> anyhow::Result<()> {
    println!("bench: building what is measured, and what it is measured with");
    for programs in [PROGRAMS, BARE] {
        build_ebpf::build_unrecorded(workspace, programs)?;
    }
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--package", "reaper-user", "--bin", "reaper"]);
    for example in ["probes", "churn", "holder", "injector"] {
        build.args(["--example", example]);
    }
    command::run(&mut build)
}

/// What a figure depends on.
fn describe_machine() {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let load = read("/proc/loadavg");
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "bench: Linux {}, {cpus} CPUs, pid_max {}, load average at start {}",
        read("/proc/sys/kernel/osrelease"),
        read("/proc/sys/kernel/pid_max"),
        load.split(' ').take(3).collect::<Vec<_>>().join(" ")
    );
    // The scheduler's queue is in every time by the clock, and strangers' memory is in every cache.
    if load.split(' ').next().and_then(|load| load.parse::<f64>().ok()).is_some_and(|load| load > cpus as f64)
    {
        println!("bench: this machine is busy with other things: these figures say little about reaper");
    }
}
