//! The words that single cells and lines are made of, for a view that lays itself out.

pub(crate) use super::{
    advice::meaning,
    columns::{cut, wrap},
    evidence::sentences as evidence,
    headroom::{free_cell, left, rate_cell, sentences as headroom},
    human::{age, exit, process},
    leaks::place_of as place,
};
