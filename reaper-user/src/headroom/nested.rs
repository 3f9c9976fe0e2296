//! How cgroups lie in each other: which are above one, and how many are below.

use std::collections::HashSet;

use super::files::CgroupPath;

/// Levels of a cgroup that are looked at, at most: so many from itself outwards, and so many from the root inwards. Whoever may make
/// cgroups may make them as deep as a path is long, some 2,000 levels.
pub(super) const INNERMOST: usize = 16;
const OUTERMOST: usize = 16;

/// Numbers of cgroups, to be summed up by whatever is around them. It takes as much as there are cgroups, however deep those are.
#[derive(Debug, Default)]
pub struct Below {
    /// Each cgroup with how many are in all before it, sorted: those below one stand together.
    sorted: Vec<(CgroupPath, u64)>,
    all: u64,
}

impl Below {
    /// Of what each cgroup itself has.
    #[must_use]
    pub fn new(own: impl Iterator<Item = (CgroupPath, u64)>) -> Self {
        let mut sorted: Vec<_> = own.collect();
        sorted.sort_unstable();
        let mut all = 0;
        for (_, count) in &mut sorted {
            all += std::mem::replace(count, all);
        }
        Self { sorted, all }
    }

    /// How many are in a cgroup and below it; the root has its own only, for it has no limit.
    #[must_use]
    pub fn of(&self, path: &[u8]) -> u64 {
        let from = |bound: &[&[u8]]| {
            let bound = bound.concat();
            self.before(self.sorted.partition_point(|(other, _)| **other < *bound))
        };
        // The shortest that is greater than the path, and than all below it: 0 is what follows a slash.
        let own = from(&[path, b"\0"]) - from(&[path]);
        if path.len() <= 1 { own } else { own + from(&[path, b"0"]) - from(&[path, b"/"]) }
    }

    fn before(&self, at: usize) -> u64 {
        self.sorted.get(at).map_or(self.all, |(_, before)| *before)
    }
}

/// The cgroup and those above it that are looked at, the innermost first: all but the root, which has no limit, or where those are too
/// many the innermost and the outermost. How many lie between is said by [`skipped`].
pub(super) fn upwards(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let outer = slashes.map(|(at, _)| at).nth(OUTERMOST).unwrap_or(path.len());
    let (mut end, mut number) = (path.len(), 0);
    std::iter::from_fn(move || {
        let own = path.get(..end).filter(|own| own.len() > 1)?;
        number += 1;
        end = own.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        if number == INNERMOST {
            end = end.min(outer);
        }
        Some(own)
    })
}

/// The cgroup that one lies in; `None` where that is the root.
#[must_use]
pub fn around(path: &[u8]) -> Option<&[u8]> {
    upwards(path).nth(1)
}

/// How many levels of a cgroup are not looked at: those between its [`INNERMOST`] and the outermost.
#[must_use]
pub(super) fn skipped(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count().saturating_sub(INNERMOST + OUTERMOST)
}

/// Whether a cgroup is this one or below it. The root is above nobody: it has no limit.
#[must_use]
pub fn is_within(cgroup: &[u8], outer: &[u8]) -> bool {
    cgroup == outer
        || outer.len() > 1 && cgroup.strip_prefix(outer).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Those that are below no other one of them, each once.
#[must_use]
pub fn outermost(paths: &[CgroupPath]) -> Vec<CgroupPath> {
    let all: HashSet<&[u8]> = paths.iter().map(|path| &**path).collect();
    let is_below = |path: &CgroupPath| {
        let ends = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
        ends.map(|(end, _)| &path[..end]).any(|level| all.contains(level))
    };
    let mut taken = HashSet::new();
    paths.iter().filter(|path| !is_below(path) && taken.insert(&***path)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_way_up_ends_below_the_root() {
        let all: Vec<_> = upwards(b"/pod/box/inner").collect();
        assert_eq!(all, [&b"/pod/box/inner"[..], b"/pod/box", b"/pod"]);
        assert_eq!(upwards(b"/").count(), 0);
        assert!(is_within(b"/pod/box", b"/pod") && is_within(b"/", b"/"));
        assert!(
            !is_within(b"/podium", b"/pod") && !is_within(b"/pod", b"/pod/box") && !is_within(b"/pod", b"/")
        );
        let paths =
            ["/pod/box", "/pod", "/podium", "/pod", "/pod/box/inner"].map(|path| Arc::from(path.as_bytes()));
        assert_eq!(outermost(&paths), [paths[1].clone(), paths[2].clone()]);
    }

    #[test]
    fn of_a_deep_one_the_innermost_and_the_outermost_are_looked_at() {
        let chain = |depth: usize| "/c".repeat(depth);
        for depth in [1, INNERMOST, INNERMOST + OUTERMOST, INNERMOST + OUTERMOST + 1, 500] {
            let path = chain(depth);
            let all: Vec<_> = upwards(path.as_bytes()).map(<[u8]>::len).collect();
            let whole = (1..=depth).rev();
            let want: Vec<_> = whole
                .filter(|level| *level <= OUTERMOST || *level > depth - INNERMOST.min(depth))
                .map(|level| 2 * level)
                .collect();
            assert_eq!(all, want, "{depth} deep");
            assert_eq!(all.len() + skipped(path.as_bytes()), depth);
        }
        // Where one is does not depend on how much is looked at.
        assert!(is_within(chain(500).as_bytes(), chain(200).as_bytes()));
        let paths = [500, 200].map(|depth| Arc::from(chain(depth).as_bytes()));
        assert_eq!(outermost(&paths), paths[1..]);
    }

    #[test]
    fn all_below_count_and_those_beside_do_not() {
        let own =
            [("/pod/box", 3), ("/pod-x", 7), ("/pod/box/inner", 5), ("/", 2), ("/pod", 1), ("/pod0", 9)];
        let below = Below::new(own.iter().map(|(path, count)| (Arc::from(path.as_bytes()), *count)));
        let of = |path: &str| below.of(path.as_bytes());
        assert_eq!(
            [of("/pod"), of("/pod/box"), of("/pod/box/inner"), of("/pod-x"), of("/pod0")],
            [9, 8, 5, 7, 9]
        );
        assert_eq!([of("/"), of("/po"), of("/pod/b"), of("/x"), Below::default().of(b"/x")], [2, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_deep_counts_at_every_level_above_it() {
        let path = |depth: usize| -> CgroupPath { Arc::from("/c".repeat(depth).as_bytes()) };
        let below = Below::new((1..=2_000).map(|depth| (path(depth), 1)));
        for depth in [1, 16, 17, 1_000, 2_000] {
            assert_eq!(below.of(&path(depth)), 2_001 - depth as u64);
        }
    }
}
