//! `reaper check`: what this kernel and these privileges allow, and what the running daemon could not record.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{Failure, args::CheckArgs, pid_max, written};
use crate::{
    config::{Config, Listen, Output},
    control::{self, ControlError, Setup},
    exit_code,
    headroom::Sources,
    kernel::{
        Cmdlines, Kernel, KernelError, Options, RefusalHook, ReleaseHook, Requirement, Sizes, Standing,
        reads_others, requirements,
    },
    metrics::Metrics,
    report::{Event, LostEvent, SCHEMA, to_line},
    workload::{Cgroups, Hierarchy, Limits},
};

/// One line of JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    schema: u32,
    event: &'static str,
    name: &'a str,
    purpose: &'a str,
    standing: &'static str,
    detail: &'a str,
}

/// Prints the whole table. The exit code says whether `run` would start.
pub(super) fn run(args: &CheckArgs, output: Output) -> Result<u8, Failure> {
    let mut all = requirements();
    let mut code = exit_code::OK;
    for requirement in &all {
        if matches!(requirement.standing, Standing::Missing(_)) && code != exit_code::PERMISSION {
            code = if requirement.privilege { exit_code::PERMISSION } else { exit_code::UNAVAILABLE };
        }
    }
    let cgroups = Cgroups::open(Path::new("/proc"), Limits::default());
    all.extend(hierarchies(&cgroups));
    let daemon = control::setup(&control::socket());
    let mut hook = None;
    if code == exit_code::OK {
        let Loaded { rows, refusal_hook, code: refused } =
            load(&cgroups, Setup::lets_hook(&daemon, args.no_fork_hook));
        all.extend(rows);
        (hook, code) = (refusal_hook, refused);
    }
    all.push(refusals(&cgroups, hook.as_ref(), &Sources::probe()));
    all.push(metrics(daemon));
    let losses = control::losses(&control::socket());
    let mut text = String::new();
    match output {
        Output::Json => {
            for requirement in &all {
                let (standing, detail) = parts(&requirement.standing);
                let Requirement { name, purpose, .. } = requirement;
                let line = Line { schema: SCHEMA, event: "check", name, purpose, standing, detail };
                text.push_str(&serde_json::to_string(&line).map_err(|error| written(error.into()))?);
                text.push('\n');
            }
            for lost in losses.as_ref().into_iter().flatten() {
                text.push_str(&to_line(&Event::Lost(lost.clone())).map_err(|error| written(error.into()))?);
                text.push('\n');
            }
        }
        Output::Human => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(["NEEDED", "FOR", "", "FOUND"]);
            for requirement in &all {
                let (standing, detail) = parts(&requirement.standing);
                table.add_row([requirement.name, requirement.purpose, standing, detail]);
            }
            text = table.trim_fmt();
            text.push_str("\n\n");
            text.push_str(&account(&losses));
        }
    }
    io::stdout().write_all(text.as_bytes()).map_err(written)?;
    Ok(code)
}

const fn parts(standing: &Standing) -> (&'static str, &str) {
    match standing {
        Standing::Met(detail) => ("ok", detail.as_str()),
        Standing::Reduced(detail) => ("reduced", detail.as_str()),
        Standing::Missing(detail) => ("missing", detail.as_str()),
    }
}

/// What the daemon could not record, in words.
fn account(losses: &Result<Vec<LostEvent>, ControlError>) -> String {
    let losses = match losses {
        Ok(losses) => losses,
        Err(error) => return format!("What a running daemon has lost is not known: {error}.\n"),
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["LOST", "TIMES", "WHAT IT MEANS"]);
    for LostEvent { time: _, what, count: _, total, message } in losses.iter().filter(|lost| lost.total > 0) {
        table.add_row([what.as_str().to_owned(), total.to_string(), message.to_string()]);
    }
    if table.is_empty() {
        return format!("The running daemon has lost nothing; {} kinds of loss are counted.\n", losses.len());
    }
    table.trim_fmt() + "\n"
}

