//! Moments that nobody has chosen, and that can be chosen again.

use std::env;

use super::boot_now;

/// Numbers from a seed: `REAPER_TEST_SEED`, else the time. The seed is printed.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The first of them.
    pub(crate) fn new() -> Self {
        let given = env::var("REAPER_TEST_SEED").ok();
        let seed = given.map_or_else(boot_now, |seed| seed.parse().expect("REAPER_TEST_SEED is a number"));
        println!("REAPER_TEST_SEED={seed}");
        Self(seed)
    }

    /// The first of them from this seed.
    pub(crate) const fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The next, below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // <https://prng.di.unimi.it/splitmix64.c>
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
