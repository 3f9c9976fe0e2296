//! Evidence, as it is shown and in words. A sentence says what was seen and no more.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    event::{Process, ProcessId, Seconds, ZombieEvent},
    span::shown,
};
use crate::zombie::{Asked, Cause, Evidence, ExitStatus, Relation, Sigchld, Waits};

/// What a cause was read from; what the kernel did not say is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownEvidence {
    /// The parent when it was forked.
    pub parent_at_fork: Option<ProcessId>,
    /// What became of its SIGCHLD.
    pub sigchld: Option<Sigchld>,
    /// The debugger that holds it.
    pub tracer: Option<Process>,
    /// The holder's state at half the threshold.
    pub holder_state_at_probation: Option<char>,
    /// True where the holder has exec'ed since it forked the child.
    pub holder_exec_since_fork: Option<bool>,
    /// The first process of its pid namespace, where that is dead.
    pub namespace_init: Option<ProcessId>,
    /// Inode number of its pid namespace.
    pub pid_ns: Option<u32>,
    /// The holder's wait calls while it was watched.
    pub waits: Option<ShownWaits>,
}

/// A holder's wait calls while it was watched.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownWaits {
    /// How long it was watched.
    pub watched_seconds: Seconds,
    /// Calls for any child.
    pub any: u64,
    /// Calls for one pid or one process group.
    pub one: u64,
    /// How long ago the latest call of either kind was made.
    pub last_ago_seconds: Option<Seconds>,
    /// The pid or process group that the latest call for one asked for, numbered as in the initial pid namespace.
    pub last_number: Option<u32>,
    /// The number by which the holder asked for this very zombie.
    pub asked_for: Option<u32>,
    /// Whether every number that the holder asked for is known.
    pub complete: bool,
    /// The longest that a child of it was seen to stand which it then waited for, rounded up.
    #[serde(default)]
    pub longest_reap_seconds: Option<Seconds>,
}

/// What is to be said about a zombie beside its row, the most important first.
pub(crate) fn sentences(zombie: &ZombieEvent) -> Vec<String> {
    let mut said = Vec::new();
    let evidence = &zombie.evidence;
    if let Some(tracer) = &evidence.tracer {
        said.push(format!("tracer {}", named(tracer)));
    }
    if let Some(init) = evidence.namespace_init {
        said.push(format!("first process of its pid namespace is dead (pid {})", init.pid));
    }
    if zombie.cause == Cause::HolderStopped {
        said.extend(stopped(zombie.holder.state));
    }
    said.extend(forked_by(zombie));
    if evidence.holder_exec_since_fork == Some(true) {
        said.push("holder has exec'ed since the fork".to_owned());
    }
    if zombie.cause == Cause::Inherited && evidence.parent_at_fork.is_none() {
        said.push(
            "another program than the holder's forked it: the holder has exec'ed since, or was given it"
                .to_owned(),
        );
    }
    match evidence.sigchld {
        Some(Sigchld::Coalesced) => said.push("SIGCHLD merged into one that was pending".to_owned()),
        Some(Sigchld::Ignored) => said.push("holder has no handler for SIGCHLD".to_owned()),
        Some(Sigchld::Delivered) | None => {}
    }
    said.extend(evidence.waits.as_ref().map(waits));
    if let ExitStatus::Signal { core: true, .. } = zombie.exit {
        said.push("dumped core".to_owned());
    }
    if let Some(ns_pid) = zombie.ns_pid.filter(|ns_pid| *ns_pid != zombie.pid) {
        said.push(format!("pid {ns_pid} to its holder"));
    }
    if zombie.predates {
        said.push("died before the daemon started".to_owned());
    } else if zombie.age_at_least.is_some() {
        said.push("its death was not seen, a census found it".to_owned());
    }
    if zombie.recovered {
        said.push("may have been reported before".to_owned());
    }
    if zombie.age_approximate {
        said.push("age is approximate: the machine was suspended".to_owned());
    }
    said
}

/// The holder's wait calls. In the hook a pid and a process group look alike: "pid 4711" may be the group 4711.
/// io_uring's waitid is not seen.
pub(super) fn waits(waits: &ShownWaits) -> String {
    let ShownWaits { watched_seconds, any, one, last_ago_seconds, last_number, asked_for, .. } = *waits;
    let last = last_ago_seconds.map(|ago| format!(", last {} ago", shown(ago.0))).unwrap_or_default();
    if let Some(number) = asked_for {
        return format!("asked for by pid or group {number}{last}");
    }
    match (any, one, last_number) {
        (0, 0, _) => format!("no wait seen in {}", shown(watched_seconds.0)),
        (0, 1, Some(number)) => format!("waits only for pid {number}{last}"),
        (0, _, Some(number)) => format!("waits only for others: pid {number}, latest of {one} calls{last}"),
        (0, _, None) => format!("waits only for one pid or group at a time, {one}x{last}"),
        (_, 0, _) => format!("waited for any child {any}x{last}"),
        (_, _, _) => format!("waited for any child {any}x, for one pid or group {one}x{last}"),
    }
}

fn stopped(state: Option<char>) -> Option<String> {
    match state {
        Some('T') => Some("holder is stopped (T)".to_owned()),
        Some('t') => Some("holder is stopped by its tracer (t)".to_owned()),
        Some('D') => Some("holder is in uninterruptible sleep (D), as it was at half the age".to_owned()),
        _ => None,
    }
}

