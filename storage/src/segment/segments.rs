//! The segments of one log, opened on demand.
//!
//! A segment that nobody reads costs nothing: file and footer are opened by the first read and kept in a small cache,
//! least recently used out first. Readers of a segment that is being opened wait for that one opening. What they read goes
//! through the `block_cache`, with which footers share their memory.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    path::{Path, PathBuf},
    rc::Rc,
};

use runtime::{Lock, Runtime};
use rustc_hash::FxHashMap;

use super::{
    SegmentId, SegmentMeta,
    error::SegmentError,
    reader::{Run, SegmentReader},
};
use crate::{
    PartitionId, Writes,
    block_cache::{BlockCache, CacheStats, Reader},
    found::Last,
    index::key_hash::KeyHash,
};

/// Files kept open at once; a process has a thousand by default, and sockets want most of them.
const FILES_MAX: usize = 256;

/// What a segment holds of one partition, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionExtent {
    /// Offset of the first record.
    pub base_offset: u64,
    /// The offset behind the last record.
    pub next_offset: u64,
    /// Bytes of the batches.
    pub bytes: u64,
}

/// See the module. Which segments there are is the manifest's to know: every call brings its [`SegmentMeta`].
pub struct Segments<R: Runtime> {
    rt: R,
    dir: PathBuf,
    log_id: u128,
    cache: Rc<BlockCache<R>>,
    slots: RefCell<FxHashMap<SegmentId, Rc<Slot<R>>>>,
    open_files: Cell<usize>,
    /// Counts uses; no two slots were last used at the same count.
    clock: Cell<u64>,
}

struct Slot<R: Runtime> {
    reader: RefCell<Option<Rc<SegmentReader<R>>>>,
    /// Held while it is being opened.
    opening: Lock,
    last_used: Cell<u64>,
    /// Memory that was taken for it from the cache's share.
    taken_bytes: Cell<usize>,
}

impl<R: Runtime> Segments<R> {
    /// The segments of log `log_id`, whose files are in `dir`. Opens nothing yet. Footers and blocks of `cache_bytes` in
    /// all stay in memory: footers take up to a half, or one that is larger, and blocks what they leave.
    pub fn new(rt: &R, dir: PathBuf, log_id: u128, cache_bytes: usize) -> Self {
        Self::beside(rt, dir, log_id, cache_bytes, Rc::default())
    }

    /// The same, for a log that is written to: while it is, reads are small and few.
    pub fn beside(rt: &R, dir: PathBuf, log_id: u128, cache_bytes: usize, writes: Rc<Writes>) -> Self {
        let (open_files, clock) = (Cell::new(0), Cell::new(0));
        let cache = BlockCache::new(rt, cache_bytes, writes);
        Self { rt: rt.clone(), dir, log_id, cache, slots: RefCell::default(), open_files, clock }
    }

    /// The directory of the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log they belong to.
    pub fn log_id(&self) -> u128 {
        self.log_id
    }

    /// Batches of `partition` from `offsets.start` on, see [`SegmentReader::read`]. A clip is the end of `offsets`.
    ///
    /// # Errors
    /// [`SegmentError`]; so do all of these.
    pub async fn read(
        &self,
        meta: &SegmentMeta,
        partition: PartitionId,
        offsets: Range<u64>,
        bytes_max: usize,
    ) -> Result<Option<Run<R::Frozen>>, SegmentError> {
        self.open(meta).await?.read(partition, offsets, bytes_max).await
    }

    /// The segment that whoever goes on at this offset of a partition has read last, if that is known.
    pub fn last_used(&self, partition: PartitionId, offset: u64) -> Option<SegmentId> {
        self.cache.last_used(partition, offset)
    }

