//! What lies over a view: help, and what is done about zombies.

use std::time::Instant;

use super::{
    reaping::{Order, Said},
    state::Act,
};

/// What lies over a view.
#[derive(Debug)]
pub(super) enum Pane {
    /// What the keys do.
    Help,
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
    /// That is known, and it is asked whether to do it.
    Tried(Said),
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

    /// Somebody says yes: it is done where it was looked at before, and something would be done to whom it was asked for.
    pub(super) fn agree(&mut self) -> Option<Act> {
        match &self.stage {
            Stage::Tried(said) if said.is_offered(&self.order) => {
                self.stage = Stage::Doing(Instant::now());
                Some(Act::Reap(self.order.clone()))
            }
            _ => None,
        }
    }

    /// It has come to its end, or what it would do is known. What was said about another order is not taken: its pane was left.
    pub(super) fn hear(&mut self, said: Said) {
        if said.order != self.order {
            return;
        }
        match (&self.stage, said.is_done) {
            (Stage::Trying(_), false) => self.stage = Stage::Tried(said),
            (Stage::Doing(_), true) => self.stage = Stage::Done(said),
            _ => {}
        }
    }
}
