//! Sealed memtable to segments to manifest; then its WAL file is free.
//!
//! One flush edit carries everything that lived only in that WAL file, so no crash finds half of it. Before it, an intent
//! names the segments about to be written: what a crash leaves of them is deleted at the next start.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use runtime::{
    Runtime,
    sabotage::{die_at, planted},
};

use crate::{
    PartitionId,
    disk_space::{self, Lacking, Purpose},
    error::{FlushError, LogFailed},
    log::Shared,
    manifest::{Edit, Flush, Flushed, FlushedPartition, Intent},
    memtable::{Memtable, Slot},
    segment::{self, Planned, SegmentId, SegmentMeta, SegmentWriter, WriteError},
    synced::Lsn,
};

/// How often the clock looks at the age of the oldest sealed memtable, and at whether the log is quiet.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes copied before the shard's other work has its turn.
const TURN_BYTES: usize = 256 << 10;
/// Writes of a flush that are under way at a time while sync groups queue up: the disk then has something to do between two of
/// them. Otherwise it is one, since a group that comes behind them in the disk's queue waits for all of them.
const WRITES_MAX: usize = 3;
/// Finding a batch costs as much as copying so many bytes: a cache miss or two.
const BATCH_COST_BYTES: usize = 512;
/// Batches of one partition lie all over a memtable; each is asked for so many before it is copied.
const FETCHED_AHEAD: usize = 8;

/// Flushes sealed memtables when they have to go, until the log is closed.
pub(crate) async fn run<R: Runtime>(shared: Rc<Shared<R>>) -> Result<(), LogFailed> {
    let wal = &shared.wal;
    loop {
        let go_on = wal
            .flushable
            .until(|| {
                // Not before all is written: the writer of a log that closes may wait for the file that a flush gives back.
                if wal.failure().is_some() || (wal.is_closing() && wal.is_written()) {
                    return Some(false);
                }
                let is_due = wal.memtables.borrow().presses() || is_aged(&shared) || is_quiet(&shared);
                (is_due && (wal.is_closing() || !shared.space.is_short_for(Purpose::Flush))).then_some(true)
            })
            .await;
        if !go_on {
            return Ok(());
        }
        match flush_oldest(&shared).await? {
            Ok(()) => {}
            // A stop does not wait for space: what it leaves is in the WAL.
            Err(lacking) if wal.is_closing() => return Err(no_room(&shared, lacking)),
            Err(lacking) => tracing::warn!("a flush in {} is put off: {lacking}", shared.dir.display()),
        }
    }
}

/// Wakes the flush when a memtable has waited long enough or the log is quiet, until the log is closed.
pub(crate) async fn run_clock<R: Runtime>(shared: Rc<Shared<R>>) {
    let wal = &shared.wal;
    loop {
        let ends = || wal.is_closing() || wal.failure().is_some();
        wal.flushable.until(|| (ends() || wal.oldest_sealed_at().is_some()).then_some(())).await;
        if ends() {
            return;
        }
        let lsn_before = wal.lsn_last();
        shared.rt.sleep(LOOK_EVERY.min(shared.options.flush_age_max)).await;
        if wal.lsn_last() == lsn_before {
            shared.quiet_since_lsn.set(Some(lsn_before));
        }
        if is_aged(&shared) || is_quiet(&shared) {
            wal.flushable.wake();
        }
    }
}

/// Flushes all that recovery found, so that no later recovery meets it again.
pub(crate) async fn flush_recovered<R: Runtime>(shared: &Rc<Shared<R>>) -> Result<Result<(), Lacking>, LogFailed> {
    while shared.wal.memtables.borrow().first_unflushed_lsn().is_some_and(|lsn| lsn <= shared.recovered_lsn) {
        if let Err(lacking) = flush_oldest(shared).await? {
            return Ok(Err(lacking));
        }
    }
    Ok(Ok(()))
}

