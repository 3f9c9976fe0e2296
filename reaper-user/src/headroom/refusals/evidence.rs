//! What can be read of limits at the moment that a fork was refused.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Refusals;
use crate::headroom::{
    files::{CgroupPath, Files, Level, Node},
    refusal::Source,
};

/// The hook is attached a little before the counts of cgroups are read, and hands over within a second.
const BEGINNING: Duration = Duration::from_secs(2);

/// What can be said of a cgroup that nobody watches.
#[derive(Debug)]
pub(in crate::headroom) enum Unwatched {
    /// Its limit is used up.
    Full(Level),
    /// It has none.
    Unlimited,
    /// It has a limit that may have been used up a moment ago, or could not be read.
    Unread,
}

impl Refusals {
    /// What it reads.
    pub(in crate::headroom) const fn files(&self) -> &Files {
        &self.files
    }

    /// What the node has of tasks, where it can be read.
    pub(in crate::headroom) fn node(&mut self) -> Option<Node> {
        let node = self.files.node();
        self.lost.unwatched += u64::from(node.is_err());
        node.inspect_err(|error| tracing::debug!(%error, "limits of the node cannot be read")).ok()
    }

    /// So many were handed over by the hook.
    pub(in crate::headroom) const fn receive(&mut self, count: u64) {
        self.received += count;
    }

    /// Whether all that is handed over now was counted since the counts of cgroups are known.
    pub(in crate::headroom) fn knows_since(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.saturating_duration_since(began) >= BEGINNING)
    }

    /// Looks at a cgroup's count now. False where it cannot be read, or none is known from before.
    pub(in crate::headroom) fn count_again(&mut self, path: &[u8], now: Instant) -> bool {
        let known = self.watched.get_key_value(path).map(|(path, _)| path);
        let known = known.or_else(|| self.counts.get_key_value(path).map(|(path, _)| path)).cloned();
        let Some(Ok(grown)) = known.map(|path| self.check(path, Source::PidsEvents, now)) else {
            return false;
        };
        if let Some(refusal) = grown {
            self.unclaimed().put(refusal, now);
        }
        true
    }

    /// Looks at the limit of a cgroup that nobody watches. Its count is known from then on.
    pub(in crate::headroom) fn look_at(&mut self, path: &[u8], now: Instant) -> Unwatched {
        let path: CgroupPath = Arc::from(path);
        let level = match self.files.level(&path, false) {
            Ok(Some(level)) => level,
            // It counts no pids, where it is there.
            Ok(None) if self.files.exists(&path) => return Unwatched::Unlimited,
            Ok(None) => return Unwatched::Unread,
            Err(error) => {
                self.unread(&path, &error);
                return Unwatched::Unread;
            }
        };
        let Some(max) = level.max else { return Unwatched::Unlimited };
        if self.has_place(&path, now)
            && let Ok(Some(refused)) = self.files.refused(&path)
        {
            self.counts.insert(path, refused);
        }
        if level.current >= max { Unwatched::Full(level) } else { Unwatched::Unread }
    }
}
