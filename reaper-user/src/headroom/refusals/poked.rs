//! Cgroups whose counts may have grown, until they are read.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use crate::headroom::{files::CgroupPath, refusal::Source};

/// Those, each once, the longest waiting first: whoever has many of them waits for the others as those do.
#[derive(Debug, Default)]
pub(super) struct Poked {
    order: VecDeque<(Instant, CgroupPath, Source)>,
    there: HashSet<CgroupPath>,
}

impl Poked {
    pub(super) fn add(&mut self, path: CgroupPath, source: Source, now: Instant) {
        if self.there.insert(Arc::clone(&path)) {
            self.order.push_back((now, path, source));
        }
    }

    pub(super) fn take(&mut self) -> Option<(CgroupPath, Source)> {
        let (_, path, source) = self.order.pop_front()?;
        self.there.remove(&path);
        Some((path, source))
    }

    /// Since when somebody waits.
    pub(super) fn since(&self) -> Option<Instant> {
        self.order.front().map(|(since, ..)| *since)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}
