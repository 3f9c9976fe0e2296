//! Real inputs of decoders, damaged: the same damage each time, `ROUNDS` times, with [`FULL`] some hundred times as often. What
//! it leads to is shrunk to the least that still does it. Each call has so much processor time and so much memory.

#![expect(unsafe_code, reason = "an allocator that counts is one")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    env,
    time::Duration,
};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, RngSeed, TestCaseError, TestRunner},
};
use rustix::time::{ClockId, clock_gettime};

/// Set where the long form is wanted.
const FULL: &str = "REAPER_TEST_FULL";

/// What one call may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) time: Duration,
    /// Bytes that it has at one time.
    pub(super) memory: usize,
}

/// Runs `decode` on damaged copies of `seeds`, `rounds` times in the short form. It asserts what has to hold of what is decoded.
pub(super) fn damage(rounds: u32, limits: Limits, seeds: &[Vec<u8>], decode: impl Fn(&[u8])) {
    assert!(!seeds.is_empty(), "nothing to damage");
    let cases = if env::var_os(FULL).is_some() { rounds.saturating_mul(200) } else { rounds };
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(0x7ea9_e500),
        failure_persistence: None,
        ..Config::default()
    };
    let strategy = (any::<Index>(), prop::collection::vec(change(), 1..12));
    let outcome = TestRunner::new(config).run(&strategy, |(seed, changes)| {
        let mut bytes = seed.get(seeds).clone();
        for change in &changes {
            change.apply(&mut bytes);
        }
        let (time, memory) = measured(|| decode(&bytes));
        if time > limits.time {
            return Err(TestCaseError::fail(format!("took {time:?} of {bytes:02x?}")));
        }
        if memory > limits.memory {
            return Err(TestCaseError::fail(format!("held {memory} bytes for {bytes:02x?}")));
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Processor time of this thread, and the most that it had beyond what it had before.
pub(super) fn measured(call: impl FnOnce()) -> (Duration, usize) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
    };
    let (held, started) = (HELD.get(), now());
    MOST.set(held);
    call();
    (now() - started, usize::try_from(MOST.get() - held).unwrap_or(0))
}

/// One thing that is done to an input.
#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    Bit(Index, u8),
    /// An aligned word of four or eight bytes, as lengths, offsets and addresses are.
    Word(Index, bool, u64),
    End(Index),
    Drop(Index, usize),
    Insert(Index, Vec<u8>),
    Copy(Index, Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let odd = prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        Just(1 << 31),
        Just(1 << 63),
        (0_u32..64).prop_map(|shift| 1 << shift),
        0_u64..4_096,
        any::<u64>(),
    ];
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0x7f), Just(0x80), Just(0xff), Just(b'\n'), Just(b' ')];
    prop_oneof![
        4 => (at(), byte).prop_map(|(at, byte)| Change::Byte(at, byte)),
        2 => (at(), 0_u8..8).prop_map(|(at, bit)| Change::Bit(at, bit)),
        4 => (at(), any::<bool>(), odd).prop_map(|(at, wide, word)| Change::Word(at, wide, word)),
        1 => at().prop_map(Change::End),
        1 => (at(), 1_usize..64).prop_map(|(at, length)| Change::Drop(at, length)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (at(), at(), 1_usize..64).prop_map(|(from, to, length)| Change::Copy(from, to, length)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        let until = |at: usize, more: usize| length.min(at.saturating_add(more));
        match self {
            Self::Byte(at, byte) => bytes[at.index(length)] = *byte,
            Self::Bit(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Self::Word(at, wide, word) => {
                let width = if *wide { 8 } else { 4 };
                let at = at.index(length) / width * width;
                let end = until(at, width);
                bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
            }
            Self::End(at) => bytes.truncate(at.index(length)),
            Self::Drop(at, more) => {
                let at = at.index(length);
                bytes.drain(at..until(at, *more));
            }
            Self::Insert(at, more) => {
                let at = at.index(length);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Copy(from, to, more) => {
                let (from, to) = (from.index(length), to.index(length));
                let end = until(from, *more).min(from + (length - to));
                bytes.copy_within(from..end, to);
            }
        }
    }
}

thread_local! {
    /// Bytes that this thread has allocated and not freed; what others free for it makes it wrong by so much.
    static HELD: Cell<i64> = const { Cell::new(0) };
    /// The most of it since it was last looked at.
    static MOST: Cell<i64> = const { Cell::new(0) };
}

/// The system's, with each thread's bytes counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: i64) {
    // A thread that ends has no counters any more.
    let _ended = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ended = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

// SAFETY: all of it is the system's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(signed(size) - signed(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Hands bytes to what wants them for ever, and takes them back. `call` keeps nothing of them: what it returns cannot.
pub(super) fn lend(bytes: &[u8], call: impl FnOnce(&'static [u8])) {
    let lent = Box::into_raw(bytes.to_vec().into_boxed_slice());
    // SAFETY: it is there until `call` has returned, and nobody else has it.
    call(unsafe { &*lent });
    // SAFETY: it came from a box; what `call` made of it is dropped, for it is stored nowhere.
    drop(unsafe { Box::from_raw(lent) });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { time: Duration::from_secs(5), memory: 1 << 20 };

    #[test]
    #[should_panic(expected = "held")]
    fn what_takes_too_much_memory_is_found() {
        damage(10, LIMITS, &[vec![1; 64]], |bytes| {
            std::hint::black_box(vec![1_u8; (1 << 20) + bytes.len()]);
        });
    }

    #[test]
    #[should_panic(expected = "took")]
    fn what_takes_too_long_is_found() {
        let limits = Limits { time: Duration::from_millis(1), ..LIMITS };
        damage(2, limits, &[vec![1; 4]], |_| {
            let started = clock_gettime(ClockId::ThreadCPUTime);
            while clock_gettime(ClockId::ThreadCPUTime).tv_nsec.abs_diff(started.tv_nsec) < 3_000_000 {}
        });
    }

    #[test]
    #[should_panic(expected = "a fault")]
    fn what_panics_is_found() {
        damage(500, LIMITS, &[b"an input".to_vec()], |bytes| assert!(bytes.len() > 4, "a fault"));
    }
}
