//! Timestamp to interval: for each interval of the offset index, the largest timestamp up to its end.
//!
//! The one hard idea: timestamps come from producers and jump about, but their running maximum only grows. The first
//! interval whose running maximum reaches a time holds the first record that does, because no earlier one does.

use wire::record::{Batch, BatchError, Batches, Codec, Record};

/// Bytes that a lookup decompresses at most before it answers with a batch instead of a record: tens of milliseconds of a
/// shard, whatever a producer compressed, and sixteen times what a batch usually holds.
pub const DECOMPRESSED_BYTES_MAX: usize = 16 << 20;

/// Length of an encoded entry in bytes: a signed 64-bit timestamp, little-endian.
pub const ENTRY_BYTES: usize = 8;

/// Running maxima, one an interval, as bytes of someone else's.
#[derive(Clone, Copy, Debug)]
pub struct TimeIndex<'a> {
    entries: &'a [[u8; ENTRY_BYTES]],
}

impl<'a> TimeIndex<'a> {
    /// An index of the whole entries in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { entries: bytes.as_chunks().0 }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The largest timestamp from the first interval to the end of interval `number`, milliseconds since 1970.
    ///
    /// # Panics
    /// If there is no such interval.
    pub fn timestamp_max(&self, number: usize) -> i64 {
        i64::from_le_bytes(self.entries[number])
    }

    /// Number of the interval that holds the first record at or after `timestamp_ms`; `None` when none does.
    pub fn first_reaching(&self, timestamp_ms: i64) -> Option<usize> {
        let number = self.entries.partition_point(|&entry| i64::from_le_bytes(entry) < timestamp_ms);
        (number < self.entries.len()).then_some(number)
    }
}

/// An index as it grows.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    timestamp_max: Option<i64>,
}

impl Builder {
    /// Starts the running maximum anew: the next batch is the first of its partition.
    pub fn start_partition(&mut self) {
        self.timestamp_max = None;
    }

    /// Tells of the next batch by its largest timestamp, and whether it starts an interval.
    ///
    /// # Panics
    /// If a partition's first batch starts no interval.
    #[inline]
    pub fn add(&mut self, timestamp_ms: i64, starts_interval: bool) {
        assert!(starts_interval || self.timestamp_max.is_some(), "a partition starts with an interval");
        let timestamp_max = self.timestamp_max.map_or(timestamp_ms, |max| max.max(timestamp_ms));
        self.timestamp_max = Some(timestamp_max);
        match self.bytes.last_chunk_mut() {
            Some(entry) if !starts_interval => *entry = timestamp_max.to_le_bytes(),
            _ => self.bytes.extend_from_slice(&timestamp_max.to_le_bytes()),
        }
    }