/// What keeps workloads from being named, a line each; one line where nothing does.
fn hierarchies(cgroups: &Cgroups) -> Vec<Requirement> {
    let requirement = |standing| Requirement {
        name: "cgroup hierarchies",
        purpose: "naming workloads",
        standing,
        privilege: false,
    };
    match cgroups.troubles() {
        [] => vec![requirement(Standing::Met("every id can be resolved".to_owned()))],
        troubles => {
            troubles.iter().map(|trouble| requirement(Standing::Reduced(trouble.to_string()))).collect()
        }
    }
}

/// Where metrics are, or would be.
fn metrics(daemon: Result<Setup, ControlError>) -> Requirement {
    let standing = match daemon {
        Ok(Setup { metrics: Some(address), .. }) => Standing::Met(format!("at http://{address}/metrics")),
        Ok(Setup { no_metrics: Some(why), .. }) => Standing::Reduced(why),
        Ok(_) => Standing::Met("turned off ([metrics] listen)".to_owned()),
        Err(ControlError::NoDaemon(_)) => match Metrics::listen(Listen::USUAL) {
            Ok(_) => Standing::Met(format!("{} is free for a daemon", Listen::USUAL)),
            Err(error) => Standing::Reduced(error.to_string()),
        },
        Err(error) => Standing::Reduced(format!("what a running daemon serves is not known: {error}")),
    };
    Requirement { name: "metrics", purpose: "Prometheus", standing, privilege: false }
}

/// Where refused forks are known from.
fn refusals(cgroups: &Cgroups, hook: Option<&RefusalHook>, sources: &Sources) -> Requirement {
    let counts = refusal_counts(cgroups, sources);
    let standing = match hook {
        Some(found @ (RefusalHook::Fexit | RefusalHook::Kretprobe { .. })) => with_hook(found, &counts),
        Some(none @ (RefusalHook::None { .. } | RefusalHook::Off)) => {
            Standing::Reduced(format!("{}; hook on the clone path: {none}", without_hook(&counts)))
        }
        None => Standing::Reduced(without_hook(&counts)),
    };
    Requirement {
        name: "refused forks",
        purpose: "that a limit on processes was hit",
        standing,
        privilege: false,
    }
}

/// By any limit, as far as that is so.
fn with_hook(hook: &RefusalHook, counts: &Result<String, String>) -> Standing {
    let mut lacks = Vec::new();
    if let Err(why) = counts {
        lacks.push(format!("pids.max is named only where it is still full a moment later: {why}"));
    }
    if matches!(hook, RefusalHook::Kretprobe { .. }) {
        lacks.push(
            "where more forks are under way at once than the kernel keeps places for, some are not seen, nor counted as lost, but \
             for those by pids.max"
                .to_owned(),
        );
    }
    let seen = "by any limit, but for those around a user namespace that a task is in";
    let hook = format!("hook on the clone path: {hook}");
    if lacks.is_empty() {
        Standing::Met(format!("{seen}; {hook}"))
    } else {
        Standing::Reduced(format!("{seen}; {}; {hook}", lacks.join("; ")))
    }
}

/// Without the hook what is not refused by `pids.max` is not seen, and not who tried.
fn without_hook(counts: &Result<String, String>) -> String {
    match counts {
        Ok(how) => format!(
            "{how}: only refusals by pids.max are seen, not those by RLIMIT_NPROC, kernel.pid_max and kernel.threads-max; the \
             cgroup is known, not the process"
        ),
        Err(why) => format!("{why}: no refusal is seen"),
    }
}

