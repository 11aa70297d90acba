//! The last record of a key: memtables newest to oldest, then segments newest to oldest.
//!
//! Memtables learn keys only when they are asked for one, and go on from where they stopped: appends pay nothing for it,
//! and neither do partitions that nobody asks.

use std::ops::Range;

use runtime::{Runtime, sabotage::planted};
use wire::record::Batch;

use crate::{
    AppendError,
    error::ReadError,
    found::{Found, Last},
    index::{
        key_hash::{KeyHash, KeyHasher},
        time_index::DECOMPRESSED_BYTES_MAX,
    },
    offset::Offsets,
    partition::Partition,
    segment::{SegmentError, SegmentMeta},
};

/// Records whose keys are learned before others get a turn: about a tenth of a millisecond.
const RECORDS_PER_TURN: usize = 1_000;

impl<R: Runtime> Partition<R> {
    /// The last record of `key` among those that consumers may see; `None` if there is none, or it is a tombstone. Quick
    /// where the partition is compacted; otherwise it walks through what is not in memory.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Found>, ReadError> {
        let hasher = KeyHasher::new(self.log.id);
        let Offsets { log_start, .. } = self.check_readable(self.offsets().log_start)?;
        let offsets = log_start..self.readable_end();
        if let Some(last) = self.last_in_memory(&offsets, key, &hasher).await
            && !planted("look up segments only")
        {
            return Ok(last.record());
        }
        let hash = hasher.hash(key);
        loop {
            let segments = self.live_segments(offsets.clone());
            let last = self.last_in_segments(&segments, key, hash).await;
            let is_other = || segments != self.live_segments(offsets.clone());
            match last {
                // A flush or a merge meanwhile: what is looked for may be in a segment that was not looked into.
                Ok(None) if is_other() => {}
                Err(error) if error.is_missing_file() && is_other() => {}
                last => return Ok(last?.and_then(Last::record)),
            }
        }
    }

    async fn last_in_memory(&self, offsets: &Range<u64>, key: &[u8], hasher: &KeyHasher) -> Option<Last> {
        let memtables = &self.log.wal.memtables;
        while !memtables.borrow_mut().learn_keys(self.id(), offsets.end, hasher, RECORDS_PER_TURN) {
            self.log.rt.sleep(std::time::Duration::ZERO).await;
        }
        memtables.borrow().last_of_key(self.id(), offsets, key, hasher.hash(key))
    }

    async fn last_in_segments(
        &self,
        segments: &[(SegmentMeta, Range<u64>)],
        key: &[u8],
        hash: KeyHash,
    ) -> Result<Option<Last>, SegmentError> {
        for (segment, offsets) in segments.iter().rev() {
            let last = self.log.segments.last_of_key(segment, self.id(), offsets.clone(), key, hash).await;
            if let Err(error) = &last {
                self.log.note_damage_in(segment.id, error).await;
            }
            if let Some(last) = last? {
                return Ok(Some(last));
            }
        }
        Ok(None)
    }
}

/// Refuses a batch that compaction by key could do nothing with.
pub(crate) fn check_keys(batch: &Batch<'_>) -> Result<(), AppendError> {
    let mut buffer = Vec::new();
    for (index, record) in batch.records_decompressed(DECOMPRESSED_BYTES_MAX, &mut buffer)?.enumerate() {
        if record?.key.is_none() {
            return Err(AppendError::Keyless { index });
        }
    }
    Ok(())
}
