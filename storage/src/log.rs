//! One directory of WAL, memtables, segments and manifest, and the partitions that live in it.

use std::{
    cell::{Cell, Ref, RefCell},
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use runtime::{
    Lock, Notify, Runtime,
    sabotage::{die_at, planted},
};
use rustc_hash::FxHashMap;
use wire::record::Codec;

use crate::{
    CacheStats, PartitionId, compaction,
    compaction::dead::Dead,
    disk_space::{DiskSpace, Purpose},
    error::{FlushError, LogFailed, OpenError, Reason},
    group::{Builder, Entry, EntryKind},
    hold::Hold,
    journal::WriteError,
    kept::Kept,
    manifest::{Edit, Intent, Manifest, State as ManifestState, Unwritten},
    partition::{Partition, State},
    segment::{SegmentId, Segments},
    segment_map::SegmentMap,
    settings::{KnownSettings, PartitionSettings},
    synced::{Lsn, Synced},
    wal::Wal,
};

/// How a log is sized.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Memory for memtables, in bytes; at least 64 KiB. It also sizes the WAL, which holds what is not flushed.
    pub memtable_bytes: usize,
    /// What the WAL's files are sized for instead, in bytes: more than `memtable_bytes` where several logs share memory and
    /// the largest batch is to stay what it was.
    pub wal_bytes: Option<usize>,
    /// Memory for what is read from segments, in bytes: footers take up to a half of it, and blocks what they leave.
    pub cache_bytes: usize,
    /// The largest batch taken, in bytes. A quarter of a WAL file is the limit all the same.
    pub batch_bytes_max: usize,
    /// A sealed memtable is flushed at the latest after this long.
    pub flush_age_max: Duration,
    /// What makes a segment large enough, and how many small ones are merged.
    pub compaction: compaction::Options,
    /// How often partitions are looked at for what is too old or too much.
    pub retention_check_every: Duration,
    /// An idempotent producer that is silent for this long is forgotten.
    pub producer_idle_max: Duration,
    /// So many bytes of the file system stay free beside what the logs on it need themselves: appends are refused before
    /// it comes to that.
    pub disk_reserve_bytes: u64,
    /// How many logs of this size share the file system, this one included.
    pub disk_logs: u32,
}

/// The smallest memory for memtables that makes a log.
const MEMTABLE_BYTES_MIN: usize = 64 << 10;
/// WAL files are no larger than this, so that a flush frees space in handy pieces.
const WAL_FILE_BYTES_MAX: usize = 64 << 20;

impl Default for LogOptions {
    /// What suits one shard of a broker with 1 GiB.
    fn default() -> Self {
        Self {
            memtable_bytes: 512 << 20,
            wal_bytes: None,
            cache_bytes: 32 << 20,
            batch_bytes_max: 1_048_588,
            flush_age_max: Duration::from_secs(60),
            compaction: compaction::Options::default(),
            retention_check_every: Duration::from_secs(5 * 60),
            producer_idle_max: crate::producer_state::IDLE_MAX,
            disk_reserve_bytes: 0,
            disk_logs: 1,
        }
    }
}

impl LogOptions {
    /// What the WAL's files are sized for, in bytes.
    pub fn wal_bytes(&self) -> usize {
        self.wal_bytes.unwrap_or(self.memtable_bytes)
    }

    /// Length of a WAL file: a quarter of what the WAL is sized for, at most 64 MiB.
    pub(crate) fn wal_file_bytes(&self) -> usize {
        (self.wal_bytes() / 4).min(WAL_FILE_BYTES_MAX) / crate::group::GROUP_ALIGNMENT * crate::group::GROUP_ALIGNMENT
    }

    /// How many WAL files there may be: as many as the memtables' memory holds, at least four.
    pub(crate) fn wal_files_max(&self) -> usize {
        (self.memtable_bytes / self.wal_file_bytes()).max(4)
    }

