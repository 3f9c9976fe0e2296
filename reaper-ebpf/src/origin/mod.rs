//! Where processes come from.

pub(crate) mod lineage;
