//! Compaction by key: of the records of a key only the last one stays. What becomes of each batch, decided purely.
//!
//! A *round* takes a prefix of a partition. Its lower part is *clean*: an earlier round has been there. [`LatestOffsets`]
//! learns the keys of the part behind it, in memory of a fixed size; where that is full, or a batch is too young, the round
//! ends and the next one goes on. Then [`clean`] goes over the whole prefix and drops every record that a later one
//! supersedes.
//!
//! The one hard idea: a tombstone may go only after every reader had its time to see it, counted from the round that
//! removed what it deletes. That time is written into the batch itself, as Kafka does it (the *delete horizon*): it moves
//! with the batch through merges, to replicas and through a restore, where a note of ours elsewhere would have to be kept
//! in step with all three.

use runtime::sabotage::planted;
use rustc_hash::FxHashMap;
use wire::record::{Batch, BatchError, BatchHeader, BatchRewriter, Codec, Record};

use crate::{
    PartitionId,
    index::{
        key_hash::{KeyHash, KeyHasher},
        time_index::DECOMPRESSED_BYTES_MAX,
    },
};

/// Memory that a key takes in [`LatestOffsets`], at the worst.
const BYTES_PER_KEY: usize = 50;

/// What a merge has to know of partitions: which are compacted by key and how, and which are to be compressed.
pub trait Keyed {
    /// Whether the partition is compacted, so that its segments are to have key tables.
    fn is_compacted(&self, partition: PartitionId) -> bool;

    /// How to compact it now; `None`: not this time, or the inputs do not hold all of it from the start.
    fn round(&self, partition: PartitionId) -> Option<Round>;

    /// Whether its producer sent nothing later: then the batch stays though it is empty, so that whoever rebuilds the
    /// producers from the log still recognises a repeat.
    fn is_last_of_producer(&self, partition: PartitionId, header: &BatchHeader) -> bool;

    /// What batches that came uncompressed are compressed with.
    fn compression(&self, partition: PartitionId) -> Codec;
}

/// No partition is compacted, none compressed.
pub struct Unkeyed;

impl Keyed for Unkeyed {
    fn is_compacted(&self, _: PartitionId) -> bool {
        false
    }

    fn round(&self, _: PartitionId) -> Option<Round> {
        None
    }

    fn is_last_of_producer(&self, _: PartitionId, _: &BatchHeader) -> bool {
        false
    }

    fn compression(&self, _: PartitionId) -> Codec {
        Codec::None
    }
}

/// How far one round goes, and what it does about tombstones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Nothing at or behind this offset is touched or learned: it may still be taken back.
    pub stable_end: u64,
    /// Nor is the first batch with a later timestamp, and what is behind it.
    pub timestamp_max: i64,
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// How long a tombstone stays from now on.
    pub delete_retention_ms: i64,
}

/// The last offset of each key in a part of a partition.
pub struct LatestOffsets {
    hasher: KeyHasher,
    offsets: FxHashMap<KeyHash, u64>,
    keys_max: usize,
    buffer: Vec<u8>,
}

impl LatestOffsets {
    /// Knows no key of log `log_id` yet, and takes about `bytes_max` bytes of memory when it is full.
    pub fn new(log_id: u128, bytes_max: usize) -> Self {
        Self {
            hasher: KeyHasher::new(log_id),
            offsets: FxHashMap::default(),
            keys_max: (bytes_max / BYTES_PER_KEY).max(1),
            buffer: Vec::new(),
        }
    }

    /// Forgets all keys; of the next ones there are at most `keys`. Takes memory for them at once, as growing a map of a
    /// million keys would hold up the shard.
    pub fn restart(&mut self, keys: u64) {
        let keys = usize::try_from(keys).unwrap_or(usize::MAX).min(self.keys_max);
        self.offsets = FxHashMap::with_capacity_and_hasher(keys, Default::default());
    }

    /// Whether no further batch should be added.
    pub fn is_full(&self) -> bool {
        self.offsets.len() >= self.keys_max
    }

    /// Learns the keys of a batch, which lies behind those before. One whose records do not come out keeps them, and
    /// supersedes nothing.
    pub fn add(&mut self, batch: &Batch<'_>) {
        let Ok(records) = batch.records_decompressed(DECOMPRESSED_BYTES_MAX, &mut self.buffer) else { return };
        for record in records.map_while(Result::ok) {
            if let Some(key) = record.key {
                self.offsets.insert(self.hasher.hash(key), record.offset);
            }
        }
    }

