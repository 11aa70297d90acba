//! One partition of a log: its offsets, what may be appended to it, and where a reader finds offset N.
//!
//! Appending is synchronous and never waits: it checks the producer's sequence, gives out offsets and copies the batch
//! into the open sync group. Waiting for the sync is the caller's business, for many appends at once.

use std::{
    cell::{Cell, Ref, RefCell},
    ops::Range,
    rc::Rc,
};

use runtime::{
    Notify, Runtime,
    sabotage::{die_at, planted},
};
use thin_vec::ThinVec;
use wire::{
    Durability,
    record::{Batch, BatchHeader, Producer, patch_base_offset, patch_leader_epoch},
};

use crate::{
    PartitionId,
    error::{AppendError, LogFailed, ReadError, TrimError, TruncateError},
    get::check_keys,
    group::{Entry, EntryKind},
    log::Shared,
    manifest::{Edit, EpochStart, add_lost, cut_lost},
    offset::Offsets,
    producer_state::{Producers, Sequence, SequenceError, Verdict},
    segment::{SegmentError, SegmentMeta, reader::Run},
    settings::PartitionSettings,
    synced::{Appended, Lsn},
};

/// So many segments are looked up before any of them is read.
const SEGMENTS_AT_ONCE: usize = 8;
/// A partition remembers at most so many idempotent producers.
pub(crate) const PRODUCERS_MAX: usize = 16_384;
/// A `memory` partition's first reservation, in offsets.
const RESERVATION_MIN: u64 = 4096;
/// Reservations double under load up to this many offsets.
pub(crate) const RESERVATION_MAX: u64 = 1 << 20;

/// What a shard keeps of a partition in memory. What every append touches comes first and lies together: among thousands
/// of partitions, each cache line is a trip to memory.
#[repr(C)]
pub(crate) struct State {
    log_end: Cell<u64>,
    /// How far groups that are on their way take it; of a `durable` partition, on which nothing depends on it, it may lag.
    submitted: Cell<u64>,
    synced: Cell<u64>,
    high_watermark: Cell<u64>,
    /// The sync group that touched it last, and its place in that group's list.
    pub(crate) touched_in: Cell<(Lsn, usize)>,
    log_start: Cell<u64>,
    pub(crate) status: Cell<Status>,
    pub(crate) id: PartitionId,
    /// The latest of `epochs`; `i32::MIN` before the first.
    last_epoch: Cell<i32>,
    durability: Cell<Durability>,
    /// The largest batch that the settings take.
    batch_bytes_max: Cell<u32>,
    /// Whether it is compacted by key.
    compacted: Cell<bool>,
    /// A truncation took batches of `producers` back, and the manifest may still know them.
    pub(crate) producers_cut: Cell<bool>,
    moved: Notify,
    /// Offsets below this one may be seen before they are synced: the reservation is.
    reserved: Cell<u64>,
    /// How far the last reservation asked for reaches, synced or not.
    reservation_end: Cell<u64>,
    reservation_size: Cell<u64>,
    /// What it is kept by; `durability`, `batch_bytes_max` and `compacted` repeat what every append asks for.
    settings: RefCell<Option<Rc<PartitionSettings>>>,
    pub(crate) lost: RefCell<ThinVec<Range<u64>>>,
    pub(crate) producers: RefCell<Producers>,
    /// Where each leader epoch began, as far as recovery and flush need to know.
    epochs: RefCell<Vec<EpochStart>>,
}

/// Whether a partition takes appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It does.
    Serving,
    /// A truncation is not synced yet.
    Truncating,
    /// It is about to live in another log: it is read, and does not change.
    Leaving,
    /// Its log is damaged from this offset on.
    Refused { from: u64 },
    /// It was deleted.
    Gone,
}

impl State {
    pub(crate) fn new(id: PartitionId) -> Self {
        Self {
            log_end: Cell::new(0),
            submitted: Cell::new(0),
            synced: Cell::new(0),
            high_watermark: Cell::new(0),
            touched_in: Cell::new((0, 0)),
            log_start: Cell::new(0),
            status: Cell::new(Status::Serving),
            id,
            last_epoch: Cell::new(i32::MIN),
            durability: Cell::new(Durability::Durable),
            batch_bytes_max: Cell::new(u32::MAX),
            compacted: Cell::new(false),
            moved: Notify::default(),
            reserved: Cell::new(0),
            reservation_end: Cell::new(0),
            reservation_size: Cell::new(RESERVATION_MIN),
            settings: RefCell::default(),
            lost: RefCell::default(),
            producers: RefCell::new(Producers::new(PRODUCERS_MAX)),
            producers_cut: Cell::new(false),
            epochs: RefCell::new(Vec::new()),
        }
    }