/// Flushes everything up to group `lsn`, beside the writer; answers the last group that is flushed.
pub(crate) async fn flush_through<R: Runtime>(shared: &Rc<Shared<R>>, lsn: Lsn) -> Result<Lsn, FlushError> {
    let wal = &shared.wal;
    wal.synced(lsn).await?;
    if wal.is_closing() {
        return Err(FlushError::Closing);
    }
    if shared.flushed_lsn.get() < lsn && !wal.memtables.borrow().sealed_hold(lsn) && !planted("leave the last memtable")
    {
        wal.seal();
    }
    while shared.flushed_lsn.get() < lsn && !planted("leave the last memtable") {
        let is_flushed = || shared.flushed_lsn.get() >= lsn;
        let goes_on =
            || wal.is_closing() || wal.failure().is_some() || is_flushed() || wal.oldest_sealed_at().is_some();
        wal.flushable.until(|| goes_on().then_some(())).await;
        shared.check_failure()?;
        if wal.is_closing() {
            return Err(FlushError::Closing);
        }
        flush_oldest(shared).await??;
    }
    Ok(shared.flushed_lsn.get())
}

/// Flushes everything there is; the writer has ended.
pub(crate) async fn flush_all<R: Runtime>(shared: &Rc<Shared<R>>) -> Result<(), LogFailed> {
    let wal = &shared.wal;
    let no_room = |lacking| no_room(shared, lacking);
    while wal.oldest_sealed_at().is_some() {
        flush_oldest(shared).await?.map_err(no_room)?;
    }
    if wal.memtables.borrow().active_is_empty() {
        return Ok(());
    }
    wal.roll().await?;
    flush_oldest(shared).await?.map_err(no_room)
}

fn no_room<R: Runtime>(shared: &Shared<R>, lacking: Lacking) -> LogFailed {
    LogFailed::new("flushing to", &shared.dir, lacking)
}

fn is_aged<R: Runtime>(shared: &Shared<R>) -> bool {
    let sealed_at = shared.wal.oldest_sealed_at();
    sealed_at.is_some_and(|at| shared.rt.now().since(at) >= shared.options.flush_age_max)
}

/// Whether nothing was appended lately: then a flush is in nobody's way, and the next burst finds all memory free.
fn is_quiet<R: Runtime>(shared: &Shared<R>) -> bool {
    shared.wal.oldest_sealed_at().is_some() && shared.quiet_since_lsn.get() == Some(shared.wal.lsn_last())
}

/// Flushes the oldest sealed memtable, unless the disk has no room for that: then its batches stay in the WAL.
async fn flush_oldest<R: Runtime>(shared: &Rc<Shared<R>>) -> Result<Result<(), Lacking>, LogFailed> {
    let _alone = shared.maintenance.lock().await;
    shared.check_failure()?;
    disk_space::look(shared).await;
    let Some(work) = Work::of_oldest(shared) else { return Ok(Ok(())) };
    if let Err(lacking) = shared.space.check_flush(work.bytes()) {
        return Ok(Err(lacking));
    }
    work.set_producers_cut(shared, false);
    let intent = shared.intend(work.planned.len()).await?;
    die_at("flush intended");
    if planted("recycle before the flush edit") {
        let file = shared.wal.memtables.borrow().oldest_sealed().expect("it is being flushed").file.clone();
        shared.wal.files.release(file).await?;
    }
    let segments = match write_segments(shared, &work, intent).await {
        // A neighbour was faster.
        Err(failed) if failed.is_disk_full() => {
            work.set_producers_cut(shared, true);
            shared.abandon(intent).await?;
            return Ok(Err(shared.space.was_refused(Purpose::Flush, work.bytes())));
        }
        segments => segments?,
    };
    die_at("segments written");
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let flush = Flush {
        intent: intent.map(|intent| intent.first),
        segments,
        through: work.through,
        partitions: work.partitions,
        dropped: Vec::new(),
    };
    shared.edit(Edit::Flush(flush)).await?;
    die_at("flush noted");
    shared.flushed_lsn.set(work.through.lsn);
    let file = shared.wal.memtables.borrow_mut().flushed();
    if !planted("recycle before the flush edit") {
        shared.wal.files.release(file).await?;
    }
    die_at("WAL file released");
    shared.delete_obsolete().await?;
    shared.counters.flushes.set(shared.counters.flushes.get() + 1);
    shared.counters.flushed_bytes.set(shared.counters.flushed_bytes.get() + bytes);
    shared.wal.room.wake();
    // Somebody may wait for this one.
    shared.wal.flushable.wake();
    shared.maintained();
    Ok(Ok(()))
}

