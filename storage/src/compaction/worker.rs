//! Carries out what the strategy chose, one merge at a time, beside the foreground.

use std::rc::Rc;

use runtime::Runtime;

use super::{
    Options,
    merge::Merge,
    strategy::{self, Choice, MergeInputs},
};
use crate::{
    PartitionId,
    error::LogFailed,
    log::Shared,
    manifest::{self, Edit},
    segment::SegmentId,
};

/// Merges when there is something to merge, until the log is closed.
pub(crate) async fn run<R: Runtime>(shared: Rc<Shared<R>>) -> Result<(), LogFailed> {
    let wal = &shared.wal;
    loop {
        let next = shared
            .mergeable
            .until(|| {
                if wal.is_closing() || wal.failure().is_some() {
                    return Some(None);
                }
                match strategy::pick(&shared.manifest_state().segments, &shared.options.compaction) {
                    Choice::Nothing => None,
                    Choice::Merge(inputs) => Some(Some(inputs)),
                }
            })
            .await;
        let Some(inputs) = next else { return Ok(()) };
        if !merge(&shared, &inputs, shared.options.compaction).await? {
            return Ok(());
        }
    }
}

/// Merges; answers whether it came to its end. An input that cannot be read stops compaction and nothing else: its bytes
/// are refused to readers one by one.
async fn merge<R: Runtime>(shared: &Shared<R>, inputs: &MergeInputs, options: Options) -> Result<bool, LogFailed> {
    let keep = |segment: SegmentId, partition: PartitionId| {
        let manifest = shared.manifest_state();
        let log_start = manifest.partitions.get(&partition)?.log_start;
        Some(log_start..manifest.clip_of(partition, segment).unwrap_or(u64::MAX))
    };
    let merge = match Merge::plan(&shared.segments, &shared.rt, inputs, keep, options).await {
        Ok(merge) => merge,
        Err(error) => {
            tracing::error!("compaction stops until the next start: {error}");
            return Ok(false);
        }
    };
    let intent = shared.intend(merge.outputs()).await?;
    let ids: Vec<_> = intent.into_iter().flat_map(|intent| (intent.first.0..intent.end().0).map(SegmentId)).collect();
    let dir = shared.segments.dir();
    let added = match merge.run(dir, &ids).await {
        Ok(added) => added,
        Err(error) => {
            tracing::error!("compaction stops until the next start: {error}");
            if let Some(intent) = intent {
                shared.edit(Edit::Abandon { intent: intent.first }).await?;
                shared.delete_obsolete().await?;
            }
            return Ok(false);
        }
    };
    shared.rt.sync_dir(dir).await.map_err(|error| LogFailed::new("syncing", dir, error))?;
    let bytes: u64 = added.iter().map(|segment| segment.bytes).sum();
    let _alone = shared.maintenance.lock().await;
    // An input may have lost its last batch to a truncation or a drop meanwhile: it is gone already.
    let is_live = |id: &SegmentId| shared.manifest_state().segments.iter().any(|segment| segment.id == *id);
    let removed = merge.inputs().filter(is_live).collect();
    let edit = manifest::Merge { intent: intent.map(|intent| intent.first), removed, added };
    shared.edit(Edit::Merge(edit)).await?;
    shared.delete_obsolete().await?;
    shared.counters.merges.set(shared.counters.merges.get() + 1);
    shared.counters.merged_bytes.set(shared.counters.merged_bytes.get() + bytes);
    Ok(true)
}
