//! Reads one segment: which blocks hold what is asked for, proven before anything of them is given out.
//!
//! The one hard idea: a read ends where a batch ends. The offset index knows ends of batches every few KiB, so the bytes
//! fetched are whole batches at once, and no batch is fetched to learn how long it is. They come out of the block cache in
//! as many pieces as it holds them, without a copy; a batch may lie across two.

use std::{
    borrow::Cow,
    cell::RefCell,
    ops::Range,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use runtime::{Block, File, Frozen, OpenMode, Runtime, sabotage::planted};
use rustc_hash::FxHashMap;
use wire::record::{Batch, BatchError, HEADER_BYTES as BATCH_HEADER_BYTES};

use super::{
    Location, SegmentId, SegmentMeta,
    checksum::BLOCK_BYTES,
    error::SegmentError,
    file_name,
    footer::Footer,
    format::{self, FormatError, HEADER_BYTES, Identity, TRAILER_BYTES, Trailer},
    lookup::ResidentKeys,
    pieces::Pieces,
};
use crate::{
    PartitionId,
    block_cache::{BlockCache, Reader},
    index::time_index::first_record_in_run_at,
};

/// Checksums are taken of this many blocks (a tenth of a millisecond) before others get a turn.
const BLOCKS_PER_TURN: usize = 16;
/// What is read at once where writes are not to wait for it: two of these under way take a disk to its rate, more only make
/// its queue longer.
const STEP_BYTES: u64 = 128 << 10;

/// Whole consecutive batches of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run<F> {
    /// The batches, one behind the other when the slices are put together.
    pub slices: Vec<F>,
    /// Bytes of all slices.
    pub bytes: usize,
    /// Offset of the first record.
    pub base_offset: u64,
    /// The offset behind the last record, at which to go on.
    pub next_offset: u64,
}

impl<F: Frozen> Run<F> {
    /// The batches in one piece.
    pub(super) fn joined(&self) -> Cow<'_, [u8]> {
        joined(&self.slices)
    }
}

/// An open segment, with its footer in memory.
pub struct SegmentReader<R: Runtime> {
    rt: R,
    path: PathBuf,
    file: R::File,
    footer: Footer,
    /// What lookups by key go by, of the partitions that were asked for.
    keys: RefCell<FxHashMap<PartitionId, Rc<ResidentKeys>>>,
    cache: Rc<BlockCache<R>>,
}

