//! Who may change what the daemon, as root, relies on.

use std::{fs::Metadata, os::unix::fs::MetadataExt as _};

use rustix::process::geteuid;

/// Why something is not to be trusted: whose it is, and its permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exposed {
    pub(crate) owner: u32,
    pub(crate) mode: u32,
}

/// Accepts what only root and this user may change.
pub(crate) fn check(metadata: &Metadata) -> Result<(), Exposed> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let trusted = owner == 0 || owner == geteuid().as_raw();
    if trusted && mode & 0o022 == 0 { Ok(()) } else { Err(Exposed { owner, mode }) }
}
