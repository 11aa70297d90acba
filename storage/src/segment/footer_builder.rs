//! A footer as it grows: batches go by in order, the directory and the indexes come out.

use wire::record::Batch;

use super::{
    directory::DirectoryEntry,
    footer::Footer,
    format::{Identity, SectionKind, encode_footer},
};
use crate::{
    PartitionId,
    index::{epoch_index, offset_index, time_index},
};

/// Batches that do not ascend by (partition, offset), or leader epochs that fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "partition {} offset {} (leader epoch {}) cannot come behind partition {} offset {} (leader epoch {})",
    found.0.0, found.1, found.2, behind.0.0, behind.1, behind.2
)]
pub struct Disorder {
    /// Partition, base offset and leader epoch of the batch.
    pub found: (PartitionId, u64, i32),
    /// Partition, next offset and leader epoch of what was there before.
    pub behind: (PartitionId, u64, i32),
}

/// What the indexes say of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Indexed {
    base_offset: u64,
    next_offset: u64,
    leader_epoch: i32,
    timestamp_max: i64,
}

impl Indexed {
    #[inline]
    pub(super) fn of(batch: &Batch<'_>) -> Self {
        Self {
            base_offset: batch.base_offset(),
            next_offset: batch.next_offset(),
            leader_epoch: batch.leader_epoch(),
            timestamp_max: batch.max_timestamp_ms(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct FooterBuilder {
    directory: Vec<u8>,
    /// The partition whose batches go by.
    current: Option<DirectoryEntry>,
    leader_epoch: i32,
    offsets: offset_index::Builder,
    times: time_index::Builder,
    epochs: epoch_index::Builder,
}

impl FooterBuilder {
    /// Whether no batch was added yet.
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_none()
    }

    /// Tells of the batch that starts at `position` of the file.
    #[inline]
    pub(super) fn add(&mut self, partition: PartitionId, batch: Indexed, position: u64) -> Result<(), Disorder> {
        let Indexed { base_offset, next_offset, leader_epoch, timestamp_max } = batch;
        if self.current.as_ref().is_none_or(|current| current.partition < partition) {
            self.start_partition(partition, base_offset, position);
        }
        let current = self.current.as_mut().expect("a partition was started");
        let ascends = current.partition == partition && current.next_offset <= base_offset && base_offset < next_offset;
        if !ascends || self.epochs.add(leader_epoch, base_offset).is_err() {
            return Err(Disorder {
                found: (partition, base_offset, leader_epoch),
                behind: (current.partition, current.next_offset, self.leader_epoch),
            });
        }
        self.leader_epoch = leader_epoch;
        let starts_interval = self.offsets.add(base_offset, position);
        self.times.add(timestamp_max, starts_interval);
        current.next_offset = next_offset;
        current.timestamp_max = current.timestamp_max.max(timestamp_max);
        Ok(())
    }

    /// The footer at `position`, behind `batch_bytes` of batches and, where `key_tables` names some, their tables.
    ///
    /// # Panics
    /// If no batch was added: there is no empty segment.
    pub(super) fn finish(
        mut self,
        identity: &Identity,
        batch_bytes: u64,
        position: u64,
        checksums: &[u8],
        key_tables: &[u8],
    ) -> Footer {
        self.current.expect("a segment holds at least one batch").encode(&mut self.directory);
        let required = |kind, bytes| (kind as u16, true, bytes);
        let mut sections = vec![
            required(SectionKind::Directory, &self.directory[..]),
            required(SectionKind::OffsetIndex, self.offsets.bytes()),
            required(SectionKind::TimeIndex, self.times.bytes()),
            required(SectionKind::EpochIndex, self.epochs.bytes()),
            required(SectionKind::BlockChecksums, checksums),
        ];
        if !key_tables.is_empty() {
            sections.push((SectionKind::KeyIndex as u16, false, key_tables));
        }
        let bytes = encode_footer(identity, position, batch_bytes, &sections);
        // What every reader will check is checked once before it is written, too.
        Footer::parse(bytes, position).expect("a footer just built is a sound one")
    }

    fn start_partition(&mut self, partition: PartitionId, base_offset: u64, position: u64) {
        if let Some(finished) = self.current {
            finished.encode(&mut self.directory);
        }
        self.current = Some(DirectoryEntry {
            partition,
            base_offset,
            next_offset: base_offset,
            position,
            timestamp_max: i64::MIN,
            first_interval: self.offsets.len() as u32,
            first_epoch: self.epochs.len() as u32,
        });
        self.offsets.start_partition();
        self.times.start_partition();
        self.epochs.start_partition();
    }
}
