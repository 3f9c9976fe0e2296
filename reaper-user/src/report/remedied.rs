//! The events about remedies: each one that was applied, refused or only thought of, and the circuit breaker.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    event::{Process, Seconds},
    json,
    workload::ShownWorkload,
};
use crate::{
    identity::BootTime,
    policy::{Opened, Refusal, Scope, Trip},
    remedy::{Deed, Remedy},
    text::Untrusted,
    zombie::{Cause, ExitStatus, Zombie},
};

/// A remedy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemedyEvent {
    /// When it was known what came of it.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// What.
    pub remedy: Remedy,
    /// By which rule; `None` where it was asked for by hand.
    pub rule: Option<Untrusted>,
    /// True where it was only said what would be done.
    pub dry_run: bool,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it was not applied, in one word.
    pub reason: Option<Untrusted>,
    /// What came of it, or why not, as a sentence.
    pub message: Untrusted,
    /// To whom.
    pub holder: Process,
    /// Whose the first of the zombies is.
    pub workload: ShownWorkload,
    /// About which of its zombies.
    pub zombies: Vec<RemediedZombie>,
    /// How it was before.
    pub before: State,
    /// How it was afterwards; `None` where nothing was done.
    pub after: Option<State>,
    /// The signals that were sent to the holder.
    pub signals: Vec<Untrusted>,
    /// How long the holder stood still for it, microseconds: the longest time, where it was stopped more than once.
    pub pause_us: Option<u64>,
    /// How often it was stopped for it.
    pub stops: u64,
    /// Waits of the holder that ended early because of it.
    pub interrupted: u32,
    /// Waits of the holder that were begun anew for it and may end late.
    pub late: u32,
}

/// What came of a remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was applied, and had its effect.
    Applied,
    /// It was applied, and the zombies, or the holder, are still there.
    NoEffect,
    /// It was applied, and the holder died within seconds.
    HolderDied,
    /// It was not applied.
    Refused,
    /// It would have been applied.
    Planned,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Applied, Self::NoEffect, Self::HolderDied, Self::Refused, Self::Planned];

    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NoEffect => "no-effect",
            Self::HolderDied => "holder-died",
            Self::Refused => "refused",
            Self::Planned => "planned",
        }
    }
}

/// How it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// How many of the zombies that are meant.
    pub zombies: u64,
    /// The kernel's one-letter state of the holder; `None` where it is gone.
    pub holder: Option<char>,
}

/// A zombie that a remedy was about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemediedZombie {
    /// Its pid in the initial pid namespace.
    pub pid: u32,
    /// Its pid in its holder's pid namespace.
    pub ns_pid: Option<u32>,
    /// When it was forked, nanoseconds since boot.
    pub start_time: BootTime,
    /// Its name.
    pub comm: Untrusted,
    /// Why it stood.
    pub cause: Cause,
    /// How it ended.
    #[serde(with = "json::exit")]
    pub exit: ExitStatus,
    /// Whether it is gone; `None` where nothing was done.
    pub gone: Option<bool>,
    /// Whether its status was taken from whoever may have asked for it later.
    pub status_taken: bool,
}

/// A circuit breaker has opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakerEvent {
    /// When.
    #[serde(serialize_with = "json::time")]
    pub time: Timestamp,
    /// What it stands for.
    pub scope: Scope,
    /// The rule.
    pub rule: Untrusted,
    /// The remedy that it stops; `None` for all.
    pub remedy: Option<Remedy>,
    /// The remedy that it opened after.
    pub after: Remedy,
    /// The holder that this was done to.
    pub holder: Process,
    /// What happened.
    pub reason: Trip,
    /// How long it stays open.
    pub open_seconds: Seconds,
    /// What it means and what to do.
    pub message: Untrusted,
}

