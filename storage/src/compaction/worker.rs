//! Carries out what the strategy chose, one merge at a time, beside the foreground.

use std::{
    collections::BTreeSet,
    rc::{Rc, Weak},
    time::Duration,
};

use runtime::{
    Runtime,
    sabotage::{die_at, planted},
};
use wire::record::{BatchHeader, Codec};

use super::{
    by_key::{Keyed, Round},
    dirt::{self, Candidate, Job},
    keyed_segments::KeyedSegments,
    merge::{CLEAN_LEVEL, Merge, MergeError},
    pace::{Foreground, Pace},
    strategy::{self, Choice, Input, MergeInputs},
};
use crate::{
    PartitionId,
    disk_space::{self, Lacking, Purpose},
    error::{LogFailed, Reason},
    log::Shared,
    manifest::{self, Edit},
    segment::{Location, SegmentId, SegmentMeta},
};

/// Merges when there is something to merge, until the log is closed.
pub(crate) async fn run<R: Runtime>(shared: Rc<Shared<R>>) -> Result<(), LogFailed> {
    let wal = &shared.wal;
    let mut keyed_segments = KeyedSegments::default();
    loop {
        if wal.is_closing() || wal.failure().is_some() {
            return Ok(());
        }
        let seen = shared.changes.get();
        let merged = match next(&shared, &mut keyed_segments).await {
            Some(work) => work.merge(&shared).await?,
            None => {
                let ends = || wal.is_closing() || wal.failure().is_some();
                shared.mergeable.until(|| (ends() || shared.changes.get() != seen).then_some(())).await;
                true
            }
        };
        if !merged {
            return Ok(());
        }
    }
}

/// Wakes compaction now and then while there are compacted partitions, whose records grow old without anything happening.
/// A log that closes does not wait for it.
pub(crate) async fn run_clock<R: Runtime>(shared: Weak<Shared<R>>) {
    while let Some(log) = shared.upgrade() {
        let ends = || log.wal.is_closing() || log.wal.failure().is_some();
        log.mergeable.until(|| (ends() || log.has_compacted()).then_some(())).await;
        if ends() {
            return;
        }
        log.maintained();
        let (rt, look_every) = (log.rt.clone(), log.options.compaction.look_every);
        drop(log);
        rt.sleep(look_every).await;
    }
}

/// A merge to be made.
struct Work {
    inputs: Vec<Input>,
    /// The partitions that get a round of compaction by key.
    rounds: BTreeSet<PartitionId>,
}

/// What to do next, if there is something. What a segment that cannot be read holds stands between what lies before and
/// behind it, so no merge reaches across one.
async fn next<R: Runtime>(shared: &Rc<Shared<R>>, keyed_segments: &mut KeyedSegments) -> Option<Work> {
    let (segments, candidates) = keyed_segments.candidates(shared).await;
    shared.unreadable.borrow_mut().retain(|id| segments.iter().any(|segment| segment.id == *id));
    let unreadable = shared.unreadable.borrow();
    let is_unreadable = |segment: &SegmentMeta| unreadable.contains(&segment.id);
    let work =
        segments.split(is_unreadable).find_map(|stretch| merge_among(shared, stretch, keyed_segments, &candidates));
    if work.is_some() {
        return work;
    }
    let job = if unreadable.is_empty() {
        dirt::pick(&segments, &candidates)
    } else {
        let left_out: Vec<_> = segments.iter().filter(|segment| is_unreadable(segment)).collect();
        let mut start = 0;
        segments.split(is_unreadable).find_map(|stretch| {
            let places = start..start + stretch.len();
            start = places.end + 1;
            dirt::pick(stretch, &dirt::all_within(&candidates, &places, &left_out))
        })
    };
    job.map(|Job { inputs, partitions }| Work { inputs, rounds: partitions })
}

