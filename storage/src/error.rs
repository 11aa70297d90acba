//! What can go wrong, one small enum per operation. Each says what the caller can do.

use std::{io, path::Path, sync::Arc};

use thiserror::Error;

use crate::PartitionId;

/// A write to the log failed. Nothing is known of the bytes, so nothing is acknowledged any more and nothing is retried:
/// the process has to end, and its next start recovers what is on the disk.
#[derive(Clone, Debug, Error)]
#[error("{action} {file} failed: {reason}; {}", self.advice())]
pub struct LogFailed {
    action: &'static str,
    file: Arc<str>,
    reason: Arc<str>,
    is_disk_full: bool,
}

impl LogFailed {
    pub(crate) fn new(action: &'static str, file: &Path, reason: impl Reason) -> Self {
        let is_disk_full = reason.is_disk_full();
        let (file, reason) = (file.display().to_string().into(), reason.to_string().into());
        Self { action, file, reason, is_disk_full }
    }

    /// Whether the file system had no room.
    pub fn is_disk_full(&self) -> bool {
        self.is_disk_full
    }

    fn advice(&self) -> &'static str {
        match self.is_disk_full {
            true => "free space on its file system, then restart to recover what is on disk",
            false => "restart to recover what is on disk",
        }
    }
}

/// Why a write failed.
pub(crate) trait Reason: std::fmt::Display {
    /// Whether the file system had no room.
    fn is_disk_full(&self) -> bool;
}

impl Reason for io::Error {
    /// A short write is the last one that still found some.
    fn is_disk_full(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero)
    }
}

impl Reason for crate::journal::WriteError {
    fn is_disk_full(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Failed { source, .. } => source.is_disk_full(),
        }
    }
}

impl Reason for crate::segment::WriteError {
    fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.is_disk_full())
    }
}

impl Reason for crate::disk_space::Lacking {
    fn is_disk_full(&self) -> bool {
        true
    }
}

/// Why a log cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file system refused; the message names the file.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// Written by a later version of this program. Nothing was touched.
    #[error("{file} at {position}: {source}; start the version that wrote it")]
    UnknownFormat {
        /// The file.
        file: String,
        /// Position of the group in the file, in bytes.
        position: u64,
        /// What is unknown.
        source: crate::group::GroupError,
    },
    /// The root of recovery cannot be read.
    #[error(transparent)]
    Manifest(#[from] crate::manifest::OpenError),
    /// The manifest is gone while other files of the log are there. Nothing was touched.
    #[error("{dir} holds a write-ahead log or segments but no manifest; restore the directory from a backup")]
    Rootless {
        /// The log's directory.
        dir: String,
    },
    /// A write during recovery failed.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// The options make no log.
    #[error("{setting} is {given} bytes, {needed} expected")]
    Options {
        /// Which option.
        setting: &'static str,
        /// Its value.
        given: usize,
        /// What it should be.
        needed: &'static str,
    },
}

impl OpenError {
    /// Whether the file system had no room.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.is_disk_full(),
            Self::Manifest(crate::manifest::OpenError::Journal(error)) => error.is_disk_full(),
            Self::Failed(failed) => failed.is_disk_full(),
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.display().to_string();
        move |source| Self::Io { action, file, source }
    }
}

