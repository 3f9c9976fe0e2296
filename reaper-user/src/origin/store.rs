//! Stacks by the processes that were forked there.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use super::{Quality, Stack, native::NativeStack};

/// Processes whose stack is kept.
pub(super) const KEPT: usize = 65_536;

/// Different stacks that are kept. One takes some 10 KiB at most, where its names are long.
const DIFFERENT: usize = 8_192;

/// Stacks by the identity bits of the process that was forked. Equal stacks are kept once.
#[derive(Debug, Default)]
pub(super) struct Store {
    stacks: HashSet<Arc<Stack>>,
    natives: HashSet<Arc<NativeStack>>,
    children: HashMap<u64, Kept>,
    lost: u64,
}

/// The stack of one process's fork.
#[derive(Clone, Debug)]
enum Kept {
    /// With its functions.
    Named(Arc<Stack>, Quality),
    /// Native, and nobody has needed its functions yet.
    Unnamed(Arc<NativeStack>),
}

impl Store {
    /// Keeps a stack, or counts it where there is no room.
    pub(super) fn put(&mut self, child: u64, stack: Stack, quality: Quality) {
        match once(&mut self.stacks, stack) {
            Some(stack) => self.keep(child, Kept::Named(stack, quality)),
            None => self.lost += 1,
        }
    }

    /// The same with one that has no functions yet.
    pub(super) fn put_native(&mut self, child: u64, stack: NativeStack) {
        match once(&mut self.natives, stack) {
            Some(stack) => self.keep(child, Kept::Unnamed(stack)),
            None => self.lost += 1,
        }
    }

    fn keep(&mut self, child: u64, kept: Kept) {
        if self.children.len() < KEPT || self.children.contains_key(&child) {
            self.children.insert(child, kept);
        } else {
            self.lost += 1;
        }
    }

    /// The stack of a process's fork; without its functions where it has not been named.
    pub(super) fn get(&self, child: u64) -> Option<(Arc<Stack>, Quality)> {
        Some(match self.children.get(&child)? {
            Kept::Named(stack, quality) => (Arc::clone(stack), *quality),
            Kept::Unnamed(native) => (Arc::new(native.bare()), native.quality),
        })
    }

    /// The stack of a process's fork, where it has not been named.
    pub(super) fn unnamed(&self, child: u64) -> Option<Arc<NativeStack>> {
        match self.children.get(&child)? {
            Kept::Named(..) => None,
            Kept::Unnamed(native) => Some(Arc::clone(native)),
        }
    }

    pub(super) fn has(&self, child: u64) -> bool {
        self.children.contains_key(&child)
    }

    /// Whether most of the room is taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.children.len() > KEPT / 4 * 3
            || self.stacks.len() > DIFFERENT / 4 * 3
            || self.natives.len() > DIFFERENT / 4 * 3
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
        self.natives.retain(|stack| Arc::strong_count(stack) > 1);
        if self.children.len() < self.children.capacity() / 4 {
            self.children.shrink_to_fit();
            self.stacks.shrink_to_fit();
            self.natives.shrink_to_fit();
        }
    }
}

/// The one that is equal to it, or itself. `None` where there is no room for more.
fn once<T: Eq + Hash>(known: &mut HashSet<Arc<T>>, value: T) -> Option<Arc<T>> {
    if let Some(known) = known.get(&value) {
        return Some(Arc::clone(known));
    }
    if known.len() >= DIFFERENT {
        known.retain(|value| Arc::strong_count(value) > 1);
    }
    (known.len() < DIFFERENT).then(|| {
        let value = Arc::new(value);
        known.insert(Arc::clone(&value));
        value
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{Frame, Language, native::NativeFrame};

    fn stack_of(line: u32) -> Stack {
        let frame = Frame { line: Some(line), ..Frame::default() };
        Stack { frames: vec![frame], language: Language::Python, cut: false }
    }

    #[test]
    fn equal_stacks_are_kept_once_and_only_as_long_as_a_process_has_them() {
        let mut store = Store::default();
        for child in 0..1_000 {
            store.put(child, stack_of(7), Quality::Exact);
        }
        store.put(1_000, stack_of(8), Quality::Approximate);
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
            store.put(child, stack_of(7), Quality::Exact);
        }
        assert!(store.is_crowded());
        assert_eq!((store.children().len(), store.lost(), store.get(KEPT as u64)), (KEPT, 5, None));
    }

    #[test]
    fn a_native_stack_is_there_without_functions_until_it_is_named() {
        let frame = NativeFrame {
            at: 0x4711,
            place: None,
            module: Some("/bin/worker".into()),
            offset: Some(0x711),
            build_id: None,
            compiled: None,
        };
        let native = NativeStack { frames: vec![frame], complete: true, quality: Quality::Approximate };
        let mut store = Store::default();
        store.put_native(1, native.clone());
        store.put_native(2, native);
        assert_eq!(store.natives.len(), 1);
        let (stack, quality) = store.get(1).unwrap();
        assert_eq!((stack.frames[0].offset, &stack.frames[0].function), (Some(0x711), &None));
        assert_eq!(quality, Quality::Approximate);
        assert!(store.unnamed(1).is_some() && store.has(1) && !store.has(3));
        store.put(1, stack_of(5), Quality::Exact);
        assert!(store.unnamed(1).is_none());
        assert_eq!(store.get(1).unwrap().0.frames[0].line, Some(5));
        store.remove(&[1, 2]);
        assert_eq!((store.natives.len(), store.stacks.len()), (0, 0));
    }
}
