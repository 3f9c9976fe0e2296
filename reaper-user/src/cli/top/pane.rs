//! What lies over a view: help, what is read in full, and what is done about zombies.

use std::time::{Duration, Instant};

use super::{
    reaping::{Order, Said},
    state::Act,
    whole::Whole,
};

/// What would be done has to be on the screen for so long before a yes is one: who holds a key down, or types it again because nothing
/// happens, has not read it.
const READ: Duration = Duration::from_millis(500);

/// After so long it is looked again what would be done.
const STALE: Duration = Duration::from_secs(60);

/// What lies over a view.
#[derive(Debug)]
pub(super) enum Pane {
    /// What the keys do.
    Help,
    /// All that is known of one workload or zombie.
    Whole(Whole),
    /// A remedy.
    Remedy(Box<Remedy>),
}

/// A remedy that was asked for.
#[derive(Debug)]
pub(super) struct Remedy {
    /// What would be done, and to whom.
    pub(super) order: Order,
    /// How far it is.
    pub(super) stage: Stage,
}

/// How far a remedy is.
#[derive(Debug)]
pub(super) enum Stage {
    /// It is only said how to do it by hand.
    NotAllowed,
    /// It is looked what would be done, since then.
    Trying(Instant),
    /// That is known, and it is asked whether to do it; on the screen since then.
    Tried(Said, Option<Instant>),
    /// It is being done, since then.
    Doing(Instant),
    /// It was done.
    Done(Said),
}

impl Remedy {
    /// Shows an order, and looks what it would do where remedies are allowed.
    pub(super) fn begin(order: Order, allowed: bool) -> (Self, Option<Act>) {
        if !allowed {
            return (Self { order, stage: Stage::NotAllowed }, None);
        }
        let act = Act::Try(order.clone());
        (Self { order, stage: Stage::Trying(Instant::now()) }, Some(act))
    }

    /// It is on the screen.
    pub(super) fn was_drawn(&mut self, now: Instant) {
        if let Stage::Tried(_, shown @ None) = &mut self.stage {
            *shown = Some(now);
        }
    }

    /// Somebody said yes then: it is done where it could be read what would be done, and to whom it was asked for. Where that was long
    /// ago, it is looked again.
    pub(super) fn agree(&mut self, at: Instant) -> Option<Act> {
        let Stage::Tried(said, Some(shown)) = &self.stage else { return None };
        let read_for = at.saturating_duration_since(*shown);
        if !said.is_offered(&self.order) || read_for < READ {
            return None;
        }
        if read_for > STALE {
            self.stage = Stage::Trying(Instant::now());
            return Some(Act::Try(self.order.clone()));
        }
        self.stage = Stage::Doing(Instant::now());
        Some(Act::Reap(self.order.clone()))
    }

    /// It has come to its end, or what it would do is known. What was said about another order is not taken: its pane was left.
    pub(super) fn hear(&mut self, said: Said) {
        if said.order != self.order {
            return;
        }
        match (&self.stage, said.is_done) {
            (Stage::Trying(_), false) => self.stage = Stage::Tried(said, None),
            (Stage::Doing(_), true) => self.stage = Stage::Done(said),
            _ => {}
        }
    }
}
