//! The events, with the fields that JSON has. Field names are the contract: `schema/event.schema.json`.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    explanation::{ExplanationEvent, OutlookEvent},
    json,
    listing::Source,
    loss::Loss,
    origin::ShownOrigin,
    remedied::{BreakerEvent, RemedyEvent},
    site::{LeaksEvent, SiteEvent},
};
use crate::{
    identity::{BootTime, Identity},
    text::Untrusted,
    workload::{Kind, Runtime, Workload},
    zombie::{
        Asked, Cause, Died, Evidence, ExitStatus, Forker, Gone, Party, Reap, Relation, Sigchld, Waits, Zombie,
    },
};

/// Something to report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A zombie has passed the age threshold, or stands while it is listed.
    Zombie(Box<ZombieEvent>),
    /// A reported zombie is gone: somebody waited for it, or its holder died.
    Released(Box<ReleasedEvent>),
    /// Something was not seen, and was counted.
    Lost(LostEvent),
    /// What follows is a list, and where it is from.
    Listing(ListingEvent),
    /// A remedy was applied, refused, or only thought of.
    Remedy(Box<RemedyEvent>),
    /// A circuit breaker has opened.
    Breaker(Box<BreakerEvent>),
    /// What follows are leak sites.
    Leaks(Box<LeaksEvent>),
    /// A leak site.
    LeakSite(Box<SiteEvent>),
    /// What a pid is.
    Explanation(Box<ExplanationEvent>),
    /// What the rules say about a zombie.
    Outlook(Box<OutlookEvent>),
}

/// A zombie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZombieEvent {
    /// When it was reported. The age counts up to here.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// Its pid in the initial pid namespace.
    pub pid: u32,
    /// Its pid in its holder's pid namespace; `None` where that could not be read.
    pub ns_pid: Option<u32>,
    /// When it was forked, nanoseconds since boot. With `pid` it names one process for ever.
    pub start_time: BootTime,
    /// Its name.
    pub comm: Untrusted,
    /// Its command line; `None` where it was not taken.
    pub cmdline: Option<Untrusted>,
    /// How long it has been dead; `None` where its death was not seen.
    pub age_seconds: Option<Seconds>,
    /// How long it has been dead at least, since a census found it; only where its death was not seen.
    pub age_at_least: Option<Seconds>,
    /// True where the machine was suspended since it died and the age may be off by that time. Always present.
    pub age_approximate: bool,
    /// What a wait would return.
    #[serde(with = "json::exit")]
    pub exit: ExitStatus,
    /// Who must wait for it.
    pub holder: Process,
    /// Who forked it; `None` where the fork was not seen.
    pub forker: Option<ForkerProcess>,
    /// Why it is still there.
    pub cause: Cause,
    /// What the cause was read from.
    pub evidence: ShownEvidence,
    /// Whose it is.
    pub workload: ShownWorkload,
    /// Where it comes from; `None` where nothing that could tell is switched on.
    pub origin: Option<ShownOrigin>,
    /// True where it died before the daemon started.
    pub predates: bool,
    /// True where it may have been told of before, by an earlier daemon; or where no hook had recorded it and a census
    /// found it.
    pub recovered: bool,
}

/// The release of a reported zombie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReleasedEvent {
    /// When it was reported.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// As in [`ZombieEvent`].
    pub pid: u32,
    /// As in [`ZombieEvent`].
    pub ns_pid: Option<u32>,
    /// As in [`ZombieEvent`].
    pub start_time: BootTime,
    /// Its name; `None` where this daemon has not seen it.
    pub comm: Option<Untrusted>,
    /// As in [`ZombieEvent`].
    pub cmdline: Option<Untrusted>,
    /// How long it stood, from its death to its release; without [`Self::reaped`], to the moment the kernel freed it (up
    /// to tens of milliseconds later). `None` where it predates the daemon.
    pub stood_seconds: Option<Seconds>,
    /// How long it stood at least, counted from the daemon's start; only where it predates the daemon.
    pub stood_at_least: Option<Seconds>,
    /// True where the machine was suspended meanwhile and the time may be off by that. Always present.
    pub stood_approximate: bool,
    /// When exactly, and by whom; `None` where the kernel offers no hook for that or it missed this one.
    pub reaped: Option<Reap>,
    /// As in [`ZombieEvent`].
    #[serde(with = "json::exit")]
    pub exit: ExitStatus,
    /// Who held it when it was reported as a zombie; `None` where this daemon has not seen it.
    pub holder: Option<Process>,
    /// Why it stood, as it was reported; `None` where this daemon has not seen it.
    pub cause: Option<Cause>,
    /// As in [`ZombieEvent`].
    pub workload: ShownWorkload,
    /// As in [`ZombieEvent`].
    pub predates: bool,
    /// True where an earlier daemon saw it stand and it went while none ran, or before this one had seen it: by pid and start
    /// it is the one that was reported then, if that had been written out.
    pub recovered: bool,
}