/// What a flush is about to do, decided before it waits for anything.
struct Work {
    through: Flushed,
    partitions: Vec<FlushedPartition>,
    planned: Vec<Planned>,
}

impl Work {
    /// Bytes of the batches to be written.
    fn bytes(&self) -> u64 {
        self.planned.iter().map(|planned| planned.bytes).sum()
    }

    /// Notes whether the manifest still has to hear of the producers that this flush tells it of.
    fn set_producers_cut<R: Runtime>(&self, shared: &Shared<R>, cut: bool) {
        let told = self.partitions.iter().filter(|flushed| flushed.producers.is_some());
        told.for_each(|flushed| shared.state(flushed.partition).producers_cut.set(cut));
    }

    fn of_oldest<R: Runtime>(shared: &Shared<R>) -> Option<Self> {
        let memtables = shared.wal.memtables.borrow();
        let sealed = memtables.oldest_sealed()?;
        let through = Flushed { salt: sealed.file.salt, lsn: sealed.memtable.last_lsn().max(shared.flushed_lsn.get()) };
        // A reservation or a truncation may stand in this WAL file though the partition's batches are in others, and damage
        // may have left nothing of a partition in it but how far it reached.
        let (served, found) = (shared.partitions.borrow(), shared.found.borrow());
        let states = served.values().chain(found.values());
        let noted = states.filter(|state| {
            state.reservation().is_some() || state.producers_cut.get() || state.refused_from().is_some()
        });
        let noted = noted.map(|state| state.id);
        let ids: BTreeSet<PartitionId> = sealed.memtable.partitions().into_iter().chain(noted).collect();
        // What was deleted before it was flushed is not written any more. Log starts do not move during a flush.
        let bytes_of = |id: PartitionId| {
            let log_start = shared.state(id).log_start();
            sealed.memtable.partition(id).map_or(0, |index| index.batch_bytes_from(log_start))
        };
        // Apart, so that compaction by key rewrites nobody else's.
        let (keyed, others): (Vec<_>, Vec<_>) =
            ids.iter().map(|&id| (id, bytes_of(id))).partition(|&(id, _)| shared.is_compacted(id));
        let plan = |sizes: Vec<_>| segment::plan(sizes, &shared.options.compaction.limits);
        let planned = plan(others).into_iter().chain(plan(keyed)).collect();
        let partitions =
            ids.into_iter().map(|id| flushed_partition(shared, &sealed.memtable, id, through.lsn)).collect();
        Some(Self { through, partitions, planned })
    }
}

fn flushed_partition<R: Runtime>(
    shared: &Shared<R>,
    memtable: &Memtable<R>,
    id: PartitionId,
    through: u64,
) -> FlushedPartition {
    let manifest = shared.manifest_state();
    let known = manifest.partitions.get(&id);
    let flushed_before = known.map_or(0, |known| known.flushed_end);
    let state = shared.state(id);
    let last = memtable.partition(id).and_then(|index| index.slots().last());
    // A refused partition ends where damage shows that it reached, once nothing of it is left to be flushed.
    let ends_here = state.refused_from().is_some() && !shared.wal.memtables.borrow().holds_behind_oldest(id);
    let flushed_end = if ends_here { state.log_end() } else { last.map_or(flushed_before, Slot::next_offset) };
    let tells_producers = state.producers_cut.get() || last.is_some();
    let epochs = state.epochs();
    let epochs = epochs.iter().filter(|start| (flushed_before..flushed_end).contains(&start.offset));
    FlushedPartition {
        partition: id,
        log_start: state.offsets().log_start,
        flushed_end,
        reserved_end: state.reservation().unwrap_or(0),
        epochs: epochs.copied().collect(),
        producers: (tells_producers && !planted("forget producers")).then(|| state.producers.borrow().encode(through)),
    }
}

