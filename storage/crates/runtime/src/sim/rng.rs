//! Randomness from one number: xoshiro256++ (Blackman and Vigna, 2019), its state filled by splitmix64.
//!
//! Our own because the sequence is part of what a seed means: a library's next version may change it.

use std::{cell::Cell, ops::Range};

/// A seeded generator. The same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Rng {
    state: Cell<[u64; 4]>,
}

impl Rng {
    /// A generator that starts from `seed`; any number will do.
    pub fn new(seed: u64) -> Self {
        let mut splitmix = seed;
        let state = std::array::from_fn(|_| splitmix64(&mut splitmix));
        Self { state: Cell::new(state) }
    }

    /// 64 random bits.
    pub fn next_u64(&self) -> u64 {
        let [mut s0, mut s1, mut s2, mut s3] = self.state.get();
        let next = s0.wrapping_add(s3).rotate_left(23).wrapping_add(s0);
        let shifted = s1 << 17;
        s2 ^= s0;
        s3 ^= s1;
        s1 ^= s2;
        s0 ^= s3;
        s2 ^= shifted;
        s3 = s3.rotate_left(45);
        self.state.set([s0, s1, s2, s3]);
        next
    }

    /// A number below `bound`, all equally likely (to within 2^-64).
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below zero");
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number of `range`.
    ///
    /// # Panics
    /// If the range is empty.
    pub fn within(&self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// True once in `n` times; never if `n` is zero.
    pub fn one_in(&self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the published generator yields from the state 1, 2, 3, 4.
    #[test]
    fn matches_the_reference_sequence() {
        let rng = Rng { state: Cell::new([1, 2, 3, 4]) };
        let expected = [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386];
        assert_eq!(std::array::from_fn(|_| rng.next_u64()), expected);
    }

    #[test]
    fn below_reaches_every_value_and_no_other() {
        let rng = Rng::new(7);
        let mut seen = [0; 5];
        (0..1000).for_each(|_| seen[rng.below(5) as usize] += 1);
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
    }
}