/// A loss: something happened that could not be recorded, and was counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostEvent {
    /// When it was noticed.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// What was lost.
    pub what: Loss,
    /// How often since it was last reported.
    pub count: u64,
    /// How often since the start.
    pub total: u64,
    /// What it means and what to do.
    pub message: Untrusted,
}

/// The head of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListingEvent {
    /// When the list was made.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// Where it is from.
    pub source: Source,
    /// How many zombies follow.
    pub count: usize,
}

/// A process beside a zombie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid in the initial pid namespace.
    pub pid: u32,
    /// When it was forked, nanoseconds since boot; `None` where it vanished before that was read.
    pub start_time: Option<BootTime>,
    /// Its name; `None` where it is gone.
    pub comm: Option<Untrusted>,
    /// Its command line; `None` where it is gone or is a kernel thread.
    pub cmdline: Option<Untrusted>,
    /// The kernel's one-letter state; `None` where it is gone.
    pub state: Option<char>,
}

/// The process that called fork, and what it is to the holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkerProcess {
    /// The forker.
    #[serde(flatten)]
    pub process: Process,
    /// What it is to the holder.
    pub relation: Relation,
}

/// A process that is only named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid in the initial pid namespace.
    pub pid: u32,
    /// When it was forked, nanoseconds since boot.
    pub start_time: BootTime,
}

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

/// What an operator would name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownWorkload {
    /// What kind of thing it is.
    pub kind: Kind,
    /// The container's id, the machine's or the unit's name.
    pub id: Option<Untrusted>,
    /// What made it.
    pub runtime: Option<Runtime>,
    /// The pod's UID.
    pub pod_uid: Option<Untrusted>,
    /// The innermost systemd unit around it.
    pub unit: Option<Untrusted>,
    /// The cgroup's path from the root of its hierarchy.
    pub cgroup: Option<Untrusted>,
}

/// A span of time, in JSON a number of seconds with the milliseconds behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Rounded down: what is said to be so old is.
        serializer.serialize_f64(self.0.as_millis() as f64 / 1_000.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map(Self).map_err(de::Error::custom)
    }
}

impl ZombieEvent {
    /// A zombie as it stands at `now` on the boot clock, which is `time` on the wall.
    #[must_use]
    pub fn new(zombie: &Zombie, now: BootTime, time: Timestamp) -> Self {
        let Zombie {
            identity,
            ns_pid,
            comm,
            cmdline,
            died,
            exit,
            holder,
            forker,
            cause,
            evidence,
            workload,
            origin,
            predates,
            recovered,
        } = zombie;
        let (exact, at_least) = split(*died, now);
        Self {
            time,
            pid: identity.pid,
            ns_pid: *ns_pid,
            start_time: identity.start,
            comm: comm.clone(),
            cmdline: cmdline.clone(),
            age_seconds: exact,
            age_at_least: at_least,
            age_approximate: matches!(died, Died::About(_)),
            exit: *exit,
            holder: holder.into(),
            forker: forker.as_ref().map(ForkerProcess::from),
            cause: *cause,
            evidence: evidence.into(),
            workload: workload.into(),
            origin: origin.as_ref().map(|origin| ShownOrigin::new(origin, comm)),
            predates: *predates,
            recovered: *recovered,
        }
    }
}

impl Event {
    /// A zombie as it stands at `now` on the boot clock, which is `time` on the wall.
    #[must_use]
    pub fn zombie(zombie: &Zombie, now: BootTime, time: Timestamp) -> Self {
        Self::Zombie(Box::new(ZombieEvent::new(zombie, now, time)))
    }

