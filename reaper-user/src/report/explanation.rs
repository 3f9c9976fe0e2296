//! What `reaper explain` is made of: what a pid is, and what the rules say about a zombie.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    event::{Seconds, ZombieEvent},
    headroom::HeadroomEvent,
    json,
    listing::Source,
    remedied::BreakerEvent,
    site::SiteEvent,
};
use crate::{identity::BootTime, remedy::Remedy, text::Untrusted};

/// The head of an explanation: what a pid is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplanationEvent {
    /// When it was looked at.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// The pid that was asked about.
    pub pid: u32,
    /// What it is.
    pub what: What,
    /// Where that is from.
    pub source: Source,
    /// How many zombies follow: the one that it is, or those that it holds.
    pub zombies: usize,
    /// The same as a sentence.
    pub message: Untrusted,
}

/// What a pid is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A zombie.
    Zombie,
    /// A process that lives and holds zombies.
    Holder,
    /// A process that lives and holds none.
    Process,
    /// No process.
    None,
}

/// What the rules say about a zombie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutlookEvent {
    /// When this was so.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// The zombie's pid in the initial pid namespace.
    pub pid: u32,
    /// When it was forked, nanoseconds since boot.
    pub start_time: BootTime,
    /// Whether it has been reported; nothing is done about it before.
    pub reported: bool,
    /// Whether there is a rule that does more than report.
    pub acts: bool,
    /// Whether it is only said what would be done.
    pub dry_run: bool,
    /// Whether nothing is done although there are rules.
    pub paused: bool,
    /// The rule that decides; `None` where none fits it.
    pub rule: Option<Untrusted>,
    /// Its steps.
    pub steps: Vec<OutlookStep>,
    /// Whether something is being done about it at this moment.
    pub under_way: bool,
    /// How many zombies of its holder have their turn before it, where all that it waits for is that remedies are limited or
    /// stopped.
    pub queued_behind: Option<u64>,
    /// When it is looked at again, about; `None` where there is nothing more to do about it.
    pub again_seconds: Option<Seconds>,
}

/// A step of a rule, and how a zombie stands to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlookStep {
    /// What is done.
    pub remedy: Remedy,
    /// From which age on.
    pub after_seconds: Seconds,
    /// How far it is.
    pub standing: StepStanding,
    /// Why it is not done, in one word.
    pub reason: Option<Untrusted>,
    /// The same as a sentence.
    pub message: Option<Untrusted>,
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepStanding {
    /// It is behind the zombie, with effect or without.
    Passed,
    /// It was due and was not done.
    Refused,
    /// It is due, and waits until no limit and no breaker stands in its way.
    Waiting,
    /// It comes.
    Ahead,
}

impl StepStanding {
    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Waiting => "waiting",
            Self::Ahead => "ahead",
        }
    }
}

/// All that is known of a pid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explained {
    /// The zombie that it is, or those that it holds.
    pub zombies: Vec<ZombieEvent>,
    /// Where those come from.
    pub sites: Vec<SiteEvent>,
    /// What the rules say, where it is a zombie.
    pub outlook: Option<OutlookEvent>,
    /// Circuit breakers that are open for its holder, or for it.
    pub breakers: Vec<BreakerEvent>,
    /// How its workload stands to its limits on processes.
    pub headroom: Option<HeadroomEvent>,
}
