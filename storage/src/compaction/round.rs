//! A round of compaction by key, carried out: a merge that reads its inputs twice, first to learn the keys of what is not
//! clean yet, then to copy what counts.
//!
//! What the round reached becomes clean segments; what lies behind, because memory was full or a batch is too young, is
//! copied as it is and stays for the next round. Both are written side by side, in one pass.

use std::path::Path;

use runtime::{Frozen, Runtime};
use wire::record::{Batch, Batches};

use super::{
    by_key::{self, Cleaned, LatestOffsets, Round},
    merge::{
        CLEAN_LEVEL, Cursor, LEVEL, Merge, MergeError, OpenInput, Piece, ROUND_READ_BYTES, ROUND_SEGMENT_BYTES,
        malformed,
    },
};
use crate::{
    PartitionId,
    kept::Kept,
    segment::{SegmentId, SegmentMeta, SegmentWriter},
};

impl<R: Runtime, K> Merge<R, K>
where
    K: Fn(SegmentId, PartitionId) -> Kept,
{
    /// Writes what becomes of `partitions`, one of `rounds` each, into segments of some of these `ids`.
    pub(super) async fn write_rounds(
        &self,
        partitions: &[PartitionId],
        rounds: &[Round],
        dir: &Path,
        ids: &[SegmentId],
    ) -> Result<Vec<SegmentMeta>, MergeError> {
        let last = *partitions.last().expect("an output holds at least one partition");
        let (mut learning, mut copying) = (self.cursors(last), self.cursors(last));
        let mut latest = LatestOffsets::new(self.log_id(), self.options.key_bytes_max);
        let (clean_ids, rest_ids) = ids.split_at(ids.len() / 2);
        let mut outputs = Outputs { clean: Series::new(CLEAN_LEVEL, clean_ids), rest: Series::new(LEVEL, rest_ids) };
        for (&partition, &round) in partitions.iter().zip(rounds) {
            let end = self.learn(partition, &round, &mut learning, &mut latest).await?;
            let mut pass = Pass { merge: self, dir, partition, round, end, latest: &mut latest, outputs: &mut outputs };
            pass.run(&mut copying).await?;
        }
        let mut written = outputs.clean.finish().await?;
        written.extend(outputs.rest.finish().await?);
        Ok(written)
    }

    /// Learns the keys of a partition's inputs that are not clean. Answers how far the round goes.
    async fn learn(
        &self,
        partition: PartitionId,
        round: &Round,
        cursors: &mut [Cursor<R>],
        latest: &mut LatestOffsets,
    ) -> Result<u64, MergeError> {
        let is_dirty = |input: &OpenInput<R>| input.level < CLEAN_LEVEL;
        let holdings = self.inputs.iter().filter(|input| is_dirty(input));
        let holdings = holdings.filter_map(|input| input.reader.footer().find(partition));
        latest.restart(holdings.map(|holding| holding.entry.next_offset - holding.entry.base_offset).sum());
        for (input, cursor) in self.inputs.iter().zip(cursors).filter(|(input, _)| is_dirty(input)) {
            cursor.start(partition, (self.keep)(input.id, partition));
            while let Some(piece) = cursor.next(self.options.read_bytes_max.min(ROUND_READ_BYTES)).await? {
                let mut position = piece.position;
                for batch in Batches::new(&piece.bytes) {
                    let batch = batch.map_err(|source| malformed(input, position, source))?;
                    position += batch.bytes().len() as u64;
                    let is_beyond =
                        batch.next_offset() > round.stable_end || batch.max_timestamp_ms() > round.timestamp_max;
                    if is_beyond || latest.is_full() {
                        return Ok(batch.base_offset());
                    }
                    latest.add(&batch);
                }
            }
        }
        Ok(u64::MAX)
    }
}

/// The second pass over one partition.
struct Pass<'a, 'ids, R: Runtime, K> {
    merge: &'a Merge<R, K>,
    dir: &'a Path,
    partition: PartitionId,
    round: Round,
    /// Where the round ends.
    end: u64,
    latest: &'a mut LatestOffsets,
    outputs: &'a mut Outputs<'ids, R>,
}

