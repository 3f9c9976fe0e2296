//! What the holder is made to do itself: whom it is about, and what is allowed.

use std::time::Duration;

use crate::identity::Identity;

/// A zombie to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who it was.
    pub identity: Identity,
    /// Its number in the holder's pid namespace.
    pub ns_pid: Option<u32>,
}

/// What a rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A timed wait of the holder may end early with EINTR.
    pub allow_interrupted_wait: bool,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// How long the holder may stand still at once.
    pub max_pause: Duration,
}
