//! Forks that were refused: how many, by which limit, and where that is known from.

use std::sync::Arc;

use super::{
    attempts::{Forker, Found},
    files::{CgroupPath, Level},
    limit::Limit,
    nested::{INNERMOST, skipped, upwards},
};

/// Where it is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `pids.events` has changed, which the kernel notified.
    PidsEvents,
    /// The kernel's log.
    KernelLog,
    /// `pids.events` has changed, which was seen when it was read.
    Reading,
    /// The hook on the clone path, by fexit.
    Fexit,
    /// The hook on the clone path, by kretprobe.
    Kretprobe,
}

/// Forks that were refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The cgroup that counts them.
    pub path: CgroupPath,
    /// Whether that is the one whose limit was hit; else it is the forker's.
    pub at_limit: bool,
    /// The forker's, where it is known.
    pub forker: Option<CgroupPath>,
    /// How many since it was last said of it.
    pub count: u64,
    /// Where that is from.
    pub source: Source,
    /// The cgroup and those above it that may have refused it and are looked at, as they were right after, where they could be read.
    pub levels: Vec<Level>,
    /// Which limit it was.
    pub found: Found,
    /// Who tried last, where the hook has seen it.
    pub who: Option<Forker>,
}

/// What is told together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// What this limit has refused, in whichever cgroups that was.
    Limit(Limit),
    /// What was refused in this one, where the limit is not known.
    In(CgroupPath, Found),
}

impl Refusal {
    /// What it is told with.
    #[must_use]
    pub fn key(&self) -> Key {
        let limit = match &self.found {
            Found::Other(limit, ..) => Some(limit.clone()),
            Found::PidsMax if self.at_limit => Some(Limit::PidsMax(Arc::clone(&self.path))),
            Found::PidsMax => self.level().map(|level| Limit::PidsMax(Arc::clone(&level.path))),
            Found::Unknown | Found::Unread => None,
        };
        limit.map_or_else(|| Key::In(Arc::clone(&self.path), self.found.clone()), Key::Limit)
    }

    /// The level whose limit refused it: the cgroup itself where it is counted there; else the innermost that is full, or, if that has
    /// passed already, the one that has the least left. `None` where it may have been one that was not read.
    #[must_use]
    pub fn level(&self) -> Option<&Level> {
        if self.found != Found::PidsMax {
            return None;
        }
        let read = |path: &[u8]| self.levels.iter().find(|level| *level.path == *path);
        if self.at_limit {
            return read(&self.path);
        }
        let is_deep = skipped(&self.path) > 0;
        for (number, path) in upwards(&self.path).enumerate() {
            // The kernel asks from the innermost outwards: further out it is only known where all until there are.
            let level = if is_deep && number == INNERMOST { None } else { read(path) }?;
            if level.max.is_some_and(|max| level.current >= max) {
                return Some(level);
            }
        }
        let left = |level: &&Level| level.max.map_or(u64::MAX, |max| max.saturating_sub(level.current));
        self.levels.iter().filter(|level| level.max.is_some()).min_by_key(left)
    }
}
