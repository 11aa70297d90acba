//! The segments of one log, opened on demand.
//!
//! A segment that nobody reads costs nothing: file and footer are opened by the first read and kept in a small cache,
//! least recently used out first. Readers of a segment that is being opened wait for that one opening.

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
use crate::{PartitionId, found::Last, index::key_hash::KeyHash};

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
    footer_bytes_max: usize,
    slots: RefCell<FxHashMap<SegmentId, Rc<Slot<R>>>>,
    /// Counts uses; no two slots were last used at the same count.
    clock: Cell<u64>,
}

struct Slot<R: Runtime> {
    reader: RefCell<Option<Rc<SegmentReader<R>>>>,
    /// Held while it is being opened.
    opening: Lock,
    last_used: Cell<u64>,
}

impl<R: Runtime> Segments<R> {
    /// The segments of log `log_id`, whose files are in `dir`. Opens nothing yet. Footers of `footer_bytes_max` bytes
    /// stay in memory, or one that is larger.
    pub fn new(rt: &R, dir: PathBuf, log_id: u128, footer_bytes_max: usize) -> Self {
        Self { rt: rt.clone(), dir, log_id, footer_bytes_max, slots: RefCell::default(), clock: Cell::new(0) }
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
            self.evict(meta.id);
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
        let reader = Rc::new(SegmentReader::open(&self.rt, &self.dir, self.log_id, meta).await?);
        *slot.reader.borrow_mut() = Some(Rc::clone(&reader));
        self.evict(meta.id);
        Ok(reader)
    }

    /// Closes a segment, because its file is to be removed. Reads under way end undisturbed.
    pub fn forget(&self, id: SegmentId) {
        self.slots.borrow_mut().remove(&id);
    }

    /// Bytes of the footers in memory, and of what lookups by key keep beside them.
    pub fn footer_bytes(&self) -> usize {
        self.slots.borrow().values().map(|slot| slot.footer_bytes()).sum()
    }

    /// Open files.
    pub fn open_files(&self) -> usize {
        self.slots.borrow().values().filter(|slot| slot.is_open()).count()
    }

    fn slot(&self, id: SegmentId) -> Rc<Slot<R>> {
        self.clock.set(self.clock.get() + 1);
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry(id).or_default();
        slot.last_used.set(self.clock.get());
        Rc::clone(slot)
    }

    /// Closes what was not used for longest until the limits hold or only `used` is left.
    fn evict(&self, used: SegmentId) {
        while self.footer_bytes() > self.footer_bytes_max || self.open_files() > FILES_MAX {
            let mut slots = self.slots.borrow_mut();
            let oldest = slots
                .iter()
                .filter(|(id, slot)| **id != used && slot.is_open())
                .min_by_key(|(_, slot)| slot.last_used.get())
                .map(|(id, _)| *id);
            let Some(oldest) = oldest else { return };
            slots.remove(&oldest);
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

    fn footer_bytes(&self) -> usize {
        self.reader.borrow().as_ref().map_or(0, |reader| reader.resident_bytes())
    }
}

impl<R: Runtime> Default for Slot<R> {
    fn default() -> Self {
        Self { reader: RefCell::default(), opening: Lock::default(), last_used: Cell::default() }
    }
}
