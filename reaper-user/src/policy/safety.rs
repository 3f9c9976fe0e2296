//! Whether a remedy may be applied to a zombie at all: the classes of zombies, and what must have been seen.

use std::time::Duration;

use super::{Refusal, Rule};
use crate::{
    identity::BootTime,
    names::Named,
    remedy::{Heeds, Holder, OptOut, Remedy},
    workload::Workload,
    zombie::{Cause, Zombie},
};

/// So many times the longest time to reap is "long past" it.
pub const LONG_PAST: u32 = 10;

/// What the holder was seen waiting for since its probation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It was not watched, or not for as long as needed: it will have been after this time.
    Unwatched(Duration),
    /// Nothing that could return this zombie.
    ForOthers,
    /// Any child.
    ForAny,
    /// This zombie's pid or process group, as the initial pid namespace numbers it.
    ForIt(u32),
    /// Pids or groups, and not all of them are known.
    Unclear,
}

/// How long the holder takes to wait for a child, as far as it was seen while it was watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReapTimes {
    /// How long it was watched.
    pub watched: Duration,
    /// The longest time that a child of it stood which it then waited for: what is quicker than half the age at which
    /// zombies are reported is not seen, and is that at most.
    pub longest: Duration,
}

/// What was to be done to a holder, and was refused when it was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The place of the rule that asked for it.
    pub rule: usize,
    /// What was to be done.
    pub remedy: Remedy,
    /// Why it was not.
    pub refusal: Refusal,
    /// When it is tried again.
    pub until: BootTime,
    /// Whether it will hardly be otherwise then.
    pub lasts: bool,
}

/// A zombie, its holder, and what was seen of the two.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The zombie, as it is described now.
    pub zombie: &'a Zombie,
    /// Its holder, as it was looked at now.
    pub holder: &'a Holder,
    /// What the holder was seen waiting for.
    pub waited: Waited,
    /// How long the holder takes; `None` where that is not known.
    pub reap_times: Option<ReapTimes>,
    /// The part that is left of the nearest limit on processes of its workload; `None` where that is not known.
    pub free: Option<f64>,
    /// What of all this was tried lately and is not tried again yet.
    pub refused: &'a [Refused],
}

/// Whether `remedy` may be applied by `rule` to a zombie of this age. Limits are asked elsewhere.
pub fn allows(remedy: Remedy, rule: &Rule, case: Case<'_>, age: Duration) -> Result<(), Refusal> {
    let Case { zombie, holder, .. } = case;
    if remedy == Remedy::Report {
        return Ok(());
    }
    if let Some(protected) = &holder.protected {
        return Err(Refusal::Protected(protected.clone()));
    }
    match holder.opt_out {
        OptOut::No => {}
        OptOut::Yes => return Err(Refusal::OptedOut),
        OptOut::Unknown => return Err(Refusal::OptOutUnknown),
    }
    match (&zombie.named, holder.opts_out) {
        (Named::As(names), _) if names.opts_out => return Err(Refusal::OptedOut),
        // Whoever is acted on may be another's.
        (_, Some(true)) => return Err(Refusal::OptedOut),
        (Named::Pending, _) | (_, None) => return Err(Refusal::NamesUnknown),
        (Named::As(_) | Named::Nobody, Some(false)) => {}
    }
    if !helps(remedy, zombie.cause) {
        return Err(Refusal::Cause(zombie.cause));
    }
    match remedy {
        Remedy::Report | Remedy::Autoreap => Ok(()),
        Remedy::Nudge if holder.heeds == Heeds::No => Err(Refusal::NotHeeded),
        Remedy::Nudge => Ok(()),
        Remedy::Reap => reap(rule, case, age),
        Remedy::TerminateHolder if !is_of_its_workload(zombie, holder) => Err(Refusal::OtherWorkload),
        Remedy::TerminateHolder if holder.container_init && !rule.may_end_container => {
            Err(Refusal::ContainerInit)
        }
        Remedy::TerminateHolder => Ok(()),
    }
}

/// Whether the holder is of the workload that the rule has found the zombie in, in whichever cgroup of it.
fn is_of_its_workload(zombie: &Zombie, holder: &Holder) -> bool {
    let which = |Workload { kind, id, pod_uid, .. }: &Workload| (*kind, id.clone(), pod_uid.clone());
    holder.workload.as_ref().is_some_and(|workload| which(workload) == which(&zombie.workload))
}

/// Whether a remedy is of any use against a cause. A zombie whose tracer keeps it, or whose namespace is being taken down,
/// does not go away by anything that its holder does; a holder that is stopped does nothing.
const fn helps(remedy: Remedy, cause: Cause) -> bool {
    match cause {
        Cause::HeldByTracer | Cause::NamespaceDying => matches!(remedy, Remedy::Report),
        Cause::HolderStopped => matches!(remedy, Remedy::Report | Remedy::TerminateHolder),
        Cause::NotificationCoalesced => !matches!(remedy, Remedy::Reap),
        Cause::Adopted | Cause::Inherited | Cause::NeverWaited | Cause::Unknown => true,
    }
}

/// The safe class is that of adopted ones whose holder was seen making no wait that could return them. The rest is taken from a
/// parent that may still ask for its status, which only a rule can accept that names the cause.
fn reap(rule: &Rule, case: Case<'_>, age: Duration) -> Result<(), Refusal> {
    let Case { zombie, holder: _, waited, reap_times, free: _, refused: _ } = case;
    if zombie.ns_pid.is_none() {
        return Err(Refusal::PidUnknown);
    }
    match zombie.cause {
        Cause::Adopted => match waited {
            Waited::ForOthers => Ok(()),
            Waited::Unwatched(_) => Err(Refusal::NotWatched),
            Waited::ForAny => Err(Refusal::WaitSeen),
            Waited::ForIt(number) => Err(Refusal::AwaitedByNumber(number)),
            Waited::Unclear => Err(Refusal::WaitsUnclear),
        },
        cause @ (Cause::Inherited | Cause::NeverWaited | Cause::Unknown) => {
            if !rule.parent_may_miss_status || !rule.when.causes.contains(&cause) {
                return Err(Refusal::NeedsConsent(cause));
            }
            if cause == Cause::NeverWaited { long_past(reap_times, age) } else { Ok(()) }
        }
        cause => Err(Refusal::Cause(cause)),
    }
}

fn long_past(reap_times: Option<ReapTimes>, age: Duration) -> Result<(), Refusal> {
    let Some(ReapTimes { watched, longest }) = reap_times else {
        return Err(Refusal::ReapTimeUnknown);
    };
    let from = longest * LONG_PAST;
    // Watched for a moment only, it may take longer than was seen.
    if watched < from {
        return Err(Refusal::ReapTimeUnknown);
    }
    if age < from {
        return Err(Refusal::MayStillWait { longest, from });
    }
    Ok(())
}
