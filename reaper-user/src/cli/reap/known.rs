//! What a running daemon knows of zombies and their holders besides a census, and what it is asked to see.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use crate::{
    config::Span,
    control::{self, ControlError},
    identity::BootTime,
    policy::{LONG_PAST, ReapTimes},
    report::ZombieEvent,
    zombie::{Asked, Died, Waits, Zombie},
};

/// The daemon's zombies by pid and start; none where there is no daemon.
pub(super) type Known = HashMap<(u32, BootTime), ZombieEvent>;

/// What the daemon knows.
pub(super) fn known() -> Known {
    let zombies = match control::zombies(&control::socket()) {
        Ok(listing) => listing.zombies,
        // What it would know besides a census: causes, ages, reap times.
        Err(ControlError::NoDaemon(_)) => Vec::new(),
        Err(error) => {
            tracing::warn!("{error}; going by a census alone");
            Vec::new()
        }
    };
    zombies.into_iter().map(|zombie| ((zombie.pid, zombie.start_time), zombie)).collect()
}

/// Whether what the daemon said is about this zombie and the holder that it has now: it may have been given to another one
/// since.
pub(super) fn is_of(event: &ZombieEvent, zombie: &Zombie) -> bool {
    let same_start = match (event.holder.start_time, zombie.holder.start) {
        (Some(known), Some(found)) => known == found,
        _ => true,
    };
    event.holder.pid == zombie.holder.pid && same_start
}

/// How long the holder takes, by what the daemon has seen; `None` where it has not.
pub(super) fn reap_times(event: &ZombieEvent) -> Option<ReapTimes> {
    let waits = event.evidence.waits.as_ref()?;
    Some(ReapTimes { watched: waits.watched_seconds.0, longest: waits.longest_reap_seconds?.0 })
}

/// What the daemon knows of it besides what a census shows.
pub(super) fn learn(zombie: &mut Zombie, event: &ZombieEvent, now: BootTime) {
    zombie.cause = event.cause;
    let ago =
        |age: Duration| BootTime(now.0.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)));
    zombie.died = match (event.age_seconds, event.age_at_least) {
        (Some(age), _) if event.age_approximate => Died::About(ago(age.0)),
        (Some(age), _) => Died::At(ago(age.0)),
        (None, Some(age)) => Died::Before(ago(age.0)),
        (None, None) => zombie.died,
    };
    zombie.evidence.waits = event.evidence.waits.map(|waits| Waits {
        watched: waits.watched_seconds.0,
        any: waits.any,
        one: waits.one,
        last_ago: waits.last_ago_seconds.map(|ago| ago.0),
        last_number: waits.last_number,
        asked: match waits.asked_for {
            Some(number) => Asked::For(number),
            None if waits.complete => Asked::No,
            None => Asked::Unclear,
        },
        longest: waits.longest_reap_seconds.map(|longest| longest.0),
    });
}

/// Has the daemon watch these holders, so that it knows later how long they take to wait for a child: for as long as this command
/// does, and as long as that takes. True where it does.
pub(super) fn have_watched(holders: &BTreeSet<u32>, span: Duration) -> bool {
    let mut watched = true;
    for holder in holders {
        if let Err(error) = control::watch(&control::socket(), *holder, span) {
            watched = false;
            tracing::warn!(holder, "{error}: how long it takes to wait for a child is not known without");
        }
    }
    watched
}

/// How much longer the daemon has to watch a holder before it can be said; `None` where it has, or does not watch.
pub(super) fn left(event: &ZombieEvent) -> Option<Span> {
    let ReapTimes { watched, longest } = reap_times(event)?;
    let left = (longest * LONG_PAST).saturating_sub(watched);
    (left > Duration::ZERO).then_some(Span(left))
}
