//! A segment's last record of a key: the filter turns strangers away, the fences name a page, the page an offset.
//!
//! Filter and fences are read with the first lookup of their partition and stay as long as the segment is open, under the
//! footers' limit. A segment without a table for the partition is walked from front to back: it was written before the
//! partition was compacted, or has more keys than there was room for.

use std::{ops::Range, rc::Rc};

use runtime::Runtime;
use wire::record::Batches;

use super::{error::SegmentError, reader::SegmentReader};
use crate::{
    PartitionId,
    found::Last,
    index::{
        bloom_filter::BloomFilter,
        key_hash::KeyHash,
        key_index::{self, Table},
    },
};

/// Bytes read at a time where all of something is read.
const READ_BYTES: usize = 512 << 10;

/// Fences and filter of one partition.
pub(super) struct ResidentKeys {
    table: Table,
    bytes: Box<[u8]>,
}

impl ResidentKeys {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn fences(&self) -> &[u8] {
        &self.bytes[..self.table.fences_bytes() as usize]
    }

    fn filter(&self) -> BloomFilter<'_> {
        BloomFilter::new(&self.bytes[self.table.fences_bytes() as usize..])
    }
}

impl<R: Runtime> SegmentReader<R> {
    /// The last record of `key`, whose number in this log is `hash`, among the batches of `partition` that count in
    /// `offsets`, as for [`Self::read`].
    ///
    /// # Errors
    /// [`SegmentError`].
    pub async fn last_of_key(
        self: &Rc<Self>,
        partition: PartitionId,
        offsets: Range<u64>,
        key: &[u8],
        hash: KeyHash,
    ) -> Result<Option<Last>, SegmentError> {
        let Some(holding) = self.footer().find(partition) else { return Ok(None) };
        if offsets.is_empty() || holding.entry.next_offset <= offsets.start || offsets.end <= holding.entry.base_offset
        {
            return Ok(None);
        }
        let Some(table) = self.footer().key_table(partition) else {
            return self.walk_for_key(partition, offsets, key).await;
        };
        let found = match self.offsets_of_hash(partition, table, hash).await {
            // What the table says, the batches say too.
            Err(error) if error.is_damage() => return self.walk_for_key(partition, offsets, key).await,
            found => found?,
        };
        for offset in found {
            if offset < offsets.start {
                return Ok(None);
            }
            match self.read(partition, offset..offsets.end, 1).await? {
                Some(run) if run.base_offset <= offset => {
                    if let Some(last) = self.last_in_run(&run.joined(), run.base_offset, key, offset)? {
                        return Ok(Some(last));
                    }
                }
                // Void: the partition was truncated there, and an earlier record of the key may count again.
                _ => return self.walk_for_key(partition, offsets, key).await,
            }
        }
        Ok(None)
    }

    /// Offsets of the entries of a hash, latest first: one, unless two keys have the same.
    async fn offsets_of_hash(
        &self,
        partition: PartitionId,
        table: Table,
        hash: KeyHash,
    ) -> Result<Vec<u64>, SegmentError> {
        let resident = self.resident_keys(partition, table).await?;
        if !resident.filter().may_hold(hash) {
            return Ok(Vec::new());
        }
        let pages = key_index::pages_of(resident.fences(), hash.high);
        let mut offsets = Vec::new();
        for page in pages {
            let entries = self.verified(resident.table.pages(&(page..page + 1))).await?;
            offsets.extend(key_index::offsets_of(&entries, hash.high));
        }
        offsets.sort_unstable_by(|a, b| b.cmp(a));
        Ok(offsets)
    }

    async fn walk_for_key(
        self: &Rc<Self>,
        partition: PartitionId,
        mut offsets: Range<u64>,
        key: &[u8],
    ) -> Result<Option<Last>, SegmentError> {
        let mut last = None;
        let offset_min = offsets.start;
        while let Some(run) = self.read(partition, offsets.clone(), READ_BYTES).await? {
            last = self.last_in_run(&run.joined(), run.base_offset, key, offset_min)?.or(last);
            offsets.start = run.next_offset;
        }
        Ok(last)
    }

    /// What a run of whole batches says last of `key` from `offset_min` on.
    fn last_in_run(
        &self,
        run: &[u8],
        base_offset: u64,
        key: &[u8],
        offset_min: u64,
    ) -> Result<Option<Last>, SegmentError> {
        let mut last = None;
        for batch in Batches::new(run) {
            let found = batch.and_then(|batch| Last::in_batch(&batch, key, offset_min));
            let found = found.map_err(|source| SegmentError::batch(self.path(), base_offset, source))?;
            last = found.or(last);
        }
        Ok(last)
    }

    async fn resident_keys(&self, partition: PartitionId, table: Table) -> Result<Rc<ResidentKeys>, SegmentError> {
        if let Some(resident) = self.known_keys(partition) {
            return Ok(resident);
        }
        let Range { mut start, end } = table.resident();
        let mut bytes = Vec::with_capacity((end - start) as usize);
        while start < end {
            let part_end = end.min(start + READ_BYTES as u64);
            bytes.extend_from_slice(&self.verified(start..part_end).await?);
            start = part_end;
        }
        let resident = Rc::new(ResidentKeys { table, bytes: bytes.into_boxed_slice() });
        self.keep_keys(partition, &resident);
        Ok(resident)
    }
}
