//! What the log knows of its compacted partitions, as compaction asks for it.

use std::rc::Rc;

use runtime::Runtime;
use wire::record::Codec;

use super::{by_key::Round, dirt::Candidate};
use crate::{
    PartitionId,
    log::Shared,
    partition::{State, Status},
    segment::SegmentId,
};

impl<R: Runtime> Shared<R> {
    /// Whether the partition is served, and compacted by key.
    pub(crate) fn is_compacted(&self, id: PartitionId) -> bool {
        self.partitions.borrow().get(&id).is_some_and(|state| state.is_compacted())
    }

    /// Whether any partition is.
    pub(crate) fn has_compacted(&self) -> bool {
        self.partitions.borrow().values().any(|state| state.is_compacted())
    }

    /// Something changed that compaction may have to look at.
    pub(crate) fn maintained(&self) {
        self.changes.set(self.changes.get() + 1);
        self.mergeable.wake();
    }

    /// Leaves a segment that cannot be read out of compaction until the next start. Its bytes are refused to readers one by
    /// one.
    pub(super) fn leave_out(&self, segment: SegmentId, error: &dyn std::error::Error) {
        tracing::error!("a segment is left out of compaction until the next start: {error}");
        self.unreadable.borrow_mut().insert(segment);
    }

    /// The compacted partitions in no order, with what decides about a round but what their segments hold.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let now_ms = self.rt.wall_clock_ms();
        let partitions = self.partitions.borrow();
        let compacted = partitions.values().filter(|state| is_compactable(state));
        let candidate = |state: &Rc<State>| {
            let settings = state.settings();
            let before = |ms: u64| now_ms.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX));
            Candidate {
                partition: state.id,
                held: Vec::new(),
                stable_end: stable_end(state),
                timestamp_max: timestamp_max(now_ms, settings.compaction_lag_ms_min),
                overdue_before: settings.compaction_lag_ms_max.map(before),
                dirty_permille_min: settings.dirty_permille_min,
            }
        };
        compacted.map(candidate).collect()
    }

    /// How to compact a partition now, if it is to be.
    pub(super) fn round(&self, id: PartitionId) -> Option<Round> {
        let state = self.partitions.borrow().get(&id).filter(|state| is_compactable(state)).cloned()?;
        let (settings, now_ms) = (state.settings(), self.rt.wall_clock_ms());
        Some(Round {
            stable_end: stable_end(&state),
            timestamp_max: timestamp_max(now_ms, settings.compaction_lag_ms_min),
            now_ms,
            delete_retention_ms: i64::try_from(settings.delete_retention_ms).unwrap_or(i64::MAX),
        })
    }

    /// What merges compress the partition's batches with.
    pub(super) fn compression(&self, id: PartitionId) -> Codec {
        let partitions = self.partitions.borrow();
        let state = partitions.get(&id).filter(|state| state.status.get() == Status::Serving);
        state.map_or(Codec::None, |state| state.settings().compression)
    }

    /// Whether segments of the partition are rewritten for no more than to compress them. Rounds rewrite those of compacted
    /// partitions anyway.
    pub(super) fn is_compressed(&self, id: PartitionId) -> bool {
        self.compression(id) != Codec::None && !self.is_compacted(id)
    }

    /// A partition that is served.
    pub(super) fn served(&self, id: PartitionId) -> Option<Rc<State>> {
        self.partitions.borrow().get(&id).cloned()
    }
}

/// A damaged partition is left as it is until somebody decides about it.
fn is_compactable(state: &Rc<State>) -> bool {
    state.is_compacted() && state.status.get() == Status::Serving
}

/// Behind the high watermark a record may be taken back, and what it superseded would be the last one again. Transactions
/// will end it at the last stable offset.
fn stable_end(state: &State) -> u64 {
    state.offsets().high_watermark
}

/// Without a lag even records of the future are old enough.
fn timestamp_max(now_ms: i64, lag_ms: u64) -> i64 {
    match i64::try_from(lag_ms) {
        Ok(0) => i64::MAX,
        lag_ms => now_ms.saturating_sub(lag_ms.unwrap_or(i64::MAX)),
    }
}
