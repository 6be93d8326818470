//! Numbers that look random and can be had again: the seed is printed, so that a failure shows how to repeat it.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// Seeded by `PG_NOTARY_TEST_SEED`, or by the clock. The test runner shows the seed of a test that fails.
    pub fn new(test: &str) -> Random {
        let seed = match std::env::var("PG_NOTARY_TEST_SEED") {
            Ok(text) => text.parse().expect("PG_NOTARY_TEST_SEED is a number"),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into(),
        };
        eprintln!("{test}: PG_NOTARY_TEST_SEED={seed}");
        Random(seed)
    }

    /// Another sequence, for another thread.
    pub fn split(&mut self) -> Random {
        Random(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}
