//! The command line: what can be typed, and what `--help` says about it.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::{
    config::{Age, MaxPause, Natives, Output, Overrides, PinPath, Span, SpanError},
    exit_code,
    identity::{BootTime, Identity},
    report::Filter,
    zombie::Cause,
};

/// Sees every child process that exits and is never waited on, the moment it happens, and says whose it is and
/// why it is still there.
#[derive(Debug, Parser)]
#[command(name = "reaper", version, propagate_version = true, after_help = EXAMPLES, max_term_width = 100)]
pub struct CommandLine {
    /// How to write what is found: aligned columns (human) or one JSON object a line (json)
    #[arg(long, global = true, value_name = "human|json")]
    pub output: Option<Output>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  reaper trace                        watch: a line for each zombie that is 5 s old
  reaper ls                           the zombies that stand now
  reaper leaks                        the lines of code that leak, from the daemon
  reaper headroom                     how near workloads are to their limits on processes
  reaper top                          the same, live
  reaper check                        what this machine has and lacks for it
  reaper config default > reaper.toml
  reaper run --config reaper.toml     the daemon
  reaper reap --holder 4700 --dry-run what could be done about its zombies

Exit codes: 0 done, 1 a remedy was refused or only part of it done, 64 wrong usage, 69 something needed is not there, 77 a privilege is missing,
78 wrong configuration.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch and report, as a daemon: zombies, their release, and what was lost
    Run(Box<RunArgs>),
    /// Watch in the foreground; nothing to configure
    Trace(TraceArgs),
    /// List the zombies that stand now
    Ls(LsArgs),
    /// Tell all about one zombie, or what a process holds
    Explain(ExplainArgs),
    /// Show which code leaks: zombies by the stack that forked them
    Leaks(LeaksArgs),
    /// Show how near workloads are to their limits on processes, and when those are full
    Headroom(HeadroomArgs),
    /// Watch workloads in the terminal: zombies, rates, and when limits are full
    Top(TopArgs),
    /// Let holders wait for their zombies, by hand
    Reap(ReapArgs),
    /// Say what this kernel and these privileges allow
    Check(CheckArgs),
    /// Check or print a configuration file
    Config(ConfigArgs),
    /// Remove what a daemon that has ended left in the kernel
    Unload(UnloadArgs),
}

/// `reaper run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Needs root, or the capabilities that `reaper check` names and a /run/reaper of its own. It reports, and does nothing else unless a rule
in the configuration says so (`reaper config default`).

Examples:
  reaper run
  reaper run --config /etc/reaper.toml
  reaper run --age 1m --output json
  reaper run --capture-cmdline all --log-level debug")]
