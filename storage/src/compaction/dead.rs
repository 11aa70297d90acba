//! What is dead in segments that many partitions share: nobody can read it any more, and only a rewrite frees it.
//!
//! Weighing opens footers, so a segment is weighed again only when a partition that may lie in it lost something.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use runtime::Runtime;

use crate::{
    PartitionId,
    log::Shared,
    segment::{Extent, SegmentId, SegmentMeta, reader::SegmentReader},
};

/// So many partitions are weighed before others get a turn.
const PARTITIONS_PER_TURN: usize = 512;

/// Bytes of dead batches in each shared segment, as far as they were weighed, and in those with damage that was given up.
#[derive(Debug, Default)]
pub(crate) struct Dead {
    bytes: BTreeMap<SegmentId, u64>,
    /// Partitions that lost something since.
    lightened: BTreeSet<PartitionId>,
    /// Whether every segment was weighed once.
    is_complete: bool,
}

impl Dead {
    /// A partition lost something of what segments hold of it.
    pub(crate) fn lighten(&mut self, partition: PartitionId) {
        self.lightened.insert(partition);
    }

    /// Bytes of dead batches in each segment.
    pub(crate) fn bytes(&self) -> &BTreeMap<SegmentId, u64> {
        &self.bytes
    }

    /// Whether a segment has to be weighed, when these partitions were lightened; `None` stands for any.
    fn concerns(segment: &SegmentMeta, lightened: Option<&BTreeSet<PartitionId>>) -> bool {
        match (segment.extent, lightened) {
            (Extent::Own { .. }, _) => false,
            (Extent::Shared { .. }, None) => true,
            (Extent::Shared { first, last }, Some(lightened)) => lightened.range(first..=last).next().is_some(),
        }
    }
}

/// Weighs what may have changed, and lets compaction look at the result. A segment that cannot be read is not weighed: its
/// bytes are refused to readers one by one.
pub(crate) async fn weigh<R: Runtime>(shared: &Rc<Shared<R>>) {
    let segments = shared.manifest_state().segments.clone();
    let lightened = {
        let mut dead = shared.dead.borrow_mut();
        dead.bytes.retain(|id, _| segments.iter().any(|segment| segment.id == *id));
        let lightened = std::mem::take(&mut dead.lightened);
        let is_complete = std::mem::replace(&mut dead.is_complete, true);
        is_complete.then_some(lightened)
    };
    for segment in segments.iter().filter(|segment| Dead::concerns(segment, lightened.as_ref())) {
        if let Ok(reader) = shared.segments.open(segment).await {
            let bytes = dead_bytes(shared, segment.id, &reader).await;
            shared.dead.borrow_mut().bytes.insert(segment.id, bytes);
        }
    }
    weigh_given_up(shared);
    shared.maintained();
}

/// A segment of which something was given up is to be rewritten soon, whatever its size: only then is the damage gone.
pub(crate) fn weigh_given_up<R: Runtime>(shared: &Shared<R>) {
    let manifest = shared.manifest_state();
    if manifest.given_up.is_empty() {
        return;
    }
    for segment in manifest.segments.iter().filter(|segment| manifest.given_up.concerns(segment.id)) {
        shared.dead.borrow_mut().bytes.insert(segment.id, segment.batch_bytes);
    }
}

/// Bytes that a rewrite of the segment would free, give or take the ends of intervals.
async fn dead_bytes<R: Runtime>(shared: &Shared<R>, id: SegmentId, reader: &SegmentReader<R>) -> u64 {
    let mut dead = 0;
    for (number, holding) in reader.footer().holdings().enumerate() {
        let kept = shared.kept(id, holding.entry.partition);
        let spans = kept.stretches().map(|offsets| holding.span(&offsets));
        dead += holding.bytes() - spans.map(|span| span.end.saturating_sub(span.start)).sum::<u64>();
        if (number + 1).is_multiple_of(PARTITIONS_PER_TURN) {
            shared.rt.sleep(Duration::ZERO).await;
        }
    }
    dead
}