    /// What such a log may still need on the disk, beside what it holds: every memtable in segments, with their footers and
    /// what a flush writes before it is next looked, and the WAL files that may be made, which are the one always ready and
    /// one more by a start that finds all others full.
    pub fn disk_bytes(&self) -> u64 {
        self.memtable_bytes as u64 / 4 * 5 + 2 * self.wal_file_bytes() as u64
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        if self.memtable_bytes < MEMTABLE_BYTES_MIN {
            return Err(OpenError::Options {
                setting: "memtable_bytes",
                given: self.memtable_bytes,
                needed: "at least 64 KiB",
            });
        }
        Ok(())
    }
}

/// An open log. Clones are handles to the same one.
pub struct Log<R: Runtime>(pub(crate) Rc<Shared<R>>);

impl<R: Runtime> Clone for Log<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What the handles of a log share.
pub(crate) struct Shared<R: Runtime> {
    pub(crate) rt: R,
    pub(crate) dir: PathBuf,
    pub(crate) id: u128,
    pub(crate) options: LogOptions,
    pub(crate) batch_bytes_max: usize,
    pub(crate) wal: Rc<Wal<R>>,
    pub(crate) segments: Segments<R>,
    pub(crate) segment_map: SegmentMap,
    pub(crate) manifest: Manifest,
    pub(crate) partitions: RefCell<FxHashMap<PartitionId, Rc<State>>>,
    pub(crate) settings: KnownSettings,
    /// Partitions that recovery found and nobody adopted yet.
    pub(crate) found: RefCell<BTreeMap<PartitionId, Rc<State>>>,
    /// Truncation, drop and deletion: one at a time. They wait for the WAL, which may wait for a flush: so this lock is not
    /// the flush's.
    pub(crate) cutting: Lock,
    /// Flush, merge and what those three do to lists and files: one at a time.
    pub(crate) maintenance: Lock,
    /// There may be something to merge.
    pub(crate) mergeable: Notify,
    /// Counts what may have made it so.
    pub(crate) changes: Cell<u64>,
    /// What only a rewrite of segments frees.
    pub(crate) dead: RefCell<Dead>,
    /// Segments that compaction could not read: left as they are until the next start.
    pub(crate) unreadable: RefCell<BTreeSet<SegmentId>>,
    /// Partitions of which a read or a merge met damage in a segment, and the first offset at which.
    pub(crate) damaged: RefCell<BTreeMap<PartitionId, u64>>,
    pub(crate) space: Rc<DiskSpace>,
    /// Deletions put off.
    pub(crate) hold: Hold,
    pub(crate) flushed_lsn: Cell<Lsn>,
    /// The last group that recovery found.
    pub(crate) recovered_lsn: Lsn,
    /// The last group as of the last time that none was written for a while.
    pub(crate) quiet_since_lsn: Cell<Option<Lsn>>,
    pub(crate) tasks: RefCell<Vec<R::Task<()>>>,
    pub(crate) counters: Counters,
}

/// What maintenance has done since the log was opened.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) flushes: Cell<u64>,
    pub(crate) flushed_bytes: Cell<u64>,
    pub(crate) merges: Cell<u64>,
    pub(crate) merged_bytes: Cell<u64>,
    pub(crate) compression_saved_bytes: Cell<u64>,
    pub(crate) rounds: Cell<u64>,
}

