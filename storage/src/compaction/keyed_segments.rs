//! What the live segments hold of compacted partitions, learned from each footer once.

use std::rc::Rc;

use runtime::Runtime;
use rustc_hash::FxHashMap;

use super::dirt::{Candidate, Held};
use crate::{
    PartitionId,
    log::Shared,
    segment::{Extent, SegmentId, SegmentMeta},
};

/// What segments hold, by partition; the place among the live segments is filled in when it is asked for.
#[derive(Default)]
pub(super) struct KeyedSegments {
    known: FxHashMap<SegmentId, Rc<[(PartitionId, Held)]>>,
}

impl KeyedSegments {
    /// The live segments, and the compacted partitions with what these hold of them, as far as they can be read.
    pub(super) async fn candidates<R: Runtime>(&mut self, shared: &Shared<R>) -> (Vec<SegmentMeta>, Vec<Candidate>) {
        let mut candidates = shared.candidates();
        candidates.sort_by_key(|candidate| candidate.partition);
        let segments = self.learn(shared, &candidates).await;
        for (place, segment) in segments.iter().enumerate() {
            for &(partition, held) in self.known.get(&segment.id).into_iter().flat_map(|held| held.iter()) {
                if let Ok(number) = candidates.binary_search_by_key(&partition, |candidate| candidate.partition) {
                    candidates[number].held.push(Held { segment: place, ..held });
                }
            }
        }
        (segments, candidates)
    }

    /// Whether the segment holds nothing but compacted partitions.
    pub(super) fn is_keyed(&self, segment: &SegmentMeta, candidates: &[Candidate]) -> bool {
        let is_candidate = |id: &PartitionId| candidates.binary_search_by_key(id, |known| known.partition).is_ok();
        match segment.extent {
            Extent::Own { partition, .. } => is_candidate(&partition),
            Extent::Shared { .. } => {
                self.known.get(&segment.id).is_some_and(|held| held.iter().all(|(id, _)| is_candidate(id)))
            }
        }
    }

    /// Opens the segments that are new. Answers those that are live now.
    async fn learn<R: Runtime>(&mut self, shared: &Shared<R>, candidates: &[Candidate]) -> Vec<SegmentMeta> {
        loop {
            let segments = shared.manifest_state().segments.clone();
            let is_unknown = |id: &SegmentId| !self.known.contains_key(id) && !shared.unreadable.borrow().contains(id);
            let unknown =
                segments.iter().find(|segment| is_unknown(&segment.id) && may_hold_one_of(&segment.extent, candidates));
            let Some(unknown) = unknown else {
                self.known.retain(|id, _| segments.iter().any(|segment| segment.id == *id));
                return segments;
            };
            match shared.segments.open(unknown).await {
                Ok(reader) => {
                    let held = reader.footer().holdings().map(|holding| {
                        let held = Held {
                            segment: 0,
                            bytes: holding.bytes(),
                            next_offset: holding.entry.next_offset,
                            timestamp_first: holding.times.timestamp_max(0),
                            timestamp_max: holding.entry.timestamp_max,
                        };
                        (holding.entry.partition, held)
                    });
                    self.known.insert(unknown.id, held.collect());
                }
                // Retention took it meanwhile.
                Err(error) if error.is_missing_file() && shared.manifest_state().segments != segments => {}
                Err(error) => {
                    shared.note_damage_in(unknown.id, &error).await;
                    shared.leave_out(unknown.id, &error);
                }
            }
        }
    }
}

fn may_hold_one_of(extent: &Extent, candidates: &[Candidate]) -> bool {
    let (first, last) = match *extent {
        Extent::Own { partition, .. } => (partition, partition),
        Extent::Shared { first, last } => (first, last),
    };
    let number = candidates.partition_point(|candidate| candidate.partition < first);
    candidates.get(number).is_some_and(|candidate| candidate.partition <= last)
}
