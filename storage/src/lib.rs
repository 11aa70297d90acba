//! The log: one directory of WAL, memtables, segments and manifest, and the partitions that live in it.
#![forbid(unsafe_code)]

pub mod codec;
pub mod group;
pub mod journal;
pub mod manifest;
pub mod segment;

/// A partition, as metadata numbered it. Never reused; nothing on disk is found by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u64);
