//! Names for addresses, and frames for stacks. Both take files that a container controls, so both are done by a process of its
//! own without privileges ([`child`]), which is handed descriptors, killed where it takes too long, and replaced where it dies.
//! What it answers is as untrusted as the files.

pub mod channel;
pub mod child;
pub mod message;
mod parent;

pub use self::parent::{Counts, Symbolizer, Unanswered};
