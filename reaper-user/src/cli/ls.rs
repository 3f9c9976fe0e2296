//! `reaper ls`: the zombies that stand now, from the running daemon, else by a census.

use std::{io, path::Path, time::Duration};

use jiff::Timestamp;
use reaper_ebpf::Record;

use super::{Failure, args::LsArgs, pid_max, source::daemon_else_census, start_log, written};
use crate::{
    config::{Config, LogLevel, Output},
    control, exit_code,
    identity::Identity,
    kernel::{Cmdlines, Kernel, Options, Sizes, boot_now},
    names::{self, Namer},
    observe,
    proc::Proc,
    report::{Event, Filter, Reporter, ZombieEvent},
    watch::{Describer, Listing},
    workload::{Cgroups, Limits, RuntimeStates, Workloads},
    zombie::Zombie,
};

/// How long a list may wait for names.
const NAMED: Duration = Duration::from_secs(1);

/// Lists them.
pub(super) fn run(args: &LsArgs, output: Output) -> Result<u8, Failure> {
    start_log(LogLevel::Warn);
    let filter = Filter::from(&args.filter);
    let by_census = || Ok(Listing { zombies: census()?, ..Listing::default() });
    let (source, listing) = daemon_else_census(control::zombies(&control::socket()), by_census)?;
    let Listing { mut zombies, breakers } = listing;
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
    Ok(described()?.1.into_iter().map(|(_, zombie)| zombie).collect())
}

/// What has described zombies, and each of them with the ids of the cgroups that it died in (in v2 and in v1's `pids`, 0 where there is
/// none).
pub(super) type Described = (Describer, Vec<([u64; 2], ZombieEvent)>);

/// The same, with their cgroups.
pub(super) fn described() -> Result<Described, Failure> {
    let (mut describer, records) = look(Config::default().names.settings())?;
    let (mut found, mut ids) = (Vec::new(), Vec::new());
    for record in records {
        if let Some(scene) = observe::scene(&describer.proc, Identity::of(&record)) {
            found.push(describer.describe(&record, &scene, boot_now()));
            ids.push([record.cgroup_v2, record.cgroup_v1]);
        }
    }
    name(&describer, found.iter_mut());
    let shown = |zombie| ZombieEvent::new(zombie, boot_now(), Timestamp::now());
    let zombies = ids.into_iter().zip(found.iter().map(shown)).collect();
    Ok((describer, zombies))
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
