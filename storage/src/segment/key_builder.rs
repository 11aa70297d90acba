//! The key tables of a segment as they grow: records in, for each partition a sorted table out.
//!
//! The one hard idea: sorting a million entries would hold up the shard for longer than any request may take. A key's
//! number is as good as random, so entries are thrown into buckets by its first bits as they come, and each bucket, of a
//! few thousand entries, is sorted in a turn of its own.
//!
//! Memory is bounded: a partition with more keys than there is room for gets no table, and lookups walk its batches.

use std::time::Duration;

use runtime::Runtime;
use wire::record::{Batch, Records};

use crate::{
    PartitionId,
    index::{
        bloom_filter,
        key_hash::{KeyHash, KeyHasher},
        key_index::{self, FENCE_BYTES, PAGE_ENTRIES},
        time_index::DECOMPRESSED_BYTES_MAX,
    },
};

/// Buckets, by the first bits of the hash.
const BUCKETS: usize = 256;
/// So many entries are sorted or encoded before others get a turn: a fraction of a millisecond.
const ENTRIES_PER_TURN: usize = 4096;

/// One record's key, as small as it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    hash: KeyHash,
    offset: u64,
}

/// The table of one partition, encoded.
#[derive(Debug)]
pub(super) struct KeyTable {
    pub(super) partition: PartitionId,
    pub(super) keys: u64,
    /// Entries, fences and filter, back to back.
    pub(super) bytes: Vec<u8>,
}

/// See the module.
pub(super) struct KeyTables {
    hasher: KeyHasher,
    finished: Vec<KeyTable>,
    current: Option<PartitionId>,
    buckets: Vec<Vec<Entry>>,
    entries: usize,
    /// Entries that may be held from now on, finished ones not counted.
    entries_max: usize,
    /// The current partition has more keys than there is room for, or a record whose key cannot be told.
    gave_up: bool,
    /// Room for the records of a compressed batch.
    decompressed: Vec<u8>,
}

impl KeyTables {
    /// Tables of log `log_id`, of at most `keys_max` keys together.
    pub(super) fn new(log_id: u128, keys_max: usize) -> Self {
        Self {
            hasher: KeyHasher::new(log_id),
            finished: Vec::new(),
            current: None,
            buckets: Vec::new(),
            entries: 0,
            // While they come, entries of the same keys take room too.
            entries_max: keys_max.saturating_mul(2),
            gave_up: false,
            decompressed: Vec::new(),
        }
    }

    /// Whether the batches of `partition` go into a table.
    #[inline]
    pub(super) fn wants(&self, partition: PartitionId) -> bool {
        self.current == Some(partition) && !self.gave_up
    }

    /// Takes in the records of a batch of the current partition. A batch whose records cannot be told apart from here
    /// means that there will be no table.
    pub(super) fn add(&mut self, batch: &Batch<'_>) {
        let mut buffer = std::mem::take(&mut self.decompressed);
        match batch.records_decompressed(DECOMPRESSED_BYTES_MAX, &mut buffer) {
            Ok(records) => self.add_records(records),
            Err(_) => self.give_up(),
        }
        self.decompressed = buffer;
    }

    fn add_records(&mut self, records: Records<'_>) {
        for record in records {
            match record {
                Ok(record) => {
                    let Some(key) = record.key else { continue };
                    self.put(Entry { hash: self.hasher.hash(key), offset: record.offset });
                }
                Err(_) => self.give_up(),
            }
            if self.gave_up {
                return;
            }
        }
    }

    /// Ends the table of the current partition and starts that of `next`, if there is one.
    pub(super) async fn turn_to<R: Runtime>(&mut self, next: Option<PartitionId>, rt: &R) {
        if let Some(partition) = self.current.take() {
            if !self.gave_up {
                let table = self.table(partition, rt).await;
                self.entries_max -= (table.keys as usize).min(self.entries_max);
                self.finished.push(table);
            }
            self.give_up();
        }
        if next.is_some() {
            self.buckets.resize_with(BUCKETS, Vec::new);
        }
        (self.current, self.gave_up) = (next, false);
    }

    /// The finished tables, ascending by partition.
    pub(super) fn take(&mut self) -> Vec<KeyTable> {
        assert!(self.current.is_none(), "the last partition was ended");
        std::mem::take(&mut self.finished)
    }

    #[inline]
    fn put(&mut self, entry: Entry) {
        if self.entries == self.entries_max {
            self.entries = self.buckets.iter_mut().map(latest_of_each).sum();
            if self.entries > self.entries_max / 2 || self.entries == self.entries_max {
                return self.give_up();
            }
        }
        self.buckets[(entry.hash.high >> 56) as usize].push(entry);
        self.entries += 1;
    }

    fn give_up(&mut self) {
        self.buckets.iter_mut().for_each(Vec::clear);
        self.entries = 0;
        self.gave_up = true;
    }

