//! The two atomic operations that the ledger needs, on a word of a map.
//!
//! Both are fully ordered on every architecture's JIT, which is what publishes a slot's body before its key.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg};

/// Replaces `old` by `new`; true where it was `old`.
#[inline(always)]
pub(crate) fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the verifier has shown that `word` lies in a map's value.
    let (_, done) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(word, old, new)
    };
    done
}

/// Stores `new`, after everything before it.
#[inline(always)]
pub(crate) fn exchange(word: *mut u64, new: u64) {
    // SAFETY: the verifier has shown that `word` lies in a map's value.
    let _: u64 = unsafe { atomic_xchg::<u64, { AtomicOrdering::AcqRel }>(word, new) };
}
