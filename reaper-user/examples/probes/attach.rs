//! Attaches one of the sets of programs that are compared, until standard input ends.

use std::{fs, os::fd::OwnedFd, path::Path, process};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, EbpfLoader, Endianness,
    programs::BtfTracePoint,
    sys::{Stats, enable_stats},
};
use reaper::{
    kernel::{Cmdlines, Kernel, Options, Sizes},
    workload::{Cgroups, Limits},
};
use reaper_ebpf::WAYS;
use serde_json::json;

use crate::{btf, offsets, patch, say, wait_for_end};

/// What to attach.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub(crate) enum Set {
    /// Programs that do nothing.
    Empty,
    /// The ledger as it ships, loaded by the library as the daemon does it.
    Reaper,
    /// The ledger as a preallocated hash map.
    Hash,
    /// The fork program as it ships, without what takes stacks.
    Bare,
}

/// The hooks that the daemon is always attached to, and the programs that stand in for its own.
const EMPTY: &[(&str, &str)] = &[
    ("empty_free", "sched_process_free"),
    ("empty_exit", "sched_process_exit"),
    ("empty_signal", "signal_generate"),
    ("empty_exec", "sched_process_exec"),
    ("empty_fork", "sched_process_fork"),
    ("empty_mkdir", "cgroup_mkdir"),
];
const EMPTY_ON_DEMAND: &[(&str, &str)] =
    &[("empty_wait", "sched_process_wait"), ("empty_cmdline", "sched_process_exec")];
const BARE: &[(&str, &str)] = &[("fork", "sched_process_fork")];
const HASH: &[(&str, &str)] = &[
    ("free", "sched_process_free"),
    ("exit", "sched_process_exit"),
    ("signal", "signal_generate"),
    ("exec", "sched_process_exec"),
    ("fork", "sched_process_fork"),
];

pub(crate) fn run(set: Set, object: &Path, probation: Option<u32>) -> Result<()> {
    let _counting = counting()?;
    let pids_hierarchy = Cgroups::open(Path::new("/proc"), Limits::default()).v1_pids_number().unwrap_or(0);
    let on_demand = if probation.is_some() { EMPTY_ON_DEMAND } else { &[] };
    match set {
        Set::Empty => own_object(object, pids_hierarchy, &[EMPTY, on_demand], 1),
        Set::Hash | Set::Bare if probation.is_some() => bail!("this set has no on-demand programs"),
        // The real one's table is in the shared source and not used here.
        Set::Hash => own_object(object, pids_hierarchy, &[HASH], 1),
        Set::Bare => own_object(object, pids_hierarchy, &[BARE], entries()?),
        Set::Reaper => shipped(pids_hierarchy, probation),
    }
}

/// The kernel counts what programs cost while this is open, and not a moment longer.
fn counting() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime).context("could not make the kernel count")
}

/// Has the kernel count what everybody's programs cost.
pub(crate) fn count() -> Result<()> {
    let _counting = counting()?;
    say(&json!({ "event": "ready" }))?;
    wait_for_end()
}

/// As the daemon sizes the ledger by default.
fn entries() -> Result<u32> {
    let pid_max: u32 = fs::read_to_string("/proc/sys/kernel/pid_max")?.trim().parse()?;
    Ok(pid_max.next_power_of_two().min(131_072))
}

fn shipped(pids_hierarchy: u32, probation: Option<u32>) -> Result<()> {
    let entries = entries()?;
    let sizes = Sizes { entries, overflow: 16_384 };
    let mut kernel = Kernel::load(Options { sizes, pids_hierarchy, cmdlines: Cmdlines::Watched }, None)?;
    kernel.attach()?;
    if let Some(pid) = probation {
        kernel.watch(pid, 0);
        kernel.settle(true)?;
    }
    say(&json!({ "event": "ready", "pid": process::id(), "entries": entries }))?;
    wait_for_end()
}

fn own_object(
    object: &Path,
    pids_hierarchy: u32,
    sets: &[&[(&'static str, &str)]],
    entries: u32,
) -> Result<()> {
    let bytes = fs::read(btf::VMLINUX).with_context(|| format!("could not read {}", btf::VMLINUX))?;
    let offsets = offsets::resolve(&btf::Btf::parse(&bytes)?, pids_hierarchy != 0)?;
    let kernel_btf = Btf::parse(&bytes, Endianness::default())?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&kernel_btf));
    // What only the real object reads is not in this one.
    loader.override_global("PIDS_HIERARCHY", &pids_hierarchy, false);
    let mask = (entries / WAYS).saturating_sub(1);
    loader.override_global("SET_MASK", &mask, false);
    loader.map_max_entries("LEDGER", entries);
    let object = fs::read(object).with_context(|| format!("could not read {}", object.display()))?;
    let mut ebpf = loader.load(&patch::patch(&object, &offsets)?)?;
    for &(name, hook) in sets.iter().copied().flatten() {
        let program: &mut BtfTracePoint =
            ebpf.program_mut(name).with_context(|| format!("no program `{name}`"))?.try_into()?;
        program.load(hook, &kernel_btf).with_context(|| format!("loading `{name}`"))?;
    }
    for &(name, _) in sets.iter().copied().flatten() {
        let program: &mut BtfTracePoint =
            ebpf.program_mut(name).with_context(|| format!("no program `{name}`"))?.try_into()?;
        program.attach().with_context(|| format!("attaching `{name}`"))?;
    }
    say(&json!({ "event": "ready", "pid": process::id() }))?;
    wait_for_end()
}
