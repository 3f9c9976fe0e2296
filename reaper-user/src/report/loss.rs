//! What can be lost, and what to do about it.

use reaper_ebpf::counter;
use serde::{Deserialize, Serialize};

/// Something that happened and could not be recorded. Loss is counted, never silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// A death found no room in the ledger.
    DeathLost,
    /// A fork found no room in the ledger.
    ForkUnrecorded,
    /// A release could not be announced.
    ReleaseLost,
    /// A new cgroup could not be announced.
    CgroupLost,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::DeathLost, Self::ForkUnrecorded, Self::ReleaseLost, Self::CgroupLost];

    /// Its place in the kernel side's array of counters: one of [`reaper_ebpf::counter`].
    #[must_use]
    pub const fn counter(self) -> u32 {
        match self {
            Self::DeathLost => counter::DEATH_LOST,
            Self::ForkUnrecorded => counter::FORK_UNRECORDED,
            Self::ReleaseLost => counter::RELEASE_LOST,
            Self::CgroupLost => counter::CGROUP_LOST,
        }
    }

    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeathLost => "death-lost",
            Self::ForkUnrecorded => "fork-unrecorded",
            Self::ReleaseLost => "release-lost",
            Self::CgroupLost => "cgroup-lost",
        }
    }

    /// What it means, and what to do.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::DeathLost => {
                "deaths found no room in the ledger: a zombie among them is not reported; raise [ledger] entries or \
                 overflow and restart, or find what forks so much"
            }
            Self::ForkUnrecorded => {
                "forks found no room in the ledger: their zombies are reported where there is room when they die, \
                 but without parent at fork and forker; raise [ledger] entries or overflow and restart"
            }
            Self::ReleaseLost => {
                "releases could not be announced because the ring buffer was full: they are found by the next sweep, \
                 late; nothing to do unless it goes on, then give the daemon more CPU"
            }
            Self::CgroupLost => {
                "new cgroups could not be announced because the ring buffer was full: zombies of a container that is \
                 removed meanwhile are reported without its id; if it goes on, give the daemon more CPU"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_the_one_in_json_and_each_counter_is_its_own() {
        let mut counters: Vec<u32> = Loss::ALL.iter().map(|loss| loss.counter()).collect();
        counters.sort_unstable();
        counters.dedup();
        assert_eq!(counters.len(), Loss::ALL.len());
        for loss in Loss::ALL {
            assert_eq!(serde_json::to_value(loss).unwrap(), loss.as_str());
        }
    }
}
