//! Which stack of a chain a zombie's origin is. Only what is dead may stand between the two: a process that lives has leaked the
//! zombie itself, or what did is below it, and where that process was started is not where it leaks.

use std::sync::Arc;

use super::{Language, Link, Origin, Quality, Stack};

/// A link of the chain that has a stack, as an index, and how good that is.
pub(crate) type Found = (usize, (Arc<Stack>, Quality));

impl Origin {
    /// Of a zombie with these forkers, of which these have stacks, the nearest first. `unseen` where its own fork was not seen.
    pub(crate) fn new(chain: Vec<Link>, stacks: impl Iterator<Item = Found> + Clone, unseen: bool) -> Self {
        let none = if unseen { Quality::Predates } else { Quality::LineageOnly };
        // The lowest one that lives: what is above that has only started it.
        let reach = chain.iter().position(|link| link.alive).unwrap_or(chain.len());
        let nearest = stacks.clone().next();
        // A shell that was in between and is gone says less than the line of the program that ran it.
        let gives_way = |found: &Found| found.0 < reach && found.1.0.language == Language::Native;
        let above = nearest.as_ref().filter(|nearest| gives_way(nearest)).and_then(|_| {
            let mut own = stacks.take_while(|(of, _)| *of <= reach);
            own.find(|(_, (stack, _))| stack.language != Language::Native)
        });
        match above.or(nearest) {
            Some((of, (stack, quality))) => {
                let quality = if of <= reach { quality } else { none };
                Self { quality, chain, stack: Some(stack), stack_of: Some(of) }
            }
            None => Self { quality: none, chain, stack: None, stack_of: None },
        }
    }

    /// Whether the stack, where there is one, does not tell where it was leaked, only where a process that did, and lives, or one
    /// above that was started.
    #[must_use]
    pub fn only_started(&self) -> bool {
        self.stack.is_some() && self.quality.has_no_stack()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::fixture;

    fn found(of: usize, stack: Stack, quality: Quality) -> Found {
        (of, (Arc::new(stack), quality))
    }

    /// Of a chain of three, of which these live.
    fn origin(alive: [bool; 3], stacks: &[Found]) -> (Quality, Option<usize>) {
        let mut chain = fixture::exact(42).chain;
        for (link, alive) in chain.iter_mut().zip(alive) {
            link.alive = alive;
        }
        let origin = Origin::new(chain, stacks.iter().cloned(), false);
        (origin.quality, origin.stack_of)
    }

    #[test]
    fn a_stack_is_the_origin_through_the_dead_alone() {
        use Quality::{Approximate, Exact, LineageOnly};
        let python = |of| found(of, fixture::python(42), Exact);
        let native = |of| found(of, fixture::native(), Approximate);
        for (alive, stacks, expected) in [
            // Its own forker's, dead or alive.
            ([true; 3], vec![python(0), python(1)], (Exact, Some(0))),
            ([false, true, true], vec![python(0)], (Exact, Some(0))),
            // What a process that is gone by now has left behind.
            ([false, true, true], vec![python(1)], (Exact, Some(1))),
            ([false, false, true], vec![python(2)], (Exact, Some(2))),
            ([false, false, false], vec![python(2)], (Exact, Some(2))),
            // The leaker lives, and has no stack: where it was started is not where it leaks.
            ([true, true, true], vec![python(1)], (LineageOnly, Some(1))),
            ([true, false, true], vec![python(2)], (LineageOnly, Some(2))),
            ([false, true, true], vec![python(2)], (LineageOnly, Some(2))),
            ([true, true, true], vec![native(2)], (LineageOnly, Some(2))),
            // A shell's gives way, but not to what has started somebody who lives.
            ([false, true, true], vec![native(0), python(1)], (Exact, Some(1))),
            ([false, true, true], vec![native(0), python(2)], (Approximate, Some(0))),
            ([true, true, true], vec![native(0), python(1)], (Approximate, Some(0))),
            ([true; 3], vec![], (LineageOnly, None)),
        ] {
            assert_eq!(origin(alive, &stacks), expected, "{alive:?} {stacks:#?}");
        }
    }

    #[test]
    fn what_predates_stays_that() {
        let origin = Origin::new(Vec::new(), std::iter::empty(), true);
        assert_eq!((origin.quality, origin.only_started()), (Quality::Predates, false));
    }

    #[test]
    fn only_where_a_living_process_is_below_it_a_stack_tells_where_something_was_started() {
        assert!(fixture::started().only_started());
        for origin in [fixture::exact(42), fixture::approximate(), fixture::lineage_only()] {
            assert!(!origin.only_started(), "{origin:#?}");
        }
    }
}
