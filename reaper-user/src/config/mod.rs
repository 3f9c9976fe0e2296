//! The configuration: one TOML file, typed from strings. A key that is unknown, a value that is out of range or
//! a file that others may write is an error that names the file, the line, the key and what to do.
//!
//! Every scalar key is also a flag of `reaper run` ([`Overrides`]), and the flag wins.

mod error;
mod file;
mod span;
mod value;

use std::path::PathBuf;

use serde::Deserialize;

pub(crate) use self::error::shown;
pub use self::{
    error::{ConfigError, Position},
    file::{MAX_BYTES, check_owner},
    span::{Span, SpanError},
    value::{Age, CacheEntries, Cmdlines, LogLevel, Output, Overflow, PinPath, Slots, ValueError},
};

/// All that can be configured. [`Default`] is what the file says that `reaper config default` prints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a zombie stands before it is reported.
    pub age: Age,
    /// How events are written.
    pub output: Output,
    /// How many cgroups' paths are kept.
    pub cgroup_cache: CacheEntries,
    /// Whether the kernel side stays when the daemon ends, and records on for the next one.
    pub persist: bool,
    /// Where it is pinned.
    pub pin_path: PinPath,
    /// The kernel-side table of processes.
    pub ledger: Ledger,
    /// What is taken from processes while they live.
    pub capture: Capture,
    /// The daemon's own log.
    pub log: Log,
}

/// The kernel-side table of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ledger {
    /// Its slots. They are 64 bytes each and allocated at start.
    pub entries: Slots,
    /// Entries of the map behind it, for processes whose set of slots is full.
    pub overflow: Overflow,
}

/// What is taken from processes while they live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    /// Whose command lines are taken at exec. A zombie has none left to read.
    pub cmdline: Cmdlines,
}

/// The daemon's own log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least important level that is written.
    pub level: LogLevel,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            age: Age::default(),
            output: Output::default(),
            cgroup_cache: CacheEntries::default(),
            persist: true,
            pin_path: PinPath::default(),
            ledger: Ledger::default(),
            capture: Capture::default(),
            log: Log::default(),
        }
    }
}

impl Config {
    /// Where the kernel side is pinned; `None` where it ends with the daemon.
    #[must_use]
    pub fn pins(&self) -> Option<PathBuf> {
        self.persist.then(|| self.pin_path.get().to_owned())
    }

    /// The keys whose values differ between the two.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self {
            age,
            output,
            cgroup_cache,
            persist,
            pin_path,
            ledger: Ledger { entries, overflow },
            capture: Capture { cmdline },
            log: Log { level },
        } = self;
        [
            ("age", *age != other.age),
            ("output", *output != other.output),
            ("cgroup_cache", *cgroup_cache != other.cgroup_cache),
            ("persist", *persist != other.persist),
            ("pin_path", *pin_path != other.pin_path),
            ("ledger.entries", *entries != other.ledger.entries),
            ("ledger.overflow", *overflow != other.ledger.overflow),
            ("capture.cmdline", *cmdline != other.capture.cmdline),
            ("log.level", *level != other.log.level),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }

    /// The commented file that `reaper config default` prints; it parses to [`Config::default`].
    #[must_use]
    pub const fn default_toml() -> &'static str {
        include_str!("../../config/default.toml")
    }

    /// The configuration with the flags that were given in the place of what the file says. `output` is the flag
    /// that every command has.
    #[must_use]
    pub fn with(self, flags: &Overrides, output: Option<Output>) -> Self {
        let Overrides {
            age,
            cgroup_cache,
            no_persist,
            pin_path,
            ledger_entries,
            ledger_overflow,
            capture_cmdline,
            log_level,
        } = flags;
        Self {
            age: age.unwrap_or(self.age),
            output: output.unwrap_or(self.output),
            cgroup_cache: cgroup_cache.unwrap_or(self.cgroup_cache),
            persist: self.persist && !no_persist,
            pin_path: pin_path.clone().unwrap_or(self.pin_path),
            ledger: Ledger {
                entries: ledger_entries.unwrap_or(self.ledger.entries),
                overflow: ledger_overflow.unwrap_or(self.ledger.overflow),
            },
            capture: Capture { cmdline: capture_cmdline.unwrap_or(self.capture.cmdline) },
            log: Log { level: log_level.unwrap_or(self.log.level) },
        }
    }
}

/// The keys of the file as flags of `reaper run`. `output` is not among them: it is a flag of every
/// command.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Configuration (a flag wins over the file)")]
pub struct Overrides {
    /// Report a zombie when it has stood this long [file: age; default: 30s]
    ///
    /// Between 100ms and 24h.
    #[arg(long, value_name = "DURATION")]
    pub age: Option<Age>,
    /// Keep the paths of this many cgroups [file: cgroup_cache; default: 16384]
    #[arg(long, value_name = "COUNT")]
    pub cgroup_cache: Option<CacheEntries>,
    /// Let the kernel side end with the daemon: what happens until the next one runs is not seen [file: persist = false]
    #[arg(long, conflicts_with = "pin_path")]
    pub no_persist: bool,
    /// Pin the kernel side under this folder of a bpf file system [file: pin_path; default: /sys/fs/bpf/reaper]
    #[arg(long, value_name = "PATH")]
    pub pin_path: Option<PinPath>,
    /// Slots of the ledger: a power of two, or auto [file: ledger.entries; default: auto]
    ///
    /// Each takes 64 bytes of kernel memory. "auto" is pid_max rounded up to a power of two, at most 131072.
    #[arg(long, value_name = "COUNT")]
    pub ledger_entries: Option<Slots>,
    /// Entries of the map behind the ledger [file: ledger.overflow; default: 16384]
    #[arg(long, value_name = "COUNT")]
    pub ledger_overflow: Option<Overflow>,
    /// Whose command lines to take at exec [file: capture.cmdline; default: probation]
    #[arg(long, value_name = "WHOSE")]
    pub capture_cmdline: Option<Cmdlines>,
    /// The least important log level that is written [file: log.level; default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
}

#[cfg(test)]
mod tests;
