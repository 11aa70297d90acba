//! Sealed memtable to segments to manifest; then its WAL file is free.
//!
//! One flush edit carries everything that lived only in that WAL file, so no crash finds half of it. Before it, an intent
//! names the segments about to be written: what a crash leaves of them is deleted at the next start.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use runtime::Runtime;

use crate::{
    PartitionId,
    error::LogFailed,
    log::Shared,
    manifest::{Edit, Flush, Flushed, FlushedPartition, Intent},
    memtable::Memtable,
    segment::{self, Planned, SegmentId, SegmentMeta, SegmentWriter},
};

/// How often the age of a sealed memtable is looked at.
const AGE_LOOK: Duration = Duration::from_secs(1);

/// Flushes sealed memtables when they have to go, until the log is closed.
pub(crate) async fn run<R: Runtime>(shared: Rc<Shared<R>>) -> Result<(), LogFailed> {
    let wal = &shared.wal;
    loop {
        let go_on = wal
            .flushable
            .until(|| {
                if wal.is_closing() || wal.failure().is_some() {
                    return Some(false);
                }
                let due = wal.memtables.borrow().presses() || is_aged(&shared);
                due.then_some(true)
            })
            .await;
        if !go_on {
            return Ok(());
        }
        flush_oldest(&shared).await?;
    }
}

/// Wakes the flush when a memtable has waited long enough, until the log is closed.
pub(crate) async fn run_clock<R: Runtime>(shared: Rc<Shared<R>>) {
    let wal = &shared.wal;
    loop {
        let ends = || wal.is_closing() || wal.failure().is_some();
        wal.flushable.until(|| (ends() || wal.oldest_sealed_at().is_some()).then_some(())).await;
        if ends() {
            return;
        }
        shared.rt.sleep(AGE_LOOK.min(shared.options.flush_age_max)).await;
        if is_aged(&shared) {
            wal.flushable.wake();
        }
    }
}

/// Flushes everything there is; the writer has ended.
pub(crate) async fn flush_all<R: Runtime>(shared: &Rc<Shared<R>>) -> Result<(), LogFailed> {
    let wal = &shared.wal;
    while wal.oldest_sealed_at().is_some() {
        flush_oldest(shared).await?;
    }
    if wal.memtables.borrow().active_is_empty() {
        return Ok(());
    }
    wal.roll().await?;
    flush_oldest(shared).await
}

fn is_aged<R: Runtime>(shared: &Shared<R>) -> bool {
    let sealed_at = shared.wal.oldest_sealed_at();
    sealed_at.is_some_and(|at| shared.rt.now().since(at) >= shared.options.flush_age_max)
}

async fn flush_oldest<R: Runtime>(shared: &Rc<Shared<R>>) -> Result<(), LogFailed> {
    let _alone = shared.maintenance.lock().await;
    let Some(work) = Work::of_oldest(shared) else { return Ok(()) };
    let intent = shared.intend(work.planned.len()).await?;
    let segments = write_segments(shared, &work, intent).await?;
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let flush = Flush {
        intent: intent.map(|intent| intent.first),
        segments,
        through: work.through,
        partitions: work.partitions.iter().map(|partition| partition.flushed.clone()).collect(),
        dropped: Vec::new(),
    };
    shared.edit(Edit::Flush(flush)).await?;
    shared.flushed_lsn.set(work.through.lsn);
    let file = shared.wal.memtables.borrow_mut().flushed();
    shared.wal.files.release(file).await?;
    shared.delete_obsolete().await?;
    shared.counters.flushes.set(shared.counters.flushes.get() + 1);
    shared.counters.flushed_bytes.set(shared.counters.flushed_bytes.get() + bytes);
    shared.wal.room.wake();
    shared.mergeable.wake();
    Ok(())
}

/// What a flush is about to do, decided before it waits for anything.
struct Work<R: Runtime> {
    through: Flushed,
    partitions: Vec<FlushingPartition<R>>,
    planned: Vec<Planned>,
}

struct FlushingPartition<R: Runtime> {
    flushed: FlushedPartition,
    runs: Vec<R::Frozen>,
    bytes: u64,
}

impl<R: Runtime> Work<R> {
    fn of_oldest(shared: &Shared<R>) -> Option<Self> {
        let memtables = shared.wal.memtables.borrow();
        let sealed = memtables.oldest_sealed()?;
        let through = Flushed { salt: sealed.file.salt, lsn: sealed.memtable.last_lsn().max(shared.flushed_lsn.get()) };
        // A reservation may stand in this WAL file though the partition's batches are in others.
        let reserved = shared.partitions.borrow();
        let reserved = reserved.values().filter(|state| state.reservation().is_some()).map(|state| state.id);
        let ids: BTreeSet<PartitionId> = sealed.memtable.partitions().into_iter().chain(reserved).collect();
        let partitions: Vec<_> =
            ids.into_iter().map(|id| FlushingPartition::of(shared, &sealed.memtable, id, through.lsn)).collect();
        let sizes = partitions.iter().map(|partition| (partition.flushed.partition, partition.bytes));
        let planned = segment::plan(sizes, &shared.options.compaction.limits);
        Some(Self { through, partitions, planned })
    }

    fn partition(&self, id: PartitionId) -> &FlushingPartition<R> {
        let place = self.partitions.binary_search_by_key(&id, |partition| partition.flushed.partition);
        &self.partitions[place.expect("only what is flushed is planned")]
    }
}

impl<R: Runtime> FlushingPartition<R> {
    fn of(shared: &Shared<R>, memtable: &Memtable<R::Block>, id: PartitionId, through: u64) -> Self {
        let manifest = shared.manifest_state();
        let known = manifest.partitions.get(&id);
        let flushed_before = known.map_or(0, |known| known.flushed_end);
        let state = shared.state(id);
        let mut runs = Vec::new();
        let taken = memtable.read(id, 0, u64::MAX, usize::MAX, None, &mut runs);
        let flushed_end = taken.map_or(flushed_before, |taken| taken.next_offset);
        let epochs = state.epochs.borrow();
        let epochs = epochs.iter().filter(|start| (flushed_before..flushed_end).contains(&start.offset));
        let flushed = FlushedPartition {
            partition: id,
            log_start: state.offsets().log_start,
            flushed_end,
            reserved_end: state.reservation().unwrap_or(0),
            epochs: epochs.copied().collect(),
            producers: taken.map(|_| state.producers.borrow().encode(through)),
        };
        Self { flushed, runs, bytes: memtable.partition(id).map_or(0, |index| index.batch_bytes()) }
    }
}

async fn write_segments<R: Runtime>(
    shared: &Shared<R>,
    work: &Work<R>,
    intent: Option<Intent>,
) -> Result<Vec<SegmentMeta>, LogFailed> {
    let Some(intent) = intent else { return Ok(Vec::new()) };
    let dir = segment::directory(&shared.dir);
    let failed = |error| LogFailed::new("flushing to", &dir, error);
    let mut segments = Vec::new();
    for (id, planned) in (intent.first.0..).map(SegmentId).zip(&work.planned) {
        let mut writer = SegmentWriter::create(&shared.rt, &dir, id, shared.id, 0).await.map_err(failed)?;
        for &partition in &planned.partitions {
            for run in &work.partition(partition).runs {
                writer.push(partition, run).await.map_err(failed)?;
            }
        }
        segments.push(writer.finish().await.map_err(failed)?);
    }
    shared.rt.sync_dir(&dir).await.map_err(|error| LogFailed::new("syncing", &dir, error))?;
    Ok(segments)
}
