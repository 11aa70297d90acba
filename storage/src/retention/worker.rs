//! Looks at all partitions of a log once in a while: moves log starts, forgets silent producers, and has what is dead in
//! shared segments weighed, for compaction to rewrite them.
//!
//! The one hard idea: pieces of a partition lie in segments in the order of their offsets, so one walk through the segments
//! decides for all partitions at once. A segment that many share is opened only if something of it may go.

use std::{collections::BTreeMap, future::poll_fn, pin::pin, rc::Rc, task::Poll, time::Duration};

use runtime::{Runtime, sabotage::planted};
use rustc_hash::FxHashMap;

use super::{
    Piece, Trim,
    calendar::{Calendar, Today},
};
use crate::{
    PartitionId,
    compaction::dead,
    error::LogFailed,
    log::Shared,
    partition::{State, Status},
    segment::{Extent, SegmentId, SegmentMeta, directory::DirectoryEntry},
};

/// So many partitions are looked at before others get a turn.
const PARTITIONS_PER_TURN: usize = 512;

/// Looks every so often, until the log is closed.
pub(crate) async fn run<R: Runtime>(shared: Rc<Shared<R>>) -> Result<(), LogFailed> {
    let newest_ms = shared.manifest_state().segments.iter().map(|segment| segment.timestamp_max).max();
    let newest_ms = newest_ms.filter(|&newest_ms| newest_ms >= 0).unwrap_or_else(|| shared.rt.wall_clock_ms());
    let mut calendar = Calendar::new(newest_ms, shared.rt.now());
    let mut known = Known::default();
    while !is_closed_within(&shared, shared.options.retention_check_every).await {
        forget_producers(&shared).await;
        let raises = log_starts(&shared, &mut calendar, &mut known).await;
        shared.raise_log_starts(raises).await?;
        if !planted("keep what is half dead") {
            dead::weigh(&shared).await;
        }
    }
    Ok(())
}

/// What was seen in segments that many share, so that they need not be opened again.
#[derive(Default)]
struct Known {
    /// The time from which on something of the segment may be too old.
    oldest_ms: FxHashMap<SegmentId, i64>,
}

/// Partitions that something may go of, on their way to a new log start.
type Trims = BTreeMap<PartitionId, (Rc<State>, Trim)>;

