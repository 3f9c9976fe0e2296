//! `reaper run`: the daemon.

use super::{
    Failure,
    args::RunArgs,
    copying,
    notify::Notifier,
    pid_max,
    reload::{Reload, say_what_is_not_held},
    session::{Service, Session},
    start_log,
    writer::Form,
};
use crate::{
    config::{self, Config, Output},
    exit_code,
    kernel::{Cmdlines, Options, Sizes, demand},
    lock::{Lock, directory},
    report::Filter,
    watch::Settings,
    workload::Limits,
};

/// Runs until it is told to stop.
pub(super) fn run(args: &RunArgs, output: Option<Output>) -> Result<u8, Failure> {
    let config = match &args.config {
        Some(path) => {
            Config::load_trusted(path).map_err(|error| Failure::new(exit_code::CONFIG, error.to_string()))?
        }
        None => Config::default(),
    };
    let config = config.with(&args.overrides, output);
    if let Some(contradiction) = config.contradiction() {
        return Err(Failure::new(exit_code::CONFIG, format!("[kubernetes] events: {contradiction}")));
    }
    let log = start_log(config.log.level);
    let notifier = Notifier::from_environment();
    // What is missing is the first thing that is said, before anything is made.
    demand()?;
    say_what_is_not_held(&config.rules);
    // Held until everything else has ended.
    let _lock = Lock::take(&directory())?;
    let sizes =
        Sizes { entries: config.ledger.entries.resolve(pid_max()), overflow: config.ledger.overflow.get() };
    let cmdlines = match config.capture.cmdline {
        config::Cmdlines::Off => Cmdlines::Off,
        config::Cmdlines::Probation => Cmdlines::Watched,
        config::Cmdlines::All => Cmdlines::All,
    };
    let age = config.age.get();
    Session {
        settings: Settings {
            age,
            kernel: Options { sizes, pids_hierarchy: 0, cmdlines },
            pins: config.pins(),
            // A removed cgroup must be remembered for longer than a zombie takes to be reported.
            cgroups: Limits {
                entries: config.cgroup_cache.get() as usize,
                keep_gone: Limits::default().keep_gone.max(age * 2),
            },
            filter: Filter::default(),
            remedies: config.terms(),
            sites: config.origin.sites.get() as usize,
            copying: copying(config.origin.native),
            label_sets: config.metrics.label_sets.get() as usize,
            names: config.names.settings(),
            fork_hook: config.capture.fork_hook,
        },
        form: Form { output: config.output, stacks: false },
        duration: None,
        service: Some(Service {
            notifier,
            metrics: config.metrics.listen,
            kubernetes: config.kubernetes.settings(),
            reload: Reload {
                file: args.config.clone(),
                overrides: args.overrides.clone(),
                output,
                running: config,
                log,
            },
        }),
    }
    .run()?;
    Ok(exit_code::OK)
}