    /// What the first of `segments` that holds anything of `partition` holds of it, each asked for its own offsets; the first
    /// ones start where the reader stands. One that reads on where it stopped is read ahead for, over the end of a segment.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub async fn read_first(
        &self,
        segments: &[(SegmentMeta, Range<u64>)],
        partition: PartitionId,
        bytes_max: usize,
    ) -> Result<Option<Run<R::Frozen>>, SegmentError> {
        let Some((_, offsets)) = segments.first() else { return Ok(None) };
        let mut reader = self.cache.arrive(partition, offsets.start);
        for (number, (meta, offsets)) in segments.iter().enumerate() {
            let file = self.open(meta).await?;
            if let Some((run, rest)) = file.read_for(&mut reader, partition, offsets.clone(), bytes_max).await? {
                if self.cache.read_ahead(&file, rest.start, rest.end, &mut reader) {
                    let left = rest.end - rest.start;
                    self.read_ahead_next(&segments[number + 1..], partition, left, &mut reader).await;
                }
                self.cache.leave(reader, run.next_offset, run.bytes);
                return Ok(Some(run));
            }
        }
        Ok(None)
    }

    /// Reads ahead in the first of `segments` that holds anything of `partition`, which a reader comes to behind so many
    /// bytes. What cannot be read now is for the read to tell that wants it.
    async fn read_ahead_next(
        &self,
        segments: &[(SegmentMeta, Range<u64>)],
        partition: PartitionId,
        bytes_before: u64,
        reader: &mut Reader,
    ) {
        for (meta, offsets) in segments {
            let Ok(file) = self.open(meta).await else { return };
            let span = file.footer().find(partition).map_or(0..0, |holding| holding.span(offsets));
            if !span.is_empty() {
                return self.cache.read_ahead_next(&file, span, bytes_before, reader);
            }
        }
    }

    /// Offset and timestamp of the first record of `partition` in `offsets` at or after a time, see
    /// [`SegmentReader::first_at_or_after_timestamp`].
    ///
    /// # Errors
    /// See [`Self::read`].
    pub async fn first_at_or_after_timestamp(
        &self,
        meta: &SegmentMeta,
        partition: PartitionId,
        offsets: Range<u64>,
        timestamp_ms: i64,
    ) -> Result<Option<(u64, i64)>, SegmentError> {
        if timestamp_ms > meta.timestamp_max {
            return Ok(None);
        }
        self.open(meta).await?.first_at_or_after_timestamp(partition, offsets, timestamp_ms).await
    }

    /// The last leader epoch of `partition` at or below `leader_epoch` and the offset at which it ends in this segment,
    /// when nothing from `end_offset` on counts; `None` when every epoch here is a later one.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub async fn epoch_end(
        &self,
        meta: &SegmentMeta,
        partition: PartitionId,
        leader_epoch: i32,
        end_offset: u64,
    ) -> Result<Option<(i32, u64)>, SegmentError> {
        let reader = self.open(meta).await?;
        Ok(reader.footer().find(partition).and_then(|holding| holding.epoch_end(leader_epoch, end_offset)))
    }

    /// The last record of a key in this segment, see [`SegmentReader::last_of_key`].
    ///
    /// # Errors
    /// See [`Self::read`].
    pub async fn last_of_key(
        &self,
        meta: &SegmentMeta,
        partition: PartitionId,
        offsets: Range<u64>,
        key: &[u8],
        hash: KeyHash,
    ) -> Result<Option<Last>, SegmentError> {
        let reader = self.open(meta).await?;
        let resident_bytes = reader.resident_bytes();
        let last = reader.last_of_key(partition, offsets, key, hash).await;
        if reader.resident_bytes() > resident_bytes {
            self.account(meta.id);
        }
        last
    }

    /// What the segment holds of `partition`.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub async fn extent_of(
        &self,
        meta: &SegmentMeta,
        partition: PartitionId,
    ) -> Result<Option<PartitionExtent>, SegmentError> {
        let reader = self.open(meta).await?;
        Ok(reader.footer().find(partition).map(|holding| PartitionExtent {
            base_offset: holding.entry.base_offset,
            next_offset: holding.entry.next_offset,
            bytes: holding.bytes(),
        }))
    }

    /// The open segment; opens it if it is not.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub async fn open(&self, meta: &SegmentMeta) -> Result<Rc<SegmentReader<R>>, SegmentError> {
        let slot = self.slot(meta.id);
        if let Some(reader) = slot.reader() {
            return Ok(reader);
        }
        let _alone = slot.opening.lock().await;
        if let Some(reader) = slot.reader() {
            return Ok(reader);
        }
        let reader = Rc::new(SegmentReader::open_cached(&self.rt, &self.dir, self.log_id, meta, &self.cache).await?);
        // Unless it was forgotten meanwhile.
        if self.slots.borrow().get(&meta.id).is_some_and(|current| Rc::ptr_eq(current, &slot)) {
            *slot.reader.borrow_mut() = Some(Rc::clone(&reader));
            self.open_files.set(self.open_files.get() + 1);
            self.account(meta.id);
        }
        Ok(reader)
    }

    /// Closes a segment, because its file is to be removed. Reads under way end undisturbed.
    pub fn forget(&self, id: SegmentId) {
        self.close_one(id);
        self.cache.forget(id);
    }

    /// Reads nothing ahead any more, and waits until no read is under way.
    pub async fn close(&self) {
        self.cache.close().await;
    }

    /// Bytes of the footers in memory, and of what lookups by key keep beside them.
    pub fn footer_bytes(&self) -> usize {
        self.cache.footer_bytes()
    }

    /// Open files.
    pub fn open_files(&self) -> usize {
        self.open_files.get()
    }

    /// What the block cache did, and holds.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    fn slot(&self, id: SegmentId) -> Rc<Slot<R>> {
        self.clock.set(self.clock.get() + 1);
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry(id).or_default();
        slot.last_used.set(self.clock.get());
        Rc::clone(slot)
    }

    /// Takes memory for what an open segment keeps now, and closes others if that is too much.
    fn account(&self, id: SegmentId) {
        if let Some(slot) = self.slots.borrow().get(&id) {
            let bytes = slot.resident_bytes();
            self.cache.give_back_of_footer(slot.taken_bytes.replace(bytes));
            self.cache.take_for_footer(bytes);
        }
        self.evict(id);
    }

    /// Closes what was not used for longest until the limits hold or only `used` is left.
    fn evict(&self, used: SegmentId) {
        while self.cache.footers_press() || self.open_files() > FILES_MAX {
            let slots = self.slots.borrow();
            let oldest = slots
                .iter()
                .filter(|(id, slot)| **id != used && slot.is_open())
                .min_by_key(|(_, slot)| slot.last_used.get())
                .map(|(id, _)| *id);
            let Some(oldest) = oldest else { return };
            drop(slots);
            self.close_one(oldest);
        }
    }

    fn close_one(&self, id: SegmentId) {
        let slot = self.slots.borrow_mut().remove(&id);
        if let Some(slot) = slot.filter(|slot| slot.is_open()) {
            self.open_files.set(self.open_files.get() - 1);
            self.cache.give_back_of_footer(slot.taken_bytes.get());
        }
    }
}

impl<R: Runtime> Slot<R> {
    fn reader(&self) -> Option<Rc<SegmentReader<R>>> {
        self.reader.borrow().clone()
    }

    fn is_open(&self) -> bool {
        self.reader.borrow().is_some()
    }

    fn resident_bytes(&self) -> usize {
        self.reader.borrow().as_ref().map_or(0, |reader| reader.resident_bytes())
    }
}

impl<R: Runtime> Default for Slot<R> {
    fn default() -> Self {
        Self {
            reader: RefCell::default(),
            opening: Lock::default(),
            last_used: Cell::default(),
            taken_bytes: Cell::default(),
        }
    }
}
