//! Key to offset: the last record of each key of one partition in one segment, sorted by the key's number.
//!
//! ```text
//! entries  hash 8 | offset 8, ascending by hash         16 bytes a key, on disk
//! fences   hash of entry 0, 256, 512, …                 8 bytes a page of 256 entries, in memory once asked for
//! filter   see `bloom_filter`                           1.3 bytes a key, in memory once asked for
//! ```
//!
//! The one hard idea: what has to be in memory is a hundredth of a key's weight. The filter turns away who is not there,
//! the fences name the one page of 4 KiB that can hold who is, and only that page is read.

use std::ops::Range;

use super::{bloom_filter, key_hash::KeyHash};

/// Length of an encoded entry in bytes: hash, then offset, 64 bits each, little-endian.
pub const ENTRY_BYTES: usize = 16;

/// Entries that one fence stands for.
pub const PAGE_ENTRIES: u64 = 256;

/// Length of a fence in bytes.
pub const FENCE_BYTES: usize = 8;

/// Where the parts of a table of some keys lie: entries, fences and filter, back to back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where it starts, in bytes from the start of the file.
    pub position: u64,
    /// Number of entries.
    pub keys: u64,
    entries_end: u64,
    fences_end: u64,
    end: u64,
}

impl Table {
    /// The table of `keys` entries at `position`; `None` when no file could hold it.
    pub fn new(position: u64, keys: u64) -> Option<Self> {
        let entries_end = position.checked_add(keys.checked_mul(ENTRY_BYTES as u64)?)?;
        let fences_end = entries_end.checked_add(keys.div_ceil(PAGE_ENTRIES) * FENCE_BYTES as u64)?;
        let end = fences_end.checked_add(bloom_filter::filter_bytes(keys)?)?;
        Some(Self { position, keys, entries_end, fences_end, end })
    }

    /// Where the entries of some pages lie in the file.
    pub fn pages(&self, pages: &Range<u64>) -> Range<u64> {
        let page_bytes = PAGE_ENTRIES * ENTRY_BYTES as u64;
        let at = |page: u64| (self.position + page * page_bytes).min(self.entries_end);
        at(pages.start)..at(pages.end)
    }

    /// Where fences and filter lie in the file.
    pub fn resident(&self) -> Range<u64> {
        self.entries_end..self.end
    }

    /// How many of the resident bytes are fences.
    pub fn fences_bytes(&self) -> u64 {
        self.fences_end - self.entries_end
    }

    /// Where it ends, in bytes from the start of the file.
    pub fn end(&self) -> u64 {
        self.end
    }
}

/// The pages that can hold entries of `hash`, by the fences of a table.
pub fn pages_of(fences: &[u8], hash: u64) -> Range<u64> {
    let fences = fences.as_chunks::<FENCE_BYTES>().0;
    let below = fences.partition_point(|fence| u64::from_le_bytes(*fence) < hash);
    let end = fences.partition_point(|fence| u64::from_le_bytes(*fence) <= hash);
    // The page in front of the first fence that reaches the hash may end with it.
    below.saturating_sub(1) as u64..end as u64
}

/// The offsets of the entries of `hash` among the whole ones in `entries`. Of entries in another order it finds nothing
/// useful, and does no harm.
pub fn offsets_of(entries: &[u8], hash: u64) -> impl Iterator<Item = u64> {
    let entries = entries.as_chunks::<ENTRY_BYTES>().0;
    let hash_of = |entry: &[u8; ENTRY_BYTES]| u64::from_le_bytes(*entry.first_chunk().expect("an entry has 16 bytes"));
    let offset_of = |entry: &[u8; ENTRY_BYTES]| u64::from_le_bytes(*entry.last_chunk().expect("an entry has 16 bytes"));
    let first = entries.partition_point(|entry| hash_of(entry) < hash);
    entries[first..].iter().take_while(move |entry| hash_of(entry) == hash).map(offset_of)
}

/// Appends an entry.
pub fn put(entries: &mut Vec<u8>, hash: KeyHash, offset: u64) {
    entries.extend_from_slice(&hash.high.to_le_bytes());
    entries.extend_from_slice(&offset.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table_of(hashes: &[u64]) -> (Vec<u8>, Vec<u8>) {
        let (mut entries, mut fences) = (Vec::new(), Vec::new());
        for (number, &high) in hashes.iter().enumerate() {
            if (number as u64).is_multiple_of(PAGE_ENTRIES) {
                fences.extend_from_slice(&high.to_le_bytes());
            }
            put(&mut entries, KeyHash { high, low: 0 }, number as u64);
        }
        (entries, fences)
    }

    fn look_up(entries: &[u8], fences: &[u8], hash: u64) -> Vec<u64> {
        let table = Table::new(0, (entries.len() / ENTRY_BYTES) as u64).unwrap();
        let range = table.pages(&pages_of(fences, hash));
        offsets_of(&entries[range.start as usize..range.end as usize], hash).collect()
    }

    #[test]
    fn the_parts_of_a_table_lie_back_to_back() {
        let table = Table::new(5_000, 1_000).unwrap();
        assert_eq!(table.pages(&(0..4)), 5_000..21_000);
        assert_eq!(table.pages(&(1..2)), 9_096..13_192);
        assert_eq!((table.resident(), table.fences_bytes(), table.end()), (21_000..22_376, 32, 22_376));
        assert_eq!(Table::new(5_000, 0).unwrap().end(), 5_000);
        assert_eq!((Table::new(0, u64::MAX), Table::new(u64::MAX, 1)), (None, None));
    }

    #[test]
    fn entries_out_of_order_do_no_harm() {
        let (entries, fences) = table_of(&(0..1_000u64).map(|number| number * 7_919 % 1_000).collect::<Vec<_>>());
        (0..1_000).for_each(|hash| drop(look_up(&entries, &fences, hash)));
    }

    proptest! {
        /// Few different hashes, so that equal ones reach over pages.
        #[test]
        fn lookups_agree_with_a_plain_search(mut hashes in prop::collection::vec(0..20u64, 0..3_000)) {
            hashes.sort();
            let (entries, fences) = table_of(&hashes);
            for asked in 0..21 {
                let expected: Vec<u64> = (0..).zip(&hashes).filter(|(_, hash)| **hash == asked).map(|(at, _)| at).collect();
                prop_assert_eq!(look_up(&entries, &fences, asked), expected);
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..600), hash: u64, keys: u64, position: u64) {
            let _ = offsets_of(&bytes, hash).count();
            let pages = pages_of(&bytes, hash);
            prop_assert!(pages.end <= (bytes.len() / FENCE_BYTES) as u64);
            if let Some(table) = Table::new(position, keys) {
                let range = table.pages(&pages);
                prop_assert!(position <= range.start && range.end <= table.resident().start && table.resident().start <= table.end());
            }
        }
    }
}