    /// Whether no later record of the key is known.
    fn is_latest(&self, key: &[u8], offset: u64) -> bool {
        self.offsets.get(&self.hasher.hash(key)).is_none_or(|&latest| latest <= offset)
    }
}

/// What becomes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cleaned {
    /// It stays as it is.
    Whole,
    /// This takes its place.
    Part(Vec<u8>),
    /// Nothing of it is left.
    Nothing,
}

/// Drops from a batch what `latest` supersedes, and tombstones whose time has come. With `keeps_place`, a batch without
/// records stands for one of which nothing is left.
///
/// # Errors
/// [`BatchError::Crc`] if the batch would have to be made anew, which needs a sound one to start from.
pub fn clean(
    batch: &Batch<'_>,
    latest: &mut LatestOffsets,
    round: &Round,
    keeps_place: bool,
) -> Result<Cleaned, BatchError> {
    if batch.attributes().is_control() {
        return Ok(Cleaned::Whole);
    }
    let mut buffer = std::mem::take(&mut latest.buffer);
    let cleaned = clean_records(batch, latest, round, keeps_place, &mut buffer);
    latest.buffer = buffer;
    cleaned
}

fn clean_records(
    batch: &Batch<'_>,
    latest: &LatestOffsets,
    round: &Round,
    keeps_place: bool,
    buffer: &mut Vec<u8>,
) -> Result<Cleaned, BatchError> {
    // What nobody can read is not made worse.
    let Ok(records) = batch.records_decompressed(DECOMPRESSED_BYTES_MAX, buffer) else { return Ok(Cleaned::Whole) };
    let horizon_ms = batch.delete_horizon_ms().unwrap_or(round.now_ms.saturating_add(round.delete_retention_ms));
    let is_over = round.now_ms >= horizon_ms || planted("no time for tombstones");
    let stays = |record: &Record<'_>| {
        let Some(key) = record.key else { return true };
        latest.is_latest(key, record.offset) && (record.value.is_some() || !is_over)
    };
    let (mut found, mut kept, mut tombstones) = (0, 0, false);
    for record in records.clone() {
        let Ok(record) = record else { return Ok(Cleaned::Whole) };
        found += 1;
        if stays(&record) {
            kept += 1;
            tombstones |= is_tombstone(&record);
        }
    }
    if kept == 0 && !keeps_place {
        return Ok(Cleaned::Nothing);
    }
    if kept == found && tombstones == batch.attributes().has_delete_horizon() {
        return Ok(Cleaned::Whole);
    }
    batch.verify_crc()?;
    let mut rewriter = BatchRewriter::new(batch.header(), tombstones.then_some(horizon_ms));
    records.map_while(Result::ok).filter(stays).for_each(|record| rewriter.keep(&record));
    Ok(Cleaned::Part(rewriter.finish()))
}

fn is_tombstone(record: &Record<'_>) -> bool {
    record.key.is_some() && record.value.is_none()
}

#[cfg(test)]
mod tests {
    use wire::record::{BatchBuilder, Producer, patch_base_offset, position};

    use super::*;

    const ROUND: Round =
        Round { stable_end: u64::MAX, timestamp_max: i64::MAX, now_ms: 1_000, delete_retention_ms: 500 };

    type Records<'a> = [(Option<&'a str>, Option<&'a str>)];

    fn batch(base_offset: u64, records: &Records<'_>, codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new(64 << 10);
        for (key, value) in records {
            builder.append(7, key.map(str::as_bytes), value.map(str::as_bytes), &[]).unwrap();
        }
        let mut bytes = builder.build_compressed(Producer::NONE, codec).to_vec();
        patch_base_offset(&mut bytes, base_offset);
        bytes
    }

    fn latest_of(batches: &[&[u8]]) -> LatestOffsets {
        let mut latest = LatestOffsets::new(1, 1 << 20);
        batches.iter().for_each(|bytes| latest.add(&Batch::parse_one(bytes).unwrap()));
        latest
    }

    fn offsets(bytes: &[u8]) -> Vec<u64> {
        let mut buffer = Vec::new();
        let batch = Batch::parse_one(bytes).unwrap();
        batch.verify_stored().unwrap();
        batch.records_decompressed(1 << 20, &mut buffer).unwrap().map(|record| record.unwrap().offset).collect()
    }

