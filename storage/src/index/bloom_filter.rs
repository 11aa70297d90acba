//! Whether a key can be there at all: a filter that is wrong once in a hundred times, and only by saying yes.
//!
//! The one hard idea: all bits of a key lie in one block of 32 bytes, so a question costs one cache line. The block is
//! chosen by one half of a number of 64 bits, and one bit in each of its eight words by the other half.

use super::key_hash::KeyHash;

/// Length of a block in bytes.
pub const BLOCK_BYTES: usize = 32;

/// Ten and a half bits a key let one in a hundred strangers through.
const HALF_BITS_PER_KEY: u64 = 21;

/// Odd numbers that spread one number over eight words; those of Parquet's filters.
const SALTS: [u32; BLOCK_BYTES / 4] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// Length in bytes of the filter of so many keys; `None` when no memory holds it.
pub fn filter_bytes(keys: u64) -> Option<u64> {
    keys.checked_mul(HALF_BITS_PER_KEY)?.div_ceil(2 * 8 * BLOCK_BYTES as u64).checked_mul(BLOCK_BYTES as u64)
}

/// A filter, as bytes of someone else's.
#[derive(Clone, Copy, Debug)]
pub struct BloomFilter<'a> {
    blocks: &'a [[u8; BLOCK_BYTES]],
}

impl<'a> BloomFilter<'a> {
    /// A filter of the whole blocks in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { blocks: bytes.as_chunks().0 }
    }

    /// Whether the key may be one of those that were put in.
    #[inline]
    pub fn may_hold(&self, hash: KeyHash) -> bool {
        let Some(block) = self.blocks.get(block_of(hash, self.blocks.len())) else { return false };
        let words = block.as_chunks::<4>().0;
        words.iter().zip(bits_of(hash)).all(|(word, bit)| u32::from_le_bytes(*word) & bit != 0)
    }
}

/// Puts a key into the filter that `bytes` are.
///
/// # Panics
/// If they are no block at all.
#[inline]
pub fn put(bytes: &mut [u8], hash: KeyHash) {
    let blocks = bytes.as_chunks_mut::<BLOCK_BYTES>().0;
    let block = block_of(hash, blocks.len());
    for (word, bit) in blocks[block].as_chunks_mut::<4>().0.iter_mut().zip(bits_of(hash)) {
        *word = (u32::from_le_bytes(*word) | bit).to_le_bytes();
    }
}

/// The upper half of the number as a fraction of the blocks; 0 when there is none.
#[inline]
fn block_of(hash: KeyHash, blocks: usize) -> usize {
    (((hash.low >> 32) * blocks as u64) >> 32) as usize
}

/// One bit for each word.
#[inline]
fn bits_of(hash: KeyHash) -> [u32; BLOCK_BYTES / 4] {
    SALTS.map(|salt| 1 << ((hash.low as u32).wrapping_mul(salt) >> 27))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::key_hash::KeyHasher;

    fn hashes(range: std::ops::Range<u64>) -> impl Iterator<Item = KeyHash> {
        range.map(|number| KeyHasher::new(7).hash(&number.to_le_bytes()))
    }

    #[test]
    fn whoever_was_put_in_is_found_and_one_in_a_hundred_strangers() {
        for keys in [1u64, 10, 1_000, 50_000] {
            let mut bytes = vec![0; filter_bytes(keys).unwrap() as usize];
            hashes(0..keys).for_each(|hash| put(&mut bytes, hash));
            let filter = BloomFilter::new(&bytes);
            assert!(hashes(0..keys).all(|hash| filter.may_hold(hash)), "{keys} keys");
            let strangers = hashes(keys..keys + 20_000).filter(|&hash| filter.may_hold(hash)).count();
            assert!(strangers <= 400, "{strangers} of 20,000 strangers pass among {keys}");
        }
    }

    #[test]
    fn an_empty_filter_holds_nothing() {
        assert_eq!(filter_bytes(0), Some(0));
        assert!(!hashes(0..100).any(|hash| BloomFilter::new(&[]).may_hold(hash)));
    }

    #[test]
    fn a_count_that_no_memory_holds_is_no_length() {
        assert_eq!((filter_bytes(1), filter_bytes(u64::MAX)), (Some(32), None));
    }

    #[test]
    fn the_layout_is_as_specified() {
        let mut bytes = vec![0; 64];
        put(&mut bytes, KeyHash { high: 0, low: 0x8000_0000_0000_0001 });
        // The upper half is one half, so the second of two blocks; the bit is the upper five bits of each salt.
        let words: Vec<_> = bytes[32..].as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(words, [8, 8, 17, 20, 14, 5, 19, 11].map(|bit| 1u32 << bit));
        assert_eq!(bytes[..32], [0; 32]);
    }
}