/// How it is known that `pids.max` has refused a fork, or why it is not.
fn refusal_counts(cgroups: &Cgroups, sources: &Sources) -> Result<String, String> {
    let Some((hierarchy, _)) = cgroups.pids() else {
        return Err("no mount shows the whole hierarchy with the pids controller".to_owned());
    };
    match (hierarchy, &sources.events, &sources.log) {
        (Hierarchy::V2, Ok(()), _) => Ok("pids.events, by notification".to_owned()),
        (Hierarchy::V2, Err(error), _) => {
            Err(format!("no notification of pids.events ({error}; raise fs.inotify.max_user_instances)"))
        }
        (Hierarchy::V1Pids, events, Ok(())) => {
            let events =
                if events.is_ok() { "pids.events, by notification where the kernel sends it, " } else { "" };
            Ok(format!("{events}the kernel's log (the first in each cgroup), then reading"))
        }
        (Hierarchy::V1Pids, Ok(()), Err(error)) => Ok(format!(
            "pids.events, by notification, which version 1 does not send from Linux 6.11 on, and no log of the kernel \
             ({error}; grant CAP_SYSLOG)"
        )),
        (Hierarchy::V1Pids, Err(error), Err(_)) => {
            Err(format!("neither inotify ({error}) nor the kernel's log"))
        }
    }
}

/// What came of loading the object.
struct Loaded {
    rows: Vec<Requirement>,
    /// `None` where nothing could be loaded.
    refusal_hook: Option<RefusalHook>,
    code: u8,
}

/// Loads the object as the daemon does: the kernel's own verdict on every program. Nothing is attached but, for a
/// moment, the two hooks whose possibility shows in no other way.
fn load(cgroups: &Cgroups, lets_hook: bool) -> Loaded {
    let Config { ledger, .. } = Config::default();
    let sizes = Sizes { entries: ledger.entries.resolve(pid_max()), overflow: ledger.overflow.get() };
    let kernel: Result<Kernel, KernelError> = Kernel::load(
        Options { sizes, pids_hierarchy: cgroups.v1_pids_number().unwrap_or(0), cmdlines: Cmdlines::Off },
        None,
    );
    let requirement = |standing, privilege| Requirement {
        name: "BPF object",
        purpose: "the kernel accepts every program",
        standing,
        privilege,
    };
    match kernel {
        Ok(mut kernel) => {
            let found = format!("loaded; {} KiB of ledger", sizes.bytes() / 1024);
            let standing = match kernel.no_cmdlines() {
                None => Standing::Met(found),
                Some(reason) => Standing::Reduced(format!("{found}; no command lines: {reason}")),
            };
            let (stacks, native) = (
                stacks(kernel.no_origins(), reads_others()),
                native_stacks(kernel.no_natives(), reads_others()),
            );
            let release = release_hook(kernel.see_releases());
            Loaded {
                rows: vec![requirement(standing, false), release, stacks, native],
                refusal_hook: Some(if lets_hook { kernel.see_refusals().clone() } else { RefusalHook::Off }),
                code: exit_code::OK,
            }
        }
        Err(error) => {
            let failure = Failure::from(error);
            let privilege = failure.code == exit_code::PERMISSION;
            let rows = vec![requirement(Standing::Missing(failure.message), privilege)];
            Loaded { rows, refusal_hook: None, code: failure.code }
        }
    }
}

const UNREAD: &str =
    "of this user's own programs at most: CAP_SYS_PTRACE is not held, others must not be read";

/// Whether the line that forked a zombie can be told. `reads` where anybody's memory may be read.
fn stacks(refused: Option<&KernelError>, reads: bool) -> Requirement {
    const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";
    let scope = fs::read_to_string(YAMA).ok();
    let standing = match (refused, scope.as_deref().map(str::trim)) {
        (Some(reason), _) => Standing::Reduced(format!("no lines, chains of forkers only: {reason}")),
        // <https://docs.kernel.org/admin-guide/LSM/Yama.html>
        (None, Some("3")) => Standing::Reduced(format!(
            "no lines, chains of forkers only: {YAMA} is 3, nobody may read another process's memory"
        )),
        (None, _) if !reads => Standing::Reduced(UNREAD.to_owned()),
        (None, _) => Standing::Met("of CPython 3.6 to 3.14".to_owned()),
    };
    Requirement {
        name: "stacks at forks",
        purpose: "the line that forked a zombie",
        standing,
        privilege: false,
    }
}