    fn part(cleaned: Result<Cleaned, BatchError>) -> Vec<u8> {
        match cleaned {
            Ok(Cleaned::Part(bytes)) => bytes,
            cleaned => panic!("{cleaned:?}"),
        }
    }

    #[test]
    fn the_last_record_of_each_key_stays_and_so_does_what_has_none() {
        for codec in [Codec::None, Codec::Zstd] {
            let value = "v".repeat(100);
            let v = Some(&value[..]);
            let old = batch(10, &[(Some("a"), v), (Some("b"), v), (None, v), (Some("a"), v)], codec);
            let new = batch(14, &[(Some("b"), v), (Some("c"), v)], codec);
            let mut latest = latest_of(&[&old, &new]);
            let cleaned = part(clean(&Batch::parse_one(&old).unwrap(), &mut latest, &ROUND, false));
            assert_eq!(offsets(&cleaned), [12, 13]);
            assert_eq!(Batch::parse_one(&cleaned).unwrap().codec(), codec);
            assert_eq!(clean(&Batch::parse_one(&new).unwrap(), &mut latest, &ROUND, false), Ok(Cleaned::Whole));
        }
    }

    #[test]
    fn a_batch_of_which_nothing_is_left_goes_unless_it_keeps_a_place() {
        let old = batch(0, &[(Some("a"), Some("1"))], Codec::None);
        let new = batch(1, &[(Some("a"), Some("2"))], Codec::None);
        let mut latest = latest_of(&[&new]);
        let old = Batch::parse_one(&old).unwrap();
        assert_eq!(clean(&old, &mut latest, &ROUND, false), Ok(Cleaned::Nothing));
        let empty = part(clean(&old, &mut latest, &ROUND, true));
        assert!(offsets(&empty).is_empty());
        let empty = Batch::parse_one(&empty).unwrap();
        assert_eq!(empty.next_offset(), 1);
        assert_eq!(clean(&empty, &mut latest, &ROUND, true), Ok(Cleaned::Whole));
        assert_eq!(clean(&empty, &mut latest, &ROUND, false), Ok(Cleaned::Nothing));
    }

    #[test]
    fn a_tombstone_gets_its_time_when_it_is_met_and_goes_when_that_is_over() {
        let bytes = batch(0, &[(Some("a"), None), (Some("b"), Some("1"))], Codec::None);
        let mut latest = latest_of(&[&bytes]);
        let met = part(clean(&Batch::parse_one(&bytes).unwrap(), &mut latest, &ROUND, false));
        let met = Batch::parse_one(&met).unwrap();
        assert_eq!((met.delete_horizon_ms(), offsets(met.bytes())), (Some(1_500), vec![0, 1]));
        assert!(met.records().unwrap().all(|record| record.unwrap().timestamp_ms == 7));
        let later = |now_ms| Round { now_ms, delete_retention_ms: 99, ..ROUND };
        assert_eq!(clean(&met, &mut latest, &later(1_499), false), Ok(Cleaned::Whole), "no second time");
        let gone = part(clean(&met, &mut latest, &later(1_500), false));
        let gone = Batch::parse_one(&gone).unwrap();
        assert_eq!((gone.delete_horizon_ms(), offsets(gone.bytes())), (None, vec![1]));
    }

    #[test]
    fn a_batch_that_is_not_what_its_producer_sent_is_not_made_anew() {
        let mut old = batch(0, &[(Some("a"), Some("1")), (Some("b"), Some("2"))], Codec::None);
        let new = batch(2, &[(Some("a"), Some("3"))], Codec::None);
        old[position::CRC] ^= 1;
        let cleaned = clean(&Batch::parse_one(&old).unwrap(), &mut latest_of(&[&new]), &ROUND, false);
        assert!(matches!(cleaned, Err(BatchError::Crc { .. })), "{cleaned:?}");
    }

    #[test]
    fn memory_is_full_at_its_size_and_a_batch_is_taken_whole() {
        let mut latest = LatestOffsets::new(1, 2 * BYTES_PER_KEY);
        let bytes = batch(0, &[(Some("a"), None), (Some("b"), None), (Some("c"), None)], Codec::None);
        assert!(!latest.is_full());
        latest.add(&Batch::parse_one(&bytes).unwrap());
        assert!(latest.is_full() && latest.offsets.len() == 3);
        latest.restart(5);
        assert!(!latest.is_full());
    }
}
