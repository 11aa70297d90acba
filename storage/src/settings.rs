//! What a partition is kept by: the settings of its topic, as numbers. They may change while it is served.

use wire::{Durability, record::Codec};

/// Settings of a partition. The default keeps everything for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionSettings {
    /// What an ack means. Fixed for the partition's life.
    pub durability: Durability,
    /// The largest batch taken, in bytes; the log's own limit holds all the same.
    pub batch_bytes_max: usize,
    /// How records go.
    pub cleanup: Cleanup,
    /// Records older than this, in milliseconds by their own timestamps, may go; `None` keeps them whatever their age.
    pub retention_ms: Option<u64>,
    /// Batches beyond so many bytes may go, the oldest first; `None` keeps them whatever their size.
    pub retention_bytes: Option<u64>,
    /// How long a tombstone stays for readers to see after everything older under its key went, in milliseconds.
    pub delete_retention_ms: u64,
    /// A record younger than this, in milliseconds, is not compacted away.
    pub compaction_lag_ms_min: u64,
    /// A record older than this, in milliseconds, is compacted however little else there is; `None` for no such haste.
    pub compaction_lag_ms_max: Option<u64>,
    /// Compaction waits until so many thousandths of the bytes were not compacted yet.
    pub dirty_permille_min: u16,
    /// What merges compress batches with that came uncompressed; [`Codec::None`] leaves them as they came.
    pub compression: Codec,
}

/// How records of a partition go: by age and size, by key, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// Retention moves the log start.
    pub delete: bool,
    /// Of the records of a key only the last one stays.
    pub compact: bool,
}

impl Default for PartitionSettings {
    fn default() -> Self {
        Self {
            durability: Durability::Durable,
            batch_bytes_max: usize::MAX,
            cleanup: Cleanup { delete: true, compact: false },
            retention_ms: None,
            retention_bytes: None,
            delete_retention_ms: 24 * 60 * 60 * 1000,
            compaction_lag_ms_min: 0,
            compaction_lag_ms_max: None,
            dirty_permille_min: 500,
            compression: Codec::None,
        }
    }
}

/// A partition of this level that keeps everything.
impl From<Durability> for PartitionSettings {
    fn from(durability: Durability) -> Self {
        Self { durability, ..Self::default() }
    }
}
