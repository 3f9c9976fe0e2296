//! The configuration: one TOML file, typed from strings. A key that is unknown, a value that is out of range or
//! a file that others may write is an error that names the file, the line, the key and what to do.
//!
//! Every scalar key is also a flag of `reaper run` ([`Overrides`]), and the flag wins.

mod error;
mod file;
mod kubernetes;
mod metrics;
mod names;
mod overrides;
mod remedy;
mod rules;
mod span;
mod value;
mod written;

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

pub(crate) use self::error::shown;
use self::rules::WrittenRule;
pub use self::{
    error::{ConfigError, Position},
    file::{MAX_BYTES, check_owner},
    kubernetes::{Apart, KubeconfigPath, Kubernetes, NodeName, NodeZombies},
    metrics::{LabelSetCount, Listen, Metrics},
    names::{Names, Socket},
    overrides::Overrides,
    remedy::{Grace, MaxPause, PerHolder, PerMinute, Remedies},
    span::{Span, SpanError},
    value::{
        Age, CacheEntries, Cmdlines, LogLevel, Natives, Output, Overflow, PinPath, SiteCount, Slots,
        ValueError,
    },
};
use crate::policy::{Rule, Terms};

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
    /// Where zombies come from.
    pub origin: Origin,
    /// Who is asked what people call workloads.
    pub names: Names,
    /// What the cluster is told.
    pub kubernetes: Kubernetes,
    /// The daemon's own log.
    pub log: Log,
    /// Metrics.
    pub metrics: Metrics,
    /// What holds for all remedies.
    pub remedy: Remedies,
    /// What is done about which zombies, beside reporting them: the first rule that matches.
    #[serde(skip)]
    pub rules: Vec<Rule>,
    /// The same as it is written; empty once it is checked.
    #[serde(rename = "rule")]
    written: Vec<Spanned<WrittenRule>>,
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    /// Whose command lines are taken at exec. A zombie has none left to read.
    pub cmdline: Cmdlines,
    /// Whether a hook sees each refused fork, where the kernel lets it.
    pub fork_hook: bool,
}

impl Default for Capture {
    fn default() -> Self {
        Self { cmdline: Cmdlines::default(), fork_hook: true }
    }
}

/// Where zombies come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// How many leak sites are kept.
    pub sites: SiteCount,
    /// Of whose forks native stacks are taken. Those of interpreters that are known always are.
    pub native: Natives,
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
            origin: Origin::default(),
            names: Names::default(),
            kubernetes: Kubernetes::default(),
            log: Log::default(),
            metrics: Metrics::default(),
            remedy: Remedies::default(),
            rules: Vec::new(),
            written: Vec::new(),
        }
    }
}

impl Config {
    /// Where the kernel side is pinned; `None` where it ends with the daemon.
    #[must_use]
    pub fn pins(&self) -> Option<PathBuf> {
        self.persist.then(|| self.pin_path.get().to_owned())
    }

    /// What is done about zombies.
    #[must_use]
    pub fn terms(&self) -> Terms {
        let Remedies { dry_run, paused, per_minute, per_holder, grace, max_pause } = self.remedy;
        Terms {
            dry_run,
            paused,
            per_minute: per_minute.get(),
            per_holder: per_holder.get(),
            grace: grace.get(),
            max_pause: max_pause.get(),
            rules: self.rules.clone(),
        }
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
            capture: Capture { cmdline, fork_hook },
            origin: Origin { sites, native },
            names: Names { cri, docker, podman, systemd },
            kubernetes: Kubernetes { events, node_zombies, node, apart, kubeconfig },
            log: Log { level },
            metrics: Metrics { listen, label_sets },
            remedy: Remedies { dry_run, paused, per_minute, per_holder, grace, max_pause },
            rules,
            written: _,
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
            ("capture.fork_hook", *fork_hook != other.capture.fork_hook),
            ("origin.sites", *sites != other.origin.sites),
            ("origin.native", *native != other.origin.native),
            ("names.cri", *cri != other.names.cri),
            ("names.docker", *docker != other.names.docker),
            ("names.podman", *podman != other.names.podman),
            ("names.systemd", *systemd != other.names.systemd),
            ("kubernetes.events", *events != other.kubernetes.events),
            ("kubernetes.node_zombies", *node_zombies != other.kubernetes.node_zombies),
            ("kubernetes.node", *node != other.kubernetes.node),
            ("kubernetes.apart", *apart != other.kubernetes.apart),
            ("kubernetes.kubeconfig", *kubeconfig != other.kubernetes.kubeconfig),
            ("log.level", *level != other.log.level),
            ("metrics.listen", *listen != other.metrics.listen),
            ("metrics.label_sets", *label_sets != other.metrics.label_sets),
            ("remedy.dry_run", *dry_run != other.remedy.dry_run),
            ("remedy.paused", *paused != other.remedy.paused),
            ("remedy.per_minute", *per_minute != other.remedy.per_minute),
            ("remedy.per_holder", *per_holder != other.remedy.per_holder),
            ("remedy.grace", *grace != other.remedy.grace),
            ("remedy.max_pause", *max_pause != other.remedy.max_pause),
            ("rule", *rules != other.rules),
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
            no_fork_hook,
            origin_sites,
            origin,
            names_cri,
            names_docker,
            names_podman,
            names_systemd,
            kubernetes_events,
            kubernetes_node_zombies,
            kubernetes_node,
            kubernetes_apart,
            kubeconfig,
            log_level,
            metrics_listen,
            metrics_label_sets,
            dry_run,
            pause_remedies,
            remedies_per_minute,
            remedies_per_holder,
            terminate_grace,
            max_pause,
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
            capture: Capture {
                cmdline: capture_cmdline.unwrap_or(self.capture.cmdline),
                fork_hook: self.capture.fork_hook && !no_fork_hook,
            },
            origin: Origin {
                sites: origin_sites.unwrap_or(self.origin.sites),
                native: origin.unwrap_or(self.origin.native),
            },
            names: Names {
                cri: names_cri.clone().unwrap_or(self.names.cri),
                docker: names_docker.clone().unwrap_or(self.names.docker),
                podman: names_podman.clone().unwrap_or(self.names.podman),
                systemd: names_systemd.clone().unwrap_or(self.names.systemd),
            },
            kubernetes: Kubernetes {
                events: self.kubernetes.events || *kubernetes_events,
                node_zombies: kubernetes_node_zombies.unwrap_or(self.kubernetes.node_zombies),
                node: kubernetes_node.clone().unwrap_or(self.kubernetes.node),
                apart: kubernetes_apart.unwrap_or(self.kubernetes.apart),
                kubeconfig: kubeconfig.clone().unwrap_or(self.kubernetes.kubeconfig),
            },
            log: Log { level: log_level.unwrap_or(self.log.level) },
            metrics: Metrics {
                listen: metrics_listen.unwrap_or(self.metrics.listen),
                label_sets: metrics_label_sets.unwrap_or(self.metrics.label_sets),
            },
            remedy: Remedies {
                dry_run: self.remedy.dry_run || *dry_run,
                paused: self.remedy.paused || *pause_remedies,
                per_minute: remedies_per_minute.unwrap_or(self.remedy.per_minute),
                per_holder: remedies_per_holder.unwrap_or(self.remedy.per_holder),
                grace: terminate_grace.unwrap_or(self.remedy.grace),
                max_pause: max_pause.unwrap_or(self.remedy.max_pause),
            },
            rules: self.rules,
            written: self.written,
        }
    }
}

#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod tests;
