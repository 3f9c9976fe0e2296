//! Zombies whose release nobody announces: a hook in the kernel may have been skipped, which nothing counts everywhere. They
//! have no pid any more.

use std::{collections::HashMap, time::Duration};

use reaper_ebpf::tgid_of;

use crate::identity::BootTime;

/// Between two looks.
const APART: Duration = Duration::from_secs(5);

/// How long one has no pid before it is taken to be gone: the kernel frees it tens of milliseconds after it was waited for, on a
/// busy machine seconds, and only then it is announced.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many are looked at at once, at most: a system call each.
const AT_ONCE: usize = 2_500;

/// Who is looked at, in turn.
#[derive(Debug, Default)]
pub(super) struct Absent {
    next: BootTime,
    /// Those that are still to be looked at in this round.
    round: Vec<u64>,
    /// Those that had no pid when they were last looked at, and since when.
    suspects: HashMap<u64, BootTime>,
}

impl Absent {
    /// When to look, where any stand.
    pub(super) fn next(&self) -> BootTime {
        self.next
    }

    /// Looks at some of those that are `standing`, where that is due: those that have had no pid for long enough.
    pub(super) fn look(
        &mut self,
        standing: impl Iterator<Item = u64>,
        now: BootTime,
        exists: impl Fn(u32) -> bool,
    ) -> Vec<u64> {
        if now < self.next {
            return Vec::new();
        }
        self.next = now.plus(APART);
        if self.round.is_empty() {
            self.round.extend(standing);
        }
        let rest = self.round.len().saturating_sub(AT_ONCE);
        for id in self.round.split_off(rest) {
            if !exists(tgid_of(id)) {
                self.suspects.entry(id).or_insert(now);
            }
        }
        let mut gone = Vec::new();
        self.suspects.retain(|id, since| {
            let is_gone = now.since(*since) >= PATIENCE;
            if is_gone {
                gone.push(*id);
            }
            !is_gone
        });
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use reaper_ebpf::id;

    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    #[test]
    fn one_without_a_pid_is_gone_a_while_later_and_told_of_once() {
        let mut absent = Absent::default();
        let standing = [7, 8].map(|pid| id(pid, 1_000));
        let look =
            |absent: &mut Absent, seconds| absent.look(standing.into_iter(), at(seconds), |pid| pid == 8);
        assert!(look(&mut absent, 10).is_empty(), "the kernel may free it yet");
        assert!(look(&mut absent, 12).is_empty(), "not before it is due");
        assert_eq!(absent.next(), at(15));
        assert!(look(&mut absent, 15).is_empty(), "it may yet");
        assert_eq!(look(&mut absent, 20), [standing[0]]);
        assert!(absent.look([standing[1]].into_iter(), at(25), |pid| pid == 8).is_empty());
    }

    #[test]
    fn of_many_some_are_looked_at_and_all_in_turn() {
        let mut absent = Absent::default();
        let pids = 1..=u32::try_from(3 * AT_ONCE).unwrap();
        let looked_at = RefCell::new(BTreeSet::new());
        for round in 1..=3 {
            absent.look(pids.clone().map(|pid| id(pid, 1_000)), at(10 * round), |pid| {
                looked_at.borrow_mut().insert(pid)
            });
            assert_eq!(looked_at.borrow().len(), AT_ONCE * usize::try_from(round).unwrap());
        }
    }
}