/// Counters of a log since it was opened, and what it uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Batches appended.
    pub batches: u64,
    /// Bytes of these batches.
    pub batch_bytes: u64,
    /// Sync groups written.
    pub groups: u64,
    /// Bytes of these groups, padding and all.
    pub group_bytes: u64,
    /// Memtables flushed.
    pub flushes: u64,
    /// Bytes of the segments flushes wrote.
    pub flushed_bytes: u64,
    /// Merges done.
    pub merges: u64,
    /// Bytes of the segments merges wrote.
    pub merged_bytes: u64,
    /// Bytes that merges saved by compressing batches.
    pub compression_saved_bytes: u64,
    /// Merges that compacted partitions by key, among them.
    pub rounds: u64,
    /// Live segments.
    pub segments: u64,
    /// Those among them that compaction could not read, and leaves as they are.
    pub segments_unreadable: u64,
    /// Bytes of live segments.
    pub segment_bytes: u64,
    /// Memory of memtables, in bytes.
    pub memtable_bytes: u64,
    /// Memory of segments' footers, and of the filters and fences that lookups by key needed so far, in bytes.
    pub footer_bytes: u64,
    /// Partitions served.
    pub partitions: u64,
    /// What the block cache did, and holds.
    pub cache: CacheStats,
    /// Free bytes of the file system when the log last looked; 0 before.
    pub disk_free_bytes: u64,
    /// Appends are refused while less is free, in bytes.
    pub disk_reserve_bytes: u64,
    /// Whether they are.
    pub disk_is_full: bool,
}

impl LogStats {
    /// Of two logs together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            batches: self.batches + other.batches,
            batch_bytes: self.batch_bytes + other.batch_bytes,
            groups: self.groups + other.groups,
            group_bytes: self.group_bytes + other.group_bytes,
            flushes: self.flushes + other.flushes,
            flushed_bytes: self.flushed_bytes + other.flushed_bytes,
            merges: self.merges + other.merges,
            merged_bytes: self.merged_bytes + other.merged_bytes,
            compression_saved_bytes: self.compression_saved_bytes + other.compression_saved_bytes,
            rounds: self.rounds + other.rounds,
            segments: self.segments + other.segments,
            segments_unreadable: self.segments_unreadable + other.segments_unreadable,
            segment_bytes: self.segment_bytes + other.segment_bytes,
            memtable_bytes: self.memtable_bytes + other.memtable_bytes,
            footer_bytes: self.footer_bytes + other.footer_bytes,
            partitions: self.partitions + other.partitions,
            cache: self.cache.plus(other.cache),
            // Of one file system: what was last seen of it may differ, and the worst counts.
            disk_free_bytes: match (self.disk_free_bytes, other.disk_free_bytes) {
                (0, seen) | (seen, 0) => seen,
                (own, other) => own.min(other),
            },
            disk_reserve_bytes: self.disk_reserve_bytes.max(other.disk_reserve_bytes),
            disk_is_full: self.disk_is_full || other.disk_is_full,
        }
    }
}