/// A merge of some of these segments, which follow each other.
fn merge_among<R: Runtime>(
    shared: &Shared<R>,
    segments: &[SegmentMeta],
    keyed_segments: &KeyedSegments,
    candidates: &[Candidate],
) -> Option<Work> {
    // Those of compacted partitions are merged among themselves, behind all that is clean: a merge that took in something
    // clean would make it dirty.
    let is_clean = |segment: &SegmentMeta| segment.level >= CLEAN_LEVEL;
    let clean = segments.iter().rposition(is_clean).map_or(0, |last| last + 1);
    let is_keyed = |segment: &&SegmentMeta| keyed_segments.is_keyed(segment, candidates);
    let others: Vec<_> = segments.iter().filter(|segment| !is_keyed(segment)).cloned().collect();
    let keyed: Vec<_> = segments[clean..].iter().filter(is_keyed).cloned().collect();
    for segments_alike in [others, keyed] {
        let is_compressed = |partition| shared.is_compressed(partition);
        let dead = shared.dead.borrow();
        let choice = strategy::pick(&segments_alike, dead.bytes(), is_compressed, &shared.options.compaction);
        if let Choice::Merge(inputs) = choice {
            return Some(Work { inputs: in_place(segments, &inputs), rounds: BTreeSet::new() });
        }
    }
    None
}

/// What is to be merged, with all that lies between.
fn in_place(segments: &[SegmentMeta], inputs: &MergeInputs) -> Vec<Input> {
    let is_input = |segment: &SegmentMeta| inputs.unsettled.iter().any(|input| input.id == segment.id);
    let first = segments.iter().position(is_input).unwrap_or(0);
    let end = segments.iter().rposition(is_input).map_or(first, |last| last + 1);
    let local = segments[first..end].iter().filter(|segment| segment.location != Location::Remote);
    local.map(|segment| Input { meta: segment.clone(), is_between: !is_input(segment) }).collect()
}

impl Work {
    /// Merges; answers whether compaction goes on. An input that cannot be read is left out of it from now on.
    async fn merge<R: Runtime>(self, shared: &Rc<Shared<R>>) -> Result<bool, LogFailed> {
        let seen = shared.changes.get();
        let keep = |segment: SegmentId, partition: PartitionId| shared.kept(segment, partition);
        let options = shared.options.compaction;
        let keyed = Box::new(Partitions { shared: Rc::downgrade(shared), rounds: self.rounds.clone() });
        let clips = self.clips(shared);
        let truncations = shared.manifest.truncations();
        let merge = match Merge::plan_keyed(&shared.segments, &shared.rt, &self.inputs, keep, keyed, options).await {
            Ok(merge) => merge.paced(Pace::new(&shared.rt, Box::new(Writing(Rc::downgrade(shared))))),
            Err(error) => return Ok(goes_on(shared, &error).await),
        };
        disk_space::look(shared).await;
        let freed = self.inputs.iter().map(|input| input.meta.bytes).sum();
        let memtable_bytes = shared.wal.memtables.borrow().memory_bytes() as u64;
        if let Err(lacking) = shared.space.check_merge(merge.output_bytes(), freed, memtable_bytes) {
            drop(merge);
            put_off(shared, lacking, seen).await;
            return Ok(true);
        }
        let intent = shared.intend(merge.outputs()).await?;
        if truncations != shared.manifest.truncations() && !planted("merge what was cut meanwhile") {
            // A clip voids segments with lower numbers only: it would miss what was planned before it.
            let _alone = shared.maintenance.lock().await;
            shared.abandon(intent).await?;
            return Ok(true);
        }
        let ids: Vec<_> =
            intent.into_iter().flat_map(|intent| (intent.first.0..intent.end().0).map(SegmentId)).collect();
        die_at("merge intended");
        let dir = shared.segments.dir();
        let added = merge.run(dir, &ids).await;
        let added = match added {
            Ok(added) => added,
            Err(MergeError::Write(error)) if error.is_disk_full() => {
                let lacking = shared.space.was_refused(Purpose::Merge, merge.output_bytes());
                drop(merge);
                let alone = shared.maintenance.lock().await;
                shared.abandon(intent).await?;
                drop(alone);
                put_off(shared, lacking, seen).await;
                return Ok(true);
            }
            Err(error) => {
                let goes_on = goes_on(shared, &error).await;
                let _alone = shared.maintenance.lock().await;
                shared.abandon(intent).await?;
                return Ok(goes_on);
            }
        };
        shared.rt.sync_dir(dir).await.map_err(|error| LogFailed::new("syncing", dir, error))?;
        let bytes: u64 = added.iter().map(|segment| segment.bytes).sum();
        let _alone = shared.maintenance.lock().await;
        if clips != self.clips(shared) {
            // A truncation meanwhile: what superseded an earlier record of its key may be gone.
            shared.abandon(intent).await?;
            return Ok(true);
        }
        // An input may have lost its last batch to a truncation or a drop meanwhile: it is gone already.
        let removed = merge.inputs().filter(|&id| shared.is_live(id)).collect();
        let edit = manifest::Merge { intent: intent.map(|intent| intent.first), removed, added };
        die_at("merged");
        shared.edit(Edit::Merge(edit)).await?;
        die_at("merge noted");
        shared.delete_obsolete().await?;
        shared.counters.merges.set(shared.counters.merges.get() + 1);
        shared.counters.merged_bytes.set(shared.counters.merged_bytes.get() + bytes);
        shared
            .counters
            .compression_saved_bytes
            .set(shared.counters.compression_saved_bytes.get() + merge.saved_bytes());
        if !self.rounds.is_empty() {
            shared.counters.rounds.set(shared.counters.rounds.get() + 1);
        }
        Ok(true)
    }

