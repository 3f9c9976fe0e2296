//! The events, with the fields that JSON has. Field names are the contract: `schema/event.schema.json`.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    evidence::ShownEvidence,
    explanation::{ExplanationEvent, OutlookEvent},
    headroom::{ForkFailedEvent, HeadroomEvent},
    json,
    listing::Source,
    loss::Loss,
    origin::ShownOrigin,
    remedied::{BreakerEvent, RemedyEvent},
    site::{LeaksEvent, SiteEvent},
    workload::ShownWorkload,
};
use crate::{
    identity::{BootTime, Identity},
    text::Untrusted,
    zombie::{Cause, Died, ExitStatus, Forker, Gone, Party, Reap, Relation, Zombie},
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
    /// How a workload stands to its limits on processes.
    Headroom(Box<HeadroomEvent>),
    /// Forks were refused.
    ForkFailed(Box<ForkFailedEvent>),
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
            named,
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
            workload: ShownWorkload::new(workload, named),
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
            named,
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
            workload: ShownWorkload::new(workload, named),
            predates: *predates,
            recovered: false,
        }))
    }

    /// The release of a zombie that an earlier daemon saw stand, and this one never; otherwise as [`Self::released`].
    #[must_use]
    pub fn released_unseen(gone: &Gone, released: BootTime, reaped: Option<Reap>, time: Timestamp) -> Self {
        let Gone { identity, died, exit, workload, named, predates } = gone;
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
            workload: ShownWorkload::new(workload, named),
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
