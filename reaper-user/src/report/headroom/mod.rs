//! The events about limits on numbers of processes: how a workload stands to its own, and forks that were refused.

#[cfg(test)]
pub(super) mod fixture;
mod table;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(super) use self::table::{sentences, table, whole};
use super::{
    event::{Process, Seconds},
    json,
    listing::Source,
    span::shown,
    workload::ShownWorkload,
};
use crate::{
    headroom::{self, Forecast, Headroom, Limit, Rate, Use},
    identity::BootTime,
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
    /// The place, in `limits`, of the one that is full first; `None` where there is no limit.
    pub nearest: Option<usize>,
    /// How many of its forks were refused since the daemon started, as far as that was seen.
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
    /// How much it is; `None` where there is none.
    pub limit: Option<u64>,
    /// Tasks that count against it; `None` where the kernel does not show that.
    pub used: Option<u64>,
    /// Those of them that are zombies; `None` where that is not known.
    pub zombies: Option<u64>,
    /// The part of those that are used, 0 to 1.
    pub zombie_share: Option<f64>,
    /// Threads that live, where they were counted.
    pub threads: Option<u64>,
    /// Processes that live, where they were counted.
    pub processes: Option<u64>,
    /// When it will be full.
    pub exhaustion: Option<Exhaustion>,
}

/// Which kind of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitKind {
    /// `pids.max` of a cgroup.
    PidsMax,
    /// `kernel.pid_max` of the initial pid namespace.
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
    /// In so long.
    pub seconds: Seconds,
    /// As much sooner or later: two standard errors.
    pub plus_minus_seconds: Seconds,
    /// By this rate.
    pub rate: ShownRate,
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
    /// The limit that refused them, as it was right after; `None` where the cgroup was gone by then.
    pub limit: Option<ShownLimit>,
    /// The cgroup whose process tried; `None` where the kernel does not say.
    pub forker_cgroup: Option<Untrusted>,
    /// Whose process tried; where that is not known, whose limit it was.
    pub workload: ShownWorkload,
    /// The part of the tasks that count which are zombies, 0 to 1.
    pub zombie_share: f64,
    /// Whose zombies those are, the most first.
    pub zombies_of: Vec<ZombiesOf>,
    /// Where this is known from.
    pub source: headroom::Source,
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
    fn new(forecast: Forecast, now: BootTime) -> Self {
        let Forecast { at, plus_minus, rate } = forecast;
        Self { seconds: Seconds(at.since(now)), plus_minus_seconds: Seconds(plus_minus), rate: rate.into() }
    }
}

impl ShownLimit {
    /// A limit as it is seen at `now`; cgroups are of this hierarchy.
    #[must_use]
    pub fn new(of: &Use, hierarchy: Hierarchy, now: BootTime) -> Self {
        let Use { limit, max, used, zombies, threads, processes, rate: _, forecast } = of;
        let (kind, cgroup) = match limit {
            Limit::PidsMax(path) => (LimitKind::PidsMax, Some(Untrusted::new(path))),
            Limit::PidMax => (LimitKind::PidMax, None),
            Limit::ThreadsMax => (LimitKind::ThreadsMax, None),
        };
        let version = if hierarchy == Hierarchy::V2 { 2 } else { 1 };
        Self {
            kind,
            version: cgroup.is_some().then_some(version),
            cgroup,
            uid: None,
            limit: *max,
            used: Some(*used),
            zombies: Some(*zombies),
            zombie_share: Some(rounded(of.share())),
            threads: *threads,
            processes: *processes,
            exhaustion: forecast.map(|forecast| Exhaustion::new(forecast, now)),
        }
    }

    fn of_user(nproc: headroom::Nproc) -> Self {
        Self {
            kind: LimitKind::RlimitNproc,
            cgroup: None,
            version: None,
            uid: Some(nproc.uid),
            limit: nproc.limit,
            used: None,
            zombies: None,
            zombie_share: None,
            threads: None,
            processes: None,
            exhaustion: None,
        }
    }

    /// Which limit, with its number, in words.
    #[must_use]
    pub fn name(&self) -> String {
        let limit = self.limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        let of = match (&self.cgroup, self.uid) {
            (Some(cgroup), _) => format!(" of {cgroup}"),
            (None, Some(uid)) => format!(" of user {uid}"),
            (None, None) => String::new(),
        };
        format!("{} {limit}{of}", self.kind.name())
    }

    /// How much of it is used, and by whom, in words.
    #[must_use]
    pub fn account(&self) -> String {
        let Some(used) = self.used else {
            return "how much of it is used the kernel does not show".to_owned();
        };
        let mut text = format!("{used} used");
        if let (Some(zombies), Some(share)) = (self.zombies, self.zombie_share) {
            text += &format!(", {zombies} of them zombies ({})", percent(share));
        }
        if let (Some(threads), Some(processes)) = (self.threads, self.processes) {
            text += &format!(", {threads} threads of {processes} processes live");
        }
        text
    }
}

