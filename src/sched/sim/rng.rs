//! The simulator's randomness: one seed, one sequence, on every platform and in every version.

use std::ops::Range;
use std::time::Duration;

/// SplitMix64.
pub(in crate::sched) struct Rng(u64);

impl Rng {
    pub(in crate::sched) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(in crate::sched) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(in crate::sched) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    pub(in crate::sched) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.within(0..from.len() as u64) as usize]
    }

    pub(in crate::sched) fn percent(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    /// A time, in milliseconds, but not on whole ones.
    pub(in crate::sched) fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_micros(self.within(range.start * 1000..range.end * 1000))
    }
}