    /// Sets what recovery found: everything up to `log_end` is on stable storage. The log may start beyond it, until the
    /// rest of it is replayed.
    pub(crate) fn recovered(&self, log_start: u64, log_end: u64) {
        self.log_start.set(log_start);
        self.replayed_to(log_end);
    }

    pub(crate) fn offsets(&self) -> Offsets {
        Offsets {
            log_start: self.log_start.get(),
            high_watermark: self.high_watermark.get(),
            synced: self.synced.get(),
            log_end: self.log_end.get(),
        }
        .checked()
    }

    /// The offset behind the last one known to survive an unclean stop; `None` on a `durable` partition, where there is
    /// nothing to reserve.
    pub(crate) fn reservation(&self) -> Option<u64> {
        (self.reservation_end.get() > self.log_end.get()).then(|| self.reservation_end.get())
    }

    /// A group that takes it to `next_offset` is on its way to the disk.
    pub(crate) fn submitted_to(&self, next_offset: u64) {
        self.submitted.set(next_offset);
        self.raise_high_watermark();
    }

    /// A group that takes it to `next_offset` is on stable storage.
    pub(crate) fn synced_to(&self, next_offset: u64) {
        self.synced.set(next_offset);
        self.raise_high_watermark();
    }

    /// Offsets below `next_offset` may be seen before they are synced.
    pub(crate) fn reserved_to(&self, next_offset: u64) {
        self.reserved.set(next_offset);
        self.raise_high_watermark();
    }

    pub(crate) fn set_status(&self, status: Status) {
        self.status.set(status);
        self.moved.wake();
    }

    /// Ends the partition at `next_offset`, for good.
    pub(crate) fn cut_to(&self, next_offset: u64) {
        for offset in [&self.submitted, &self.synced, &self.log_end, &self.high_watermark] {
            offset.set(offset.get().min(next_offset));
        }
        let epochs = self.epochs.borrow().iter().filter(|start| start.offset < next_offset).copied().collect();
        self.set_epochs(epochs);
    }

