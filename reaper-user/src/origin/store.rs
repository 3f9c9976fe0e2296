//! Stacks by the processes that were forked there.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use super::{
    Frame, Quality, Stack,
    native::{NativeFrame, NativeStack},
};

/// Processes whose stack is kept.
pub(super) const KEPT: usize = 65_536;

/// Different stacks that are kept, of each kind. Most take some 5 KiB,
const DIFFERENT: usize = 8_192;

/// one takes no more than this: what a program calls its functions and files is as long as it likes. Outer frames are cut off,
const HEAVIEST: usize = 64 << 10;

/// and all together no more than this.
const BYTES: usize = 64 << 20;

/// Stacks by the identity bits of the process that was forked. Equal stacks are kept once.
#[derive(Debug, Default)]
pub(super) struct Store {
    stacks: Different<Stack>,
    natives: Different<NativeStack>,
    children: HashMap<u64, Kept>,
    lost: u64,
}

/// Values that somebody has, each once.
#[derive(Debug)]
struct Different<T> {
    known: HashSet<Arc<T>>,
    bytes: usize,
}

/// What takes memory that others decide about.
trait Weighed {
    /// How much, with text that is shared with others.
    fn bytes(&self) -> usize;
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
    pub(super) fn put(&mut self, child: u64, mut stack: Stack, quality: Quality) {
        let fits = fitting(&stack.frames);
        stack.cut |= fits < stack.frames.len();
        stack.frames.truncate(fits);
        match self.stacks.once(stack, BYTES.saturating_sub(self.natives.bytes)) {
            Some(stack) => self.keep(child, Kept::Named(stack, quality)),
            None => self.lost += 1,
        }
    }

    /// The same with one that has no functions yet.
    pub(super) fn put_native(&mut self, child: u64, mut stack: NativeStack) {
        let fits = fitting(&stack.frames);
        if fits < stack.frames.len() {
            stack.frames.truncate(fits);
            (stack.complete, stack.quality) = (false, Quality::Approximate);
        }
        match self.natives.once(stack, BYTES.saturating_sub(self.stacks.bytes)) {
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
            || self.stacks.known.len().max(self.natives.known.len()) > DIFFERENT / 4 * 3
            || self.stacks.bytes + self.natives.bytes > BYTES / 4 * 3
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
        self.stacks.forget();
        self.natives.forget();
        if self.children.len() < self.children.capacity() / 4 {
            self.children.shrink_to_fit();
            self.stacks.known.shrink_to_fit();
            self.natives.known.shrink_to_fit();
        }
    }
}

impl<T> Default for Different<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), bytes: 0 }
    }
}

impl<T: Eq + Hash + Weighed> Different<T> {
    /// The one that is equal to it, or itself. `None` where there would be too many, or more than `room` bytes of them.
    fn once(&mut self, value: T, room: usize) -> Option<Arc<T>> {
        if let Some(known) = self.known.get(&value) {
            return Some(Arc::clone(known));
        }
        let bytes = value.bytes();
        let fits = |this: &Self| this.known.len() < DIFFERENT && this.bytes + bytes <= room;
        if !fits(self) {
            self.forget();
        }
        fits(self).then(|| {
            self.bytes += bytes;
            let value = Arc::new(value);
            self.known.insert(Arc::clone(&value));
            value
        })
    }

    /// Those that nobody has any more.
    fn forget(&mut self) {
        let Self { known, bytes } = self;
        known.retain(|value| {
            let wanted = Arc::strong_count(value) > 1;
            if !wanted {
                *bytes -= value.bytes();
            }
            wanted
        });
    }
}

/// How many of the innermost frames are not too heavy together.
fn fitting<T: Weighed>(frames: &[T]) -> usize {
    let mut left = HEAVIEST;
    let fits = |frame: &&T| {
        let rest = left.checked_sub(frame.bytes());
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    frames.iter().take_while(fits).count()
}

impl Weighed for Stack {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.frames.iter().map(Weighed::bytes).sum::<usize>()
    }
}

impl Weighed for NativeStack {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.frames.iter().map(Weighed::bytes).sum::<usize>()
    }
}

impl Weighed for Frame {
    fn bytes(&self) -> usize {
        let Self { function, file, line: _, module, offset: _, build_id, kind: _ } = self;
        let text = [function, file, module].into_iter().flatten().map(|text| text.as_str().len());
        size_of::<Self>() + text.sum::<usize>() + build_id.as_ref().map_or(0, String::len)
    }
}

impl Weighed for NativeFrame {
    fn bytes(&self) -> usize {
        let Self { at: _, place: _, module, offset: _, build_id, compiled } = self;
        let text = [module, compiled].into_iter().flatten().map(|text| text.as_str().len());
        size_of::<Self>() + text.sum::<usize>() + build_id.as_ref().map_or(0, String::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{origin::Language, text::Untrusted};

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
        assert_eq!(store.stacks.known.len(), 2);
        let (found, quality) = store.get(1_000).unwrap();
        assert_eq!((found.frames[0].line, quality), (Some(8), Quality::Approximate));
        drop(found);
        store.remove(&(500..=1_000).collect::<Vec<_>>());
        assert_eq!((store.stacks.known.len(), store.children().len(), store.get(1_000)), (1, 500, None));
        store.remove(&store.children());
        assert_eq!((store.stacks.known.len(), store.stacks.bytes), (0, 0));
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
    fn programs_with_long_names_find_less_room_and_not_more() {
        let mut store = Store::default();
        let name = Untrusted::from("x".repeat(1_000).as_str());
        let heavy = |child: u64| {
            let frame =
                Frame { line: u32::try_from(child).ok(), file: Some(name.clone()), ..Frame::default() };
            Stack { frames: vec![frame; 96], language: Language::Python, cut: false }
        };
        for child in 0..4_000 {
            store.put(child, heavy(child), Quality::Exact);
        }
        assert!(store.is_crowded() && store.stacks.bytes <= BYTES);
        assert!(store.children().len() > 900 && store.lost() == 4_000 - store.children().len() as u64);
        let (kept, _) = store.get(0).unwrap();
        assert!(kept.cut && kept.bytes() <= HEAVIEST + size_of::<Stack>() && kept.frames.len() > 50);
        // Those that are there already are no heavier for one more.
        store.put(5_000, heavy(0), Quality::Exact);
        assert!(store.has(5_000));
        drop(kept);
        store.remove(&store.children());
        assert_eq!(store.stacks.bytes, 0);
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
        assert_eq!(store.natives.known.len(), 1);
        let (stack, quality) = store.get(1).unwrap();
        assert_eq!((stack.frames[0].offset, &stack.frames[0].function), (Some(0x711), &None));
        assert_eq!(quality, Quality::Approximate);
        assert!(store.unnamed(1).is_some() && store.has(1) && !store.has(3));
        store.put(1, stack_of(5), Quality::Exact);
        assert!(store.unnamed(1).is_none());
        assert_eq!(store.get(1).unwrap().0.frames[0].line, Some(5));
        store.remove(&[1, 2]);
        assert_eq!((store.natives.known.len(), store.stacks.known.len()), (0, 0));
    }
}