impl<R: Runtime> Log<R> {
    /// Opens the log in `dir`, or makes one, and recovers it. It runs tasks of its own on `rt` until it is closed.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(rt: R, dir: &Path, options: LogOptions) -> Result<Self, OpenError> {
        crate::recovery::open(rt, dir, options).await
    }

    /// The log's own number, drawn when it was made.
    pub fn id(&self) -> u128 {
        self.0.id
    }

    /// The largest batch it takes, in bytes.
    pub fn batch_bytes_max(&self) -> usize {
        self.0.batch_bytes_max
    }

    /// Serves a partition that metadata knows: with what recovery found of it, or empty.
    pub fn adopt(&self, id: PartitionId, settings: impl Into<PartitionSettings>) -> Partition<R> {
        let shared = &self.0;
        let mut partitions = shared.partitions.borrow_mut();
        let state = Rc::clone(partitions.entry(id).or_insert_with(|| {
            let found = shared.found.borrow_mut().remove(&id);
            found.unwrap_or_else(|| Rc::new(State::new(id)))
        }));
        state.configure(shared.settings.share(settings.into()));
        drop(partitions);
        if state.is_compacted() || state.settings().compression != Codec::None {
            shared.maintained();
        }
        Partition { log: shared.clone(), state }
    }

    /// Partitions that recovery found and that were not adopted. They stay on disk, untouched.
    pub fn quarantined(&self) -> Vec<PartitionId> {
        self.0.found.borrow().keys().copied().collect()
    }

    /// Whether another append need not wait: there is memory for it, or the disk is full and it hears of that.
    pub fn has_room(&self) -> bool {
        self.0.wal.has_room() || self.0.space.full().is_some()
    }

    /// Waits until another append need not wait, or the log has failed and appends say so.
    pub async fn admit(&self) {
        let wal = &self.0.wal;
        wal.room.until(|| (self.has_room() || wal.failure().is_some()).then_some(())).await;
    }

    /// A block for a batch of `batch_bytes` to be received into, at [`crate::group::HEADER_BYTES`].
    pub fn batch_block(&self, batch_bytes: usize) -> R::Block {
        /// Room for the tails of a group before it that touched this many partitions.
        const TAILS: usize = 64;
        self.0.rt.block(Builder::<R::Block>::block_bytes_for(batch_bytes, TAILS))
    }

    /// Waits until sync group `lsn` is on stable storage.
    ///
    /// # Errors
    /// [`LogFailed`]: it never will be, as far as anyone knows.
    pub async fn synced(&self, lsn: Lsn) -> Result<Synced, LogFailed> {
        self.0.wal.synced(lsn).await
    }

    /// How far the log is on stable storage.
    pub fn synced_now(&self) -> Synced {
        self.0.wal.synced_now()
    }

    /// Waits until a write fails: then the process has to end with this message.
    pub async fn failed(&self) -> LogFailed {
        self.0.wal.failed().await
    }

    /// Flushes everything that was taken so far: by then it is in segments, and the manifest names them. Answers the last
    /// group that is flushed.
    ///
    /// # Errors
    /// [`FlushError`].
    pub async fn flush(&self) -> Result<Lsn, FlushError> {
        crate::flush::flush_through(&self.0, self.0.wal.lsn_last()).await
    }

    /// Deletes no segment for so long, whatever becomes obsolete meanwhile: then a manifest names files that stay while they
    /// are copied. Holds add up to the longest. A full disk ends them, and so does a stop.
    pub fn hold_segments(&self, hold_for: Duration) {
        self.0.hold.take(self.0.rt.now() + hold_for);
    }

    /// Counters and sizes.
    pub fn stats(&self) -> LogStats {
        let shared = &self.0;
        let (wal, own) = (&shared.wal.counters, &shared.counters);
        let manifest = shared.manifest_state();
        LogStats {
            batches: wal.batches.get(),
            batch_bytes: wal.batch_bytes.get(),
            groups: wal.groups.get(),
            group_bytes: wal.group_bytes.get(),
            flushes: own.flushes.get(),
            flushed_bytes: own.flushed_bytes.get(),
            merges: own.merges.get(),
            merged_bytes: own.merged_bytes.get(),
            compression_saved_bytes: own.compression_saved_bytes.get(),
            rounds: own.rounds.get(),
            segments: manifest.segments.len() as u64,
            segments_unreadable: shared.unreadable.borrow().len() as u64,
            segment_bytes: manifest.segments.iter().map(|segment| segment.bytes).sum(),
            memtable_bytes: shared.wal.memtables.borrow().memory_bytes() as u64,
            footer_bytes: shared.segments.footer_bytes() as u64,
            partitions: shared.partitions.borrow().len() as u64,
            cache: shared.segments.cache_stats(),
            disk_free_bytes: shared.space.free_bytes().unwrap_or(0),
            disk_reserve_bytes: shared.space.reserve_bytes(),
            disk_is_full: shared.space.full().is_some(),
        }
    }

    /// Stops cleanly: takes no more appends, writes and flushes everything, and says so in the manifest, so that the next
    /// start reads no WAL.
    ///
    /// # Errors
    /// [`LogFailed`]: the next start recovers.
    pub async fn close(self) -> Result<(), LogFailed> {
        let closed = self.stop().await;
        if let Err(failed) = &closed {
            self.0.wal.fail(failed.clone());
        }
        closed
    }

    async fn stop(&self) -> Result<(), LogFailed> {
        let shared = &self.0;
        let wal = &shared.wal;
        wal.close();
        shared.mergeable.wake();
        wal.synced(wal.lsn_last()).await?;
        // What was written before it failed is synced all the same.
        shared.check_failure()?;
        crate::flush::flush_all(shared).await?;
        wal.files.close();
        let tasks = std::mem::take(&mut *shared.tasks.borrow_mut());
        for task in tasks {
            task.await;
        }
        shared.segments.close().await;
        if let Some(failed) = wal.failure() {
            return Err(failed);
        }
        die_at("all flushed");
        shared.edit(Edit::Clean { last_lsn: wal.lsn_last(), next_lsn: wal.lsn_next() }).await
    }
}

