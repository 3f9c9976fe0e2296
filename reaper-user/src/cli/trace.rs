//! `reaper trace`: watch in the foreground.

use super::{Failure, args::TraceArgs, copying, pid_max, session::Session, start_log, writer::Form};
use crate::{
    config::{Config, LogLevel, Output},
    control::{self, Setup},
    exit_code,
    kernel::{Cmdlines, Options, Sizes, demand},
    report::Filter,
    watch::Settings,
    workload::Limits,
};

/// Watches until it is told to stop.
pub(super) fn run(args: &TraceArgs, output: Output) -> Result<u8, Failure> {
    start_log(LogLevel::default());
    // Before anything is made: what is missing is the first thing that is said.
    demand()?;
    let config = Config::default();
    let ledger = &config.ledger;
    let sizes = Sizes { entries: ledger.entries.resolve(pid_max()), overflow: ledger.overflow.get() };
    Session {
        settings: Settings {
            age: args.age.get(),
            kernel: Options { sizes, pids_hierarchy: 0, cmdlines: Cmdlines::Watched },
            pins: None,
            cgroups: Limits::default(),
            filter: Filter::from(&args.filter),
            // It only watches.
            remedies: config.terms(),
            sites: config.origin.sites.get() as usize,
            copying: copying(args.origin.unwrap_or_default()),
            label_sets: config.metrics.label_sets.get() as usize,
            names: config.names.settings(),
            fork_hook: Setup::lets_hook(&control::setup(&control::socket()), args.no_fork_hook),
        },
        form: Form { output, stacks: args.stacks },
        duration: args.duration.map(|duration| duration.0),
        service: None,
    }
    .run()?;
    Ok(exit_code::OK)
}
