//! Stacks by the processes that were forked there.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use reaper_ebpf::Group;

use super::{
    Frame, Quality, Stack,
    native::{NativeFrame, NativeStack},
    shares::{Share, Shares},
};

/// Processes whose stack is kept.
pub(super) const KEPT: usize = 65_536;

/// Different stacks that are kept, of each kind. Most take some 5 KiB,
const DIFFERENT: usize = 8_192;

/// one takes no more than this: what a program calls its functions and files is as long as it likes. Outer frames are cut off,
const HEAVIEST: usize = 64 << 10;

/// and all together no more than this.
const BYTES: usize = 64 << 20;

/// Stacks by the identity bits of the process that was forked. Equal stacks are kept once, at the cost of the workload that had
/// it first.
#[derive(Debug)]
pub(super) struct Store {
    stacks: HashMap<Arc<Stack>, Group>,
    natives: HashMap<Arc<NativeStack>, Group>,
    children: HashMap<u64, (Group, Kept)>,
    shares: Shares,
    lost: u64,
}

/// What takes memory that others decide about.
trait Weighed {
    /// How much, with text that is shared with others.
    fn bytes(&self) -> usize;
}

/// A stack.
trait Different: Eq + Hash + Weighed {
    /// What it takes of the room that workloads share.
    fn share(&self) -> Share;
}

/// The stack of one process's fork.
#[derive(Clone, Debug)]
enum Kept {
    /// With its functions.
    Named(Arc<Stack>, Quality),
    /// Native, and nobody has needed its functions yet.
    Unnamed(Arc<NativeStack>),
    /// Native, and with its functions it found no room: it is not looked up again.
    Nameless(Arc<NativeStack>),
}

/// What a process takes of the room that workloads share.
const CHILD: Share = Share { children: 1, stacks: 0, natives: 0, bytes: 0 };

impl Default for Store {
    fn default() -> Self {
        let limit = Share { children: KEPT, stacks: DIFFERENT, natives: DIFFERENT, bytes: BYTES };
        let (stacks, natives, children) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { stacks, natives, children, shares: Shares::new(limit), lost: 0 }
    }
}

impl Store {
    /// Keeps a stack of a process in these cgroups, or counts it where there is no room.
    pub(super) fn put(&mut self, child: u64, group: Group, mut stack: Stack, quality: Quality) {
        let fits = fitting(&stack.frames);
        stack.cut |= fits < stack.frames.len();
        stack.frames.truncate(fits);
        match once(&mut self.stacks, stack, group, &mut self.shares) {
            Some(stack) => self.keep(child, group, Kept::Named(stack, quality)),
            None => self.lost += 1,
        }
    }

    /// The same with one that has no functions yet.
    pub(super) fn put_native(&mut self, child: u64, group: Group, mut stack: NativeStack) {
        let fits = fitting(&stack.frames);
        if fits < stack.frames.len() {
            stack.frames.truncate(fits);
            (stack.complete, stack.quality) = (false, Quality::Approximate);
        }
        match once(&mut self.natives, stack, group, &mut self.shares) {
            Some(stack) => self.keep(child, group, Kept::Unnamed(stack)),
            None => self.lost += 1,
        }
    }

    /// The functions of one that had none.
    pub(super) fn name(&mut self, child: u64, stack: Stack, quality: Quality) {
        // It has been forgotten meanwhile.
        let Some((group, _)) = self.children.get(&child) else { return };
        self.put(child, *group, stack, quality);
        if let Some((_, kept)) = self.children.get_mut(&child)
            && let Kept::Unnamed(native) = kept
        {
            *kept = Kept::Nameless(Arc::clone(native));
        }
    }

    fn keep(&mut self, child: u64, group: Group, kept: Kept) {
        match self.children.get_mut(&child) {
            Some((_, known)) => *known = kept,
            None if self.shares.take(group, CHILD) => {
                self.children.insert(child, (group, kept));
            }
            None => self.lost += 1,
        }
    }

    /// The stack of a process's fork; without its functions where it has not been named.
    pub(super) fn get(&self, child: u64) -> Option<(Arc<Stack>, Quality)> {
        Some(match self.children.get(&child)? {
            (_, Kept::Named(stack, quality)) => (Arc::clone(stack), *quality),
            (_, Kept::Unnamed(native) | Kept::Nameless(native)) => (Arc::new(native.bare()), native.quality),
        })
    }

    /// The stack of a process's fork, where it has not been named.
    pub(super) fn unnamed(&self, child: u64) -> Option<Arc<NativeStack>> {
        match self.children.get(&child)? {
            (_, Kept::Named(..) | Kept::Nameless(_)) => None,
            (_, Kept::Unnamed(native)) => Some(Arc::clone(native)),
        }
    }

    pub(super) fn has(&self, child: u64) -> bool {
        self.children.contains_key(&child)
    }

    /// Whether it is time to forget what nobody needs.
    pub(super) fn is_crowded(&self) -> bool {
        self.shares.are_crowded()
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
            if let Some((group, _)) = self.children.remove(child) {
                self.shares.give(group, CHILD);
            }
        }
        forget(&mut self.stacks, &mut self.shares);
        forget(&mut self.natives, &mut self.shares);
        self.shares.settle();
        if self.children.len() < self.children.capacity() / 4 {
            self.children.shrink_to_fit();
            self.stacks.shrink_to_fit();
            self.natives.shrink_to_fit();
        }
    }
}