impl<R: Runtime, K> Pass<'_, '_, R, K>
where
    K: Fn(SegmentId, PartitionId) -> Kept,
{
    async fn run(&mut self, cursors: &mut [Cursor<R>]) -> Result<(), MergeError> {
        let (merge, partition) = (self.merge, self.partition);
        let mut merged = 0;
        // The last batch keeps its place, so that reading up to it gets on; which one that is shows only behind it.
        let mut held: Option<(&OpenInput<R>, Piece<R::Frozen>)> = None;
        for (input, cursor) in merge.inputs.iter().zip(cursors) {
            cursor.start(partition, (merge.keep)(input.id, partition));
            while let Some(piece) = cursor.next(merge.options.read_bytes_max.min(ROUND_READ_BYTES)).await? {
                let mut at = 0;
                for batch in Batches::new(&piece.bytes) {
                    let position = piece.position + at as u64;
                    let batch = batch.map_err(|source| malformed(input, position, source))?;
                    if batch.base_offset() < merged {
                        let (segment, found) = (input.id, batch.base_offset());
                        return Err(MergeError::Overlap { segment, partition, found, merged });
                    }
                    merged = batch.next_offset();
                    let range = at..at + batch.bytes().len();
                    at = range.end;
                    let batch = Piece { bytes: piece.bytes.slice(range), position };
                    if let Some((input, batch)) = held.replace((input, batch)) {
                        self.batch(input, &batch, false).await?;
                    }
                }
            }
        }
        match held {
            Some((input, batch)) => self.batch(input, &batch, true).await,
            None => Ok(()),
        }
    }

    async fn batch(
        &mut self,
        input: &OpenInput<R>,
        Piece { bytes, position }: &Piece<R::Frozen>,
        is_last: bool,
    ) -> Result<(), MergeError> {
        let batch = Batch::parse_one(bytes).map_err(|source| malformed(input, *position, source))?;
        let (merge, dir, partition) = (self.merge, self.dir, self.partition);
        if batch.base_offset() >= self.end {
            return self.outputs.rest.push(merge, dir, partition, bytes).await;
        }
        let keeps_place = is_last || merge.keyed.is_last_of_producer(partition, batch.header());
        let cleaned = by_key::clean(&batch, self.latest, &self.round, keeps_place);
        match cleaned.map_err(|source| malformed(input, *position, source))? {
            Cleaned::Whole => self.outputs.clean.push(merge, dir, partition, bytes).await,
            Cleaned::Part(bytes) => self.outputs.clean.push(merge, dir, partition, &bytes).await,
            Cleaned::Nothing => Ok(()),
        }
    }
}

/// What a round writes, side by side.
struct Outputs<'a, R: Runtime> {
    clean: Series<'a, R>,
    rest: Series<'a, R>,
}

/// Segments of one level, one after the other.
struct Series<'a, R: Runtime> {
    level: u8,
    /// Those not begun yet.
    ids: &'a [SegmentId],
    writer: Option<SegmentWriter<R>>,
    /// Whose batches the writer indexes by key.
    indexed: Option<PartitionId>,
    written: Vec<SegmentMeta>,
}

impl<'a, R: Runtime> Series<'a, R> {
    fn new(level: u8, ids: &'a [SegmentId]) -> Self {
        Self { level, ids, writer: None, indexed: None, written: Vec::new() }
    }

    async fn push<K>(
        &mut self,
        merge: &Merge<R, K>,
        dir: &Path,
        partition: PartitionId,
        batches: &[u8],
    ) -> Result<(), MergeError>
    where
        K: Fn(SegmentId, PartitionId) -> Kept,
    {
        let is_full = |writer: &SegmentWriter<R>| writer.batch_bytes() >= ROUND_SEGMENT_BYTES;
        if !self.ids.is_empty()
            && let Some(full) = self.writer.take_if(|writer| is_full(writer))
        {
            self.written.push(full.finish().await?);
        }
        if self.writer.is_none() {
            let (&id, behind) = self.ids.split_first().expect("there is an id for each segment's bytes, and one more");
            self.writer = Some(merge.create(dir, id, self.level).await?);
            (self.ids, self.indexed) = (behind, None);
        }
        let writer = self.writer.as_mut().expect("just created");
        if self.indexed != Some(partition) {
            writer.index_keys(partition).await;
            self.indexed = Some(partition);
        }
        Ok(merge.push(writer, partition, merge.keyed.compression(partition), batches).await?)
    }

    async fn finish(mut self) -> Result<Vec<SegmentMeta>, MergeError> {
        if let Some(writer) = self.writer {
            self.written.push(writer.finish().await?);
        }
        Ok(self.written)
    }
}
