//! Where processes come from.

mod exec;
pub(crate) mod lineage;
pub(crate) mod native;
mod python;
mod ring;
