//! Leak sites as events: the answer to `reaper leaks`.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    event::Seconds,
    export::{Place, Sample},
    json,
    origin::{ShownFrame, ShownOrigin},
    workload::ShownWorkload,
};
use crate::{
    names::Namer,
    origin::{Moment, Quality, Site, SiteId, Sites, Within},
    text::Untrusted,
};

/// The spans that leaks are counted in without being asked: five minutes, an hour, a day.
const WINDOWS: [Duration; 3] =
    [Duration::from_secs(300), Duration::from_secs(3_600), Duration::from_secs(86_400)];

/// The head of a list of leak sites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaksEvent {
    /// When the list was made.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// Since when there is counting: when the daemon started.
    #[serde(serialize_with = "json::time")]
    pub counted_since: Timestamp,
    /// How many sites follow.
    pub sites: usize,
    /// How many are kept at most.
    pub capacity: usize,
    /// Sites that gave way to others.
    pub forgotten_sites: u64,
    /// Zombies that were counted there.
    pub forgotten_zombies: u64,
    /// Zombies by the quality of their origin.
    pub qualities: Qualities,
    /// Forks that were seen before their interpreter was recognized; `None` where nothing counts them.
    pub unrecognized_forks: Option<u64>,
    /// Forks at which an interpreter had no stack that could be read; `None` where nothing counts them.
    pub missed_forks: Option<u64>,
}

/// Zombies by the quality of their origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Qualities {
    /// The stack was taken at the fork and read without a guess.
    pub exact: u64,
    /// Something of it was guessed or may be missing.
    pub approximate: u64,
    /// No stack tells of the leak.
    pub lineage_only: u64,
    /// Forked before anything was recorded.
    pub predates: u64,
}

/// A leak site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteEvent {
    /// When it was counted.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// What to quote of it. With the workload it names one site.
    pub site: SiteId,
    /// Zombies that were reported and stand.
    pub standing: u64,
    /// Zombies that were reported since the daemon started.
    pub total: u64,
    /// When the first of them was reported.
    #[serde(serialize_with = "json::time")]
    pub first_seen: Timestamp,
    /// When the latest was.
    #[serde(serialize_with = "json::time")]
    pub last_seen: Timestamp,
    /// How many were reported in the last five minutes, hour and day.
    pub windows: Vec<Window>,
    /// How many within the span that was asked for; `None` where none was.
    pub since: Option<Window>,
    /// The worst quality of its origins.
    pub quality: Quality,
    /// The name of the latest zombie.
    pub comm: Untrusted,
    /// Whose its zombies are.
    pub workload: ShownWorkload,
    /// The latest origin that was counted here.
    pub origin: ShownOrigin,
}

/// How many zombies were reported within a span that ends now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The span.
    pub seconds: Seconds,
    /// What of it was counted: less where the daemon started since, and up to a minute, an hour or a day more, because counts are kept
    /// by these; `None` where it is longer than is remembered.
    pub counted_seconds: Option<Seconds>,
    /// How many.
    pub leaked: Option<u64>,
    /// How many an hour.
    pub per_hour: Option<f64>,
}

impl Window {
    fn new(span: Duration, within: Option<Within>) -> Self {
        Self {
            seconds: Seconds(span),
            counted_seconds: within.map(|within| Seconds(within.span)),
            leaked: within.map(|within| within.count),
            // No more digits than it is good for.
            per_hour: within.map(|within| (within.per_hour() * 1_000.0).round() / 1_000.0),
        }
    }
}

impl LeaksEvent {
    /// The head, and the sites that leaked within `since`; all of them where that is `None`. Those come first that leaked last.
    #[must_use]
    pub fn list(
        sites: &Sites,
        since: Option<Duration>,
        now: Moment,
        names: &Namer,
    ) -> (Self, Vec<SiteEvent>) {
        let recent = |site: &&Site| since.is_none_or(|since| now.boot.since(site.last.boot) <= since);
        let mut kept: Vec<_> = sites.iter().filter(recent).collect();
        kept.sort_by_key(|site| std::cmp::Reverse(site.last.boot));
        let events: Vec<_> =
            kept.into_iter().map(|site| SiteEvent::new(site, sites, since, now, names)).collect();
        let sums = sites.sums();
        let [exact, approximate, lineage_only, predates] = sums.qualities;
        let head = Self {
            time: now.wall,
            counted_since: sites.began().wall,
            sites: events.len(),
            capacity: sites.capacity(),
            forgotten_sites: sums.forgotten_sites,
            forgotten_zombies: sums.forgotten_zombies,
            qualities: Qualities { exact, approximate, lineage_only, predates },
            unrecognized_forks: sums.without.map(|forks| forks.unrecognized),
            missed_forks: sums.without.map(|forks| forks.missed),
        };
        (head, events)
    }
}