pub struct RunArgs {
    /// The configuration; it must be root's and nobody else's to write [default: built-in]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The keys of the file as flags.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `reaper trace`.
#[derive(Debug, Args)]
#[command(after_help = "\
Several values of one filter: any of them. Several filters: all of them.
Ctrl-C ends it with exit code 0.

Examples:
  reaper trace
  reaper trace --stacks
  reaper trace --age 500ms --container 3f2a9c
  reaper trace --comm chromedriver --comm chrome --duration 10m
  reaper trace --cgroup /system.slice/nginx.service --output json | jq .exit")]
pub struct TraceArgs {
    /// Report a zombie when it has stood this long, between 100ms and 24h
    #[arg(long, value_name = "DURATION", default_value_t = Age::TRACE)]
    pub age: Age,
    /// End after this long [default: at Ctrl-C]
    #[arg(long, value_name = "DURATION")]
    pub duration: Option<Span>,
    /// Show below each zombie who forked whom, and the stack at that fork
    #[arg(long)]
    pub stacks: bool,
    /// Of whose forks native stacks are taken: probation, all or off [default: probation]
    #[arg(long, value_name = "WHOSE")]
    pub origin: Option<Natives>,
    /// Put no hook on the way of each fork: of refused ones only those by pids.max are seen. Nor is one where the running daemon has
    /// none because of its configuration
    #[arg(long)]
    pub no_fork_hook: bool,
    /// Which zombies to report.
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// `reaper check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Do not try the hook on the way of each fork. Nor is it tried where the running daemon has none because of its configuration
    #[arg(long)]
    pub no_fork_hook: bool,
}

/// `reaper ls`.
#[derive(Debug, Args)]
#[command(after_help = "\
The answer is the running daemon's, with ages, where there is one that answers. Else a census of the kernel's processes
is taken, which cannot tell how old a zombie is. The output says which.

Examples:
  reaper ls
  reaper ls --container 3f2a9c
  reaper ls --output json | jq -r 'select(.event == \"zombie\") | .holder.comm' | sort | uniq -c")]
pub struct LsArgs {
    /// A row for each zombie: on a terminal, of more than 50 those share one that differ in nothing but pid and age
    #[arg(long)]
    pub each: bool,
    /// Which zombies to list.
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// `reaper headroom`.
#[derive(Debug, Args)]
#[command(after_help = "\
A fork fails with \"Resource temporarily unavailable\" (EAGAIN) when a limit on processes is full: pids.max of any cgroup around it,
RLIMIT_NPROC of its user, kernel.pid_max or kernel.threads-max of the machine. Zombies count against all of them. The answer is the
running daemon's, with rates and forecasts; without one, what can be known at once.

Exit code 69 where there is no such workload.

Examples:
  reaper headroom
  reaper headroom crawlers/fetcher-7c9d
  reaper headroom /system.slice/nginx.service
  reaper headroom --output json | jq 'select(.nearest != null) | .limits[.nearest]'")]
pub struct HeadroomArgs {
    /// A workload in full, with zombies or without: a container's id or its beginning, a pod's UID or namespace/name, a unit, a cgroup's
    /// path [default: a row for each that has zombies]
    #[arg(value_name = "WORKLOAD")]
    pub workload: Option<String>,
}

/// `reaper top`.
#[derive(Debug, Args)]
#[command(after_help = "\
The running daemon is asked again and again; how long ago is said in the upper right corner. Enter opens a workload
(its zombies by holder, cause and leak site), then one of these lines (the stack, and each zombie), then a zombie in full; / lists
the workloads that have in their name what is typed; ? lists the keys; q ends it with exit code 0.

With --allow-remedies the key x does for the zombies of the selected line what `reaper reap` does: it shows what would be done and why
(--dry-run), and does it when y is pressed then. What needs --parent-may-miss-status stays with the command line.

Exit code 69 where no daemon runs, or the terminal is none; 77 for others than root.

Examples:
  reaper top
  reaper top --interval 5s
  reaper top --allow-remedies
  NO_COLOR=1 reaper top")]
pub struct TopArgs {
    /// How often the daemon is asked, between 1s and 1h; less often where it takes long to answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    pub interval: Span,
    /// Have the key x reap by hand; without, it only shows the command
    #[arg(long)]
    pub allow_remedies: bool,
}

fn interval(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error: SpanError| error.to_string())?;
    let fits = (Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&span.0);
    if fits { Ok(span) } else { Err("write a duration between 1s and 1h".to_owned()) }
}

/// `reaper explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Of a zombie: what it was, since when it is dead, who must wait for it and what that does instead, who forked it and with which stack,
whose it is, why it stands, what the rules say and what to do about it. Of a process that holds zombies: a summary of those. The
answer is the running daemon's; without one, what a census can say.

Exit code 69 where there is no such process.

Examples:
  reaper explain 4712
  reaper explain 4712 --output json | jq 'select(.event == \"zombie\") | .origin'")]
pub struct ExplainArgs {
    /// The process, as the initial pid namespace numbers it
    #[arg(value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub pid: u32,
}

/// `reaper leaks`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("form").multiple(false),
    after_help = "\
The running daemon counts zombies by where they come from: the stack at the fork, or the chain of forkers where no stack was taken.
A site's id stays the same after a restart and on other machines. WHERE shows how good that is (exact, approximate, lineage-only,
predates) and the innermost frame that is not of the language's own library; without a stack, who forked whom, and via which line
that was started. With an id, all is shown.