    /// The encoded entries.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Offset and timestamp of the first record of `batch` from `offset_min` on whose timestamp is at or after `timestamp_ms`.
///
/// A compressed batch whose records do not come out, or are more than [`DECOMPRESSED_BYTES_MAX`], answers with its first
/// offset and its largest timestamp, if that reaches so far: whoever reads from there on misses no record of that time, and
/// meets what is wrong with the batch where all its readers do.
///
/// # Errors
/// [`BatchError::Record`] when the records of an uncompressed batch do not parse.
pub fn first_record_at(
    batch: &Batch<'_>,
    timestamp_ms: i64,
    offset_min: u64,
) -> Result<Option<(u64, i64)>, BatchError> {
    let mut bytes_left = DECOMPRESSED_BYTES_MAX;
    first_record_within(batch, timestamp_ms, offset_min, &mut bytes_left)
}

/// [`first_record_at`] over whole consecutive batches, of which [`DECOMPRESSED_BYTES_MAX`] holds for all together. A batch
/// may hold nothing although its largest timestamp promised it; then the search goes on behind it.
///
/// # Errors
/// [`BatchError`] when the batches do not parse.
pub fn first_record_in_run_at(
    run: &[u8],
    timestamp_ms: i64,
    offset_min: u64,
) -> Result<Option<(u64, i64)>, BatchError> {
    let mut bytes_left = DECOMPRESSED_BYTES_MAX;
    for batch in Batches::new(run) {
        if let Some(found) = first_record_within(&batch?, timestamp_ms, offset_min, &mut bytes_left)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn first_record_within(
    batch: &Batch<'_>,
    timestamp_ms: i64,
    offset_min: u64,
    bytes_left: &mut usize,
) -> Result<Option<(u64, i64)>, BatchError> {
    if batch.max_timestamp_ms() < timestamp_ms || batch.last_offset() < offset_min {
        return Ok(None);
    }
    let mut buffer = Vec::new();
    let found = batch.records_decompressed(*bytes_left, &mut buffer).and_then(|mut records| {
        let is_wanted = |record: &Record<'_>| record.offset >= offset_min && record.timestamp_ms >= timestamp_ms;
        let wanted = records.find(|record| record.as_ref().map_or(true, is_wanted)).transpose()?;
        Ok(wanted.map(|record| (record.offset, record.timestamp_ms)))
    });
    *bytes_left = bytes_left.saturating_sub(buffer.len());
    match found {
        Err(_) if batch.codec() != Codec::None => {
            Ok(Some((batch.base_offset().max(offset_min), batch.max_timestamp_ms())))
        }
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use wire::record::{BatchBuilder, Producer, patch_base_offset, position};

    use super::*;

    /// Records of times 100, 300, 200, … at offsets from 10 on.
    fn batch(codec: Codec, times_ms: &[i64]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(64 << 10);
        for &time_ms in times_ms {
            builder.append(time_ms, None, Some(&[7; 100]), &[]).unwrap();
        }
        let mut batch = builder.build_compressed(Producer::NONE, codec).to_vec();
        assert_eq!(Batch::parse_one(&batch).unwrap().codec(), codec);
        patch_base_offset(&mut batch, 10);
        batch
    }

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    #[test]
    fn a_record_is_found_by_its_time_whatever_the_codec() {
        for codec in CODECS {
            let bytes = batch(codec, &[100, 300, 200, 400, 400]);
            let batch = Batch::parse_one(&bytes).unwrap();
            for (time_ms, offset_min, expected) in [
                (i64::MIN, 0, Some((10, 100))),
                (101, 0, Some((11, 300))),
                (101, 12, Some((12, 200))),
                (301, 0, Some((13, 400))),
                (400, 14, Some((14, 400))),
                (400, 15, None),
                (401, 0, None),
            ] {
                let found = first_record_at(&batch, time_ms, offset_min);
                assert_eq!(found, Ok(expected), "{codec:?}, {time_ms} from {offset_min}");
            }
        }
    }

    #[test]
    fn a_batch_that_does_not_come_out_answers_for_its_records() {
        for codec in &CODECS[1..] {
            let mut bytes = batch(*codec, &[100, 300, 200, 400, 400]);
            bytes.truncate(bytes.len() - 1);
            let length = bytes.len() as i32 - 12;
            bytes[position::LENGTH..][..4].copy_from_slice(&length.to_be_bytes());
            let batch = Batch::parse_one(&bytes).unwrap();
            assert_eq!(first_record_at(&batch, 300, 0), Ok(Some((10, 400))));
            assert_eq!(first_record_at(&batch, 300, 12), Ok(Some((12, 400))));
            assert_eq!(first_record_at(&batch, 300, 15), Ok(None));
            assert_eq!(first_record_at(&batch, 401, 0), Ok(None));
        }
    }

    /// Batches that promise a time and do not hold it: 20 of 1 MB each, which are not all looked through.
    #[test]
    fn a_lookup_decompresses_only_so_much() {
        let mut builder = BatchBuilder::new(2 << 20);
        builder.append(100, None, Some(&vec![0; 1_000_000]), &[]).unwrap();
        let mut bytes = builder.build_compressed(Producer::NONE, Codec::Zstd).to_vec();
        bytes[position::MAX_TIMESTAMP..][..8].copy_from_slice(&500i64.to_be_bytes());
        let run: Vec<u8> = (0..20)
            .flat_map(|offset| {
                patch_base_offset(&mut bytes, offset);
                bytes.clone()
            })
            .collect();
        assert_eq!(first_record_in_run_at(&run, 500, 0), Ok(Some((16, 500))));
        assert_eq!(first_record_in_run_at(&run, 500, 5), Ok(None), "fifteen are looked through");
    }

    #[test]
    fn the_first_interval_that_reaches_a_time_is_found_though_timestamps_fall() {
        let mut builder = Builder::default();
        for (timestamp_ms, starts_interval) in [(5, true), (9, false), (2, true), (3, false), (20, true), (11, true)] {
            builder.add(timestamp_ms, starts_interval);
        }
        let index = TimeIndex::new(builder.bytes());
        assert_eq!((0..index.len()).map(|number| index.timestamp_max(number)).collect::<Vec<_>>(), [9, 9, 20, 20]);
        for (timestamp_ms, expected) in
            [(i64::MIN, Some(0)), (9, Some(0)), (10, Some(2)), (20, Some(2)), (21, None), (i64::MAX, None)]
        {
            assert_eq!(index.first_reaching(timestamp_ms), expected, "{timestamp_ms}");
        }
    }

    #[test]
    fn each_partition_has_its_own_maximum() {
        let mut builder = Builder::default();
        builder.add(100, true);
        builder.start_partition();
        builder.add(-7, true);
        assert_eq!(TimeIndex::new(builder.bytes()).timestamp_max(1), -7);
    }

    #[test]
    #[should_panic(expected = "starts with an interval")]
    fn a_partition_without_an_interval_is_a_bug() {
        let mut builder = Builder::default();
        builder.add(1, true);
        builder.start_partition();
        builder.add(1, false);
    }
}
