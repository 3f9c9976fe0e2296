//! The table of processes: where a process's slot is, how one is claimed, marked and given back.
//!
//! A process has four places, one in each plane of the table; the first is nearly always its own. What does not
//! fit goes to the overflow map. The key says who and in which state, and only ever changes by an atomic
//! operation; the words behind it are written before the key says so.

use aya_ebpf::{Global, bindings::BPF_NOEXIST};
use reaper_ebpf::{
    ID_MASK, Slot, WAYS, WORD_CGROUP_V2, WORD_EXIT, WORD_FLAGS, WORD_KEY, WORDS, counter, key, state,
    state_of, tgid_of,
};

use crate::{
    atomic::Keys,
    maps::{LEDGER, OVERFLOW, count},
};

/// Slots in a plane, less one. Set at load.
#[unsafe(no_mangle)]
static SET_MASK: Global<u32> = Global::new(131_072 / WAYS - 1);

/// A slot in the table or the overflow map.
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

    /// Reads all words.
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

    /// Publishes what was written, under `key`. Says what the key was.
    #[inline(always)]
    pub(crate) fn publish<K: Keys>(self, key: u64) -> u64 {
        K::exchange(self.word(WORD_KEY), key)
    }
}

#[inline(always)]
fn place(tgid: u32, way: u32) -> Option<Entry> {
    let mask = SET_MASK.load();
    LEDGER.get_ptr_mut((tgid & mask) + way * (mask + 1)).map(Entry)
}

/// The entry of the process with these identity bits, in the table proper.
#[inline(always)]
fn find_in_table(id: u64) -> Option<Entry> {
    let tgid = tgid_of(id);
    for way in 0..WAYS {
        let entry = place(tgid, way)?;
        if entry.get(WORD_KEY) & ID_MASK == id {
            return Some(entry);
        }
    }
    None
}

/// The entry of the process with these identity bits.
#[inline(always)]
pub(crate) fn find(id: u64) -> Option<Entry> {
    find_in_table(id).or_else(|| OVERFLOW.get_ptr_mut(id).map(Entry))
}

/// Claims an entry, in state alive. The caller writes its words.
#[inline(always)]
pub(crate) fn claim<K: Keys>(id: u64) -> Option<Entry> {
    let tgid = tgid_of(id);
    let alive = key(state::ALIVE, id);
    for way in 0..WAYS {
        let entry = place(tgid, way)?;
        if entry.get(WORD_KEY) == 0 && K::replace(entry.word(WORD_KEY), 0, alive) {
            return Some(entry);
        }
    }
    claim_in_overflow(id, alive)
}

/// Claims the entry of a living process of the same set, in state alive, for one that is dead. The caller writes its
/// words.
#[inline(always)]
pub(crate) fn displace<K: Keys>(id: u64) -> Option<Entry> {
    let tgid = tgid_of(id);
    for way in 0..WAYS {
        let entry = place(tgid, way)?;
        let living = entry.get(WORD_KEY);
        if state_of(living) == state::ALIVE && K::replace(entry.word(WORD_KEY), living, key(state::ALIVE, id))
        {
            count(counter::LIVING_DISPLACED);
            return Some(entry);
        }
    }
    None
}

/// Not inlined into `claim`'s loop by hand: it is rare, and its slot must be built on the stack.
#[inline(never)]
fn claim_in_overflow(id: u64, alive: u64) -> Option<Entry> {
    let mut slot = Slot { words: [0; WORDS] };
    slot.words[WORD_KEY] = alive;
    if OVERFLOW.insert(id, slot, u64::from(BPF_NOEXIST)).is_err() {
        return None;
    }
    count(counter::OVERFLOW_IN);
    OVERFLOW.get_ptr_mut(id).map(Entry)
}

/// What was in an entry that was given back.
#[derive(Clone, Copy)]
pub(crate) struct Released {
    /// One of [`state`].
    pub(crate) state: u64,
    pub(crate) flags: u32,
    /// The exit word; of one that was alive, anything.
    pub(crate) exit: u64,
    /// The cgroup id; of one that was alive, anything.
    pub(crate) cgroup: u64,
}

impl Released {
    #[inline(always)]
    fn from(entry: Entry) -> Self {
        let (exit, cgroup) = (entry.get(WORD_EXIT), entry.get(WORD_CGROUP_V2));
        Self { state: entry.state(), flags: entry.flags(), exit, cgroup }
    }
}

/// Gives the entry of `id` back; where it has been reported, `announce` is shown it before that. Says what was in it, where
/// there was one.
#[inline(always)]
pub(crate) fn release<K: Keys>(id: u64, announce: impl Fn(u64, Option<Entry>)) -> Option<Released> {
    if let Some(entry) = find_in_table(id) {
        let released = Released::from(entry);
        let shown = released.state == state::STANDING;
        if shown {
            announce(id, Some(entry));
        }
        // Every word is written again before its next owner publishes it, so the body need not be cleared. Userspace may
        // mark it as reported up to this moment: what the exchange returns is what counts. Then the body may be another's.
        let before = state_of(entry.publish::<K>(0));
        if before == state::STANDING && !shown {
            announce(id, None);
        }
        return Some(Released { state: before, ..released });
    }
    let entry = OVERFLOW.get_ptr_mut(id).map(Entry)?;
    let released = Released::from(entry);
    if released.state == state::STANDING {
        announce(id, Some(entry));
    }
    if OVERFLOW.remove(id).is_ok() {
        count(counter::OVERFLOW_OUT);
    }
    Some(released)
}