    /// Where truncations end the partitions that get a round.
    fn clips<R: Runtime>(&self, shared: &Shared<R>) -> Vec<Option<u64>> {
        let manifest = shared.manifest_state();
        let clip = |partition: &PartitionId, input: &Input| manifest.clip_of(*partition, input.meta.id);
        self.rounds.iter().flat_map(|partition| self.inputs.iter().map(move |input| clip(partition, input))).collect()
    }
}

/// Whether compaction goes on after a merge that did not come to its end.
async fn goes_on<R: Runtime>(shared: &Shared<R>, error: &MergeError) -> bool {
    match error {
        MergeError::Closing => false,
        MergeError::Write(error) => {
            tracing::error!("compaction stops until the next start: {error}");
            false
        }
        // A deletion took it meanwhile.
        MergeError::Read { segment, source } if source.is_missing_file() && !shared.is_live(*segment) => true,
        MergeError::Read { segment, source } => {
            shared.note_damage_in(*segment, source).await;
            shared.leave_out(*segment, error);
            true
        }
        MergeError::Overlap { segment, .. } => {
            shared.leave_out(*segment, error);
            true
        }
    }
}

/// Waits until there is space for a merge, or something changed since `seen`: another one may need less by now, and free more.
async fn put_off<R: Runtime>(shared: &Shared<R>, lacking: Lacking, seen: u64) {
    tracing::warn!("a merge in {} is put off: {lacking}", shared.dir.display());
    let ends = || shared.wal.is_closing() || shared.wal.failure().is_some();
    let looks = || ends() || shared.changes.get() != seen || !shared.space.is_short_for(Purpose::Merge);
    shared.mergeable.until(|| looks().then_some(())).await;
}

/// What a merge asks about partitions.
struct Partitions<R: Runtime> {
    shared: Weak<Shared<R>>,
    rounds: BTreeSet<PartitionId>,
}

impl<R: Runtime> Keyed for Partitions<R> {
    fn is_compacted(&self, partition: PartitionId) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.is_compacted(partition))
    }

    fn round(&self, partition: PartitionId) -> Option<Round> {
        let shared = self.shared.upgrade().filter(|_| self.rounds.contains(&partition))?;
        shared.round(partition)
    }

    fn is_last_of_producer(&self, partition: PartitionId, header: &BatchHeader) -> bool {
        let state = self.shared.upgrade().and_then(|shared| shared.served(partition));
        header.producer.is_idempotent()
            && !planted("compact producers away")
            && state.is_some_and(|state| {
                state.producers.borrow().last_offset(header.producer.id) == Some(header.base_offset)
            })
    }

    fn compression(&self, partition: PartitionId) -> Codec {
        self.shared.upgrade().map_or(Codec::None, |shared| shared.compression(partition))
    }
}

/// What the WAL's writer is doing.
struct Writing<R: Runtime>(Weak<Shared<R>>);

impl<R: Runtime> Foreground for Writing<R> {
    fn is_closing(&self) -> bool {
        self.0.upgrade().is_none_or(|shared| shared.wal.is_closing() || shared.wal.failure().is_some())
    }

    fn is_waiting(&self) -> bool {
        self.0.upgrade().is_some_and(|shared| shared.wal.is_behind())
    }

    fn backlog(&self) -> usize {
        self.0
            .upgrade()
            .map_or(0, |shared| strategy::backlog(&shared.manifest_state().segments, &shared.options.compaction))
    }

    fn appended_bytes(&self) -> u64 {
        self.0.upgrade().map_or(0, |shared| shared.wal.counters.batch_bytes.get())
    }

    fn sync_time(&self) -> Duration {
        self.0.upgrade().map_or(Duration::ZERO, |shared| shared.wal.sync_time())
    }
}
