//! Verifies one segment: footer, every block, every batch.

use std::{collections::BTreeSet, ops::Range, path::Path};

use runtime::Runtime;
use wire::record::Batches;

use super::Verified;
use crate::segment::{
    SegmentError, SegmentMeta,
    checksum::BLOCK_BYTES,
    file_name,
    format::{FormatError, HEADER_BYTES},
    reader::SegmentReader,
};

/// Verifies one segment by itself.
pub(crate) async fn verify_segment<R: Runtime>(rt: &R, dir: &Path, log_id: u128, meta: &SegmentMeta) -> Verified {
    let mut verified = Verified::default();
    verify(rt, dir, log_id, meta, &mut verified).await;
    verified
}

/// Verifies the segment that the manifest calls `meta`.
pub(super) async fn verify<R: Runtime>(rt: &R, dir: &Path, log_id: u128, meta: &SegmentMeta, verified: &mut Verified) {
    let path = dir.join(file_name(meta.id));
    verified.files += 1;
    match SegmentReader::open(rt, dir, log_id, meta).await {
        Ok(reader) => {
            verified.segments += 1;
            verified.bytes += meta.bytes;
            let mut check = Check { path: &path, reader, damaged: BTreeSet::new(), verified };
            check.run().await;
        }
        Err(error) => tell(&path, &error, verified),
    }
}

struct Check<'a, R: Runtime> {
    path: &'a Path,
    reader: SegmentReader<R>,
    /// Blocks that were told of.
    damaged: BTreeSet<u64>,
    verified: &'a mut Verified,
}

impl<R: Runtime> Check<'_, R> {
    async fn run(&mut self) {
        let spans: Vec<(u64, Range<u64>, u64)> = {
            let holdings = self.reader.footer().holdings();
            holdings.map(|of| (of.entry.base_offset, of.entry.position..of.end, of.entry.next_offset)).collect()
        };
        let footer_position = self.reader.footer().position();
        let mut batches_end = HEADER_BYTES;
        for (base_offset, span, next_offset) in spans {
            batches_end = span.end;
            self.check_partition(base_offset, span, next_offset).await;
        }
        // What lies behind the last batch: key tables and zeros.
        let mut position = batches_end;
        while position < footer_position {
            let end = self.reader.read_limit(position, usize::MAX).min(footer_position);
            self.read(position..end).await;
            position = end;
        }
        let blocks = footer_position.div_ceil(BLOCK_BYTES as u64);
        self.verified.blocks += blocks - self.damaged.len() as u64;
    }

    async fn check_partition(&mut self, base_offset: u64, span: Range<u64>, next_offset: u64) {
        let (mut position, mut offset) = (span.start, base_offset);
        let mut is_whole = true;
        while position < span.end {
            let limit = self.reader.read_limit(position, usize::MAX);
            let end = self.reader.footer().batch_end(position, limit).min(span.end);
            match self.read(position..end).await {
                Some(bytes) => match check_batches(&bytes, &mut offset) {
                    Ok(count) => self.verified.batches += count,
                    Err((at, problem)) => {
                        self.verified.damage(self.path, Some(position + at as u64), problem);
                        return;
                    }
                },
                None => is_whole = false,
            }
            position = end;
        }
        if is_whole && offset != next_offset {
            let problem = format!("the partition ends at offset {offset}, its directory says {next_offset}");
            self.verified.damage(self.path, Some(span.start), problem);
        }
    }

    /// The bytes of a range, if all its blocks hold.
    async fn read(&mut self, range: Range<u64>) -> Option<R::Frozen> {
        if let Ok(bytes) = self.reader.verified(range.clone()).await {
            return Some(bytes);
        }
        // One by one, to name each that does not hold.
        let block_bytes = BLOCK_BYTES as u64;
        for number in range.start / block_bytes..range.end.div_ceil(block_bytes) {
            let block = (number * block_bytes)..((number + 1) * block_bytes).min(self.reader.footer().position());
            if let Err(error) = self.reader.verified(block).await
                && self.damaged.insert(number)
            {
                tell(self.path, &error, self.verified);
            }
        }
        None
    }
}

/// Checks the batches of a run, the first of which is at `offset` or behind it. Returns how many there are.
fn check_batches(run: &[u8], offset: &mut u64) -> Result<u64, (usize, String)> {
    let (mut at, mut count) = (0, 0);
    for batch in Batches::new(run) {
        let batch = batch.map_err(|error| (at, error.to_string()))?;
        batch.verify_stored().map_err(|error| (at, error.to_string()))?;
        if batch.base_offset() < *offset {
            return Err((at, format!("a batch at offset {}, at least {offset} expected", batch.base_offset())));
        }
        *offset = batch.next_offset();
        at += batch.bytes().len();
        count += 1;
    }
    Ok(count)
}

fn tell(path: &Path, error: &SegmentError, verified: &mut Verified) {
    let position = match error {
        SegmentError::Io { position, .. } | SegmentError::Batch { position, .. } => Some(*position),
        SegmentError::Length { .. } => None,
        SegmentError::Format { source, .. } => position_of(source),
    };
    let problem = match error {
        SegmentError::Io { source, .. } => format!("cannot be read: {source}"),
        SegmentError::Length { expected, found, .. } => format!("{found} bytes long, {expected} expected"),
        SegmentError::Format { source, .. } => source.to_string(),
        SegmentError::Batch { source, .. } => source.to_string(),
    };
    verified.damage(path, position, problem);
}

fn position_of(error: &FormatError) -> Option<u64> {
    match error {
        FormatError::Magic { position, .. }
        | FormatError::Checksum { position, .. }
        | FormatError::Inconsistent { position, .. } => Some(*position),
        _ => None,
    }
}