    async fn table<R: Runtime>(&mut self, partition: PartitionId, rt: &R) -> KeyTable {
        let mut keys = 0;
        let mut turn = Turn::default();
        for bucket in &mut self.buckets {
            turn.take(bucket.len(), rt).await;
            keys += latest_of_each(bucket);
        }
        let filter_bytes = bloom_filter::filter_bytes(keys as u64).expect("the entries fit memory") as usize;
        let mut bytes = Vec::with_capacity(keys * (key_index::ENTRY_BYTES + 1) + filter_bytes + FENCE_BYTES);
        let mut fences = Vec::new();
        let mut filter = vec![0; filter_bytes];
        let mut number = 0;
        for bucket in &mut self.buckets {
            turn.take(bucket.len(), rt).await;
            for entry in bucket.drain(..) {
                if u64::is_multiple_of(number, PAGE_ENTRIES) {
                    fences.extend_from_slice(&entry.hash.high.to_le_bytes());
                }
                number += 1;
                key_index::put(&mut bytes, entry.hash, entry.offset);
                bloom_filter::put(&mut filter, entry.hash);
            }
        }
        bytes.extend_from_slice(&fences);
        bytes.extend_from_slice(&filter);
        KeyTable { partition, keys: keys as u64, bytes }
    }
}

/// Sorts a bucket and leaves of each key the last record. Answers how many are left.
fn latest_of_each(bucket: &mut Vec<Entry>) -> usize {
    bucket.sort_unstable();
    // Of two with the same key the later one has to stay, and `dedup` keeps the first.
    bucket.reverse();
    bucket.dedup_by_key(|entry| entry.hash);
    bucket.reverse();
    bucket.len()
}

/// Lets others have their turn every few thousand entries.
#[derive(Default)]
struct Turn(usize);

impl Turn {
    async fn take<R: Runtime>(&mut self, entries: usize, rt: &R) {
        self.0 += entries;
        if self.0 >= ENTRIES_PER_TURN {
            self.0 = 0;
            rt.sleep(Duration::ZERO).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::sim::{SimRuntime, block_on};
    use wire::record::{BatchBuilder, Producer, patch_base_offset};

    use super::*;
    use crate::index::{bloom_filter::BloomFilter, key_index::Table};

    const PARTITION: PartitionId = PartitionId(1);

    /// A record for each key, from `base_offset` on.
    fn batch(keys: impl Iterator<Item = u64>, base_offset: u64) -> Vec<u8> {
        let mut builder = BatchBuilder::new(1 << 20);
        keys.for_each(|key| builder.append(0, Some(&key.to_le_bytes()), Some(b"v"), &[]).unwrap());
        let mut bytes = builder.build(Producer::NONE).to_vec();
        patch_base_offset(&mut bytes, base_offset);
        bytes
    }

    fn tables_of(batches: Vec<Vec<u8>>, keys_max: usize) -> Vec<KeyTable> {
        block_on(1, async move |rt: SimRuntime| {
            let mut tables = KeyTables::new(7, keys_max);
            tables.turn_to(Some(PARTITION), &rt).await;
            for bytes in &batches {
                let batch = Batch::parse_one(bytes).unwrap();
                if tables.wants(PARTITION) {
                    tables.add(&batch);
                }
            }
            tables.turn_to(None, &rt).await;
            tables.take()
        })
    }

    #[test]
    fn each_key_has_its_last_offset() {
        let tables = tables_of(vec![batch((0..5_000).map(|n| n % 1_000), 0), batch(0..10, 5_000)], 2_000);
        let [table] = &tables[..] else { panic!("{} tables", tables.len()) };
        assert_eq!((table.partition, table.keys), (PARTITION, 1_000));
        let place = Table::new(0, table.keys).unwrap();
        assert_eq!(place.end(), table.bytes.len() as u64);
        let (entries, resident) = table.bytes.split_at(place.resident().start as usize);
        let (fences, filter) = resident.split_at(place.fences_bytes() as usize);
        for key in 0..1_000u64 {
            let hash = KeyHasher::new(7).hash(&key.to_le_bytes());
            let pages = place.pages(&key_index::pages_of(fences, hash.high));
            let offsets: Vec<_> =
                key_index::offsets_of(&entries[pages.start as usize..pages.end as usize], hash.high).collect();
            assert_eq!(offsets, [if key < 10 { 5_000 + key } else { 4_000 + key }]);
            assert!(BloomFilter::new(filter).may_hold(hash));
        }
    }

    #[test]
    fn more_keys_than_there_is_room_for_make_no_table() {
        assert_eq!(tables_of(vec![batch(0..1_000, 0)], 1_000).len(), 1);
        assert_eq!(tables_of(vec![batch(0..2_500, 0)], 1_000).len(), 0);
        let again = (0..40).map(|round| batch(0..1_000, round * 1_000)).collect();
        assert_eq!(tables_of(again, 1_000).len(), 1, "the same keys again and again take no more room");
    }
}
