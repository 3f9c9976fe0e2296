//! Taking the stacks of those that fork, where the kernel lets us.

use crate::{
    kernel::{Copying, Kernel},
    origin::{self, Stacks},
    proc::Proc,
};

/// Begins to take the stacks of interpreters at their forks; without it everything else works.
pub(super) fn start_following(kernel: &mut Kernel, copying: Option<Copying>, proc: &Proc) -> Option<Stacks> {
    if let Some(reason) = kernel.no_origins() {
        tracing::warn!("the lines that fork zombies cannot be told: {reason}");
        return None;
    }
    let natives = match (copying, kernel.no_natives()) {
        (None, _) => None,
        (Some(_), Some(reason)) => {
            tracing::warn!("native stacks cannot be taken, only those of Python: {reason}");
            None
        }
        (Some(copying), None) => kernel
            .natives(copying)
            .inspect_err(|error| {
                tracing::warn!("native stacks cannot be taken, only those of Python: {error}");
            })
            .ok(),
    };
    let started = kernel.origins().map_err(std::io::Error::other);
    let started =
        started.and_then(|(origins, running)| origin::follow(origins, running, natives, proc.clone()));
    started.inspect_err(|error| tracing::warn!("the lines that fork zombies cannot be told: {error}")).ok()
}

/// Waits until there is little room left for stacks.
pub(super) async fn crowded(stacks: Option<&Stacks>) {
    match stacks {
        Some(stacks) => stacks.crowded().await,
        None => std::future::pending().await,
    }
}