/// Who forked it, where that is not the holder.
fn forked_by(zombie: &ZombieEvent) -> Option<String> {
    let adopted = if zombie.cause == Cause::Adopted { "adopted: " } else { "" };
    match &zombie.forker {
        Some(forker) => match forker.relation {
            Relation::Holder => None,
            Relation::Other => Some(format!("{adopted}forked by {}", named(&forker.process))),
            Relation::Gone => Some(format!("{adopted}forked by {}", gone(&forker.process))),
        },
        // Without a forker the parent at fork is the next best; it is only worth a word where it is another.
        None => zombie
            .evidence
            .parent_at_fork
            .filter(|parent| parent.pid != zombie.holder.pid)
            .map(|parent| format!("{adopted}parent at fork was pid {}", parent.pid)),
    }
}

/// `app (4700)`, or `pid 4700` where its name is not known.
pub(super) fn named(process: &Process) -> String {
    match &process.comm {
        Some(comm) => format!("{comm} ({})", process.pid),
        None => format!("pid {}", process.pid),
    }
}

fn gone(process: &Process) -> String {
    match &process.comm {
        Some(comm) => format!("{comm} ({}, gone)", process.pid),
        None => format!("pid {} (gone)", process.pid),
    }
}

impl From<&Evidence> for ShownEvidence {
    fn from(evidence: &Evidence) -> Self {
        let Evidence {
            parent_at_fork,
            sigchld,
            tracer,
            holder_state_at_probation,
            holder_exec_since_fork,
            namespace_init,
            pid_ns,
            waits,
        } = evidence;
        Self {
            parent_at_fork: parent_at_fork.map(ProcessId::from),
            sigchld: *sigchld,
            tracer: tracer.as_ref().map(Process::from),
            holder_state_at_probation: *holder_state_at_probation,
            holder_exec_since_fork: *holder_exec_since_fork,
            namespace_init: namespace_init.map(ProcessId::from),
            pid_ns: *pid_ns,
            waits: waits.map(ShownWaits::from),
        }
    }
}

impl From<Waits> for ShownWaits {
    fn from(Waits { watched, any, one, last_ago, last_number, asked, longest }: Waits) -> Self {
        let asked_for = match asked {
            Asked::For(number) => Some(number),
            Asked::No | Asked::Unclear => None,
        };
        Self {
            watched_seconds: Seconds(watched),
            any,
            one,
            last_ago_seconds: last_ago.map(Seconds),
            last_number,
            asked_for,
            complete: asked != Asked::Unclear,
            // It is written rounded down.
            longest_reap_seconds: longest.map(|longest| Seconds(longest + Duration::from_micros(999))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{report::event::Seconds, report::fixture, zombie::Waits};

    fn profile(any: u64, one: u64, last_ago: Option<u64>, last_number: Option<u32>) -> String {
        waits(&ShownWaits::from(Waits {
            watched: Duration::from_millis(2_500),
            any,
            one,
            last_ago: last_ago.map(Duration::from_secs),
            last_number,
            asked: Asked::No,
            longest: None,
        }))
    }

    #[test]
    fn the_wait_profile_says_what_was_seen_and_no_more() {
        assert_eq!(profile(0, 0, None, None), "no wait seen in 2.5s");
        assert_eq!(profile(0, 1, Some(1), Some(4711)), "waits only for pid 4711, last 1s ago");
        assert_eq!(profile(0, 5, None, Some(4711)), "waits only for others: pid 4711, latest of 5 calls");
        assert_eq!(profile(0, 2, None, None), "waits only for one pid or group at a time, 2x");
        assert_eq!(profile(3, 0, Some(2), None), "waited for any child 3x, last 2s ago");
        assert_eq!(
            profile(3, 4, Some(2), Some(9)),
            "waited for any child 3x, for one pid or group 4x, last 2s ago"
        );
    }

    #[test]
    fn each_cause_has_its_sentence() {
        let said = |zombie: &crate::zombie::Zombie| sentences(&fixture::shown(zombie)).join("; ");
        assert!(said(&fixture::traced()).starts_with("tracer gdb (4712)"));
        assert!(said(&fixture::adopted()).starts_with("adopted: forked by chromedriver (4600, gone)"));
        assert!(said(&fixture::inherited()).contains("holder has exec'ed since the fork"));
        assert!(said(&fixture::coalesced()).contains("SIGCHLD merged into one that was pending"));
        assert!(said(&fixture::stopped('D')).contains("uninterruptible sleep (D)"));
        assert!(said(&fixture::stopped('T')).contains("holder is stopped (T)"));
        assert!(
            said(&fixture::namespace_dying())
                .contains("first process of its pid namespace is dead (pid 4700)")
        );
        assert_eq!(said(&fixture::predating()), "died before the daemon started");
        assert_eq!(said(&fixture::never_waited()), "no wait seen in 2.5s; pid 7 to its holder");
    }

    #[test]
    fn a_suspend_is_admitted() {
        let mut zombie = fixture::shown(&fixture::never_waited());
        zombie.age_approximate = true;
        zombie.age_seconds = Some(Seconds(Duration::from_secs(3)));
        assert!(sentences(&zombie).iter().any(|said| said.contains("suspended")));
    }
}
