//! What the holder is made to do itself.

use std::time::Duration;

use super::{Handle, Remedy, hand::Deed};
use crate::{identity::Identity, policy::Refusal};

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
}

/// Makes the holder wait for these zombies, once each and without blocking.
#[must_use]
pub fn reap(_holder: &Handle, _zombies: &[Target], _options: &Options) -> Deed {
    Deed::refused(Refusal::NotBuilt(Remedy::Reap))
}

/// Makes the kernel release each child of the holder that dies from now on (`SA_NOCLDWAIT`); or, with `wanted` false, takes that
/// back.
#[must_use]
pub fn autoreap(_holder: &Handle, _wanted: bool, _options: &Options) -> Deed {
    Deed::refused(Refusal::NotBuilt(Remedy::Autoreap))
}