/// `3h10m ± 20m at 1.9 zombies/s`.
#[must_use]
pub fn forecast(exhaustion: &Exhaustion) -> String {
    let Exhaustion { seconds: Seconds(left), plus_minus_seconds: Seconds(error), rate } = exhaustion;
    format!("{} ± {} at {}", shown(without_fraction(*left)), shown(without_fraction(*error)), pace(rate))
}

/// `1.9 zombies/s`, and for slow ones `3.1 zombies/min`.
#[must_use]
pub(super) fn pace(rate: &ShownRate) -> String {
    let of = |number: f64| if number < 10.0 { format!("{number:.1}") } else { format!("{number:.0}") };
    match rate.per_second {
        second @ 0.95.. => format!("{} zombies/s", of(second)),
        second if second * 60.0 >= 0.95 => format!("{} zombies/min", of(second * 60.0)),
        second => format!("{} zombies/h", of(second * 3_600.0)),
    }
}

/// Below a minute fractions of a second are no news.
fn without_fraction(span: Duration) -> Duration {
    if span < Duration::from_secs(1) { span } else { Duration::from_secs(span.as_secs()) }
}

/// `93 %`. What is not all is not said to be, nor what is something to be nothing.
#[must_use]
pub fn percent(part: f64) -> String {
    let percent = part * 100.0;
    let shown = if part > 0.0 && percent < 1.0 {
        "<1".to_owned()
    } else if part < 1.0 && percent > 99.0 {
        ">99".to_owned()
    } else {
        format!("{percent:.0}")
    };
    format!("{shown} %")
}

fn rounded(part: f64) -> f64 {
    (part * 1e4).round() / 1e4
}

/// What is known of a workload beside its limits.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    /// Reported zombies.
    pub reported: u64,
    /// Who holds most of them, and how many.
    pub holder: Option<(Process, u64)>,
    /// Why most of them stand.
    pub cause: Option<Cause>,
    /// Where most of them are from.
    pub site: Option<SiteId>,
}

impl HeadroomEvent {
    /// The headroom of a workload at `now`, which is `time` on the wall.
    #[must_use]
    pub fn new(
        workload: ShownWorkload,
        headroom: &Headroom,
        hierarchy: Hierarchy,
        holding: Holding,
        source: Source,
        fork_failures: u64,
        (now, time): (BootTime, Timestamp),
    ) -> Self {
        let nearest = headroom.nearest();
        // Its own, not that of all that are below a limit further out.
        let rate = headroom.uses.first().and_then(|of| of.rate);
        let place = nearest.and_then(|nearest| headroom.uses.iter().position(|of| of == nearest));
        let limits = headroom.uses.iter().map(|of| ShownLimit::new(of, hierarchy, now));
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
            rate: rate.map(ShownRate::from),
            limits: limits.chain(headroom.nproc.map(ShownLimit::of_user)).collect(),
            nearest: place,
            fork_failures,
        }
    }

    /// The limit that is full first.
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
        Some(if *limit == 0 { 0.0 } else { limit.saturating_sub(*used) as f64 / *limit as f64 })
    }
}

impl ForkFailedEvent {
    /// In a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { count, limit, workload, zombie_share, zombies_of, .. } = self;
        let times =
            if *count == 1 { "a fork was refused".to_owned() } else { format!("{count} forks were refused") };
        let Some(limit) = limit else {
            return format!("{times} in {}, by a limit of a cgroup that is gone", workload.shown());
        };
        let mut text =
            format!("{times} in {} (EAGAIN): {}, {}", workload.shown(), limit.name(), limit.account());
        if *zombie_share == 0.0 {
            text += ": zombies are not the reason";
        }
        let of = |of: &ZombiesOf| {
            let holder = of.holder.as_ref().map(|holder| {
                let name = holder.comm.as_ref().map_or_else(String::new, ToString::to_string);
                format!(", held by {name}({})", holder.pid)
            });
            format!("{} of {}{}", of.zombies, of.workload.shown(), holder.unwrap_or_default())
        };
        if !zombies_of.is_empty() {
            text += &format!("; zombies: {}", zombies_of.iter().map(of).collect::<Vec<_>>().join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_said_with_its_uncertainty_and_its_rate() {
        let rate =
            ShownRate { per_second: 1.9, plus_minus: 0.2, window_seconds: Seconds(Duration::from_secs(60)) };
        let exhaustion = Exhaustion {
            seconds: Seconds(Duration::from_secs(11_400)),
            plus_minus_seconds: Seconds(Duration::from_secs(1_200)),
            rate,
        };
        assert_eq!(forecast(&exhaustion), "3h10m ± 20m at 1.9 zombies/s");
        let slow = ShownRate { per_second: 0.05, ..rate };
        assert_eq!(pace(&slow), "3.0 zombies/min");
        assert_eq!(pace(&ShownRate { per_second: 0.002, ..rate }), "7.2 zombies/h");
        assert_eq!(pace(&ShownRate { per_second: 21.4, ..rate }), "21 zombies/s");
    }

    #[test]
    fn a_share_is_never_rounded_to_all_or_nothing() {
        let shown = [0.0, 0.001, 0.4, 0.936, 0.999, 1.0].map(percent);
        assert_eq!(shown, ["0 %", "<1 %", "40 %", "94 %", ">99 %", "100 %"]);
    }
}
