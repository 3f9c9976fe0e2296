//! The configuration as flags.

use super::{
    Age, Apart, CacheEntries, Cmdlines, Grace, KubeconfigPath, LabelSetCount, Listen, LogLevel, MaxPause,
    Natives, NodeName, NodeZombies, Overflow, PerHolder, PerMinute, PinPath, SiteCount, Slots, Socket,
};

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
    /// Put no hook on the way of each fork: of refused ones only those by pids.max are seen, and not who tried
    /// [file: capture.fork_hook = false]
    #[arg(long)]
    pub no_fork_hook: bool,
    /// Keep this many leak sites; those that were seen least recently give way [file: origin.sites; default: 4096]
    #[arg(long, value_name = "COUNT")]
    pub origin_sites: Option<SiteCount>,
    /// Of whose forks native stacks are taken [file: origin.native; default: probation]
    #[arg(long, value_name = "WHOSE")]
    pub origin: Option<Natives>,
    /// Where the Container Runtime Interface listens that knows the names of pods: auto, off, or a path [file: names.cri; default: auto]
    #[arg(long, value_name = "SOCKET")]
    pub names_cri: Option<Socket>,
    /// The same for Docker [file: names.docker; default: auto]
    #[arg(long, value_name = "SOCKET")]
    pub names_docker: Option<Socket>,
    /// The same for Podman [file: names.podman; default: auto]
    #[arg(long, value_name = "SOCKET")]
    pub names_podman: Option<Socket>,
    /// The same for the system's D-Bus, where systemd says what a unit is for [file: names.systemd; default: auto]
    #[arg(long, value_name = "SOCKET")]
    pub names_systemd: Option<Socket>,
    /// Make a Warning Event on each pod whose zombies stand [file: kubernetes.events = true]
    #[arg(long)]
    pub kubernetes_events: bool,
    /// Give the node a condition that says whether so many zombies stand on it: a number, or off [file: kubernetes.node_zombies; default: off]
    #[arg(long, value_name = "COUNT")]
    pub kubernetes_node_zombies: Option<NodeZombies>,
    /// What the node is called in the cluster: a name, or auto [file: kubernetes.node; default: auto]
    ///
    /// "auto" is what NODE_NAME in the environment says, else the host's name.
    #[arg(long, value_name = "NAME")]
    pub kubernetes_node: Option<NodeName>,
    /// How far apart two tellings of one Event are, at least [file: kubernetes.apart; default: 5m]
    ///
    /// Between 1s and 24h.
    #[arg(long, value_name = "DURATION")]
    pub kubernetes_apart: Option<Apart>,
    /// Where the cluster's address and the credentials for it are: in-cluster, or a path [file: kubernetes.kubeconfig; default: in-cluster]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<KubeconfigPath>,
    /// The least important log level that is written [file: log.level; default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Serve metrics at this address and port, or off [file: metrics.listen; default: auto]
    ///
    /// "auto" is 127.0.0.1:9464, or nowhere where another program has that. An address that is given and cannot be had is an error.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<Listen>,
    /// Label sets that a metric has at most; what finds no place is counted as other [file: metrics.label_sets; default: 1000]
    #[arg(long, value_name = "COUNT")]
    pub metrics_label_sets: Option<LabelSetCount>,
    /// Apply no remedy: say what would be done, and why [file: remedy.dry_run = true]
    #[arg(long)]
    pub dry_run: bool,
    /// Apply no remedy, although there are rules [file: remedy.paused = true]
    #[arg(long)]
    pub pause_remedies: bool,
    /// Apply at most so many remedies a minute [file: remedy.per_minute; default: 60]
    #[arg(long, value_name = "COUNT")]
    pub remedies_per_minute: Option<PerMinute>,
    /// Apply at most so many remedies a minute to one holder [file: remedy.per_holder; default: 12]
    #[arg(long, value_name = "COUNT")]
    pub remedies_per_holder: Option<PerHolder>,
    /// How long a holder has from SIGTERM to SIGKILL [file: remedy.grace; default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub terminate_grace: Option<Grace>,
    /// How long a holder may stand still at once while it is made to wait [file: remedy.max_pause; default: 2ms]
    ///
    /// Between 1ms and 100ms.
    #[arg(long, value_name = "DURATION")]
    pub max_pause: Option<MaxPause>,
}