impl<R: Runtime> SegmentReader<R> {
    /// Opens the segment `meta` of log `log_id`, whose files are in `dir`, and reads its footer. Nothing else of it stays in
    /// memory: for tools.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub async fn open(rt: &R, dir: &Path, log_id: u128, meta: &SegmentMeta) -> Result<Self, SegmentError> {
        Self::open_cached(rt, dir, log_id, meta, &BlockCache::new(rt, 0, Rc::default())).await
    }

    /// The same, for readers: its blocks will be kept in `cache`.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub(crate) async fn open_cached(
        rt: &R,
        dir: &Path,
        log_id: u128,
        meta: &SegmentMeta,
        cache: &Rc<BlockCache<R>>,
    ) -> Result<Self, SegmentError> {
        let path = dir.join(file_name(meta.id));
        let (file, file_bytes) = open_file(rt, &path).await?;
        if file_bytes != meta.bytes {
            return Err(length(&path, meta.bytes, file_bytes));
        }
        let reader = Self::load(rt, path, file, file_bytes, meta.footer_position, cache).await?;
        let (expected, found) = (Identity { log_id, id: meta.id, level: meta.level }, *reader.footer.identity());
        if expected != found {
            return Err(SegmentError::format(&reader.path)(FormatError::OtherSegment { expected, found }));
        }
        Ok(reader)
    }

    /// Opens a segment file that no manifest told of, going by its last bytes: for tools.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub async fn open_unlisted(rt: &R, path: &Path) -> Result<Self, SegmentError> {
        let (file, file_bytes) = open_file(rt, path).await?;
        let Some(trailer_position) = file_bytes.checked_sub(TRAILER_BYTES as u64).filter(|&at| at >= HEADER_BYTES)
        else {
            return Err(length(path, HEADER_BYTES + TRAILER_BYTES as u64, file_bytes));
        };
        let bytes = read(&file, path, trailer_position..file_bytes).await?;
        let bytes = bytes.first_chunk().expect("exactly the trailer was read");
        let trailer = Trailer::parse(bytes, file_bytes).map_err(SegmentError::format(path))?;
        let (path_buf, cache) = (path.to_path_buf(), BlockCache::new(rt, 0, Rc::default()));
        let reader = Self::load(rt, path_buf, file, file_bytes, trailer.footer_position, &cache).await?;
        let header = read(&reader.file, path, 0..HEADER_BYTES).await?;
        let (expected, found) = (trailer.identity, format::parse_header(&header).map_err(SegmentError::format(path))?);
        if expected != found {
            return Err(SegmentError::format(path)(FormatError::OtherSegment { expected, found }));
        }
        Ok(reader)
    }

    async fn load(
        rt: &R,
        path: PathBuf,
        file: R::File,
        file_bytes: u64,
        footer_position: u64,
        cache: &Rc<BlockCache<R>>,
    ) -> Result<Self, SegmentError> {
        if footer_position >= file_bytes {
            return Err(length(&path, footer_position.saturating_add(TRAILER_BYTES as u64), file_bytes));
        }
        let bytes = read(&file, &path, footer_position..file_bytes).await?;
        // Copied: the block it was read into is larger, and belongs to those who read and write.
        let footer = Footer::parse(Box::from(&bytes[..]), footer_position).map_err(SegmentError::format(&path))?;
        Ok(Self { rt: rt.clone(), path, file, footer, keys: RefCell::default(), cache: Rc::clone(cache) })
    }

    /// What the segment knows of its contents.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of memory it keeps: the footer, and what lookups by key needed so far.
    pub fn resident_bytes(&self) -> usize {
        self.footer.bytes().len() + self.keys.borrow().values().map(|keys| keys.bytes()).sum::<usize>()
    }

    pub(super) fn known_keys(&self, partition: PartitionId) -> Option<Rc<ResidentKeys>> {
        self.keys.borrow().get(&partition).cloned()
    }

    pub(super) fn keep_keys(&self, partition: PartitionId, keys: &Rc<ResidentKeys>) {
        self.keys.borrow_mut().insert(partition, Rc::clone(keys));
    }

    /// Its number.
    pub(crate) fn id(&self) -> SegmentId {
        self.footer.identity().id
    }

    /// What the manifest should say of it.
    pub fn meta(&self) -> SegmentMeta {
        self.footer.meta(Location::Local)
    }

    /// Batches of `partition`, from the one that contains `offsets.start`, or else the first one behind it, up to
    /// `offsets.end`: a batch that reaches beyond that is void as a whole, and so is all behind it. At least one batch,
    /// if there is one, and otherwise no more than `bytes_max` bytes.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub async fn read(
        self: &Rc<Self>,
        partition: PartitionId,
        offsets: Range<u64>,
        bytes_max: usize,
    ) -> Result<Option<Run<R::Frozen>>, SegmentError> {
        let read = self.read_for(&mut Reader::stranger(partition), partition, offsets, bytes_max).await?;
        Ok(read.map(|(run, _)| run))
    }

    /// As [`Self::read`], for someone who may be reading on. Also says at which positions the rest of `offsets` lies.
    pub(crate) async fn read_for(
        self: &Rc<Self>,
        reader: &mut Reader,
        partition: PartitionId,
        offsets: Range<u64>,
        mut bytes_max: usize,
    ) -> Result<Option<(Run<R::Frozen>, Range<u64>)>, SegmentError> {
        let Some(holding) = self.footer.find(partition) else { return Ok(None) };
        let mut span = holding.span(&offsets);
        while !span.is_empty() {
            let limit = span.start.saturating_add(bytes_max as u64);
            let end = self.footer.batch_end(span.start, limit).min(span.end);
            let pieces = match self.cache.read(self, span.start..end, reader).await {
                // What lies in front of damage is sound.
                Err(error) if error.is_damage() && end > self.footer.batch_end(span.start, 0) => {
                    bytes_max = (end - span.start) as usize / 2;
                    continue;
                }
                pieces => pieces?,
            };
            if let Some(cut) = self.cut(&pieces, span.start, &offsets, bytes_max)? {
                let Cut { range, base_offset, next_offset } = cut;
                let rest = span.start + range.end as u64..span.end;
                let (bytes, slices) = (range.len(), Pieces::new(&pieces).slices(range));
                return Ok(Some((Run { slices, bytes, base_offset, next_offset }, rest)));
            }
            span.start = end;
        }
        Ok(None)
    }

    /// Offset and timestamp of the first record of `partition` in `offsets` at or after `timestamp_ms`; of a batch that does
    /// not decompress as [`crate::index::first_record_at`] says.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub async fn first_at_or_after_timestamp(
        self: &Rc<Self>,
        partition: PartitionId,
        offsets: Range<u64>,
        timestamp_ms: i64,
    ) -> Result<Option<(u64, i64)>, SegmentError> {
        let Some(holding) = self.footer.find(partition) else { return Ok(None) };
        let Some(interval) = holding.times.first_reaching(timestamp_ms) else { return Ok(None) };
        let mut span = holding.span(&offsets);
        span.start = span.start.max(holding.offsets.entry(interval).position);
        let mut reader = Reader::stranger(partition);
        while !span.is_empty() {
            let end = self.footer.batch_end(span.start, self.read_limit(span.start, BLOCK_BYTES)).min(span.end);
            let pieces = self.cache.read(self, span.start..end, &mut reader).await?;
            if let Some(cut) = self.cut(&pieces, span.start, &offsets, usize::MAX)? {
                let position = span.start + cut.range.start as u64;
                let slices = Pieces::new(&pieces).slices(cut.range);
                let found = first_record_in_run_at(&joined(&slices), timestamp_ms, offsets.start);
                let found = found.map_err(|source| SegmentError::batch(&self.path, position, source))?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            span.start = end;
        }
        Ok(None)
    }

    /// The bytes of these blocks, the last of which may be short.
    pub(crate) fn range_of(&self, blocks: &Range<u64>) -> Range<u64> {
        let block_bytes = BLOCK_BYTES as u64;
        blocks.start * block_bytes..(blocks.end * block_bytes).min(self.footer.position())
    }

    /// The bytes at `range` of the file, proven by the checksums of the blocks they lie in, past the block cache.
    pub(crate) async fn verified(&self, range: Range<u64>) -> Result<R::Frozen, SegmentError> {
        let blocks = self.whole_blocks(&range);
        let bytes = read(&self.file, &self.path, blocks.clone()).await?;
        self.prove(blocks.start, &bytes).await?;
        Ok(bytes.slice((range.start - blocks.start) as usize..(range.end - blocks.start) as usize))
    }

    /// The same, a small step at a time, so that a write that comes meanwhile waits for no more than one at the disk.
    pub(crate) async fn verified_in_steps(&self, range: Range<u64>) -> Result<R::Frozen, SegmentError> {
        let blocks = self.whole_blocks(&range);
        if blocks.end - blocks.start <= STEP_BYTES {
            return self.verified(range).await;
        }
        let len = (blocks.end - blocks.start) as usize;
        let (mut whole, mut filled) = (self.rt.block(len), 0);
        while filled < len {
            let position = blocks.start + filled as u64;
            let step = read(&self.file, &self.path, position..blocks.end.min(position + STEP_BYTES)).await?;
            self.prove(position, &step).await?;
            whole[filled..filled + step.len()].copy_from_slice(&step);
            filled += step.len();
        }
        let bytes = whole.freeze(len);
        Ok(bytes.slice((range.start - blocks.start) as usize..(range.end - blocks.start) as usize))
    }

    /// Where the blocks begin and end in which these bytes lie.
    fn whole_blocks(&self, range: &Range<u64>) -> Range<u64> {
        let block_bytes = BLOCK_BYTES as u64;
        range.start - range.start % block_bytes..range.end.next_multiple_of(block_bytes).min(self.footer.position())
    }

    /// Proves whole blocks, of which the first starts at `position`.
    async fn prove(&self, position: u64, bytes: &[u8]) -> Result<(), SegmentError> {
        let first_block = position / BLOCK_BYTES as u64;
        for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            if index > 0 && index.is_multiple_of(BLOCKS_PER_TURN) {
                self.rt.sleep(Duration::ZERO).await;
            }
            if planted("trust segments") {
                continue;
            }
            let number = first_block + index as u64;
            self.footer.check_block(number, block).map_err(SegmentError::format(&self.path))?;
        }
        Ok(())
    }

    /// Up to where a read from `position` goes: no further than asked for, and so that the blocks it lies in are together
    /// no more than that either, nor more than one block of memory holds. A small read may still reach into a second one.
    pub(crate) fn read_limit(&self, position: u64, bytes_max: usize) -> u64 {
        let blocks_bytes_max = bytes_max.min(self.rt.block_bytes()).max(2 * BLOCK_BYTES);
        let blocks_start = position - position % BLOCK_BYTES as u64;
        position.saturating_add(bytes_max as u64).min(blocks_start + blocks_bytes_max as u64)
    }

    /// The batches of a run read from `position` that lie in `offsets`.
    pub(crate) fn cut(
        &self,
        run: &[R::Frozen],
        position: u64,
        offsets: &Range<u64>,
        bytes_max: usize,
    ) -> Result<Option<Cut>, SegmentError> {
        cut(Pieces::new(run), offsets, bytes_max)
            .map_err(|(at, source)| SegmentError::batch(&self.path, position + at as u64, source))
    }
}