/// Whether functions of machine code can be told.
fn native_stacks(refused: Option<&KernelError>, reads: bool) -> Requirement {
    let standing = match refused {
        Some(reason) => Standing::Reduced(format!("of Python programs only: {reason}")),
        None if !reads => Standing::Reduced(UNREAD.to_owned()),
        None => Standing::Met("of programs on probation, or of all (origin.native)".to_owned()),
    };
    Requirement {
        name: "native stacks at forks",
        purpose: "the function that forked a zombie",
        standing,
        privilege: false,
    }
}

fn release_hook(found: &ReleaseHook) -> Requirement {
    let standing = match found {
        ReleaseHook::Fentry | ReleaseHook::Kprobe { .. } => Standing::Met(found.to_string()),
        ReleaseHook::None { .. } => Standing::Reduced(found.to_string()),
    };
    let purpose = "who released a zombie, and when exactly";
    Requirement { name: "release hook", purpose, standing, privilege: false }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn no_line_is_promised_of_what_must_not_be_read() {
        let reduced = |requirement: Requirement| match requirement.standing {
            Standing::Reduced(why) => why,
            standing => panic!("{standing:?}"),
        };
        assert!(reduced(native_stacks(None, false)).contains("CAP_SYS_PTRACE"));
        // Or Yama's, where that is 3.
        assert!(reduced(stacks(None, false)).contains("read"));
        assert!(matches!(native_stacks(None, true).standing, Standing::Met(_)));
    }

    fn of(mountinfo: &str) -> Vec<Standing> {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("self")).unwrap();
        fs::write(proc.path().join("self/mountinfo"), mountinfo).unwrap();
        let cgroups = Cgroups::open(proc.path(), Limits::default());
        hierarchies(&cgroups).into_iter().map(|requirement| requirement.standing).collect()
    }

    #[test]
    fn where_refused_forks_are_known_from_is_in_the_table() {
        let proc = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::open(proc.path(), Limits::default());
        let sources = Sources { events: Ok(()), log: Err(io::ErrorKind::PermissionDenied.into()) };
        let none = refusals(&cgroups, None, &sources).standing;
        assert!(matches!(&none, Standing::Reduced(what) if what.contains("no refusal is seen")), "{none:?}");
        let v2 = Cgroups::at(Some(proc.path()), None, Limits::default()).unwrap();
        let no_hook = RefusalHook::None { no_fexit: "why".to_owned(), no_kretprobe: "likewise".to_owned() };
        for hook in [None, Some(&no_hook)] {
            let found = refusals(&v2, hook, &sources).standing;
            assert!(matches!(&found, Standing::Reduced(what) if what.contains("RLIMIT_NPROC")), "{found:?}");
        }
        let hooked = refusals(&v2, Some(&RefusalHook::Fexit), &sources).standing;
        assert!(matches!(&hooked, Standing::Met(what) if what.ends_with("fexit")), "{hooked:?}");
        // What pids.max refuses is seen by the hook; that it was pids.max by its count.
        let silent = Sources { events: Err(io::ErrorKind::Other.into()), ..sources };
        for (cgroups, sources) in [(&cgroups, &silent), (&v2, &silent)] {
            let unnamed = refusals(cgroups, Some(&RefusalHook::Fexit), sources).standing;
            assert!(matches!(&unnamed, Standing::Reduced(what) if what.contains("pids.max")), "{unnamed:?}");
        }
        let few = RefusalHook::Kretprobe { no_fexit: "why".to_owned() };
        let few = refusals(&v2, Some(&few), &Sources { events: Ok(()), ..silent }).standing;
        assert!(matches!(&few, Standing::Reduced(what) if what.contains("nor counted")), "{few:?}");
    }

    #[test]
    fn what_keeps_workloads_from_being_named_is_in_the_table() {
        let none = of("22 1 0:21 / /proc rw - proc proc rw\n");
        assert!(matches!(&none[..], [Standing::Reduced(what)] if what.contains("mount one")), "{none:?}");
        let part = of("30 1 0:26 /a /elsewhere rw - cgroup2 cgroup2 rw\n");
        assert!(matches!(&part[..], [Standing::Reduced(what)] if what.contains("only a part")), "{part:?}");
    }
}