/// Whether the log is closed, or has failed, before `wait` is over.
async fn is_closed_within<R: Runtime>(shared: &Shared<R>, wait: Duration) -> bool {
    let wal = &shared.wal;
    let is_closed = || wal.is_closing() || wal.failure().is_some();
    let mut closed = pin!(wal.flushable.until(|| is_closed().then_some(())));
    let mut over = pin!(shared.rt.sleep(wait));
    poll_fn(|context| {
        let is_ready = closed.as_mut().poll(context).is_ready() || over.as_mut().poll(context).is_ready();
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    is_closed()
}

/// Producers that have been silent for long are forgotten, partition by partition.
async fn forget_producers<R: Runtime>(shared: &Shared<R>) {
    let states: Vec<_> = shared.partitions.borrow().values().cloned().collect();
    for (number, state) in states.iter().enumerate() {
        if !state.producers.borrow().is_empty() && !planted("remember silent producers") {
            state.producers.borrow_mut().expire(shared.rt.now(), shared.options.producer_idle_max);
        }
        yield_after(shared, number).await;
    }
}

/// Where partitions have to start now, of those for which that is later than before.
async fn log_starts<R: Runtime>(
    shared: &Shared<R>,
    calendar: &mut Calendar,
    known: &mut Known,
) -> Vec<(Rc<State>, u64)> {
    let now_ms = today(shared, calendar);
    let segments = shared.manifest_state().segments.clone();
    known.oldest_ms.retain(|id, _| segments.iter().any(|segment| segment.id == *id));
    let sizes = sizes(shared, &segments).await;
    let mut trims = Trims::new();
    for state in shared.partitions.borrow().values() {
        let settings = state.settings();
        let bytes = sizes.get(&state.id).copied().unwrap_or(0);
        let trim = Trim::new(&settings, state.offsets().log_start, bytes, now_ms);
        if state.status.get() == Status::Serving && !trim.is_over() {
            trims.insert(state.id, (state.clone(), trim));
        }
    }
    for segment in &segments {
        if trims.values().all(|(_, trim)| trim.is_over()) {
            break;
        }
        offer(shared, segment, &mut trims, known).await;
    }
    trims.into_values().map(|(state, trim)| (state, trim.log_start())).collect()
}

fn today<R: Runtime>(shared: &Shared<R>, calendar: &mut Calendar) -> Option<i64> {
    match calendar.look(shared.rt.now(), shared.rt.wall_clock_ms()) {
        Today::Ms(now_ms) => Some(now_ms),
        Today::Doubted => None,
        Today::Jumped(by_ms) => {
            tracing::warn!(
                "the clock is {} minutes ahead of where it should be: nothing is deleted for its age for an hour",
                by_ms / 60_000
            );
            None
        }
    }
}

/// Bytes of the partitions that have a limit to them: in segments, and not flushed yet.
async fn sizes<R: Runtime>(shared: &Shared<R>, segments: &[SegmentMeta]) -> FxHashMap<PartitionId, u64> {
    let mut sizes = FxHashMap::default();
    for state in shared.partitions.borrow().values() {
        if state.settings().retention_bytes.is_some() {
            sizes.insert(state.id, shared.wal.memtables.borrow().unflushed_batch_bytes(state.id));
        }
    }
    for segment in segments {
        match segment.extent {
            Extent::Own { partition, .. } => {
                if let Some(bytes) = sizes.get_mut(&partition) {
                    *bytes += segment.batch_bytes;
                }
            }
            Extent::Shared { .. } => {
                if !sizes.keys().any(|&partition| segment.extent.may_hold(partition)) {
                    continue;
                }
                // One that cannot be read is reported when pieces are offered.
                let Ok(reader) = shared.segments.open(segment).await else { continue };
                for holding in reader.footer().holdings() {
                    if let Some(bytes) = sizes.get_mut(&holding.entry.partition) {
                        *bytes += holding.bytes();
                    }
                }
            }
        }
    }
    sizes
}

/// Offers each partition what a segment holds of it.
async fn offer<R: Runtime>(shared: &Shared<R>, segment: &SegmentMeta, trims: &mut Trims, known: &mut Known) {
    let (first, last) = match segment.extent {
        Extent::Own { partition, next_offset, .. } => {
            let piece = Piece { next_offset, bytes: segment.batch_bytes, timestamp_max: segment.timestamp_max };
            return offer_piece(shared, segment.id, partition, piece, trims);
        }
        Extent::Shared { first, last } => (first, last),
    };
    let oldest_ms = known.oldest_ms.get(&segment.id).copied();
    let mut of_those = trims.range(first..=last);
    if !of_those.any(|(_, (_, trim))| trim.may_take(oldest_ms)) {
        // Who has something here keeps it, and with it all that lies behind. Who has not may have to wait for the next look.
        return trims.range_mut(first..=last).for_each(|(_, (_, trim))| trim.stop());
    }
    let reader = match shared.segments.open(segment).await {
        Ok(reader) => reader,
        Err(error) => {
            tracing::warn!("retention keeps what lies in and behind a segment that cannot be read: {error}");
            return trims.range_mut(first..=last).for_each(|(_, (_, trim))| trim.stop());
        }
    };
    let mut oldest_ms = i64::MAX;
    for (number, holding) in reader.footer().holdings().enumerate() {
        let DirectoryEntry { partition, next_offset, timestamp_max, .. } = holding.entry;
        offer_piece(shared, segment.id, partition, Piece { next_offset, bytes: holding.bytes(), timestamp_max }, trims);
        if timestamp_max >= 0 {
            oldest_ms = oldest_ms.min(timestamp_max);
        }
        yield_after(shared, number).await;
    }
    known.oldest_ms.insert(segment.id, oldest_ms);
}

fn offer_piece<R: Runtime>(
    shared: &Shared<R>,
    segment: SegmentId,
    partition: PartitionId,
    piece: Piece,
    trims: &mut Trims,
) {
    if let Some((_, trim)) = trims.get_mut(&partition) {
        let clip = shared.manifest_state().clip_of(partition, segment).unwrap_or(u64::MAX);
        trim.offer(&Piece { next_offset: piece.next_offset.min(clip), ..piece });
    }
}

/// Lets others have their turn once in a while.
async fn yield_after<R: Runtime>(shared: &Shared<R>, number: usize) {
    if (number + 1).is_multiple_of(PARTITIONS_PER_TURN) {
        shared.rt.sleep(Duration::ZERO).await;
    }
}