    /// Where each leader epoch began.
    pub(crate) fn epochs(&self) -> Ref<'_, Vec<EpochStart>> {
        self.epochs.borrow()
    }

    pub(crate) fn set_epochs(&self, epochs: Vec<EpochStart>) {
        self.last_epoch.set(epochs.last().map_or(i32::MIN, |last| last.leader_epoch));
        self.epochs.replace(epochs);
    }

    /// Notes that batches from `offset` on are of this epoch.
    pub(crate) fn begin_epoch(&self, leader_epoch: i32, offset: u64) {
        if self.last_epoch.get() < leader_epoch {
            self.last_epoch.set(leader_epoch);
            self.epochs.borrow_mut().push(EpochStart { leader_epoch, offset });
        }
    }

    /// Replay found a batch: it is on stable storage.
    pub(crate) fn replayed_to(&self, next_offset: u64) {
        self.log_end.set(next_offset);
        self.submitted.set(next_offset);
        self.synced.set(next_offset);
        self.high_watermark.set(next_offset);
    }

    /// Where it would start if it were to start at `offset`: not beyond what consumers see. `None` if that is no advance, or
    /// it does not serve.
    pub(crate) fn raise_to(&self, offset: u64) -> Option<u64> {
        let log_start = offset.min(self.high_watermark.get());
        (self.status.get() == Status::Serving && log_start > self.log_start.get()).then_some(log_start)
    }

    /// It starts there from now on, if that is an advance. It reached as far when that was said, whatever damage hides.
    pub(crate) fn raise_log_start(&self, log_start: u64) {
        self.log_start.set(self.log_start.get().max(log_start));
        // Not up to where the manifest has it start: what was appended between the two is replayed next.
        if self.log_end.get() < log_start {
            self.replayed_to(log_start);
        }
    }

    pub(crate) fn log_start(&self) -> u64 {
        self.log_start.get()
    }

    /// Recovery gives up offsets that were handed out and not synced: the log goes on behind them.
    pub(crate) fn lose(&self, offsets: Range<u64>) {
        add_lost(&mut self.lost.borrow_mut(), offsets);
        self.skip_lost();
    }

    /// A truncation took the batches from `next_offset` on away from their producers.
    pub(crate) fn cut_producers(&self, next_offset: u64) {
        self.producers.borrow_mut().truncate(next_offset);
        self.producers_cut.set(!planted("remember cut producers"));
    }

    /// A truncation gives these offsets out again, lost or not.
    pub(crate) fn forget_lost(&self, next_offset: u64) {
        cut_lost(&mut self.lost.borrow_mut(), next_offset);
    }

    /// Recovery goes on at a batch that begins at `base_offset`, if nothing is missing before it but what was deleted, or lost:
    /// of that the manifest knows only from the log start on.
    pub(crate) fn skip_deleted(&self, base_offset: u64) {
        let deleted_end = base_offset.min(self.log_start.get());
        if self.log_end.get() < deleted_end {
            self.replayed_to(deleted_end);
            self.skip_lost();
        }
    }

    /// Recovery goes on behind offsets that it, or one before it, gave up.
    pub(crate) fn skip_lost(&self) {
        let lost = self.lost.borrow();
        let lost_here = lost.iter().find(|lost| lost.contains(&self.log_end.get()));
        if let Some(lost) = lost_here {
            self.replayed_to(lost.end);
            // Their producers repeat what was lost, or go on behind it: both are taken.
            self.producers.borrow_mut().accept_any_sequence();
        }
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability.get()
    }

    /// What it is kept by.
    pub(crate) fn settings(&self) -> PartitionSettings {
        self.settings.borrow().as_deref().copied().unwrap_or_default()
    }

    /// Keeps it by these settings from now on.
    pub(crate) fn configure(&self, settings: Rc<PartitionSettings>) {
        self.durability.set(settings.durability);
        self.batch_bytes_max.set(u32::try_from(settings.batch_bytes_max).unwrap_or(u32::MAX));
        self.compacted.set(settings.cleanup.compact);
        self.settings.replace(Some(settings));
    }

    pub(crate) fn is_compacted(&self) -> bool {
        self.compacted.get()
    }

    /// Its log is damaged from there on.
    pub(crate) fn refused_from(&self) -> Option<u64> {
        match self.status.get() {
            Status::Refused { from } => Some(from),
            _ => None,
        }
    }

    pub(crate) fn log_end(&self) -> u64 {
        self.log_end.get()
    }

    fn raise_high_watermark(&self) {
        let visible = match self.durability() {
            Durability::Durable => self.synced.get(),
            Durability::Memory => self.submitted.get().min(self.reserved.get()).max(self.synced.get()),
        };
        if visible > self.high_watermark.get() {
            self.high_watermark.set(visible);
            self.moved.wake();
        }
    }
}

/// A partition of an open log. Clones are handles to the same one.
pub struct Partition<R: Runtime> {
    pub(crate) log: Rc<Shared<R>>,
    pub(crate) state: Rc<State>,
}

impl<R: Runtime> Clone for Partition<R> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), state: self.state.clone() }
    }
}

/// Whole batches, as read.
#[derive(Clone, Debug)]
pub struct Batches<F> {
    /// Their bytes, in order; concatenated they are whole batches. Empty at the high watermark.
    pub slices: Vec<F>,
    /// Bytes of all slices.
    pub bytes: usize,
    /// Where to read on.
    pub next_offset: u64,
    /// Offsets that were lost, when the read met them: to an unclean stop of a `memory` partition, or to damage. The batches lie
    /// behind.
    pub lost: Option<Range<u64>>,
}

impl<R: Runtime> Partition<R> {
    /// Its number.
    pub fn id(&self) -> PartitionId {
        self.state.id
    }

    /// What an ack of it means.
    pub fn durability(&self) -> Durability {
        self.state.durability()
    }

    /// What it is kept by.
    pub fn settings(&self) -> PartitionSettings {
        self.state.settings()
    }

