//! The events about limits on numbers of processes: how a workload stands to its own, and forks that were refused.

#[cfg(test)]
pub(super) mod fixture;
mod holding;
mod table;
mod words;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(super) use self::table::{table, whole};
pub(crate) use self::words::{free_cell, left, rate_cell, sentences};
pub use self::{
    holding::{Holding, meant_by},
    words::{forecast, percent},
};
use super::{
    event::{Process, Seconds},
    json,
    listing::Source,
    workload::ShownWorkload,
};
use crate::{
    headroom::{self, Headroom, Limit, Rate, Use},
    identity::{BootTime, Identity},
    origin::SiteId,
    text::Untrusted,
    workload::Hierarchy,
    zombie::Cause,
};

/// How a workload stands to the limits on its numbers of processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadroomEvent {
    /// When it was looked at.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// Whose limits these are.
    pub workload: ShownWorkload,
    /// Where the counts of zombies are from; without a daemon there are no rates.
    pub source: Source,
    /// Zombies in its cgroup and below, of any age.
    pub zombies: u64,
    /// Those of them that were reported.
    pub reported: u64,
    /// The process that holds most of the reported ones.
    pub holder: Option<Process>,
    /// How many that are.
    pub held: u64,
    /// Why most of the reported ones stand.
    pub cause: Option<Cause>,
    /// The leak site that most of the reported ones are from.
    pub site: Option<SiteId>,
    /// How fast the zombies become more.
    pub rate: Option<ShownRate>,
    /// Its limits: from its own cgroup outwards, those of the node, that of its holder's user.
    pub limits: Vec<ShownLimit>,
    /// The place, in `limits`, of the one that is full, or first will be; `None` where there is no limit.
    pub nearest: Option<usize>,
    /// How many forks were refused since the daemon started, as far as that was seen: in it, or by a limit of it or around it. From
    /// Linux 6.11 on, version 2 counts them at the limit alone: some of the latter may have been those of others below it.
    pub fork_failures: u64,
}

/// How fast zombies become more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownRate {
    /// Zombies a second.
    pub per_second: f64,
    /// Two standard errors of it.
    pub plus_minus: f64,
    /// The span of time that it was seen in.
    pub window_seconds: Seconds,
}

/// A limit, and what is used of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownLimit {
    /// Which kind of limit.
    pub kind: LimitKind,
    /// The cgroup that has it.
    pub cgroup: Option<Untrusted>,
    /// The version of that.
    pub version: Option<u8>,
    /// The user that it is for.
    pub uid: Option<u32>,
    /// The pid namespace that it is for, by its inode number, where that is not the initial one.
    pub pid_ns: Option<u32>,
    /// How much it is; `None` where there is none.
    pub limit: Option<u64>,
    /// Tasks that count against it; `None` where the kernel does not show that.
    pub used: Option<u64>,
    /// Those of them that are zombies; `None` where that is not known.
    pub zombies: Option<u64>,
    /// The part of those that are used, 0 to 1; `None` where that is not known.
    pub zombie_share: Option<f64>,
    /// Threads that live, where they were counted.
    pub threads: Option<u64>,
    /// Processes that live, where they were counted.
    pub processes: Option<u64>,
    /// When it will be full; `None` where that cannot be said.
    pub exhaustion: Option<Exhaustion>,
}

/// Which kind of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitKind {
    /// `pids.max` of a cgroup.
    PidsMax,
    /// `kernel.pid_max` of the initial pid namespace, or from Linux 6.14 on of another one.
    PidMax,
    /// `kernel.threads-max`.
    ThreadsMax,
    /// RLIMIT_NPROC of a user.
    RlimitNproc,
}

impl LimitKind {
    /// The word for it, as its own manual has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PidsMax => "pids.max",
            Self::PidMax => "kernel.pid_max",
            Self::ThreadsMax => "kernel.threads-max",
            Self::RlimitNproc => "RLIMIT_NPROC",
        }
    }
}

/// When a limit will be full.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exhaustion {
    /// In so long after it was looked at; 0 where it is full.
    pub seconds: Seconds,
    /// As much sooner or later: two standard errors.
    pub plus_minus_seconds: Seconds,
    /// By this rate; `None` where it is full and its zombies do not become more, as far as was seen.
    pub rate: Option<ShownRate>,
}

/// Forks that were refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForkFailedEvent {
    /// When that was seen.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// How many since it was last said of this limit.
    pub count: u64,
    /// How many of this limit since the daemon started.
    pub total: u64,
    /// In how many cgroups: those whose processes tried; where no such is known, those whose limits it were.
    pub cgroups: u64,
    /// The limit that refused them, as it was right after; `None` where its cgroup was gone by then, none was full, one could not be read,
    /// or there were several.
    pub limit: Option<ShownLimit>,
    /// Why there is no limit, where there is none.
    pub no_limit: Option<NoLimit>,
    /// The process that tried last; `None` where it is known from elsewhere than the hook on the clone path.
    pub forker: Option<ShownForker>,
    /// The cgroup whose process tried; `None` where the kernel does not say.
    pub forker_cgroup: Option<Untrusted>,
    /// Whose process tried; where that is not known, whose limit it was.
    pub workload: ShownWorkload,
    /// The part of the tasks that count against that limit which are zombies, 0 to 1; `None` where the limit is not known.
    pub zombie_share: Option<f64>,
    /// Whose zombies those are, the most first.
    pub zombies_of: Vec<ZombiesOf>,
    /// Where this is known from.
    pub source: headroom::Source,
}

/// Why it is not said which limit refused a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoLimit {
    /// None was full a moment later.
    NoneFull,
    /// One that may have been full could not be looked at.
    NotRead,
    /// It was a cgroup's that is gone.
    Gone,
    /// There were several, too many at once to tell of each.
    Several,
}

