//! The ledger as a preallocated hash map from tgid to slot, with the real one's interface. The key is the short
//! one: by the identity bits it would be dearer to hash, and SIGCHLD's hook could not look it up.

use aya_ebpf::{macros::map, maps::HashMap};
use reaper_ebpf::{
    ID_MASK, Slot, WORD_CGROUP_V2, WORD_EXIT, WORD_FLAGS, WORD_KEY, WORDS, key, state, state_of, tgid_of,
};

use crate::atomic::Keys;

/// As many entries as the real ledger has slots on a large machine.
#[map]
static TABLE: HashMap<u32, Slot> = HashMap::with_max_entries(131_072, 0);

/// A value of the map.
#[derive(Clone, Copy)]
pub(crate) struct Entry(*mut Slot);

impl Entry {
    #[inline(always)]
    fn word(self, index: usize) -> *mut u64 {
        self.0.cast::<u64>().wrapping_add(index)
    }

    /// Reads a word.
    #[inline(always)]
    pub(crate) fn get(self, index: usize) -> u64 {
        // SAFETY: the slot is a map's value, eight words long.
        unsafe { self.word(index).read_volatile() }
    }

    /// Reads all of them.
    #[inline(always)]
    pub(crate) fn words(self) -> [u64; WORDS] {
        core::array::from_fn(|index| self.get(index))
    }

    /// Writes a word whole.
    #[inline(always)]
    pub(crate) fn set(self, index: usize, value: u64) {
        // SAFETY: as above.
        unsafe { self.word(index).write_volatile(value) };
    }

    /// Writes the low half of a word whole.
    #[inline(always)]
    pub(crate) fn set_low(self, index: usize, value: u32) {
        // SAFETY: as above; the object is little-endian only.
        unsafe { self.word(index).cast::<u32>().write_volatile(value) };
    }

    /// The state it is in.
    #[inline(always)]
    pub(crate) fn state(self) -> u64 {
        state_of(self.get(WORD_KEY))
    }

    /// Its flags.
    #[inline(always)]
    pub(crate) fn flags(self) -> u32 {
        (self.get(WORD_FLAGS) >> 32) as u32
    }

    /// Sets more of them.
    #[inline(always)]
    pub(crate) fn add_flags(self, more: u32) {
        self.set(WORD_FLAGS, self.get(WORD_FLAGS) | u64::from(more) << 32);
    }

    /// Writes the key, whichever kind is asked for with a plain store: a bucket's lock is what guards an entry here.
    #[inline(always)]
    pub(crate) fn publish<K: Keys>(self, key: u64) -> u64 {
        let old = self.get(WORD_KEY);
        self.set(WORD_KEY, key);
        old
    }
}

/// Enters a record whole.
#[inline(always)]
pub(crate) fn insert(tgid: u32, slot: &Slot) -> bool {
    TABLE.insert(tgid, slot, 0).is_ok()
}

/// The entry of the process with these identity bits.
#[inline(always)]
pub(crate) fn find(id: u64) -> Option<Entry> {
    let entry = TABLE.get_ptr_mut(tgid_of(id)).map(Entry)?;
    (entry.get(WORD_KEY) & ID_MASK == id).then_some(entry)
}

/// For a process whose fork was not seen.
#[inline(always)]
pub(crate) fn claim<K: Keys>(id: u64) -> Option<Entry> {
    let mut slot = Slot { words: [0; WORDS] };
    slot.words[WORD_KEY] = key(state::ALIVE, id);
    if !insert(tgid_of(id), &slot) {
        return None;
    }
    TABLE.get_ptr_mut(tgid_of(id)).map(Entry)
}

/// A full hash map has no entry to give.
#[inline(always)]
pub(crate) fn displace<K: Keys>(_: u64) -> Option<Entry> {
    None
}

/// What was in an entry that was removed.
#[derive(Clone, Copy)]
pub(crate) struct Released {
    pub(crate) state: u64,
    pub(crate) flags: u32,
    pub(crate) exit: u64,
    pub(crate) cgroup: u64,
}

/// Removes the entry of `id`, which nobody ever reports. Says what was in it, where there was one.
#[inline(always)]
pub(crate) fn release<K: Keys>(id: u64, _: impl Fn(u64, Option<Entry>)) -> Option<Released> {
    let entry = find(id)?;
    let (exit, cgroup) = (entry.get(WORD_EXIT), entry.get(WORD_CGROUP_V2));
    let released = Released { state: entry.state(), flags: entry.flags(), exit, cgroup };
    let _gone: Result<(), i32> = TABLE.remove(tgid_of(id));
    Some(released)
}
