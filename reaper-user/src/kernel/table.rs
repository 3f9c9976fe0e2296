//! The ledger's table, mapped. The kernel writes it while it is read here.

#![expect(unsafe_code, reason = "a shared mapping of kernel memory, seen as atomic words")]

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use reaper_ebpf::{ID_MASK, Record, Slot, WAYS, WORD_FLAGS, WORD_KEY, WORDS, key, state, state_of, tgid_of};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

type Words = [AtomicU64; WORDS];

/// The mapped table.
pub(super) struct Table {
    base: NonNull<Words>,
    slots: usize,
}

// SAFETY: the mapping is shared memory that is only ever accessed as atomic words, from any thread.
unsafe impl Send for Table {}

impl Table {
    /// Maps a table of `slots` slots.
    pub(super) fn map(fd: BorrowedFd<'_>, slots: u32) -> io::Result<Self> {
        let slots = slots as usize;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                slots * size_of::<Slot>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let base =
            NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the table was mapped at zero"))?;
        Ok(Self { base, slots })
    }

    /// How many slots it has.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.slots).unwrap_or(u32::MAX)
    }

    fn words(&self) -> &[Words] {
        // SAFETY: `slots` slots of eight words are mapped for as long as `self` is; the kernel writes them by
        // whole aligned words, and atomics may be written by anybody at any time.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.slots) }
    }

    /// Shows every process to `visit` that is in one of the `wanted` states.
    pub(super) fn each(&self, wanted: impl Fn(u64) -> bool, mut visit: impl FnMut(Record)) {
        for words in self.words() {
            let key = words[WORD_KEY].load(Ordering::Acquire);
            if wanted(state_of(key))
                && let Some(record) = read(words)
            {
                visit(record);
            }
        }
    }

    /// The record of a process in any state, by its identity bits.
    #[must_use]
    pub(super) fn get(&self, id: u64) -> Option<Record> {
        self.find(id).and_then(read)
    }

    /// The process with this tgid whose start is `right`, in any state.
    #[must_use]
    pub(super) fn process(&self, tgid: u32, right: impl Fn(u64) -> bool) -> Option<Record> {
        self.set(tgid)
            .filter(|words| {
                let key = words[WORD_KEY].load(Ordering::Acquire);
                tgid_of(key) == tgid && state_of(key) != state::FREE
            })
            .filter_map(read)
            .find(|record| right(record.start))
    }

    /// Moves a dead entry to another state, 0 to give it back. False where it was not in state `from`.
    pub(super) fn transit(&self, id: u64, from: u64, to: u64) -> bool {
        let new = if to == state::FREE { 0 } else { key(to, id) };
        self.find(id).is_some_and(|words| {
            words[WORD_KEY].compare_exchange(key(from, id), new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Sets flags of an entry. False where there is none.
    pub(super) fn set_flags(&self, id: u64, flags: u32) -> bool {
        let Some(words) = self.find(id) else { return false };
        words[WORD_FLAGS].fetch_or(u64::from(flags) << 32, Ordering::Relaxed);
        true
    }

    fn find(&self, id: u64) -> Option<&Words> {
        self.set(tgid_of(id)).find(|words| words[WORD_KEY].load(Ordering::Acquire) & ID_MASK == id)
    }

    fn set(&self, tgid: u32) -> impl Iterator<Item = &Words> {
        let plane = self.slots / WAYS as usize;
        let first = tgid as usize & (plane - 1);
        (0..WAYS as usize).filter_map(move |way| self.words().get(first + way * plane))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference into it outlives `self`. It cannot fail for
        // a range that is mapped.
        let _unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.slots * size_of::<Slot>()) };
    }
}

/// Reads a slot whole: its key is unique to one life of one process, so a key that has not changed since before
/// the words were read vouches for them.
fn read(words: &Words) -> Option<Record> {
    for _ in 0..8 {
        let before = words[WORD_KEY].load(Ordering::Acquire);
        let copy: [u64; WORDS] = std::array::from_fn(|index| words[index].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if before == 0 {
            return None;
        }
        if words[WORD_KEY].load(Ordering::Relaxed) == before && copy[WORD_KEY] == before {
            return Some(Record::from_words(copy));
        }
    }
    None
}
