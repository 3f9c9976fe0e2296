//! Dead processes that have descendants, as the kernel side keeps them.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfMap, MapData},
};
use reaper_ebpf::{ANCESTORS_KEPT, Ancestor, CMDLINE_BYTES, Record, counter, flag, state};

use super::{Kernel, KernelError, low, map};
use crate::{
    identity::{BootTime, Identity},
    proc::shown_cmdline,
    text::Untrusted,
};

const WORDS: usize = size_of::<Ancestor>() / 8;

/// Room that must be left before it is looked who can go.
const CROWDED: u64 = ANCESTORS_KEPT as u64 / 4 * 3;

/// It is not looked more often than this.
const APART: Duration = Duration::from_secs(1);

/// What a dead process has left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forebear {
    /// Its forker, where its fork was seen.
    pub forker: Option<Identity>,
    /// Its name when it died.
    pub comm: Untrusted,
    /// Its command line when it died, where the kernel still had it.
    pub cmdline: Option<Untrusted>,
}

/// The map of them.
pub(super) struct Ancestors {
    map: BpfMap<MapData, u64, [u64; WORDS]>,
    /// Of those that were ever put in, how many have gone.
    gone: u64,
    pruned: Option<Instant>,
}

impl Ancestors {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        map(ebpf, "ANCESTORS").map(|map| Self { map, gone: 0, pruned: None })
    }

    fn keys(&self) -> Vec<u64> {
        self.map.keys().flatten().collect()
    }
}

impl Kernel {
    /// What a dead process with descendants has left behind.
    #[must_use]
    pub fn ancestor(&self, id: u64) -> Option<Forebear> {
        self.ancestors.map.get(&id, 0).ok().map(|words| forebear(&words))
    }

    /// Whether there is little room for more dead ancestors, and it was not just seen to.
    pub fn ancestors_are_crowded(&self) -> Result<bool, KernelError> {
        let recently = self.ancestors.pruned.is_some_and(|pruned| pruned.elapsed() < APART);
        Ok(!recently && self.count(counter::ANCESTOR_IN)?.saturating_sub(self.ancestors.gone) > CROWDED)
    }

    /// Takes out dead ancestors whose last descendant is gone. Says how many are left.
    pub fn prune_ancestors(&mut self) -> Result<usize, KernelError> {
        // In this order: whoever is put in later has a descendant that this does not see.
        self.ancestors.pruned = Some(Instant::now());
        let known = self.ancestors.keys();
        let put = self.count(counter::ANCESTOR_IN)?;
        if known.is_empty() {
            self.ancestors.gone = put;
            return Ok(0);
        }
        let mut forkers = Vec::new();
        self.each(|state| state != state::FREE, |record| forkers.extend(self.forker_of(&record)))?;
        // A descendant that died meanwhile is in here now.
        let dead: HashMap<u64, Option<u64>> = self
            .ancestors
            .map
            .iter()
            .flatten()
            .map(|(id, words)| (id, forebear(&words).forker.map(id_of)))
            .collect();
        let needed = needed(forkers.into_iter().map(id_of), &dead);
        let mut left = 0;
        for id in known {
            if needed.contains(&id) || self.ancestors.map.remove(&id).is_err() {
                left += 1;
            }
        }
        self.ancestors.gone = put.saturating_sub(left as u64);
        Ok(left)
    }

    /// Whether the forker of this process was recorded and had to give way to newer ones.
    #[must_use]
    pub fn has_forgotten_forker(&self, record: &Record) -> bool {
        let unseen = flag::PREDATES_FORK | flag::FORK_UNSEEN;
        record.flags & unseen == 0 && record.flags & flag::FORKER != 0 && self.forker(record.id()).is_none()
    }

    /// Who called fork for this process, where that was seen.
    #[must_use]
    pub fn forker_of(&self, record: &Record) -> Option<Identity> {
        if record.flags & (flag::PREDATES_FORK | flag::FORK_UNSEEN) != 0 {
            return None;
        }
        if record.flags & flag::FORKER != 0 {
            let forker = self.forker(record.id())?;
            return Some(Identity { pid: forker.tgid, start: BootTime(forker.start) });
        }
        Some(Identity { pid: record.parent_tgid, start: BootTime(record.parent_start) })
    }
}

/// The identity bits of a process.
#[must_use]
pub const fn id_of(process: Identity) -> u64 {
    reaper_ebpf::id(process.pid, process.start.0)
}

/// Those of the `dead` that lead to one of `forkers`.
fn needed(forkers: impl Iterator<Item = u64>, dead: &HashMap<u64, Option<u64>>) -> HashSet<u64> {
    let mut needed = HashSet::new();
    for forker in forkers {
        let mut next = Some(forker);
        // Of one that is needed already, so is what is above it.
        while let Some(id) = next.filter(|id| dead.contains_key(id) && needed.insert(*id)) {
            next = dead.get(&id).copied().flatten();
        }
    }
    needed
}

fn forebear(words: &[u64; WORDS]) -> Forebear {
    let [_, forker_start, who, first, second, line, bytes @ ..] = words;
    let (forker, flags) = (low(*who), low(*who >> 32));
    let seen = flags & (flag::PREDATES_FORK | flag::FORK_UNSEEN) == 0;
    let name = [*first, *second].map(u64::to_le_bytes).concat();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut arguments: Vec<u8> = bytes.iter().flat_map(|word| word.to_le_bytes()).collect();
    arguments.truncate((low(*line) as usize).min(CMDLINE_BYTES));
    Forebear {
        forker: seen.then_some(Identity { pid: forker, start: BootTime(*forker_start) }),
        comm: Untrusted::new(name),
        cmdline: (!arguments.is_empty()).then(|| shown_cmdline(&arguments, *line >> 32 != 0)),
    }
}

#[cfg(test)]
mod tests {
    use reaper_ebpf::pack;

    use super::*;

    #[test]
    fn a_dead_ancestor_is_read_as_it_was_written() {
        let mut words = [0; WORDS];
        (words[0], words[1], words[2]) = (5, 7_000, pack(0, 42));
        words[3] = u64::from_le_bytes(*b"python3\0");
        words[5] = pack(1, 12);
        words[6] = u64::from_le_bytes(*b"python3\0");
        words[7] = u64::from_le_bytes(*b"x.py....");
        let found = forebear(&words);
        assert_eq!(found.forker, Some(Identity { pid: 42, start: BootTime(7_000) }));
        assert_eq!((found.comm.as_str(), found.cmdline.unwrap().as_str()), ("python3", "python3 x.py…"));
        words[2] = pack(flag::FORK_UNSEEN, 42);
        words[5] = 0;
        let found = forebear(&words);
        assert_eq!((found.forker, found.cmdline), (None, None));
    }

    #[test]
    fn what_leads_to_a_descendant_is_needed_and_nothing_else_is() {
        let dead =
            HashMap::from([(1, None), (2, Some(1)), (3, Some(2)), (4, Some(1)), (5, Some(9)), (6, Some(6))]);
        let of = |forkers: &[u64]| {
            let mut needed: Vec<_> = needed(forkers.iter().copied(), &dead).into_iter().collect();
            needed.sort_unstable();
            needed
        };
        assert_eq!(of(&[3, 77]), [1, 2, 3]);
        assert_eq!(of(&[5, 4, 2]), [1, 2, 4, 5]);
        // Forged or torn, but it ends.
        assert_eq!(of(&[6]), [6]);
        assert_eq!(of(&[]), Vec::<u64>::new());
    }
}
