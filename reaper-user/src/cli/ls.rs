//! `reaper ls`: the zombies that stand now, from the running daemon, else by a census.

use std::{io, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use reaper_ebpf::Record;

use super::{Failure, args::LsArgs, pid_max, start_log, written};
use crate::{
    config::{Config, LogLevel, Output},
    control::{self, ControlError},
    exit_code,
    identity::Identity,
    kernel::{Cmdlines, Kernel, Options, Sizes, boot_now},
    names::{self, Namer},
    observe,
    proc::Proc,
    report::{Event, Filter, Reporter, Source, ZombieEvent},
    watch::Describer,
    workload::{CgroupId, Cgroups, Hierarchy, Limits, RuntimeStates, Workloads},
    zombie::Zombie,
};

/// How long a list may wait for names.
const NAMED: Duration = Duration::from_secs(1);

/// Lists them.
pub(super) fn run(args: &LsArgs, output: Output) -> Result<u8, Failure> {
    start_log(LogLevel::Warn);
    let filter = Filter::from(&args.filter);
    let mut breakers = Vec::new();
    let (source, mut zombies) = match control::zombies(&control::socket()) {
        Ok(listing) => {
            breakers = listing.breakers;
            (Source::Daemon, listing.zombies)
        }
        Err(ControlError::NoDaemon(_)) => (Source::Census, census()?),
        // Who may not ask the daemon may still hold the capabilities for a census.
        Err(error @ ControlError::NotRoot(_)) => {
            (Source::Census, census().map_err(|failure| failure.or_rather(error))?)
        }
        Err(error) => {
            tracing::warn!("{error}; taking a census instead");
            (Source::Census, census()?)
        }
    };
    zombies.retain(|zombie| filter.matches_event(zombie));
    let mut reporter = Reporter::stdout(output).without_head();
    reporter.list(source, &zombies, args.each, Timestamp::now()).map_err(written)?;
    for breaker in breakers {
        reporter.report(&Event::Breaker(Box::new(breaker))).map_err(written)?;
    }
    io::Write::flush(&mut io::stdout()).map_err(written)?;
    Ok(exit_code::OK)
}

/// Every zombie there is, as far as a census knows.
pub(super) fn census() -> Result<Vec<ZombieEvent>, Failure> {
    Ok(census_with_cgroups()?.into_iter().map(|(_, zombie)| zombie).collect())
}

/// The paths of the cgroups that a zombie died in, in v2 and in v1's pids hierarchy.
pub(super) type Paths = [Option<Arc<[u8]>>; 2];

/// The same, each with the paths of its cgroups.
pub(super) fn census_with_cgroups() -> Result<Vec<(Paths, ZombieEvent)>, Failure> {
    let (mut describer, records) = look(Config::default().names.settings())?;
    let (mut found, mut paths) = (Vec::new(), Vec::new());
    for record in records {
        if let Some(scene) = observe::scene(&describer.proc, Identity::of(&record)) {
            found.push(describer.describe(&record, &scene, boot_now()));
            let ids = [(Hierarchy::V2, record.cgroup_v2), (Hierarchy::V1Pids, record.cgroup_v1)];
            paths.push(ids.map(|(hierarchy, id)| {
                let known = (id != 0).then(|| describer.workloads.cgroups().path(CgroupId { hierarchy, id }));
                known.flatten()
            }));
        }
    }
    name(&describer, found.iter_mut());
    let shown = |zombie| ZombieEvent::new(zombie, boot_now(), Timestamp::now());
    Ok(paths.into_iter().zip(found.iter().map(shown)).collect())
}

/// Waits a moment for the names that were asked for when the zombies were described: nothing comes after this.
pub(super) fn name<'a>(describer: &Describer, zombies: impl Iterator<Item = &'a mut Zombie>) {
    describer.names.settle(NAMED);
    for zombie in zombies {
        zombie.named = describer.names.of(&zombie.workload);
    }
}

/// One walk over the kernel's tasks; nothing is attached. What describes the zombies, by the names that are told there, and their
/// records.
pub(super) fn look(names: names::Settings) -> Result<(Describer, Vec<Record>), Failure> {
    let proc = Proc::at("/proc");
    let limits = Limits::default();
    let mut cgroups = Cgroups::open(proc.root(), limits);
    for trouble in cgroups.troubles() {
        tracing::warn!("{trouble}");
    }
    cgroups.walk();
    let Config { ledger, .. } = Config::default();
    // The ledger stays empty: as small as it can be.
    let sizes = Sizes { entries: 64.min(pid_max()), overflow: ledger.overflow.get() };
    let mut kernel = Kernel::load(
        Options { sizes, pids_hierarchy: cgroups.v1_pids_number().unwrap_or(0), cmdlines: Cmdlines::Off },
        None,
    )?;
    let clock = kernel.clock()?;
    let records = kernel.zombies()?;
    let workloads = Workloads::new(cgroups, RuntimeStates::at(Path::new("/")), limits.entries);
    let names = Namer::start(names).map_err(|error| {
        Failure::new(exit_code::UNAVAILABLE, format!("starting the thread that asks for names: {error}"))
    })?;
    Ok((Describer::new(kernel, clock, workloads, proc).named_by(names), records))
}
