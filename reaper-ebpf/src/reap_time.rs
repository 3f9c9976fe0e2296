//! How long the dead stand until somebody waits for them: all of them, not only those that are reported.
//!
//! Counted when the kernel frees a process, which is up to tens of milliseconds after it was waited for: below
//! [`PROMPT`] nothing can be told apart and there is one count for all. Above, by doubled times, for the machine in
//! [`crate::counter`] and for each cgroup in a map of [`Times`].

use crate::counter;

/// What was quicker than this, in nanoseconds, is counted in [`counter::PROMPT`] only.
pub const PROMPT: u64 = 64_000_000;

/// Buckets from there on. Each is twice as wide as the one before, and the last has no end.
pub const BUCKETS: u32 = 12;

/// Cgroups that have times of their own, at most.
pub const CGROUPS: u32 = 2_048;

/// The times of one cgroup's processes. Those that were quick are not in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// How many stood how long: see [`bucket`].
    pub buckets: [u64; BUCKETS as usize],
    /// All of it together, nanoseconds.
    pub sum: u64,
}

/// The bucket of a time in nanoseconds that is not below [`PROMPT`].
#[must_use]
#[inline(always)]
pub const fn bucket(time: u64) -> u32 {
    let doublings = ((time / PROMPT) | 1).ilog2();
    if doublings < BUCKETS { doublings } else { BUCKETS - 1 }
}

/// The upper end of a bucket in nanoseconds; `None` where it has none.
#[must_use]
pub const fn end(bucket: u32) -> Option<u64> {
    if bucket + 1 < BUCKETS { Some(PROMPT << (bucket + 1)) } else { None }
}

const _: () = assert!(size_of::<Times>() == 104);
const _: () = assert!(counter::SLOW_SUM == counter::SLOW + BUCKETS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_whose_end_it_has_not_reached() {
        for bucket_of in 0..BUCKETS {
            let begin = PROMPT << bucket_of;
            assert_eq!(bucket(begin), bucket_of);
            let last = end(bucket_of).map_or(u64::MAX, |end| end - 1);
            assert_eq!(bucket(last), bucket_of);
        }
        assert_eq!(bucket(0), 0);
    }
}