async fn write_segments<R: Runtime>(
    shared: &Shared<R>,
    work: &Work,
    intent: Option<Intent>,
) -> Result<Vec<SegmentMeta>, LogFailed> {
    let Some(intent) = intent else { return Ok(Vec::new()) };
    let dir = segment::directory(&shared.dir);
    let failed = |error| LogFailed::new("flushing to", &dir, error);
    let mut segments = Vec::new();
    let mut turn_bytes = 0;
    for (id, planned) in (intent.first.0..).map(SegmentId).zip(&work.planned) {
        let mut writer = SegmentWriter::create(&shared.rt, &dir, id, shared.id, 0).await.map_err(failed)?;
        for &partition in &planned.partitions {
            if shared.is_compacted(partition) {
                writer.index_keys(partition).await;
            }
            write_partition(shared, partition, &mut writer, &mut turn_bytes).await.map_err(failed)?;
        }
        segments.push(writer.finish().await.map_err(failed)?);
    }
    shared.rt.sync_dir(&dir).await.map_err(|error| LogFailed::new("syncing", &dir, error))?;
    Ok(segments)
}

/// Copies a partition's batches from the oldest sealed memtable, which nobody else changes while a flush holds the lock of
/// maintenance.
async fn write_partition<R: Runtime>(
    shared: &Shared<R>,
    partition: PartitionId,
    writer: &mut SegmentWriter<R>,
    turn_bytes: &mut usize,
) -> Result<(), WriteError> {
    let mut next = 0;
    loop {
        writer.hurry(if shared.wal.is_behind() { WRITES_MAX } else { 1 });
        match copy(shared, partition, writer, &mut next, turn_bytes)? {
            Copied::Part => {
                shared.rt.sleep(Duration::ZERO).await;
                *turn_bytes = 0;
            }
            Copied::UpTo(batch) => writer.push(partition, &batch).await?,
            Copied::All => return Ok(()),
        }
    }
}

/// How far copying came.
enum Copied<F> {
    /// The turn is over, and there may be more.
    Part,
    /// The block that is being filled has no room for this batch, which counts as copied.
    UpTo(F),
    /// Everything was copied.
    All,
}

/// Copies batches from the `next` one on, as many as may be without waiting.
fn copy<R: Runtime>(
    shared: &Shared<R>,
    partition: PartitionId,
    writer: &mut SegmentWriter<R>,
    next: &mut usize,
    turn_bytes: &mut usize,
) -> Result<Copied<R::Frozen>, WriteError> {
    let memtables = shared.wal.memtables.borrow();
    let memtable = &memtables.oldest_sealed().expect("only a flush takes it away").memtable;
    let log_start = shared.state(partition).log_start();
    let slots = memtable.partition(partition).map_or(&[][..], |index| &index.slots_from(log_start)[*next..]);
    slots.iter().take(FETCHED_AHEAD).for_each(|slot| R::prefetch(memtable.batch(slot)));
    for (index, slot) in slots.iter().enumerate() {
        if *turn_bytes >= TURN_BYTES {
            return Ok(Copied::Part);
        }
        if let Some(ahead) = slots.get(index + FETCHED_AHEAD) {
            R::prefetch(memtable.batch(ahead));
        }
        *next += 1;
        *turn_bytes += slot.bytes as usize + BATCH_COST_BYTES;
        if !writer.try_push(partition, memtable.batch(slot))? {
            return Ok(Copied::UpTo(memtable.frozen(slot)));
        }
    }
    Ok(Copied::All)
}
