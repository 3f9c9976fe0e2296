//! Where processes come from.

mod exec;
pub(crate) mod lineage;
mod python;
mod ring;