/// A process that tried to fork.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownForker {
    /// Its pid in the initial pid namespace.
    pub pid: u32,
    /// When it was forked, nanoseconds since boot.
    pub start_time: BootTime,
    /// The name of the thread that tried.
    pub comm: Untrusted,
}

impl From<&headroom::Forker> for ShownForker {
    fn from(forker: &headroom::Forker) -> Self {
        let headroom::Forker { identity: Identity { pid, start }, comm } = forker;
        Self { pid: *pid, start_time: *start, comm: comm.clone() }
    }
}

/// Zombies of one workload below a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZombiesOf {
    /// Whose.
    pub workload: ShownWorkload,
    /// How many.
    pub zombies: u64,
    /// The process that holds most of them; `None` where none was reported yet.
    pub holder: Option<Process>,
}

impl From<Rate> for ShownRate {
    fn from(rate: Rate) -> Self {
        let Rate { per_second, plus_minus, window } = rate;
        // More digits than it is certain of say nothing.
        let rounded = |number: f64| (number * 1e6).round() / 1e6;
        Self {
            per_second: rounded(per_second),
            plus_minus: rounded(plus_minus),
            window_seconds: Seconds(window),
        }
    }
}

impl Exhaustion {
    fn of(of: &Use, now: BootTime) -> Option<Self> {
        let plus_minus = of.forecast.filter(|_| !of.is_full()).map(|forecast| forecast.plus_minus);
        Some(Self {
            seconds: Seconds(of.lasts(now)?),
            plus_minus_seconds: Seconds(plus_minus.unwrap_or_default()),
            rate: of.forecast.map(|forecast| forecast.rate.into()),
        })
    }
}

impl ShownLimit {
    /// A limit as it is seen at `now`; cgroups are of this hierarchy.
    #[must_use]
    pub fn new(of: &Use, hierarchy: Hierarchy, now: BootTime) -> Self {
        let Use { limit, max, used, zombies, threads, processes, rate: _, forecast: _ } = of;
        let (mut cgroup, mut uid, mut pid_ns) = (None, None, None);
        let kind = match limit {
            Limit::PidsMax(path) => {
                cgroup = Some(Untrusted::new(path));
                LimitKind::PidsMax
            }
            Limit::PidMax => LimitKind::PidMax,
            Limit::PidMaxOf(namespace) => {
                pid_ns = Some(*namespace);
                LimitKind::PidMax
            }
            Limit::ThreadsMax => LimitKind::ThreadsMax,
            Limit::Nproc(user) | Limit::NprocWithin(user) => {
                uid = Some(*user);
                LimitKind::RlimitNproc
            }
        };
        let version = if hierarchy == Hierarchy::V2 { 2 } else { 1 };
        Self {
            kind,
            version: cgroup.is_some().then_some(version),
            cgroup,
            uid,
            pid_ns,
            limit: *max,
            used: Some(*used),
            zombies: Some(*zombies),
            zombie_share: Some(rounded(of.share())),
            threads: *threads,
            processes: *processes,
            exhaustion: Exhaustion::of(of, now),
        }
    }

    /// The same where it is not known how many zombies count.
    #[must_use]
    pub fn without_zombies(self) -> Self {
        Self { zombies: None, zombie_share: None, ..self }
    }

    /// Whether nothing of it is left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self { limit: Some(limit), used: Some(used), .. } if used >= limit)
    }

    fn of_user(nproc: headroom::Nproc) -> Self {
        Self {
            kind: LimitKind::RlimitNproc,
            cgroup: None,
            version: None,
            uid: Some(nproc.uid),
            pid_ns: None,
            limit: nproc.limit,
            used: None,
            zombies: None,
            zombie_share: None,
            threads: None,
            processes: None,
            exhaustion: None,
        }
    }
}

fn rounded(part: f64) -> f64 {
    (part * 1e4).round() / 1e4
}

impl HeadroomEvent {
    /// The headroom of a workload as it was seen at a moment, on the boot clock and on the wall.
    #[must_use]
    pub fn new(
        workload: ShownWorkload,
        headroom: &Headroom,
        hierarchy: Hierarchy,
        holding: Holding,
        source: Source,
        fork_failures: u64,
        (seen, time): (BootTime, Timestamp),
    ) -> Self {
        let nearest = headroom.nearest();
        let place = nearest.and_then(|nearest| headroom.uses.iter().position(|of| of == nearest));
        let limits = headroom.uses.iter().map(|of| ShownLimit::new(of, hierarchy, seen));
        let Holding { reported, holder, cause, site } = holding;
        let (holder, held) = holder.unzip();
        Self {
            time,
            workload,
            source,
            zombies: headroom.zombies,
            reported,
            holder,
            held: held.unwrap_or(0),
            cause,
            site,
            rate: headroom.rate.map(ShownRate::from),
            limits: limits.chain(headroom.nproc.map(ShownLimit::of_user)).collect(),
            nearest: place,
            fork_failures,
        }
    }

    /// The limit that is full, or first will be.
    #[must_use]
    pub fn nearest(&self) -> Option<&ShownLimit> {
        self.limits.get(self.nearest?)
    }

    /// When that will be.
    #[must_use]
    pub fn exhaustion(&self) -> Option<&Exhaustion> {
        self.nearest()?.exhaustion.as_ref()
    }

    /// The part of it that is left.
    #[must_use]
    pub fn free(&self) -> Option<f64> {
        let ShownLimit { limit: Some(limit), used: Some(used), .. } = self.nearest()? else { return None };
        Some(headroom::free(*limit, *used))
    }
}
