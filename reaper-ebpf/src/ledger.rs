//! The table of processes: where a process's slot is, how one is claimed, marked and given back.
//!
//! A process has four places, one in each plane of the table; the first is nearly always its own. What does not
//! fit goes to the overflow map. The key says who and in which state, and only ever changes by an atomic
//! operation; the words behind it are written before the key says so.

use aya_ebpf::{Global, bindings::BPF_NOEXIST};
use reaper_ebpf::{
    ID_MASK, Slot, WAYS, WORD_KEY, WORD_PARENT, WORDS, counter, key, start_of, state, state_of, tgid_of,
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

    /// Publishes what was written, under `key`.
    #[inline(always)]
    pub(crate) fn publish<K: Keys>(self, key: u64) {
        K::exchange(self.word(WORD_KEY), key);
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

/// The dead entry of a pid, for a caller that is that pid, in its own exit, and does not know its start. A
/// predecessor that was waited for and is not freed yet is dead as well: the youngest is the caller. The overflow
/// map cannot be asked by pid.
#[inline(always)]
pub(crate) fn find_dying(tgid: u32) -> Option<Entry> {
    // A way and not an entry: the verifier of old kernels loses a pointer's type where branches meet.
    let (mut way_found, mut youngest) = (WAYS, 0);
    for way in 0..WAYS {
        let entry = place(tgid, way)?;
        let key = entry.get(WORD_KEY);
        let start = start_of(key, entry.get(WORD_PARENT));
        if tgid_of(key) == tgid && state_of(key) == state::DEAD && start > youngest {
            (way_found, youngest) = (way, start);
        }
    }
    if way_found == WAYS { None } else { place(tgid, way_found) }
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

/// Gives the entry of `id` back; its key and body as they were are handed to `last` first.
#[inline(always)]
pub(crate) fn release<K: Keys>(id: u64, last: impl Fn(Entry)) {
    if let Some(entry) = find_in_table(id) {
        last(entry);
        // Every word is written again before its next owner publishes it, so the body need not be cleared.
        entry.publish::<K>(0);
    } else if let Some(entry) = OVERFLOW.get_ptr_mut(id).map(Entry) {
        last(entry);
        if OVERFLOW.remove(id).is_ok() {
            count(counter::OVERFLOW_OUT);
        }
    }
}
