//! The two operations that the ledger needs on a key: claiming a free word and publishing one.
//!
//! Kernels before 5.12 refuse a whole program for one compare-and-swap in it, reached or not, so every program that
//! needs them is there twice, once for each of the two kinds below. Userspace loads the one that the kernel takes.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg};

/// How a key is changed.
pub(crate) trait Keys {
    /// Replaces `old` by `new`; true where it was `old`.
    fn replace(word: *mut u64, old: u64, new: u64) -> bool;

    /// Stores `new`, after everything before it, and says what was there.
    fn exchange(word: *mut u64, new: u64) -> u64;
}

/// Compare-and-swap and exchange: fully ordered on every architecture's JIT, which is what publishes a slot's body
/// before its key.
pub(crate) struct Swap;

impl Keys for Swap {
    #[inline(always)]
    fn replace(word: *mut u64, old: u64, new: u64) -> bool {
        // SAFETY: the verifier has shown that `word` lies in a map's value.
        let (_, done) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(word, old, new)
        };
        done
    }

    #[inline(always)]
    fn exchange(word: *mut u64, new: u64) -> u64 {
        // SAFETY: the verifier has shown that `word` lies in a map's value.
        unsafe { atomic_xchg::<u64, { AtomicOrdering::AcqRel }>(word, new) }
    }
}

/// Plain loads and stores. Two forks that race for one slot at the same instant (consecutive pids are in different
/// sets, so hardly ever) leave one process unentered, and the other with a body that may be the first one's; the
/// exit of the first enters it again, without its fork. Nobody reads a dead entry in the nanoseconds in which its
/// key could be seen before its body.
pub(crate) struct Store;

impl Keys for Store {
    #[inline(always)]
    fn replace(word: *mut u64, old: u64, new: u64) -> bool {
        // SAFETY: the verifier has shown that `word` lies in a map's value.
        unsafe {
            if word.read_volatile() != old {
                return false;
            }
            word.write_volatile(new);
        }
        true
    }

    #[inline(always)]
    fn exchange(word: *mut u64, new: u64) -> u64 {
        // SAFETY: the verifier has shown that `word` lies in a map's value.
        unsafe {
            let old = word.read_volatile();
            word.write_volatile(new);
            old
        }
    }
}