/// Some whole batches of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Where they lie in it, in bytes.
    pub(crate) range: Range<usize>,
    /// Offset of their first record.
    pub(crate) base_offset: u64,
    /// The offset behind their last record.
    pub(crate) next_offset: u64,
}

/// The batches of `run` from the first that ends behind `offsets.start` to the last that ends at or before
/// `offsets.end`, up to `bytes_max` bytes or one batch. An error comes with the position in the run.
fn cut<F: Frozen>(
    mut run: Pieces<'_, F>,
    offsets: &Range<u64>,
    bytes_max: usize,
) -> Result<Option<Cut>, (usize, BatchError)> {
    let (mut position, bytes) = (0, run.len());
    let mut found: Option<Cut> = None;
    while position < bytes {
        let start = position;
        let truncated = |bytes_needed| (start, BatchError::Truncated { bytes_needed, bytes_found: bytes - start });
        let head = run.array_at(start).ok_or(truncated(BATCH_HEADER_BYTES))?;
        let (header, batch_bytes) = Batch::parse_header(&head).map_err(|source| (start, source))?;
        position += batch_bytes;
        if position > bytes {
            return Err(truncated(batch_bytes));
        }
        // A checksum held over the header, so these are offsets that the log gave out; but a sum may not overflow.
        let next_offset = header.base_offset.saturating_add(u64::from(header.last_offset_delta.cast_unsigned()) + 1);
        if next_offset <= offsets.start {
            continue;
        }
        if next_offset > offsets.end {
            break;
        }
        let cut = found.get_or_insert(Cut { range: start..start, base_offset: header.base_offset, next_offset: 0 });
        if position - cut.range.start > bytes_max && !cut.range.is_empty() {
            break;
        }
        cut.range.end = position;
        cut.next_offset = next_offset;
    }
    Ok(found)
}

/// Slices in one piece: as they lie, if they lie so, and otherwise a copy.
fn joined<F: Frozen>(slices: &[F]) -> Cow<'_, [u8]> {
    match slices {
        [whole] => Cow::Borrowed(whole),
        slices => Cow::Owned(slices.iter().map(|slice| &**slice).collect::<Vec<_>>().concat()),
    }
}

async fn open_file<R: Runtime>(rt: &R, path: &Path) -> Result<(R::File, u64), SegmentError> {
    let file = rt.open(path, OpenMode::Read).await.map_err(SegmentError::io(path, 0, 0))?;
    let file_bytes = file.len().await.map_err(SegmentError::io(path, 0, 0))?;
    Ok((file, file_bytes))
}

async fn read<F: File>(file: &F, path: &Path, range: Range<u64>) -> Result<F::Frozen, SegmentError> {
    let bytes = range.end - range.start;
    file.read(range.start, bytes as usize).await.map_err(SegmentError::io(path, range.start, bytes))
}

fn length(path: &Path, expected: u64, found: u64) -> SegmentError {
    SegmentError::Length { file: path.display().to_string(), expected, found }
}
