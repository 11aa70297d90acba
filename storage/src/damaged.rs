//! Which partitions damage in segments touches, as far as reads and merges met it: for whoever asks, until it is given up.
//!
//! A partition goes on with such damage: only reads of what is damaged are refused. So nothing of this is kept over a start;
//! the next read or merge meets it again.

use runtime::Runtime;

use crate::{
    PartitionId,
    log::Shared,
    partition::Partition,
    segment::{
        Extent, SegmentError, SegmentId, SegmentMeta, checksum::BLOCK_BYTES, footer::Holding, format::FormatError,
    },
};

impl<R: Runtime> Partition<R> {
    /// The first offset at which damage in a segment was met since the log was opened, as long as the partition has it:
    /// reads of it are refused, all else goes on.
    pub fn damaged_from(&self) -> Option<u64> {
        let damaged = self.log.damaged.borrow();
        damaged.get(&self.id()).copied().filter(|&from| from >= self.log_start())
    }
}

impl<R: Runtime> Shared<R> {
    /// A read of a partition failed at `offset`.
    pub(crate) fn note_damage(&self, partition: PartitionId, offset: u64, error: &SegmentError) {
        if !error.is_damage() {
            return;
        }
        let mut damaged = self.damaged.borrow_mut();
        let known = damaged.get(&partition).copied();
        if known.is_none() {
            tracing::error!(
                "partition {partition} is damaged at offset {offset}, which is refused to readers: {error}"
            );
        }
        damaged.insert(partition, known.map_or(offset, |known| known.min(offset)));
    }

    /// A segment could not be read: notes whom that touches.
    pub(crate) async fn note_damage_in(&self, segment: SegmentId, error: &SegmentError) {
        let meta = self.manifest_state().segments.iter().find(|live| live.id == segment).cloned();
        let Some(meta) = meta.filter(|_| error.is_damage()) else { return };
        match (self.segments.open(&meta).await, damaged_bytes(error)) {
            (Ok(reader), Some((position, bytes))) => {
                let end = position.saturating_add(bytes);
                for holding in reader.footer().holdings() {
                    if holding.entry.position < end && position < holding.end {
                        self.note_touched(&meta, &holding, position, error);
                    }
                }
            }
            // It opens, and nobody knows where it is damaged: the reads will tell.
            (Ok(_), None) => {}
            (Err(_), _) => self.note_all(&meta, error),
        }
    }

    fn note_touched(&self, meta: &SegmentMeta, holding: &Holding<'_>, position: u64, error: &SegmentError) {
        let partition = holding.entry.partition;
        let number = holding.offsets.behind_position(position).saturating_sub(1);
        let (start, end) = (holding.interval_start(number).0, holding.interval_start(number + 1).0);
        let counts = self.kept(meta.id, partition).stretches().find(|kept| kept.start < end && start < kept.end);
        if let Some(kept) = counts {
            self.note_damage(partition, start.max(kept.start), error);
        }
    }

    /// Nobody knows what it holds of whom.
    fn note_all(&self, meta: &SegmentMeta, error: &SegmentError) {
        let may_hold =
            self.partitions.borrow().keys().copied().filter(|&id| meta.extent.may_hold(id)).collect::<Vec<_>>();
        for partition in may_hold {
            let kept = self.kept(meta.id, partition);
            let Some(kept) = kept.stretches().find(|kept| !kept.is_empty()) else { continue };
            let from = match meta.extent {
                Extent::Own { base_offset, .. } => kept.start.max(base_offset),
                Extent::Shared { .. } => kept.start,
            };
            self.note_damage(partition, from, error);
        }
    }
}

/// Where a segment is damaged, if that is known: position and length.
fn damaged_bytes(error: &SegmentError) -> Option<(u64, u64)> {
    match error {
        SegmentError::Io { position, bytes, .. } => Some((*position, *bytes)),
        SegmentError::Format { source: FormatError::Checksum { position, .. }, .. } => {
            Some((*position, BLOCK_BYTES as u64))
        }
        SegmentError::Batch { position, .. } => Some((*position, 1)),
        SegmentError::Length { .. } | SegmentError::Format { .. } => None,
    }
}
