//! Timestamp to interval: for each interval of the offset index, the largest timestamp up to its end.
//!
//! The one hard idea: timestamps come from producers and jump about, but their running maximum only grows. The first
//! interval whose running maximum reaches a time holds the first record that does, because no earlier one does.

use wire::record::{Batch, BatchError, Batches, Codec};

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
        if !starts_interval {
            self.bytes.truncate(self.bytes.len() - ENTRY_BYTES);
        }
        self.bytes.extend_from_slice(&timestamp_max.to_le_bytes());
    }

    /// The encoded entries.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Offset and timestamp of the first record of `batch` from `offset_min` on whose timestamp is at or after `timestamp_ms`.
/// The records of a compressed batch are not looked at: if its largest timestamp reaches that far, its first offset and
/// that timestamp stand for the record.
///
/// # Errors
/// [`BatchError::Record`] when the records do not parse.
pub fn first_record_at(
    batch: &Batch<'_>,
    timestamp_ms: i64,
    offset_min: u64,
) -> Result<Option<(u64, i64)>, BatchError> {
    if batch.max_timestamp_ms() < timestamp_ms {
        return Ok(None);
    }
    if batch.codec() != Codec::None {
        return Ok(Some((batch.base_offset().max(offset_min), batch.max_timestamp_ms())));
    }
    for record in batch.records()? {
        let record = record?;
        if record.offset >= offset_min && record.timestamp_ms >= timestamp_ms {
            return Ok(Some((record.offset, record.timestamp_ms)));
        }
    }
    Ok(None)
}

/// [`first_record_at`] over whole consecutive batches. A batch may hold nothing although its largest timestamp promised
/// it; then the search goes on behind it.
///
/// # Errors
/// [`BatchError`] when the batches do not parse.
pub fn first_record_in_run_at(
    run: &[u8],
    timestamp_ms: i64,
    offset_min: u64,
) -> Result<Option<(u64, i64)>, BatchError> {
    for batch in Batches::new(run) {
        if let Some(found) = first_record_at(&batch?, timestamp_ms, offset_min)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

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
