//! Requests and answers as handlers see them: what native frames, and one day Kafka's, both become.
//!
//! Nothing here knows a protocol's numbers. Produce has no request type: its batches are appended straight from the
//! connection's buffer, one by one, and only their outcomes are kept.

use std::{ops::Deref, time::Duration};

use bytes::Bytes;
use storage::{Acked, Appended, Offsets, Synced};
use wire::{PartitionId, TopicId};

use crate::{
    handler::error::{FetchError, GetError, ListOffsetsError, LossError, ProduceError, TrimError},
    meta::TopicSettings,
};

/// A batch that has its offsets, on its way to the disk.
#[derive(Debug)]
pub(crate) struct Placed {
    /// What becomes the ack.
    pub(crate) appended: Appended,
    /// The partition's log start offset when it was appended.
    pub(crate) log_start_offset: u64,
}

/// A batch whose producer may hear of it.
#[derive(Debug)]
pub(crate) struct Produced {
    /// The ack: nothing else makes a success.
    pub(crate) acked: Acked,
    /// Whether it is on stable storage by now, which a `memory` partition does not promise.
    pub(crate) synced: bool,
    /// The partition's log start offset when it was appended.
    pub(crate) log_start_offset: u64,
}

/// What became of one batch.
pub(crate) type ProduceOutcome = Result<Produced, ProduceError>;

impl Placed {
    /// Whether the ack may go out once `synced` is: it covers the batch, or the partition does not ask for that.
    pub(crate) fn is_covered_by(&self, synced: Synced) -> bool {
        self.appended.lsn() <= synced.lsn() || !self.appended.needs_sync()
    }

    /// The ack, or [`ProduceError::TimedOut`] where it would be too early. `synced` is of its log.
    #[inline]
    pub(crate) fn acknowledge_by(self, synced: Synced) -> ProduceOutcome {
        if !self.is_covered_by(synced) {
            return Err(ProduceError::TimedOut);
        }
        let (lsn, log_start_offset) = (self.appended.lsn(), self.log_start_offset);
        let acked = match self.appended.acknowledge_unsynced() {
            Ok(acked) => acked,
            Err(appended) => appended.acknowledge(synced),
        };
        Ok(Produced { acked, synced: lsn <= synced.lsn(), log_start_offset })
    }
}

/// What to read, how much of it, and how long to wait for it.
#[derive(Clone, Debug)]
pub(crate) struct FetchRequest {
    /// How long to wait for `bytes_min`.
    pub(crate) wait_max: Duration,
    /// Bytes worth answering before the wait is over.
    pub(crate) bytes_min: usize,
    /// Bytes to answer at most, unless one batch is larger.
    pub(crate) bytes_max: usize,
    /// Where to read, in the order in which the partitions share `bytes_max`.
    pub(crate) positions: Vec<Position>,
}

/// Where to read a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    /// The partition.
    pub(crate) partition: PartitionId,
    /// The first offset wanted.
    pub(crate) offset: u64,
    /// Bytes to answer at most for this partition.
    pub(crate) bytes_max: usize,
}

/// What reading a partition gave.
#[derive(Debug)]
pub(crate) struct Fetched<S> {
    /// The partition's offsets; zeros where it is not known.
    pub(crate) offsets: Offsets,
    /// The batches, or why there are none.
    pub(crate) batches: Result<FetchedBatches<S>, FetchError>,
}

/// Whole batches of a partition.
#[derive(Debug)]
pub(crate) struct FetchedBatches<S> {
    /// Their bytes, to be sent one slice after the other.
    pub(crate) slices: Vec<S>,
    /// Bytes of all slices.
    pub(crate) bytes: usize,
    /// The offset to read next.
    pub(crate) next_offset: u64,
    /// Offsets at or after the one asked for that will never hold anything.
    pub(crate) lost: Option<std::ops::Range<u64>>,
}

impl<S> Fetched<S> {
    /// The same with other slices.
    pub(crate) fn map_slices<T>(self, map: impl FnMut(S) -> T) -> Fetched<T> {
        let batches = self.batches.map(|FetchedBatches { slices, bytes, next_offset, lost }| FetchedBatches {
            slices: slices.into_iter().map(map).collect(),
            bytes,
            next_offset,
            lost,
        });
        Fetched { offsets: self.offsets, batches }
    }
}

/// Bytes of batches: in a block of this shard, or copied once from another's.
#[derive(Debug)]
pub(crate) enum Slice<F> {
    /// In place.
    Here(F),
    /// Came over the mesh.
    Copied(Bytes),
}

impl<F: runtime::Frozen> Slice<F> {
    /// Memory that these bytes keep from being used again.
    pub(crate) fn held_bytes(&self) -> usize {
        match self {
            Self::Here(frozen) => frozen.block_capacity(),
            Self::Copied(bytes) => bytes.len(),
        }
    }
}

impl<F: runtime::Frozen> Deref for Slice<F> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Here(frozen) => frozen,
            Self::Copied(bytes) => bytes,
        }
    }
}

/// A place in a partition, in words or as a time.
pub(crate) use wire::api::list_offsets::At;

/// An offset that was looked up, with the timestamp of its record where one was looked for and found.
pub(crate) type ListedOffset = Result<(u64, Option<i64>), ListOffsetsError>;

/// The last record of a key, unless there is none or it says that the key is deleted.
pub(crate) type Got = Result<Option<storage::Found>, GetError>;

/// Where a partition starts once records of it were deleted.
pub(crate) type Trimmed = Result<u64, TrimError>;

/// What a partition holds, as its shard knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartitionStatus {
    /// Its offsets.
    pub(crate) offsets: Offsets,
    /// From which offset on its log is damaged.
    pub(crate) refused_from: Option<u64>,
    /// The first offset at which damage in a segment was met.
    pub(crate) damaged_from: Option<u64>,
}

/// A stretch of a partition in which damage is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// The partition.
    pub(crate) partition: PartitionId,
    /// Where it begins.
    pub(crate) from_offset: u64,
    /// Whether nothing is to be given up.
    pub(crate) dry_run: bool,
}

/// Damage in a stretch of a partition, looked for or given up.
pub(crate) type Surveyed = Result<storage::Survey, LossError>;

/// A topic to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewTopic {
    /// Its name, not yet checked.
    pub(crate) name: String,
    /// Partitions wanted.
    pub(crate) partition_count: u32,
    /// Settings, not yet checked.
    pub(crate) settings: Vec<(String, String)>,
}

/// What is to change in a topic's settings.
#[derive(Clone, Debug)]
pub(crate) struct TopicChange {
    /// The topic's name, not yet checked.
    pub(crate) name: String,
    /// Settings that get another value, not yet checked.
    pub(crate) set: Vec<(String, String)>,
    /// Settings that go back to their defaults, not yet checked.
    pub(crate) unset: Vec<String>,
}

/// Where a partition lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacedPartition {
    /// The partition.
    pub(crate) partition: PartitionId,
    /// The shard of this node that leads it.
    pub(crate) shard: u16,
}

/// A topic, in full.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    /// Its name.
    pub(crate) name: String,
    /// Its id.
    pub(crate) id: TopicId,
    /// Its settings.
    pub(crate) settings: TopicSettings,
    /// Its partitions, by index.
    pub(crate) partitions: Vec<PlacedPartition>,
}

/// A topic in full, and what its partitions hold.
#[derive(Clone, Debug)]
pub(crate) struct DescribedTopic {
    /// The topic.
    pub(crate) topic: Topic,
    /// Of each partition, if its shard said so.
    pub(crate) statuses: Vec<Option<PartitionStatus>>,
}