impl RemediedZombie {
    /// One that nothing was done about yet.
    #[must_use]
    pub fn of(zombie: &Zombie) -> Self {
        Self {
            pid: zombie.identity.pid,
            ns_pid: zombie.ns_pid,
            start_time: zombie.identity.start,
            comm: zombie.comm.clone(),
            cause: zombie.cause,
            exit: zombie.exit,
            gone: None,
            status_taken: false,
        }
    }
}

impl RemedyEvent {
    /// A remedy for `zombies`, all of one holder, that has not been applied: planned where there is no refusal. `None` where there
    /// is no zombie.
    #[must_use]
    pub fn new(
        remedy: Remedy,
        rule: Option<&Untrusted>,
        dry_run: bool,
        refusal: Option<&Refusal>,
        zombies: &[&Zombie],
        time: Timestamp,
    ) -> Option<Self> {
        let first = zombies.first()?;
        Some(Self {
            time,
            remedy,
            rule: rule.cloned(),
            dry_run,
            outcome: if refusal.is_some() { Outcome::Refused } else { Outcome::Planned },
            reason: refusal.map(|refusal| refusal.as_str().into()),
            message: refusal.map_or_else(|| planned(remedy), ToString::to_string).as_str().into(),
            holder: Process::from(&first.holder),
            workload: ShownWorkload::new(&first.workload, &first.named),
            zombies: zombies.iter().map(|zombie| RemediedZombie::of(zombie)).collect(),
            before: State { zombies: zombies.len() as u64, holder: first.holder.state },
            after: None,
            signals: Vec::new(),
            pause_us: None,
            stops: 0,
            interrupted: 0,
            late: 0,
        })
    }

    /// What the holder had to bear.
    pub fn stood(&mut self, deed: &Deed) {
        let longest = deed.pauses.iter().max();
        self.pause_us = longest.map(|pause| u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
        self.stops = deed.pauses.len() as u64;
        (self.interrupted, self.late) = (deed.interrupted, deed.late);
    }
}

/// What a remedy would do, and what it may lead to.
fn planned(remedy: Remedy) -> String {
    match remedy {
        Remedy::Report => "it would be reported",
        Remedy::Nudge => "the holder would be sent SIGCHLD",
        Remedy::Reap => "the holder would be made to wait for them",
        Remedy::Autoreap => {
            "SA_NOCLDWAIT would be set inside the holder: every child that dies from then on is released by the kernel, and a wait \
             for it ends with ECHILD"
        }
        Remedy::TerminateHolder => "the holder would be ended: SIGTERM, and SIGKILL after the grace period",
    }
    .to_owned()
}

impl BreakerEvent {
    /// A circuit breaker has opened after `remedy` by `rule` to `holder`, at `now` on the boot clock.
    #[must_use]
    pub fn new(
        opened: Opened,
        rule: &Untrusted,
        after: Remedy,
        holder: Process,
        now: BootTime,
        time: Timestamp,
    ) -> Self {
        let Opened { scope, remedy, trip, until } = opened;
        let stopped = match (scope, remedy) {
            (Scope::Holder, None) => "nothing more is done to this holder".to_owned(),
            (Scope::Holder, Some(remedy)) => format!("{remedy} is not applied to this holder any more"),
            (Scope::Rule, None) => "the rule only reports".to_owned(),
            (Scope::Rule, Some(remedy)) => format!("the rule does not apply {remedy} any more"),
        };
        let why = match (trip, scope) {
            (Trip::HolderDied, _) => "the holder died within seconds of it",
            (Trip::NoEffect, Scope::Holder) => "it had no effect",
            (Trip::NoEffect, Scope::Rule) => "it had no effect on three holders in a row",
        };
        let open: Duration = until.since(now);
        let message = format!(
            "{why}: for {} {stopped}, then it is tried once more; SIGHUP ends this at once",
            super::span::shown(open)
        );
        Self {
            time,
            scope,
            rule: rule.clone(),
            remedy,
            after,
            holder,
            reason: trip,
            open_seconds: Seconds(open),
            message: message.as_str().into(),
        }
    }
}
