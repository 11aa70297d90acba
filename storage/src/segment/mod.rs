//! Segments: immutable files of batches, sorted by (partition, offset), each proving its own bytes.

use crate::PartitionId;

/// Number of a segment within its log. Given out by the manifest, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// What the manifest knows of a segment: enough to decide whether to open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Its number, which is also its name.
    pub id: SegmentId,
    /// 0: the output of one flush; 1: of a merge.
    pub level: u8,
    /// Whose batches it holds.
    pub extent: Extent,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Bytes of batches in it.
    pub batch_bytes: u64,
    /// Where its footer starts, in bytes from the start of the file.
    pub footer_position: u64,
    /// Largest record timestamp in it, in milliseconds since 1970.
    pub timestamp_max: i64,
    /// Where its bytes are.
    pub location: Location,
}

/// Whose batches a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// One partition's, from `base_offset` up to and without `next_offset`.
    Own {
        /// The partition.
        partition: PartitionId,
        /// First offset.
        base_offset: u64,
        /// Offset behind the last one.
        next_offset: u64,
    },
    /// Those of any partitions from `first` to `last`; the footer's directory says which.
    Shared {
        /// Lowest partition.
        first: PartitionId,
        /// Highest partition.
        last: PartitionId,
    },
}

/// Where a segment's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the log's directory.
    Local,
    /// In the object store only.
    Remote,
    /// In both.
    Both,
}

impl Extent {
    /// Whether the segment may hold batches of `partition`.
    pub fn may_hold(&self, partition: PartitionId) -> bool {
        match *self {
            Self::Own { partition: own, .. } => own == partition,
            Self::Shared { first, last } => first <= partition && partition <= last,
        }
    }
}
