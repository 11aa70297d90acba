//! The partition directory: who has batches in a segment, where they lie, and where their index entries start.
//!
//! Everything of a partition ends where the next one's starts, so only starts are stored.

use std::ops::Range;

use super::format::{array, u32_at, u64_at};
use crate::PartitionId;

/// Length of an encoded entry in bytes.
pub const ENTRY_BYTES: usize = 48;

/// What the directory says of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The partition.
    pub partition: PartitionId,
    /// Offset of its first record here.
    pub base_offset: u64,
    /// The offset behind its last record here.
    pub next_offset: u64,
    /// Where its first batch starts, in bytes from the start of the file.
    pub position: u64,
    /// Largest timestamp of its records here, milliseconds since 1970.
    pub timestamp_max: i64,
    /// Number of its first entry in the offset and the time index.
    pub first_interval: u32,
    /// Number of its first entry in the epoch index.
    pub first_epoch: u32,
}

impl DirectoryEntry {
    /// Whether all its batches lie in `offsets`.
    pub fn is_within(&self, offsets: &Range<u64>) -> bool {
        offsets.start <= self.base_offset && self.next_offset <= offsets.end
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&self.base_offset.to_le_bytes());
        out.extend_from_slice(&self.next_offset.to_le_bytes());
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.timestamp_max.to_le_bytes());
        out.extend_from_slice(&self.first_interval.to_le_bytes());
        out.extend_from_slice(&self.first_epoch.to_le_bytes());
    }

    fn decode(raw: &[u8; ENTRY_BYTES]) -> Self {
        Self {
            partition: PartitionId(u64_at(raw, 0)),
            base_offset: u64_at(raw, 8),
            next_offset: u64_at(raw, 16),
            position: u64_at(raw, 24),
            timestamp_max: i64::from_le_bytes(array(raw, 32)),
            first_interval: u32_at(raw, 40),
            first_epoch: u32_at(raw, 44),
        }
    }
}

/// Entries ascending by partition, as bytes of someone else's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory<'a> {
    entries: &'a [[u8; ENTRY_BYTES]],
}

impl<'a> Directory<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { entries: bytes.as_chunks().0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, number: usize) -> Option<DirectoryEntry> {
        self.entries.get(number).map(DirectoryEntry::decode)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = DirectoryEntry> + use<'a> {
        self.entries.iter().map(DirectoryEntry::decode)
    }

    /// Number of the entry of `partition`.
    pub(super) fn find(&self, partition: PartitionId) -> Option<usize> {
        self.entries.binary_search_by_key(&partition.0, |raw| u64_at(raw, 0)).ok()
    }

    /// The first entry of a partition behind `partition`.
    pub(super) fn behind(&self, partition: PartitionId) -> Option<DirectoryEntry> {
        self.get(self.entries.partition_point(|raw| u64_at(raw, 0) <= partition.0))
    }
}
