//! Which partition a record goes to: the one it names, the one its key hashes to, or the one that is filling now.
//!
//! Keys are hashed as Kafka's Java client does (murmur2, positive, modulo), so that a topic written by clients of both
//! protocols keeps one key in one partition. Records without a key stick to one partition until a batch's worth of bytes
//! went there (the uniform sticky partitioner of KIP-794): batches are full where round-robin would make many small ones.

/// Chooses partitions for one producer.
#[derive(Debug)]
pub(crate) struct Partitioner {
    partition_count: u32,
    sticky: u32,
    sticky_bytes: usize,
    switch_bytes: usize,
}

impl Partitioner {
    /// For a topic with `partition_count` partitions, at least 1; starts with `sticky` and moves on every `switch_bytes`.
    pub(crate) fn new(partition_count: u32, sticky: u32, switch_bytes: usize) -> Self {
        assert!(partition_count > 0, "a topic has at least one partition");
        Self { partition_count, sticky: sticky % partition_count, sticky_bytes: 0, switch_bytes }
    }

    /// The partition of a record that names none and takes about `record_bytes`.
    #[inline]
    pub(crate) fn choose(&mut self, key: Option<&[u8]>, record_bytes: usize) -> u32 {
        match key {
            Some(key) => keyed(key, self.partition_count),
            None => self.sticky(record_bytes),
        }
    }

    /// Leaves the partition that records without a key stick to; returns the next.
    pub(crate) fn move_on(&mut self) -> u32 {
        self.sticky = (self.sticky + 1) % self.partition_count;
        self.sticky_bytes = 0;
        self.sticky
    }

    #[inline]
    fn sticky(&mut self, record_bytes: usize) -> u32 {
        if self.sticky_bytes >= self.switch_bytes {
            self.move_on();
        }
        self.sticky_bytes += record_bytes;
        self.sticky
    }
}

/// The partition of a key among `partition_count`.
#[inline]
pub(crate) fn keyed(key: &[u8], partition_count: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partition_count
}

/// MurmurHash2, 32 bits, by Austin Appleby (public domain), with the seed that Kafka's clients use.
fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    let mut hash = SEED ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> R)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !tail.is_empty() {
        for (index, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that Kafka's Java client documents in its own tests.
    #[test]
    fn hashes_are_kafkas() {
        let check = |key: &[u8], expected: i32| assert_eq!(murmur2(key) as i32, expected, "{key:?}");
        check(b"21", -973_932_308);
        check(b"foobar", -790_332_482);
        check(b"a-little-bit-long-string", -985_981_536);
        check(b"a-little-bit-longer-string", -1_486_304_829);
        check(b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971);
        check(b"abc", 479_470_107);
    }

    #[test]
    fn a_key_always_goes_to_the_same_partition() {
        let mut partitioner = Partitioner::new(7, 0, 100);
        let partition = partitioner.choose(Some(b"user-7"), 1_000);
        (0..100).for_each(|_| assert_eq!(partitioner.choose(Some(b"user-7"), 1_000), partition));
        assert!(partition < 7);
    }

    #[test]
    fn records_without_a_key_stick_until_a_batch_is_full_and_reach_all_partitions() {
        let mut partitioner = Partitioner::new(3, 5, 100);
        let chosen: Vec<_> = (0..8).map(|_| partitioner.choose(None, 50)).collect();
        assert_eq!(chosen, [2, 2, 0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn a_partition_that_takes_nothing_is_left() {
        let mut partitioner = Partitioner::new(2, 0, 100);
        partitioner.move_on();
        assert_eq!(partitioner.choose(None, 1), 1);
    }
}