/// The one that is equal to it, or itself. `None` where it finds no room.
fn once<T: Different>(
    known: &mut HashMap<Arc<T>, Group>,
    value: T,
    group: Group,
    shares: &mut Shares,
) -> Option<Arc<T>> {
    if let Some((known, _)) = known.get_key_value(&value) {
        return Some(Arc::clone(known));
    }
    let share = value.share();
    if !shares.take(group, share) {
        forget(known, shares);
        if !shares.take(group, share) {
            return None;
        }
    }
    let value = Arc::new(value);
    known.insert(Arc::clone(&value), group);
    Some(value)
}

/// Those that nobody has any more.
fn forget<T: Different>(known: &mut HashMap<Arc<T>, Group>, shares: &mut Shares) {
    known.retain(|value, group| {
        let wanted = Arc::strong_count(value) > 1;
        if !wanted {
            shares.give(*group, value.share());
        }
        wanted
    });
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

impl Different for Stack {
    fn share(&self) -> Share {
        Share { stacks: 1, bytes: self.bytes(), ..Share::default() }
    }
}

impl Different for NativeStack {
    fn share(&self) -> Share {
        Share { natives: 1, bytes: self.bytes(), ..Share::default() }
    }
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

    const GROUP: Group = Group { v2: 1, v1: 0 };

    fn stack_of(line: u32) -> Stack {
        let frame = Frame { line: Some(line), ..Frame::default() };
        Stack { frames: vec![frame], language: Language::Python, cut: false }
    }

    #[test]
    fn equal_stacks_are_kept_once_and_only_as_long_as_a_process_has_them() {
        let mut store = Store::default();
        for child in 0..1_000 {
            store.put(child, GROUP, stack_of(7), Quality::Exact);
        }
        store.put(1_000, GROUP, stack_of(8), Quality::Approximate);
        assert_eq!(store.stacks.len(), 2);
        let (found, quality) = store.get(1_000).unwrap();
        assert_eq!((found.frames[0].line, quality), (Some(8), Quality::Approximate));
        drop(found);
        store.remove(&(500..=1_000).collect::<Vec<_>>());
        assert_eq!((store.stacks.len(), store.children().len(), store.get(1_000)), (1, 500, None));
        store.remove(&store.children());
        assert_eq!((store.stacks.len(), store.shares.all().bytes), (0, 0));
    }

    #[test]
    fn what_finds_no_room_is_counted_and_keeps_no_other_workload_out() {
        const MOST: u64 = KEPT as u64 / 4 * 3;
        let mut store = Store::default();
        for child in 0..MOST + 5 {
            store.put(child, GROUP, stack_of(7), Quality::Exact);
        }
        assert!(store.is_crowded());
        assert_eq!((store.children().len() as u64, store.lost(), store.get(MOST)), (MOST, 5, None));
        store.put(MOST, Group { v2: 2, v1: 0 }, stack_of(8), Quality::Exact);
        assert!(store.has(MOST) && store.lost() == 5);
    }

    #[test]
    fn a_stack_whose_functions_find_no_room_is_not_named_again() {
        let mut store = Store::default();
        store.put_native(1, GROUP, NativeStack { frames: vec![], complete: true, quality: Quality::Exact });
        for child in 2..10_000_u32 {
            store.put(child.into(), GROUP, stack_of(child), Quality::Exact);
        }
        let before = store.lost();
        assert!(store.unnamed(1).is_some());
        store.name(1, stack_of(20_000), Quality::Exact);
        assert!(store.unnamed(1).is_none() && store.has(1) && store.get(1).is_some());
        assert_eq!(store.lost(), before + 1);
    }

    #[test]
    fn a_workload_whose_stacks_all_differ_keeps_no_other_one_out() {
        let mut store = Store::default();
        for child in 0..20_000_u32 {
            store.put(child.into(), GROUP, stack_of(child), Quality::Exact);
        }
        let kept = DIFFERENT as u64 / 4 * 3;
        assert_eq!((store.stacks.len() as u64, store.lost()), (kept, 20_000 - kept));
        store.put(50_000, Group { v2: 1, v1: 2 }, stack_of(50_000), Quality::Exact);
        assert!(store.has(50_000));
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
            store.put(child, GROUP, heavy(child), Quality::Exact);
        }
        assert!(store.is_crowded() && store.shares.all().bytes <= BYTES / 4 * 3);
        assert!(store.children().len() > 600 && store.lost() == 4_000 - store.children().len() as u64);
        let (kept, _) = store.get(0).unwrap();
        assert!(kept.cut && kept.bytes() <= HEAVIEST + size_of::<Stack>() && kept.frames.len() > 50);
        // Those that are there already are no heavier for one more.
        store.put(5_000, GROUP, heavy(0), Quality::Exact);
        assert!(store.has(5_000));
        drop(kept);
        store.remove(&store.children());
        assert_eq!(store.shares.all().bytes, 0);
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
        store.put_native(1, GROUP, native.clone());
        store.put_native(2, GROUP, native);
        assert_eq!(store.natives.len(), 1);
        let (stack, quality) = store.get(1).unwrap();
        assert_eq!((stack.frames[0].offset, &stack.frames[0].function), (Some(0x711), &None));
        assert_eq!(quality, Quality::Approximate);
        assert!(store.unnamed(1).is_some() && store.has(1) && !store.has(3));
        store.name(1, stack_of(5), Quality::Exact);
        assert!(store.unnamed(1).is_none());
        assert_eq!(store.get(1).unwrap().0.frames[0].line, Some(5));
        store.remove(&[1, 2]);
        assert_eq!((store.natives.len(), store.stacks.len()), (0, 0));
    }
}