    /// Keeps it by other settings from now on.
    ///
    /// # Panics
    /// If they change what an ack means: that is fixed for the partition's life.
    pub fn configure(&self, settings: PartitionSettings) {
        assert_eq!(settings.durability, self.durability(), "partition {}: durability is fixed", self.id().0);
        self.state.configure(self.log.settings.share(settings));
        self.log.maintained();
    }

    /// The first offset that recovery could not prove, where the log is damaged: nothing is taken or read from there on.
    pub fn refused_from(&self) -> Option<u64> {
        self.state.refused_from()
    }

    /// Its offsets now.
    pub fn offsets(&self) -> Offsets {
        self.state.offsets()
    }

    /// Its log start offset now.
    #[inline]
    pub fn log_start(&self) -> u64 {
        self.state.log_start.get()
    }

    /// Asks for the memory that an append is going to touch: see [`Runtime::prefetch`].
    #[inline]
    pub fn prefetch(&self) {
        R::prefetch(&*self.state);
    }

    /// Gives `batch` its offsets and copies it into the open sync group. The caller has verified it.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was appended.
    #[inline]
    pub fn append(&self, batch: &Batch<'_>, leader_epoch: i32) -> Result<Appended, AppendError> {
        if self.state.is_compacted() {
            check_keys(batch)?;
        }
        let header = batch.header();
        let bytes = batch.bytes();
        match self.place(header, bytes.len(), leader_epoch)? {
            Place::Duplicate(appended) => Ok(appended),
            Place::At(entry) => {
                let lsn = self.log.wal.push(&self.state, entry, bytes, |bytes| {
                    patch_base_offset(bytes, entry.base_offset);
                    patch_leader_epoch(bytes, leader_epoch);
                });
                Ok(self.appended(header, entry, lsn))
            }
        }
    }

    /// As [`Self::append`], without a copy: the batch was received into a block from [`crate::Log::batch_block`], at
    /// [`crate::group::HEADER_BYTES`], and the block becomes a sync group of its own.
    ///
    /// # Panics
    /// If the block does not hold one whole batch of `batch_bytes` there: the caller verified it.
    pub fn append_block(
        &self,
        mut block: R::Block,
        batch_bytes: usize,
        leader_epoch: i32,
    ) -> Result<Appended, AppendError> {
        let bytes = &mut block[crate::group::HEADER_BYTES..][..batch_bytes];
        let batch = Batch::parse_one(bytes).expect("the caller verified the batch");
        if self.state.is_compacted() {
            check_keys(&batch)?;
        }
        let header = *batch.header();
        match self.place(&header, batch_bytes, leader_epoch)? {
            Place::Duplicate(appended) => Ok(appended),
            Place::At(entry) => {
                patch_base_offset(bytes, entry.base_offset);
                patch_leader_epoch(bytes, leader_epoch);
                let lsn = self.log.wal.push_block(&self.state, entry, block, batch_bytes);
                Ok(self.appended(&header, entry, lsn))
            }
        }
    }

