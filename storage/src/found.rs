//! A record that was looked for by its key.

use bytes::Bytes;
use wire::record::{Batch, BatchError, Record};

use crate::index::time_index::DECOMPRESSED_BYTES_MAX;

/// The last record of a key, its bytes copied out of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number in the partition.
    pub offset: u64,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The payload.
    pub value: Bytes,
    /// What travels beside it: name and value of each header.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// What the last record of a key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// This.
    Record(Found),
    /// That the key is deleted.
    Tombstone {
        /// The tombstone's number in the partition.
        offset: u64,
    },
}

impl Last {
    fn of(record: &Record<'_>) -> Self {
        let Some(value) = record.value else { return Self::Tombstone { offset: record.offset } };
        let copy = Bytes::copy_from_slice;
        Self::Record(Found {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            value: copy(value),
            headers: record.headers.map(|header| (copy(header.key), header.value.map(copy))).collect(),
        })
    }

    /// The number of the record in the partition.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Record(found) => found.offset,
            Self::Tombstone { offset } => *offset,
        }
    }

    /// The record, unless it is a tombstone.
    pub fn record(self) -> Option<Found> {
        match self {
            Self::Record(found) => Some(found),
            Self::Tombstone { .. } => None,
        }
    }

    /// What `batch` says last of `key`, from `offset_min` on.
    ///
    /// # Errors
    /// [`BatchError`] when the records do not parse.
    pub(crate) fn in_batch(batch: &Batch<'_>, key: &[u8], offset_min: u64) -> Result<Option<Self>, BatchError> {
        let (mut last, mut buffer) = (None, Vec::new());
        for record in batch.records_decompressed(DECOMPRESSED_BYTES_MAX, &mut buffer)? {
            let record = record?;
            if record.key == Some(key) && record.offset >= offset_min {
                last = Some(record);
            }
        }
        Ok(last.as_ref().map(Self::of))
    }
}