Examples:
  reaper leaks
  reaper leaks --since 1h --workload 3f2a9c0d1e4b
  reaper leaks c699dddd
  reaper leaks --folded | flamegraph.pl --countname zombies > leaks.svg
  reaper leaks --pprof leaks.pb.gz && go tool pprof -top -cum leaks.pb.gz
  reaper leaks --html leaks.html"
)]
pub struct LeaksArgs {
    /// These sites, in full: an id or its beginning
    #[arg(value_name = "SITE", value_parser = site)]
    pub sites: Vec<String>,
    /// Only what leaked in this time, and only what was counted in it
    #[arg(long, value_name = "SPAN")]
    pub since: Option<Span>,
    /// Only this workload: a pod as NAMESPACE/NAME, a container's id or its beginning, a pod's UID, a unit's name, a cgroup's path, or
    /// what the table shows
    #[arg(long, value_name = "NAME")]
    pub workload: Option<OsString>,
    /// Write folded stacks, as flame graph tools read them: root;...;leaf count
    #[arg(long, group = "form")]
    pub folded: bool,
    /// Write a profile for `go tool pprof` to this file, or to standard output (-)
    #[arg(long, value_name = "FILE", group = "form")]
    pub pprof: Option<PathBuf>,
    /// Write a page with a picture to this file, or to standard output (-)
    #[arg(long, value_name = "FILE", group = "form")]
    pub html: Option<PathBuf>,
}

fn site(id: &str) -> Result<String, String> {
    let fits = !id.is_empty() && id.len() <= 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if fits {
        Ok(id.to_ascii_lowercase())
    } else {
        Err("write up to eight hexadecimal digits, as in the column SITE".to_owned())
    }
}

/// `reaper reap`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("whom").required(true).multiple(true),
    after_help = "\
Each holder is made to wait for its zombies itself, once and without blocking; nothing else about it changes. Safe are orphans that
were given to a holder that is not seen waiting for them (cause adopted). Others are touched only where --cause names them and
--parent-may-miss-status accepts that their parent may ask for a status that is gone.

Exit code 1 where something was refused, or only part of it done.

Examples:
  reaper reap 4711 4712 --dry-run
  reaper reap --holder 4700 --cause adopted
  reaper reap --workload 3f2a9c0d1e4b --yes
  reaper reap --holder 4700 --cause never-waited --parent-may-miss-status --watch 3m"
)]
pub struct ReapArgs {
    /// These zombies
    #[arg(value_name = "PID", group = "whom")]
    pub pids: Vec<u32>,
    /// The zombies of this holder
    #[arg(long, value_name = "PID", group = "whom")]
    pub holder: Option<u32>,
    /// The zombies of this workload: a pod as NAMESPACE/NAME, a container's id or its beginning, a pod's UID, a unit's name, or a
    /// cgroup's path
    #[arg(long, value_name = "NAME", group = "whom")]
    pub workload: Option<OsString>,
    /// Only zombies with this cause [default: adopted, where no PID is given]
    #[arg(long, value_name = "CAUSE", value_parser = cause)]
    pub cause: Vec<Cause>,
    /// Accept that a status is taken which the parent asks for later
    ///
    /// With --cause never-waited it also takes a running daemon that has watched the holder for longer than ten times what it takes to
    /// wait for a child, and a zombie that is older than that. The daemon is asked to watch from then on (for at least a quarter of
    /// an hour); where it has not done so for long enough, it is said when it will have, which --watch can wait for.
    #[arg(long)]
    pub parent_may_miss_status: bool,
    /// Accept that a timed wait of the holder ends early with EINTR
    #[arg(long)]
    pub allow_interrupted_wait: bool,
    /// The configuration whose [names] says who is asked what people call workloads; it must be root's [default: whom the running daemon
    /// asks, else where runtimes usually listen]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How long to watch the holders' wait calls before
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub watch: Span,
    /// How long a holder may stand still at once, between 1ms and 100ms
    ///
    /// The zombies of one stop are as many as take half of it. The configuration of a daemon says nothing here.
    #[arg(long, value_name = "DURATION", default_value_t = MaxPause::default())]
    pub max_pause: MaxPause,
    /// Only say what would be done, and why
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Nothing where the holder is not this process: its pid, and its start in nanoseconds since boot
    #[arg(long, value_name = "PID@START", value_parser = identity, hide = true)]
    pub only_holder: Option<Identity>,
    /// Take back what the remedy autoreap has set inside the holder
    #[arg(long, requires = "holder", conflicts_with_all = ["pids", "workload", "cause"])]
    pub undo_autoreap: bool,
}

