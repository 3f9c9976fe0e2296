//! Stacks by the processes that were forked there.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Quality, Stack};

/// Processes whose stack is kept.
pub(super) const KEPT: usize = 65_536;

/// Stacks by the identity bits of the process that was forked. Equal stacks are kept once.
#[derive(Debug, Default)]
pub(super) struct Store {
    stacks: HashSet<Arc<Stack>>,
    children: HashMap<u64, (Arc<Stack>, Quality)>,
    lost: u64,
}

impl Store {
    /// Keeps a stack, or counts it where there is no room.
    pub(super) fn put(&mut self, child: u64, stack: Stack, quality: Quality) {
        if self.children.len() >= KEPT {
            self.lost += 1;
            return;
        }
        let stack = match self.stacks.get(&stack) {
            Some(known) => Arc::clone(known),
            None => {
                let stack = Arc::new(stack);
                self.stacks.insert(Arc::clone(&stack));
                stack
            }
        };
        self.children.insert(child, (stack, quality));
    }

    pub(super) fn get(&self, child: u64) -> Option<(Arc<Stack>, Quality)> {
        self.children.get(&child).cloned()
    }

    /// Whether most of the room is taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.children.len() > KEPT / 4 * 3
    }

    /// How often there was no room.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    /// Those that there are, to be asked which of them are needed.
    pub(super) fn children(&self) -> Vec<u64> {
        self.children.keys().copied().collect()
    }

    /// Forgets these.
    pub(super) fn remove(&mut self, gone: &[u64]) {
        for child in gone {
            self.children.remove(child);
        }
        self.stacks.retain(|stack| Arc::strong_count(stack) > 1);
        if self.children.len() < self.children.capacity() / 4 {
            self.children.shrink_to_fit();
            self.stacks.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{Frame, Language};

    fn stack(line: u32) -> Stack {
        let frame = Frame { line: Some(line), ..Frame::default() };
        Stack { frames: vec![frame], language: Language::Python, cut: false }
    }

    #[test]
    fn equal_stacks_are_kept_once_and_only_as_long_as_a_process_has_them() {
        let mut store = Store::default();
        for child in 0..1_000 {
            store.put(child, stack(7), Quality::Exact);
        }
        store.put(1_000, stack(8), Quality::Approximate);
        assert_eq!(store.stacks.len(), 2);
        let (found, quality) = store.get(1_000).unwrap();
        assert_eq!((found.frames[0].line, quality), (Some(8), Quality::Approximate));
        drop(found);
        store.remove(&(500..=1_000).collect::<Vec<_>>());
        assert_eq!((store.stacks.len(), store.children().len(), store.get(1_000)), (1, 500, None));
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut store = Store::default();
        for child in 0..KEPT as u64 + 5 {
            store.put(child, stack(7), Quality::Exact);
        }
        assert!(store.is_crowded());
        assert_eq!((store.children().len(), store.lost(), store.get(KEPT as u64)), (KEPT, 5, None));
    }
}
