//! A key as a number of 128 bits: what indexes and the compaction by key know of it.
//!
//! The one hard idea: two keys with the same number would be one key to whoever goes by numbers, and compaction would drop
//! a record for good. So the hash is keyed with the log's id, which nobody guesses: no producer can choose keys that
//! collide, and by chance 2^64 keys in one partition are needed for it.

use siphasher::sip128::SipHasher13;

/// A key's number. Both halves are as good as random, and independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash {
    /// What the key index is sorted by.
    pub high: u64,
    /// What the filter goes by.
    pub low: u64,
}

/// Hashes the keys of one log.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher(SipHasher13);

impl KeyHasher {
    /// The hasher of log `log_id`.
    pub fn new(log_id: u128) -> Self {
        Self(SipHasher13::new_with_key(&log_id.to_le_bytes()))
    }

    /// The number of `key`.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let hash = self.0.hash(key);
        KeyHash { high: hash.h1, low: hash.h2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of SipHash's authors are for 2-4; these were computed by an implementation of 1-3 written apart.
    #[test]
    fn the_hash_is_as_specified() {
        let key = u128::from_le_bytes(std::array::from_fn(|byte| byte as u8));
        let bytes: [u8; 15] = std::array::from_fn(|byte| byte as u8);
        for length in [0, 1, 7, 8, 15] {
            assert_eq!(
                KeyHasher::new(key).hash(&bytes[..length]),
                plain_siphash(key, &bytes[..length]),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn each_log_has_a_hash_of_its_own() {
        assert_ne!(KeyHasher::new(1).hash(b"key"), KeyHasher::new(2).hash(b"key"));
    }

    /// SipHash-1-3 with 128 bits, from its definition.
    fn plain_siphash(key: u128, bytes: &[u8]) -> KeyHash {
        let (k0, k1) = (key as u64, (key >> 64) as u64);
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        let round = |v: &mut [u64; 4]| {
            for (a, b, c, d, left, right) in [(0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)] {
                v[a] = v[a].wrapping_add(v[b]);
                v[c] = v[c].wrapping_add(v[d]);
                v[b] = v[b].rotate_left(left) ^ v[a];
                v[d] = v[d].rotate_left(right) ^ v[c];
                v[a] = v[a].rotate_left(32);
            }
        };
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        last[7] = bytes.len() as u8;
        for word in words.iter().chain([&last]).map(|word| u64::from_le_bytes(*word)) {
            v[3] ^= word;
            round(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xee;
        (0..3).for_each(|_| round(&mut v));
        let high = v[0] ^ v[1] ^ v[2] ^ v[3];
        v[1] ^= 0xdd;
        (0..3).for_each(|_| round(&mut v));
        KeyHash { high, low: v[0] ^ v[1] ^ v[2] ^ v[3] }
    }
}
