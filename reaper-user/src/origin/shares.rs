//! Room that workloads share: no one of them keeps the others out.

use std::collections::HashMap;

use reaper_ebpf::Group;

/// From here on, as a part of all room, only those find some that have little.
const CROWDED: (usize, usize) = (3, 4);
/// Little is one part in so many.
const LITTLE: usize = 8;
/// So little, as a part of all room, is not worth a look at who still needs it.
const TRIFLE: usize = 64;

/// What is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// Processes whose stack is kept.
    pub(super) children: usize,
    /// Different stacks of one kind.
    pub(super) stacks: usize,
    /// Different stacks of the other.
    pub(super) natives: usize,
    /// What they take.
    pub(super) bytes: usize,
}

/// Who has how much.
#[derive(Debug)]
pub(super) struct Shares {
    limit: Share,
    all: Share,
    /// What all had when it was last looked who needs it.
    needed: Share,
    /// Of those that have any.
    of: HashMap<Group, Share>,
}

impl Share {
    fn each(self) -> [usize; 4] {
        let Self { children, stacks, natives, bytes } = self;
        [children, stacks, natives, bytes]
    }

    fn plus(self, more: Self) -> Self {
        let Self { children, stacks, natives, bytes } = self;
        Self {
            children: children + more.children,
            stacks: stacks + more.stacks,
            natives: natives + more.natives,
            bytes: bytes + more.bytes,
        }
    }

    fn minus(self, less: Self) -> Self {
        let Self { children, stacks, natives, bytes } = self;
        Self {
            children: children.saturating_sub(less.children),
            stacks: stacks.saturating_sub(less.stacks),
            natives: natives.saturating_sub(less.natives),
            bytes: bytes.saturating_sub(less.bytes),
        }
    }
}

impl Shares {
    pub(super) fn new(limit: Share) -> Self {
        Self { limit, all: Share::default(), needed: Share::default(), of: HashMap::new() }
    }

    /// What all have together.
    #[cfg(test)]
    pub(super) const fn all(&self) -> Share {
        self.all
    }

    /// Takes so much for one workload. False where it finds no room.
    pub(super) fn take(&mut self, group: Group, more: Share) -> bool {
        let own = self.of.get(&group).copied().unwrap_or_default().plus(more);
        let all = self.all.plus(more);
        let (part, of) = CROWDED;
        let mut sorts = self.limit.each().into_iter().zip(all.each()).zip(own.each()).zip(more.each());
        let fits = sorts.all(|(((limit, all), own), more)| {
            more == 0 || all <= limit / of * part || (all <= limit && own <= limit / LITTLE)
        });
        if fits {
            self.all = all;
            self.of.insert(group, own);
        }
        fits
    }

    /// Gives it back.
    pub(super) fn give(&mut self, group: Group, less: Share) {
        self.all = self.all.minus(less);
        if let Some(own) = self.of.get_mut(&group) {
            *own = own.minus(less);
            if *own == Share::default() {
                self.of.remove(&group);
            }
        }
    }

    /// What nobody needs has been given back.
    pub(super) const fn settle(&mut self) {
        self.needed = self.all;
    }

    /// Whether it is time to look who still needs what: half of the room is taken, or twice of what was needed the last time. The
    /// dead are so many that without the second, memory would be taken up to the first whatever is needed.
    pub(super) fn are_crowded(&self) -> bool {
        let sorts = self.limit.each().into_iter().zip(self.needed.each()).zip(self.all.each());
        sorts.into_iter().any(|((limit, needed), all)| all > (needed * 2).max(limit / TRIFLE).min(limit / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Share = Share { children: 1, stacks: 0, natives: 0, bytes: 10 };

    fn shares() -> Shares {
        Shares::new(Share { children: 800, stacks: 1, natives: 1, bytes: 1 << 20 })
    }

    fn taken(shares: &mut Shares, v2: u64, v1: u64) -> usize {
        (0..2_000).filter(|_| shares.take(Group { v2, v1 }, ONE)).count()
    }

    #[test]
    fn one_workload_leaves_room_for_others() {
        let mut shares = shares();
        assert_eq!(taken(&mut shares, 1, 0), 600);
        // On a host where all are in one cgroup of v2, too.
        assert_eq!((taken(&mut shares, 1, 5), taken(&mut shares, 3, 0)), (100, 100));
        assert_eq!(taken(&mut shares, 4, 0), 0, "all of it is taken");
        assert_eq!(shares.all().children, 800);
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let (mut shares, group) = (shares(), Group { v2: 1, v1: 0 });
        for _ in 0..3 {
            let taken = taken(&mut shares, 1, 0);
            assert_eq!(taken, 600);
            (0..taken).for_each(|_| shares.give(group, ONE));
        }
        assert!(shares.of.is_empty() && shares.all() == Share::default());
    }

    #[test]
    fn each_sort_has_its_own_limit() {
        let mut shares = shares();
        let heavy = Share { bytes: 1 << 19, ..Share::default() };
        let group = Group { v2: 1, v1: 0 };
        assert!(shares.take(group, heavy));
        assert!(!shares.take(group, heavy), "three quarters would be taken");
        assert!(shares.take(group, ONE), "there is room for a light one");
    }

    #[test]
    fn what_is_taken_is_looked_at_when_it_has_doubled() {
        let mut shares = Shares::new(Share { children: 6_400, stacks: 64, natives: 64, bytes: 1 << 20 });
        let take = |shares: &mut Shares, number| {
            for _ in 0..number {
                assert!(shares.take(Group { v2: 1, v1: 0 }, ONE));
            }
            shares.are_crowded()
        };
        assert_eq!((take(&mut shares, 100), take(&mut shares, 1)), (false, true));
        shares.settle();
        assert_eq!((take(&mut shares, 101), take(&mut shares, 1)), (false, true));
        // Nobody needs it any more, and it is to be given back.
        for _ in 0..203 {
            shares.give(Group { v2: 1, v1: 0 }, ONE);
        }
        shares.settle();
        assert_eq!((take(&mut shares, 100), take(&mut shares, 1)), (false, true));
        // However much is needed, there is room left when it is looked.
        take(&mut shares, 3_000);
        shares.settle();
        assert_eq!((take(&mut shares, 99), take(&mut shares, 1)), (false, true));
    }
}