impl SiteEvent {
    /// A site as it is at `now`.
    #[must_use]
    pub fn new(site: &Site, sites: &Sites, since: Option<Duration>, now: Moment, names: &Namer) -> Self {
        let window = |span| Window::new(span, sites.within(site, span, now.boot));
        Self {
            time: now.wall,
            site: site.id,
            standing: site.standing,
            total: site.total,
            first_seen: site.first.wall,
            last_seen: site.last.wall,
            windows: WINDOWS.map(window).to_vec(),
            since: since.map(window),
            quality: site.quality,
            comm: site.comm.clone(),
            workload: ShownWorkload::new(&site.workload, &names.of(&site.workload)),
            origin: ShownOrigin::new(&site.origin, &site.comm),
        }
    }

    /// How many zombies it is about: within the span that was asked for, else in all.
    #[must_use]
    pub fn leaked(&self) -> u64 {
        self.since.and_then(|window| window.leaked).unwrap_or(self.total)
    }

    /// As a path for other tools: workload, process, frames; without a stack, the processes alone. What was started at the
    /// innermost frame and leaks itself is behind it.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let workload = Untrusted::from_escaped(&self.workload.shown());
        let mut path = vec![Place::named(workload.clone())];
        let origin = &self.origin;
        match &origin.stack {
            Some(stack) => {
                let whose = origin.stack_of.and_then(|of| origin.chain.get(of));
                path.extend(whose.map(|link| Place::named(link.comm.clone())));
                path.extend(stack.frames.iter().rev().map(place));
                if origin.stack_of_leak().is_none() {
                    let below = origin.chain.iter().take(origin.stack_of.unwrap_or_default()).rev();
                    path.extend(below.map(|link| Place::named(link.comm.clone())));
                    path.push(Place::named(self.comm.clone()));
                }
            }
            None => {
                path.extend(origin.chain.iter().rev().map(|link| Place::named(link.comm.clone())));
                path.push(Place::named(self.comm.clone()));
            }
        }
        Sample {
            path,
            standing: self.standing,
            total: self.leaked(),
            site: self.site.to_string().as_str().into(),
            workload,
            quality: self.quality.as_str(),
        }
    }
}

fn place(frame: &ShownFrame) -> Place {
    Place { name: frame.name(), file: frame.file.clone(), line: frame.line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn a_path_goes_from_the_workload_to_the_innermost_frame() {
        let [python, native, chain, _, _]: [SiteEvent; 5] = fixture::sites().try_into().unwrap();
        let paths = |site: SiteEvent| site.sample().path.iter().map(Place::text).collect::<Vec<_>>();
        assert_eq!(
            paths(python),
            [
                "3f2a9c0d1e4b",
                "python3",
                "<module> /srv/crawl.py:90",
                "open_browser /srv/crawl.py:42",
                "Popen.__init__ /usr/lib/python3.11/subprocess.py:1024",
                "Popen._execute_child /usr/lib/python3.11/subprocess.py:1806",
            ]
        );
        assert_eq!(paths(native)[2..4], ["/opt/leak+0x1300", "leak_here /src/leak.c:12"]);
        assert_eq!(paths(chain.clone()), ["3f2a9c0d1e4b", "sh", "python3", "chromedriver", "chrome"]);
        let origin = ShownOrigin::new(&crate::origin::fixture::started(), &chain.comm);
        let started = paths(SiteEvent { origin, ..chain });
        assert_eq!(
            started[4..],
            [
                "Popen.__init__ /usr/lib/python3.11/subprocess.py:1024",
                "Popen._execute_child /usr/lib/python3.11/subprocess.py:1806",
                "chromedriver",
                "chrome"
            ]
        );
    }

    #[test]
    fn only_sites_that_leaked_in_the_span_are_listed_the_latest_first() {
        let (sites, now) = fixture::counted();
        let (head, all) = LeaksEvent::list(&sites, None, now, &Namer::default());
        assert_eq!((head.sites, all.len()), (all.len(), 5));
        assert!(all.windows(2).all(|pair| pair[0].last_seen >= pair[1].last_seen));
        let (head, late) = LeaksEvent::list(&sites, Some(Duration::from_secs(60)), now, &Namer::default());
        assert_eq!((head.sites, late.len()), (1, 1));
        let since = late[0].since.unwrap();
        assert!(since.leaked.unwrap() >= 1 && since.leaked.unwrap() < late[0].total, "{since:?}");
        assert_eq!(late[0].leaked(), since.leaked.unwrap());
    }
}