    /// The release of a zombie, as it was reported, at `released` on the boot clock, by `reaped` where that was seen;
    /// `time` is when that is said.
    #[must_use]
    pub fn released(zombie: &Zombie, released: BootTime, reaped: Option<Reap>, time: Timestamp) -> Self {
        let Zombie {
            identity,
            ns_pid,
            comm,
            cmdline,
            died,
            exit,
            holder,
            forker: _,
            cause,
            evidence: _,
            workload,
            origin: _,
            predates,
            recovered: _,
        } = zombie;
        let (exact, at_least) = split(*died, released);
        Self::Released(Box::new(ReleasedEvent {
            time,
            pid: identity.pid,
            ns_pid: *ns_pid,
            start_time: identity.start,
            comm: Some(comm.clone()),
            cmdline: cmdline.clone(),
            stood_seconds: exact,
            stood_at_least: at_least,
            stood_approximate: matches!(died, Died::About(_)),
            reaped,
            exit: *exit,
            holder: Some(holder.into()),
            cause: Some(*cause),
            workload: workload.into(),
            predates: *predates,
            recovered: false,
        }))
    }

    /// The release of a zombie that an earlier daemon saw stand, and this one never; otherwise as [`Self::released`].
    #[must_use]
    pub fn released_unseen(gone: &Gone, released: BootTime, reaped: Option<Reap>, time: Timestamp) -> Self {
        let Gone { identity, died, exit, workload, predates } = gone;
        let (exact, at_least) = split(*died, released);
        Self::Released(Box::new(ReleasedEvent {
            time,
            pid: identity.pid,
            ns_pid: None,
            start_time: identity.start,
            comm: None,
            cmdline: None,
            stood_seconds: exact,
            stood_at_least: at_least,
            stood_approximate: matches!(died, Died::About(_)),
            reaped,
            exit: *exit,
            holder: None,
            cause: None,
            workload: workload.into(),
            predates: *predates,
            recovered: true,
        }))
    }

    /// A loss: `count` times since it was last reported, `total` times since the start.
    #[must_use]
    pub fn lost(what: Loss, count: u64, total: u64, time: Timestamp) -> Self {
        Self::Lost(LostEvent { time, what, count, total, message: what.message().into() })
    }

    /// The head of a list of `count` zombies.
    #[must_use]
    pub const fn listing(source: Source, count: usize, time: Timestamp) -> Self {
        Self::Listing(ListingEvent { time, source, count })
    }
}

/// How long ago it died: exactly, or at least.
fn split(died: Died, now: BootTime) -> (Option<Seconds>, Option<Seconds>) {
    let age = Seconds(died.age(now));
    if died.was_seen() { (Some(age), None) } else { (None, Some(age)) }
}

impl From<&Party> for Process {
    fn from(party: &Party) -> Self {
        let Party { pid, start, comm, cmdline, state } = party;
        Self { pid: *pid, start_time: *start, comm: comm.clone(), cmdline: cmdline.clone(), state: *state }
    }
}

impl From<&Forker> for ForkerProcess {
    fn from(forker: &Forker) -> Self {
        let Forker { party, relation } = forker;
        Self { process: party.into(), relation: *relation }
    }
}

impl From<Identity> for ProcessId {
    fn from(Identity { pid, start }: Identity) -> Self {
        Self { pid, start_time: start }
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

impl ShownWorkload {
    /// Whether it is meant by this name: a container's id or its beginning, a pod's UID, a unit's name, or a cgroup's path.
    #[must_use]
    pub fn is_named(&self, name: &Untrusted) -> bool {
        let Self { kind, id, runtime: _, pod_uid, unit, cgroup } = self;
        let is = |text: &Option<Untrusted>| text.as_ref() == Some(name);
        let contains = matches!(kind, Kind::Pod | Kind::Container | Kind::Machine);
        let begins = |id: &Untrusted| !name.as_str().is_empty() && id.as_str().starts_with(name.as_str());
        is(id) || is(pod_uid) || is(unit) || is(cgroup) || contains && id.as_ref().is_some_and(begins)
    }

    /// What a table calls it.
    #[must_use]
    pub fn shown(&self) -> String {
        super::human::workload(self)
    }
}

impl From<&Workload> for ShownWorkload {
    fn from(workload: &Workload) -> Self {
        let Workload { kind, id, runtime, pod_uid, unit, cgroup } = workload;
        Self {
            kind: *kind,
            id: id.clone(),
            runtime: *runtime,
            pod_uid: pod_uid.clone(),
            unit: unit.clone(),
            cgroup: cgroup.clone(),
        }
    }
}
