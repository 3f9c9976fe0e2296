//! `reaper run`: the daemon.

use super::{Failure, args::RunArgs, pid_max, session::Session, start_log};
use crate::{
    config::{self, Config, Output},
    exit_code,
    kernel::{Cmdlines, Options, Sizes},
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
    let Config { age, output, cgroup_cache, ledger, capture, log } = config.with(&args.overrides, output);
    start_log(log.level);
    let sizes = Sizes { entries: ledger.entries.resolve(pid_max()), overflow: ledger.overflow.get() };
    let cmdlines = match capture.cmdline {
        config::Cmdlines::Off => Cmdlines::Off,
        config::Cmdlines::Probation => Cmdlines::Watched,
        config::Cmdlines::All => Cmdlines::All,
    };
    Session {
        settings: Settings {
            age: age.get(),
            kernel: Options { sizes, pids_hierarchy: 0, cmdlines },
            // A removed cgroup must be remembered for longer than a zombie takes to be reported.
            cgroups: Limits {
                entries: cgroup_cache.get() as usize,
                keep_gone: Limits::default().keep_gone.max(age.get() * 2),
            },
            filter: Filter::default(),
        },
        output,
        duration: None,
        service: true,
    }
    .run()?;
    Ok(exit_code::OK)
}