impl<R: Runtime> Shared<R> {
    /// What the manifest says now.
    pub(crate) fn manifest_state(&self) -> Ref<'_, ManifestState> {
        self.manifest.state()
    }

    /// Makes a manifest edit durable.
    pub(crate) async fn edit(&self, edit: Edit) -> Result<(), LogFailed> {
        self.edit_all(vec![edit]).await
    }

    /// Makes manifest edits durable, all or none. Where a neighbour took the space for that, it waits for space.
    pub(crate) async fn edit_all(&self, mut edits: Vec<Edit>) -> Result<(), LogFailed> {
        loop {
            self.check_failure()?;
            let Err(Unwritten { error, edits: again }) = self.manifest.try_apply_all(edits).await else {
                return Ok(());
            };
            self.wait_for_journal(error).await?;
            edits = again;
        }
    }

    /// Once it failed, nothing is written any more.
    pub(crate) fn check_failure(&self) -> Result<(), LogFailed> {
        match self.wal.failure() {
            Some(failed) if !planted("write after a failure") => Err(failed),
            _ => Ok(()),
        }
    }

    /// Ends the log: whoever asked for this may not be one of its tasks, whose failures end it by themselves.
    fn fail(&self, action: &'static str, file: &Path, reason: impl Reason) -> LogFailed {
        let failed = LogFailed::new(action, file, reason);
        self.wal.fail(failed.clone());
        failed
    }

    /// Announces `count` segments about to be written; `None` for none.
    pub(crate) async fn intend(&self, count: usize) -> Result<Option<Intent>, LogFailed> {
        if count == 0 {
            return Ok(None);
        }
        let count = u32::try_from(count).expect("a flush or merge writes few segments");
        loop {
            self.check_failure()?;
            match self.manifest.intend(count).await {
                Ok(intent) => return Ok(Some(intent)),
                // With other numbers the next time: another one may have been written meanwhile.
                Err(error) => self.wait_for_journal(error).await?,
            }
        }
    }

    /// An edit was not written: waits until it may be tried again, if it only lacked space. A stop does not wait.
    async fn wait_for_journal(&self, error: WriteError) -> Result<(), LogFailed> {
        if !matches!(error, WriteError::NoSpace { .. }) || self.wal.is_closing() {
            return Err(self.fail("writing the manifest of", &self.dir, error));
        }
        tracing::warn!("an edit of the manifest in {} is put off: {error}", self.dir.display());
        self.space.was_refused(Purpose::Edit, 0);
        let ends = || self.wal.is_closing() || self.wal.failure().is_some();
        self.space.looked.until(|| (ends() || !self.space.is_short_for(Purpose::Edit)).then_some(())).await;
        self.space.wants_no_more(Purpose::Edit);
        Ok(())
    }

    /// Ends an intent without a result, and removes what was written of it.
    pub(crate) async fn abandon(&self, intent: Option<Intent>) -> Result<(), LogFailed> {
        if let Some(intent) = intent {
            self.edit(Edit::Abandon { intent: intent.first }).await?;
            self.delete_obsolete().await?;
        }
        Ok(())
    }

    /// A partition that the WAL speaks of: served, or found by recovery.
    pub(crate) fn state(&self, id: PartitionId) -> Rc<State> {
        let served = self.partitions.borrow().get(&id).cloned();
        served
            .or_else(|| self.found.borrow().get(&id).cloned())
            .expect("memtables know no partition that the log does not")
    }

    /// Whether a segment is one of the log's.
    pub(crate) fn is_live(&self, id: SegmentId) -> bool {
        self.manifest_state().segments.iter().any(|segment| segment.id == id)
    }

    /// The offsets of a partition in a segment that still count.
    pub(crate) fn kept(&self, segment: SegmentId, partition: PartitionId) -> Kept {
        self.manifest_state().kept(segment, partition)
    }

    /// Has partitions start later, durably, and frees what only they used: WAL entries, then the manifest, then the files.
    /// A partition that starts there already, or does not serve, is left alone; none starts beyond what consumers see.
    pub(crate) async fn raise_log_starts(&self, raises: Vec<(Rc<State>, u64)>) -> Result<(), LogFailed> {
        let _cutting = self.cutting.lock().await;
        let raises: Vec<_> = raises.into_iter().filter_map(|(state, at)| Some((state.raise_to(at)?, state))).collect();
        if raises.is_empty() || self.wal.is_closing() {
            return Ok(());
        }
        if planted("log start in memory only") {
            raises.iter().for_each(|(log_start, state)| state.raise_log_start(*log_start));
            return Ok(());
        }
        for (log_start, state) in &raises {
            let entry = Entry {
                kind: EntryKind::LogStart,
                partition: state.id,
                leader_epoch: 0,
                base_offset: *log_start,
                next_offset: *log_start,
            };
            self.wal.push(state, entry, &[], |_| ());
        }
        self.wal.synced(self.wal.lsn_last()).await?;
        let _alone = self.maintenance.lock().await;
        let edit =
            |(log_start, state): &(u64, Rc<State>)| Edit::LogStart { partition: state.id, log_start: *log_start };
        self.edit_all(raises.iter().map(edit).collect()).await?;
        // Not before: the WAL file with the entries may have been freed by now, and no log start may go back.
        raises.iter().for_each(|(log_start, state)| state.raise_log_start(*log_start));
        raises.iter().for_each(|(_, state)| self.dead.borrow_mut().lighten(state.id));
        self.delete_obsolete().await
    }

    /// Makes a truncation known to segments written so far.
    pub(crate) async fn manifest_clip(&self, partition: PartitionId, next_offset: u64) -> Result<(), LogFailed> {
        self.edit(Edit::Clip { partition, next_offset }).await?;
        self.delete_obsolete().await
    }

    /// Forgets a partition whose `drop` entry is synced, and frees what only it used.
    pub(crate) async fn forget(&self, partition: PartitionId, lsn: Lsn) -> Result<(), LogFailed> {
        self.edit(Edit::Drop { partition, lsn }).await?;
        self.partitions.borrow_mut().remove(&partition);
        self.found.borrow_mut().remove(&partition);
        self.damaged.borrow_mut().remove(&partition);
        self.dead.borrow_mut().lighten(partition);
        self.delete_obsolete().await
    }

    /// Deletes the files of segments that hold nothing any more, unless somebody copies them.
    pub(crate) async fn delete_obsolete(&self) -> Result<(), LogFailed> {
        let segments: Vec<_> = self.manifest_state().obsolete.iter().copied().collect();
        if segments.is_empty() || self.hold.is_taken() {
            return Ok(());
        }
        self.check_failure()?;
        let dir = crate::segment::directory(&self.dir);
        for &id in &segments {
            self.segments.forget(id);
            let path = dir.join(crate::segment::file_name(id));
            match self.rt.remove_file(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(self.fail("removing", &path, error));
                }
                _ => {}
            }
        }
        self.rt.sync_dir(&dir).await.map_err(|error| self.fail("syncing", &dir, error))?;
        self.edit(Edit::Deleted { segments }).await
    }
}