/// Why records were not deleted.
#[derive(Debug, Error)]
pub enum TrimError {
    /// Consumers do not see as far yet.
    #[error("records can be deleted up to offset {high_watermark}, the log starts at {log_start}")]
    OutOfRange {
        /// First offset there is.
        log_start: u64,
        /// Consumers see offsets below this one.
        high_watermark: u64,
    },
    /// The partition's log is damaged from this offset on: first accept the loss.
    #[error("the partition is damaged from offset {from} on; accept the loss with `streambus doctor` to go on")]
    Refused {
        /// First offset that cannot be proven.
        from: u64,
    },
    /// The partition is being truncated; try again.
    #[error("the partition is being truncated; try again")]
    Truncating,
    /// The partition is about to live in another log; try again.
    #[error("the partition is about to move; try again")]
    Leaving,
    /// The partition was deleted.
    #[error("the partition was deleted")]
    Gone,
    /// The log is being closed.
    #[error("the log is being closed")]
    Closing,
    /// The log failed; whether it was done is found out by the next start.
    #[error(transparent)]
    Failed(#[from] LogFailed),
}

/// Why a batch was not appended.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The producer skipped or repeated sequence numbers, or is not the latest of its id.
    #[error(transparent)]
    Sequence(#[from] crate::producer_state::SequenceError),
    /// More than one sync group, or the partition's setting, takes.
    #[error("the batch has {bytes} bytes, at most {bytes_max} are taken; send smaller batches")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A record without a key, of which compaction by key could not tell what it supersedes.
    #[error("record {index} of the batch has no key, and the topic is compacted by key")]
    Keyless {
        /// Which record, from 0.
        index: usize,
    },
    /// The records of a batch for a compacted partition do not come out.
    #[error(transparent)]
    Batch(#[from] wire::record::BatchError),
    /// The partition's log is damaged from this offset on, so nothing can be put behind it.
    #[error("the partition is damaged from offset {from} on; accept the loss with `streambus doctor` to go on")]
    Refused {
        /// First offset that cannot be proven.
        from: u64,
    },
    /// The disk is full up to its reserve. Appends are taken again once there is space.
    #[error(
        "the disk is full: {free_bytes} bytes are free, records are taken again at {wanted_bytes}; free some space"
    )]
    DiskFull {
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that have to be.
        wanted_bytes: u64,
    },
    /// The partition is being truncated; try again.
    #[error("the partition is being truncated; try again")]
    Truncating,
    /// The partition is about to live in another log; try again.
    #[error("the partition is about to move; try again")]
    Leaving,
    /// The partition was deleted.
    #[error("the partition was deleted")]
    Gone,
    /// The log is being closed.
    #[error("the log is being closed")]
    Closing,
    /// The log failed.
    #[error(transparent)]
    Failed(#[from] LogFailed),
}

/// Why a partition did not become the beginning of a copy.
#[derive(Debug, Error)]
pub enum BeginError {
    /// The partition was deleted.
    #[error("the partition was deleted")]
    Gone,
    /// It holds something already.
    #[error("the log holds the partition already, up to offset {log_end}")]
    NotEmpty {
        /// Its end.
        log_end: u64,
    },
    /// What it is to know of producers makes no sense.
    #[error("producers of the partition: {0}")]
    Producers(#[from] crate::codec::DecodeError),
    /// The log failed.
    #[error(transparent)]
    Failed(#[from] LogFailed),
}

/// Why a copy of a partition was not ended.
#[derive(Debug, Error)]
pub enum EndError {
    /// Something is missing.
    #[error("the copy reaches to offset {synced}, the partition to {expected}")]
    Short {
        /// How far it is on stable storage.
        synced: u64,
        /// Where the source ends.
        expected: u64,
    },
    /// What it is to know of producers makes no sense.
    #[error("producers of the partition: {0}")]
    Producers(#[from] crate::codec::DecodeError),
    /// Records that the source deleted were not deleted.
    #[error(transparent)]
    Trim(#[from] TrimError),
    /// What it is to know of producers was not flushed.
    #[error(transparent)]
    Flush(#[from] FlushError),
}

/// Why a partition goes on changing.
#[derive(Debug, Error)]
pub enum LeaveError {
    /// The partition was deleted.
    #[error("the partition was deleted")]
    Gone,
    /// Its log is damaged from this offset on: nothing moves that cannot be proven.
    #[error("the partition is damaged from offset {from} on")]
    Refused {
        /// First offset that cannot be proven.
        from: u64,
    },
}

/// Why a batch was not appended as it is.
#[derive(Debug, Error)]
pub enum ReplicateError {
    /// It does not go on where the copy ends.
    #[error("the batch starts at offset {found}, {expected} is next")]
    Gap {
        /// Where the copy ends.
        expected: u64,
        /// Where the batch starts.
        found: u64,
    },
    /// More than half of a WAL file, as this log was opened.
    #[error("the batch has {bytes} bytes, at most {bytes_max} fit; give the shard more memory")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The partition takes nothing.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Why nothing was read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// No such offset (any more, or yet).
    #[error("offset is outside {log_start} to {high_watermark}")]
    OutOfRange {
        /// First offset there is.
        log_start: u64,
        /// Offset behind the last one a consumer may see.
        high_watermark: u64,
    },
    /// The partition's log is damaged from this offset on.
    #[error("the partition is damaged from offset {from} on")]
    Refused {
        /// First offset that cannot be proven.
        from: u64,
    },
    /// The partition was deleted.
    #[error("the partition was deleted")]
    Gone,
    /// A segment could not be read or does not prove itself.
    #[error(transparent)]
    Segment(#[from] crate::segment::SegmentError),
}

/// Why the loss of what damage took was not accepted.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The partition was deleted.
    #[error("the partition was deleted")]
    Gone,
    /// A segment cannot be read for a reason that may pass, or is a later program's: it is not given up for that.
    #[error("nothing is given up: {0}")]
    Segment(#[from] crate::segment::SegmentError),
    /// What recovery found has to be in segments first, and the disk has no room for them.
    #[error("the disk is full: {free_bytes} bytes are free, {wanted_bytes} are needed; free some space")]
    DiskFull {
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that have to be.
        wanted_bytes: u64,
    },
    /// The log failed.
    #[error(transparent)]
    Failed(#[from] LogFailed),
}

/// Why what was acknowledged was not flushed. It is in the WAL all the same.
#[derive(Debug, Error)]
pub enum FlushError {
    /// The disk has no room for the segments.
    #[error("the disk is full: {free_bytes} bytes are free, {wanted_bytes} are needed; free some space")]
    DiskFull {
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that have to be.
        wanted_bytes: u64,
    },
    /// The log is closing, and flushes by itself.
    #[error("the log is closing")]
    Closing,
    /// The log failed.
    #[error(transparent)]
    Failed(#[from] LogFailed),
}

impl From<crate::disk_space::Lacking> for FlushError {
    fn from(lacking: crate::disk_space::Lacking) -> Self {
        Self::DiskFull { free_bytes: lacking.free_bytes, wanted_bytes: lacking.wanted_bytes }
    }
}

impl From<crate::disk_space::Lacking> for AcceptError {
    fn from(lacking: crate::disk_space::Lacking) -> Self {
        Self::DiskFull { free_bytes: lacking.free_bytes, wanted_bytes: lacking.wanted_bytes }
    }
}

/// Why a partition was not truncated.
#[derive(Debug, Error)]
pub enum TruncateError {
    /// Only what is there can be cut off.
    #[error("cannot truncate partition {partition} to {next_offset}: it spans {log_start} to {log_end}")]
    OutOfRange {
        /// The partition.
        partition: PartitionId,
        /// Where it was to end.
        next_offset: u64,
        /// First offset there is.
        log_start: u64,
        /// Next offset to be given out.
        log_end: u64,
    },
    /// The partition is about to live in another log.
    #[error("the partition is about to move; try again")]
    Leaving,
    /// The partition was deleted.
    #[error("the partition was deleted")]
    Gone,
    /// Where the batch around the offset starts could not be read.
    #[error(transparent)]
    Segment(#[from] crate::segment::SegmentError),
    /// The log failed.
    #[error(transparent)]
    Failed(#[from] LogFailed),
}