fn identity(text: &str) -> Result<Identity, String> {
    let parsed = text.split_once('@').and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
    let (pid, start) = parsed.ok_or_else(|| "write PID@START".to_owned())?;
    Ok(Identity { pid, start: BootTime(start) })
}

fn cause(word: &str) -> Result<Cause, String> {
    let known = Cause::ALL.into_iter().find(|cause| cause.as_str() == word);
    known.ok_or_else(|| format!("write one of {}", Cause::ALL.map(Cause::as_str).join(", ")))
}

/// Which zombies are meant. Several values of one kind: any; several kinds: all.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct FilterArgs {
    /// The zombie, its holder or its forker has this pid
    #[arg(long, value_name = "PID", num_args = 1..)]
    pub pid: Vec<u32>,
    /// The zombie, its holder or its forker has this name (the first 15 bytes count)
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub comm: Vec<OsString>,
    /// The zombie is of the container whose id starts so
    #[arg(long, value_name = "ID-PREFIX", num_args = 1..)]
    pub container: Vec<OsString>,
    /// The zombie is of this cgroup or one below it; as /proc/PID/cgroup shows it
    #[arg(long, value_name = "PATH-PREFIX", num_args = 1..)]
    pub cgroup: Vec<OsString>,
}

impl From<&FilterArgs> for Filter {
    fn from(args: &FilterArgs) -> Self {
        let FilterArgs { pid, comm, container, cgroup } = args;
        Self::new(pid, comm, container, cgroup)
    }
}

/// `reaper unload`.
#[derive(Debug, Args)]
#[command(after_help = "\
A daemon leaves its maps and links in the kernel, pinned, so that the next one finds what happened meanwhile. This
removes them and prints the path of each. While a daemon runs it is refused with exit code 69.

Examples:
  reaper unload
  reaper unload --pin-path /sys/fs/bpf/elsewhere")]
pub struct UnloadArgs {
    /// The folder that the daemon was told to pin them under
    #[arg(long, value_name = "PATH", default_value = PinPath::DEFAULT)]
    pub pin_path: PinPath,
}

/// `reaper config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The subcommands of `reaper config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether a file is a configuration; exit code 78 where it is not
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print a configuration with every key at its default, and what it means
    Default,
}

impl CommandLine {
    /// Reads the process's arguments. Where there is nothing to do but to answer (`--help`, `--version`, an error),
    /// that is printed, to standard output or to standard error as clap decides, and the exit code is returned.
    pub fn from_process() -> Result<Self, u8> {
        Self::try_parse().map_err(|answer| {
            // Nobody is left to tell when the terminal is gone.
            let _ = answer.print();
            exit_code_of(&answer)
        })
    }
}

/// The exit code of what clap has to say: help and version were asked for, everything else is an error.
fn exit_code_of(answer: &clap::Error) -> u8 {
    if answer.use_stderr() { exit_code::USAGE } else { exit_code::OK }
}

#[cfg(test)]
mod tests;
