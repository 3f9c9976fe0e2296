//! What the shared source leaves behind of dead processes with descendants.

#[path = "../origin/lineage.rs"]
pub(crate) mod lineage;
