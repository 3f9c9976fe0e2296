//! The words that single cells and lines are made of, for a view that lays itself out.

pub(crate) use super::{
    advice::meaning,
    columns::{cut, wrap},
    evidence::sentences as evidence,
    human::{age, exit, process},
};
use super::{
    headroom::{self, Exhaustion, HeadroomEvent, ShownRate},
    leaks,
    origin::ShownOrigin,
};
use crate::text::Untrusted;

/// What there is to say of how a workload stands to its limits, a sentence each.
pub(crate) fn headroom(row: &HeadroomEvent) -> Vec<String> {
    headroom::sentences(row)
}

/// `1.9/s`, and for slow ones `3.1/min`: zombies.
pub(crate) fn rate(rate: &ShownRate) -> String {
    headroom::pace(rate).replace(" zombies", "")
}

/// `9m14s ± 1m`, or `now`: until a limit is full.
pub(crate) fn full_in(exhaustion: &Exhaustion) -> String {
    headroom::left(exhaustion)
}

/// How good an origin is, and the frame to look at; without a stack, who forked whom.
pub(crate) fn place(origin: &ShownOrigin, zombie: &Untrusted, room: usize) -> String {
    leaks::place_of(origin.quality, origin, zombie, room)
}