    /// Reads whole batches that consumers may see, from the one that contains `offset` (or the first behind it), up to
    /// `bytes_max` bytes but at least one.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, offset: u64, bytes_max: usize) -> Result<Batches<R::Frozen>, ReadError> {
        let Offsets { log_start, high_watermark, .. } = self.check_readable(offset)?;
        let mut batches = Batches { slices: Vec::new(), bytes: 0, next_offset: offset, lost: None };
        while batches.bytes == 0 && batches.next_offset < high_watermark {
            let from = batches.next_offset;
            if let Some(lost) = self.lost_at(from) {
                let lost_from = batches.lost.take().map_or(lost.start, |before| before.start);
                batches.next_offset = lost.end.max(log_start);
                batches.lost = Some(lost_from..lost.end);
            } else if !self.read_some(&mut batches, bytes_max).await? {
                // Compaction left nothing in front of what is lost.
                let end = self.read_end(from);
                if self.lost_at(end).is_none() {
                    break;
                }
                batches.next_offset = end;
            }
        }
        Ok(batches)
    }

    /// Reads from where `batches` end; answers whether there was something.
    async fn read_some(&self, batches: &mut Batches<R::Frozen>, bytes_max: usize) -> Result<bool, ReadError> {
        let from = batches.next_offset;
        let read = self.read_segments(from, bytes_max).await;
        if let Err(ReadError::Segment(error)) = &read {
            self.log.note_damage(self.id(), from, error);
        }
        if let Some(run) = read? {
            batches.bytes = run.bytes;
            batches.next_offset = run.next_offset;
            batches.slices = run.slices;
            return Ok(true);
        }
        let end_offset = self.read_end(from);
        let mut memtables = self.log.wal.memtables.borrow_mut();
        let taken = memtables.read(self.state.id, from, end_offset, bytes_max, &mut batches.slices);
        if let Some(taken) = &taken {
            batches.bytes = taken.bytes;
            batches.next_offset = taken.next_offset;
        }
        Ok(taken.is_some())
    }

    /// Waits until consumers may see something beyond `offset`, or never will again because the partition is gone, refused
    /// or its log failed.
    pub async fn visible_beyond(&self, offset: u64) {
        let state = &self.state;
        state
            .moved
            .until(|| {
                let ends = matches!(state.status.get(), Status::Gone | Status::Refused { .. });
                (state.high_watermark.get() > offset || ends || self.log.wal.failure().is_some()).then_some(())
            })
            .await;
    }

    /// Offset and timestamp of the first record whose timestamp is at least `timestamp_ms`, among those that consumers may
    /// see, inside compressed batches too; a batch that does not decompress answers with its first offset, as
    /// [`crate::index::first_record_at`] says.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn offset_at(&self, timestamp_ms: i64) -> Result<Option<(u64, i64)>, ReadError> {
        let Offsets { log_start, high_watermark, .. } = self.check_readable(self.state.log_start.get())?;
        if let Some(found) = self.segments_offset_at(timestamp_ms, log_start).await? {
            return Ok(Some(found).filter(|(offset, _)| *offset < high_watermark));
        }
        let mut from = log_start;
        // A batch of a copy may hold nothing although its largest timestamp promised it.
        while let Some(bytes) = self.log.wal.memtables.borrow_mut().find_timestamp(self.state.id, from, timestamp_ms) {
            let batch = Batch::parse_one(&bytes).expect("the index points at whole batches");
            let found = crate::index::first_record_at(&batch, timestamp_ms, log_start);
            if let Some(found) = found.expect("the log took only whole records") {
                return Ok(Some(found).filter(|(offset, _)| *offset < high_watermark));
            }
            from = batch.next_offset();
        }
        Ok(None)
    }

    /// Cuts off everything from `next_offset` on, durably; inside a batch: from the batch's start. Appends are refused
    /// until it is done.
    ///
    /// # Errors
    /// [`TruncateError`].
    pub async fn truncate(&self, next_offset: u64, leader_epoch: i32) -> Result<(), TruncateError> {
        let _cutting = self.log.cutting.lock().await;
        match self.state.status.get() {
            Status::Gone => return Err(TruncateError::Gone),
            Status::Leaving => return Err(TruncateError::Leaving),
            Status::Serving | Status::Truncating | Status::Refused { .. } => {}
        }
        let Offsets { log_start, log_end, .. } = self.offsets();
        if !(log_start..=log_end).contains(&next_offset) {
            return Err(TruncateError::OutOfRange { partition: self.id(), next_offset, log_start, log_end });
        }
        let before = self.state.status.replace(Status::Truncating);
        // A batch that is still queued is in no memtable yet, and would be cut in two.
        if !planted("cut what is queued") {
            self.log.wal.synced(self.log.wal.lsn_last()).await?;
        }
        let boundary = self.batch_start(next_offset).await;
        // Nothing has happened yet: life goes on. The batch that is cut may begin before the log does, which cannot go back.
        let next_offset = boundary.inspect_err(|_| self.state.set_status(before))?.max(log_start);
        let entry = Entry {
            kind: EntryKind::Truncate,
            partition: self.id(),
            leader_epoch,
            base_offset: next_offset,
            next_offset,
        };
        let lsn = self.log.wal.push(&self.state, entry, &[], |_| ());
        self.log.wal.synced(lsn).await?;
        let _alone = self.log.maintenance.lock().await;
        self.log.wal.memtables.borrow_mut().truncate(self.id(), next_offset);
        if !planted("truncate no segment") {
            self.log.manifest_clip(self.id(), next_offset).await?;
        }
        self.state.cut_to(next_offset);
        self.state.forget_lost(next_offset);
        self.state.cut_producers(next_offset);
        let status = match before {
            Status::Refused { from } if from >= next_offset => {
                // What was damaged is cut off.
                self.log.edit(Edit::Accept { partition: self.id(), next_offset }).await?;
                Status::Serving
            }
            Status::Refused { .. } => before,
            _ => Status::Serving,
        };
        self.state.set_status(status);
        Ok(())
    }

    /// Removes everything below `offset`, or all that consumers may see if there is none, durably. A batch that reaches
    /// beyond stays whole, its records below are not to be seen any more. Answers where the log starts now.
    ///
    /// # Errors
    /// [`TrimError`].
    pub async fn delete_before(&self, offset: Option<u64>) -> Result<u64, TrimError> {
        let Offsets { log_start, high_watermark, .. } = self.offsets();
        let offset = offset.unwrap_or(high_watermark);
        if offset > high_watermark {
            return Err(TrimError::OutOfRange { log_start, high_watermark });
        }
        self.log.raise_log_starts(vec![(self.state.clone(), offset)]).await?;
        match self.state.status.get() {
            _ if self.state.log_start.get() >= offset => Ok(self.state.log_start.get()),
            Status::Serving => Err(TrimError::Closing),
            Status::Truncating => Err(TrimError::Truncating),
            Status::Leaving => Err(TrimError::Leaving),
            Status::Refused { from } => Err(TrimError::Refused { from }),
            Status::Gone => Err(TrimError::Gone),
        }
    }

    /// Removes the partition, durably: a WAL entry, then the manifest, then the files that hold nothing else.
    ///
    /// # Errors
    /// [`LogFailed`].
    pub async fn drop_partition(&self) -> Result<(), LogFailed> {
        let _cutting = self.log.cutting.lock().await;
        self.state.set_status(Status::Gone);
        let log_end = self.state.log_end.get();
        let entry = Entry {
            kind: EntryKind::Drop,
            partition: self.id(),
            leader_epoch: 0,
            base_offset: log_end,
            next_offset: log_end,
        };
        let lsn = self.log.wal.push(&self.state, entry, &[], |_| ());
        self.log.wal.synced(lsn).await?;
        die_at("partition dropped");
        let _alone = self.log.maintenance.lock().await;
        self.log.wal.memtables.borrow_mut().remove(self.id());
        self.log.forget(self.id(), lsn).await?;
        die_at("partition forgotten");
        Ok(())
    }

    /// Whether it takes any batch now.
    #[inline]
    pub(crate) fn check_takes(&self) -> Result<(), AppendError> {
        match self.state.status.get() {
            Status::Serving => {}
            Status::Truncating => return Err(AppendError::Truncating),
            Status::Leaving => return Err(AppendError::Leaving),
            Status::Refused { from } => return Err(AppendError::Refused { from }),
            Status::Gone => return Err(AppendError::Gone),
        }
        if let Some(failed) = self.log.wal.failure() {
            return Err(failed.into());
        }
        if self.log.wal.is_closing() {
            return Err(AppendError::Closing);
        }
        Ok(())
    }

    /// Decides where a batch goes, without changing anything.
    #[inline]
    fn place(&self, header: &BatchHeader, bytes: usize, leader_epoch: i32) -> Result<Place, AppendError> {
        let state = &self.state;
        self.check_takes()?;
        let bytes_max = self.log.batch_bytes_max.min(state.batch_bytes_max.get() as usize);
        if bytes > bytes_max {
            return Err(AppendError::TooLarge { bytes, bytes_max });
        }
        let base_offset = state.log_end.get();
        let next_offset = base_offset + u64::from(header.last_offset_delta.cast_unsigned()) + 1;
        if header.producer != Producer::NONE
            && let Verdict::Duplicate { base_offset, lsn } = self.check_sequence(header)?
        {
            return Ok(Place::Duplicate(Appended {
                base_offset,
                next_offset: base_offset + u64::from(header.last_offset_delta.cast_unsigned()) + 1,
                lsn,
                duplicate: true,
                log_id: self.log.id as u64,
                durability: state.durability(),
                needs_sync: true,
            }));
        }
        self.log.space.check_append()?;
        Ok(Place::At(Entry { kind: EntryKind::Batch, partition: state.id, leader_epoch, base_offset, next_offset }))
    }

    /// Notes an append that was copied into group `lsn`.
    #[inline]
    pub(crate) fn appended(&self, header: &BatchHeader, entry: Entry, lsn: Lsn) -> Appended {
        let state = &self.state;
        state.log_end.set(entry.next_offset);
        state.begin_epoch(entry.leader_epoch, entry.base_offset);
        if header.producer != Producer::NONE {
            let now = self.log.rt.now();
            state.producers.borrow_mut().record(&Sequence::of(header), entry.base_offset, lsn, now);
        }
        let needs_sync = match state.durability() {
            Durability::Durable => true,
            Durability::Memory => {
                self.renew_reservation(entry);
                entry.next_offset > state.reserved.get()
            }
        };
        Appended {
            base_offset: entry.base_offset,
            next_offset: entry.next_offset,
            lsn,
            duplicate: false,
            log_id: self.log.id as u64,
            durability: state.durability(),
            needs_sync,
        }
    }

    /// Asks for more offsets once half of the last reservation is used, so that the next is synced before this one ends.
    fn renew_reservation(&self, appended: Entry) {
        let state = &self.state;
        let size = state.reservation_size.get();
        if appended.next_offset + size / 2 <= state.reservation_end.get() {
            return;
        }
        let first = state.reservation_end.get() == 0;
        let size = if first { size } else { (size * 2).min(RESERVATION_MAX) };
        let end = appended.next_offset + size;
        state.reservation_size.set(size);
        state.reservation_end.set(end);
        let entry = Entry { kind: EntryKind::Reserve, base_offset: appended.next_offset, next_offset: end, ..appended };
        self.log.wal.push(state, entry, &[], |_| ());
    }

    fn check_sequence(&self, header: &BatchHeader) -> Result<Verdict, SequenceError> {
        let sequence = Sequence::of(header);
        let checked = self.state.producers.borrow().check(&sequence);
        match checked {
            Err(SequenceError::TooManyProducers { .. }) => {
                let mut producers = self.state.producers.borrow_mut();
                producers.make_room(self.log.rt.now(), self.log.options.producer_idle_max);
                producers.check(&sequence)
            }
            checked => checked,
        }
    }

    /// Where reading has to stop: the high watermark, or damage before it.
    pub(crate) fn readable_end(&self) -> u64 {
        let high_watermark = self.state.high_watermark.get();
        match self.state.status.get() {
            Status::Refused { from } => from.min(high_watermark),
            _ => high_watermark,
        }
    }

    /// Where one read from `from` has to stop: offsets that were lost are told of before what lies behind them is served.
    fn read_end(&self, from: u64) -> u64 {
        let lost = self.state.lost.borrow();
        let lost_from = lost.iter().map(|lost| lost.start).find(|&start| start > from).unwrap_or(u64::MAX);
        self.readable_end().min(lost_from)
    }

    /// The live segments that may hold batches of these offsets, with the offsets of theirs that count; lower ones first.
    pub(crate) fn live_segments(&self, offsets: Range<u64>) -> Vec<(SegmentMeta, Range<u64>)> {
        self.log.segment_map.find(&self.log.manifest, self.state.id, &offsets, 0, usize::MAX).0
    }

    /// What segments hold from `from` on; `None` when memtables serve it.
    async fn read_segments(&self, from: u64, bytes_max: usize) -> Result<Option<Run<R::Frozen>>, ReadError> {
        loop {
            let first_in_memory = self.log.wal.memtables.borrow_mut().first_offset(self.state.id);
            if first_in_memory.is_some_and(|first| first <= from) {
                return Ok(None);
            }
            self.check_kept(from)?;
            let changes = self.log.manifest.changes();
            let is_other = || changes != self.log.manifest.changes();
            match self.read_live_segments(from..self.read_end(from), bytes_max).await {
                // A merge replaced a segment before it was opened: its batches are in another one now.
                Ok(None) if is_other() => {}
                Err(error) if error.is_missing_file() && is_other() => {}
                read => return Ok(read?),
            }
        }
    }

    /// The same, as long as the segments stay what they are.
    async fn read_live_segments(
        &self,
        offsets: Range<u64>,
        bytes_max: usize,
    ) -> Result<Option<Run<R::Frozen>>, SegmentError> {
        let (manifest, map, id) = (&self.log.manifest, &self.log.segment_map, self.state.id);
        let changes = manifest.changes();
        // Whoever reads on finds what follows in the segment of the last read, or behind it.
        let mut place = map.place_of(manifest, self.log.segments.last_used(id, offsets.start));
        loop {
            let (segments, next_place) = map.find(manifest, id, &offsets, place, SEGMENTS_AT_ONCE);
            let run = self.log.segments.read_first(&segments, id, bytes_max).await?;
            if run.is_some() || segments.len() < SEGMENTS_AT_ONCE || changes != manifest.changes() {
                return Ok(run);
            }
            place = next_place;
        }
    }

    async fn segments_offset_at(&self, timestamp_ms: i64, from: u64) -> Result<Option<(u64, i64)>, ReadError> {
        let offsets = from..self.readable_end();
        loop {
            let segments = self.live_segments(offsets.clone());
            let found = self.first_at(&segments, timestamp_ms).await;
            let is_other = || segments != self.live_segments(offsets.clone());
            match found {
                // A flush or a merge meanwhile: what is looked for may be in a segment that was not looked into.
                Ok(None) if is_other() => {}
                Err(error) if error.is_missing_file() && is_other() => {}
                found => return Ok(found?),
            }
        }
    }

    async fn first_at(
        &self,
        segments: &[(SegmentMeta, Range<u64>)],
        timestamp_ms: i64,
    ) -> Result<Option<(u64, i64)>, SegmentError> {
        for (segment, offsets) in segments {
            let cache = &self.log.segments;
            let found = cache.first_at_or_after_timestamp(segment, self.state.id, offsets.clone(), timestamp_ms).await;
            if let Err(error) = &found {
                self.log.note_damage_in(segment.id, error).await;
            }
            if let Some(found) = found? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The start of the batch that contains `offset`, or `offset` itself between batches.
    pub(crate) async fn batch_start(&self, offset: u64) -> Result<u64, SegmentError> {
        let in_memory = self.log.wal.memtables.borrow_mut().get(self.state.id, offset).copied();
        let first_in_memory = self.log.wal.memtables.borrow_mut().first_offset(self.state.id);
        if let Some(slot) = in_memory
            && first_in_memory.is_some_and(|first| first <= offset)
        {
            return Ok(slot.base_offset.min(offset));
        }
        loop {
            let segments = self.live_segments(offset..u64::MAX);
            match self.log.segments.read_first(&segments, self.state.id, 1).await {
                // A merge replaced a segment before it was opened: its batches are in another one now.
                Err(error) if error.is_missing_file() && segments != self.live_segments(offset..u64::MAX) => {}
                run => return Ok(run?.map_or(offset, |run| run.base_offset.min(offset))),
            }
        }
    }

    pub(crate) fn check_readable(&self, offset: u64) -> Result<Offsets, ReadError> {
        let offsets = self.offsets();
        match self.state.status.get() {
            Status::Gone => return Err(ReadError::Gone),
            Status::Refused { from } if offset >= from => return Err(ReadError::Refused { from }),
            _ => {}
        }
        let Offsets { log_start, high_watermark, .. } = offsets;
        if !(log_start..=high_watermark).contains(&offset) {
            return Err(ReadError::OutOfRange { log_start, high_watermark });
        }
        Ok(offsets)
    }

    /// Whether what segments hold from `offset` on is still whole: a deletion takes them before it moves the log start here.
    fn check_kept(&self, offset: u64) -> Result<(), ReadError> {
        let manifest = self.log.manifest_state();
        match manifest.partitions.get(&self.state.id).map_or(0, |known| known.log_start) {
            log_start if log_start > offset => {
                Err(ReadError::OutOfRange { log_start, high_watermark: self.state.high_watermark.get() })
            }
            _ => Ok(()),
        }
    }

    /// The lost range that `offset` is in.
    fn lost_at(&self, offset: u64) -> Option<Range<u64>> {
        if planted("hide what is lost") {
            return None;
        }
        self.state.lost.borrow().iter().find(|lost| lost.contains(&offset)).cloned()
    }
}

enum Place {
    Duplicate(Appended),
    At(Entry),
}
