//! Segments: immutable files of batches, sorted by (partition, offset), each proving its own bytes.
//!
//! - [`writer`]: front to back, from a flush or a merge; [`plan()`]: who shares one.
//! - [`reader`]: one open segment; [`segments`]: those of a log, opened on demand.
//! - `key_builder`, `lookup`: keys of compacted partitions, as they are written and looked up.
//! - [`mod@format`], [`checksum`], [`mod@directory`], [`footer`]: the bytes, which `FORMAT.md` specifies.

use std::path::{Path, PathBuf};

pub mod checksum;
pub mod directory;
mod error;
pub mod footer;
mod footer_builder;
pub mod format;
mod key_builder;
mod lookup;
mod pieces;
mod plan;
pub mod reader;
pub mod segments;
pub mod writer;

pub use error::{SegmentError, WriteError};
pub use footer::Footer;
pub use footer_builder::Disorder;
pub use plan::{PlanLimits, Planned, plan};
pub use segments::{PartitionExtent, Segments};
pub use writer::SegmentWriter;

use crate::PartitionId;

const FILE_EXTENSION: &str = ".seg";

/// Number of a segment within its log. Given out by the manifest, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// Where a log that lies in `log_dir` has its segments.
pub fn directory(log_dir: &Path) -> PathBuf {
    log_dir.join("segments")
}

/// The name of a segment's file: sixteen hexadecimal digits and `.seg`.
pub fn file_name(id: SegmentId) -> String {
    format!("{:016x}{FILE_EXTENSION}", id.0)
}

/// The segment whose file has this name; `None` for any name but those that [`file_name`] gives.
pub fn id_of_file_name(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(FILE_EXTENSION)?;
    let id = SegmentId(u64::from_str_radix(digits, 16).ok()?);
    (file_name(id) == name).then_some(id)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_for_its_segment_and_no_other_way() {
        assert_eq!(file_name(SegmentId(0xab)), "00000000000000ab.seg");
        for id in [0, 1, u64::MAX] {
            assert_eq!(id_of_file_name(&file_name(SegmentId(id))), Some(SegmentId(id)));
        }
        for name in ["", ".seg", "ab.seg", "00000000000000AB.seg", "+0000000000000ab.seg", "00000000000000ab.seg.tmp"] {
            assert_eq!(id_of_file_name(name), None, "{name}");
        }
    }
}
