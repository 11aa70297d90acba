//! What to compact next: segments in, choice out.
//!
//! The one hard idea: a segment is *settled* when rewriting it would gain nothing, which is when one partition has it to
//! itself and it is as large as a merge would make it. Settled segments stay as the flush wrote them, so a partition with
//! much traffic is written twice (WAL, flush) and not three times. If its batches are to be compressed it is three times, the
//! last time in fewer bytes: each of its settled segments is rewritten by itself, when there is nothing else to merge.
//!
//! A shared segment half of which is dead (dropped partitions, moved log starts) is rewritten: alone if a merge wrote it, else
//! together with the flush outputs before it, so that the order of offsets holds. Retention frees settled segments whole
//! and never comes here. When a compacted topic has its segments merged by key is decided in [`super::dirt`], which has to
//! know what is in them; its rounds leave behind what is dead as well.

use std::collections::BTreeMap;

use super::{Options, merge::LEVEL};
use crate::{
    PartitionId,
    segment::{Extent, Location, SegmentId, SegmentMeta},
};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// There is nothing to gain.
    Nothing,
    /// Merge into segments of level 1: flush outputs, or one that is half dead or to be compressed.
    Merge(MergeInputs),
}

/// Segments of one merge, each list in the order in which they were flushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeInputs {
    /// Those to be merged.
    pub unsettled: Vec<SegmentMeta>,
    /// Settled ones flushed between them: those whose partition has batches in an input behind them are merged too, see
    /// [`super::merge`].
    pub between: Vec<SegmentMeta>,
}

/// A segment of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The segment.
    pub meta: SegmentMeta,
    /// Whether it is only merged along, if the order of a partition's batches asks for it.
    pub is_between: bool,
}

impl MergeInputs {
    /// All of them, in the order in which they were flushed.
    pub fn in_order(&self) -> Vec<Input> {
        let input = |is_between| move |meta: &SegmentMeta| Input { meta: meta.clone(), is_between };
        let mut all: Vec<_> =
            self.unsettled.iter().map(input(false)).chain(self.between.iter().map(input(true))).collect();
        all.sort_by_key(|input| input.meta.id);
        all
    }
}

/// Chooses among the live segments of a log, in any order, of which so many bytes are dead. `is_compressed` says whose
/// batches are to be compressed.
pub fn pick(
    segments: &[SegmentMeta],
    dead_bytes: &BTreeMap<SegmentId, u64>,
    is_compressed: impl Fn(PartitionId) -> bool,
    options: &Options,
) -> Choice {
    let is_half_dead = |segment: &SegmentMeta| {
        dead_bytes.get(&segment.id).is_some_and(|&dead| dead > 0 && dead >= segment.batch_bytes / 2)
    };
    // A clean one, rewritten, would be dirty: that is for a round to do.
    let mut merged = segments.iter().filter(|segment| segment.level == LEVEL && segment.location != Location::Remote);
    if let Some(segment) = merged.find(|segment| is_half_dead(segment)) {
        return alone(segment);
    }
    // Flushes take their numbers one after the other, so the order of the numbers is the order of the flushes.
    let mut flushed: Vec<&SegmentMeta> = segments.iter().filter(|segment| is_mergeable(segment)).collect();
    flushed.sort_by_key(|segment| segment.id);
    let (settled, mut unsettled): (Vec<_>, Vec<_>) =
        flushed.into_iter().partition(|segment| is_settled(segment, options));
    // Retention frees it whole, so what is dead in it was given up as damaged.
    if let Some(segment) = settled.iter().find(|segment| is_half_dead(segment)) {
        return alone(segment);
    }
    unsettled.truncate(options.merge_inputs);
    if unsettled.len() < options.merge_inputs {
        let Some(last) = unsettled.iter().rposition(|segment| is_half_dead(segment)) else {
            // A merge wrote none of these, so none was compressed before.
            let mut settled = settled.into_iter();
            return settled.find(|segment| is_own(segment, &is_compressed)).map_or(Choice::Nothing, alone);
        };
        unsettled.truncate(last + 1);
    }
    let ids = unsettled[0].id..=unsettled[unsettled.len() - 1].id;
    let between = settled.into_iter().filter(|segment| ids.contains(&segment.id));
    Choice::Merge(MergeInputs {
        between: between.cloned().collect(),
        unsettled: unsettled.into_iter().cloned().collect(),
    })
}

fn alone(segment: &SegmentMeta) -> Choice {
    Choice::Merge(MergeInputs { unsettled: vec![segment.clone()], between: Vec::new() })
}

fn is_own(segment: &SegmentMeta, of: impl Fn(PartitionId) -> bool) -> bool {
    matches!(segment.extent, Extent::Own { partition, .. } if of(partition))
}

/// How many merges of flush outputs wait behind the next one.
pub fn backlog(segments: &[SegmentMeta], options: &Options) -> usize {
    let waiting = segments.iter().filter(|segment| is_mergeable(segment) && !is_settled(segment, options)).count();
    (waiting / options.merge_inputs).saturating_sub(1)
}

fn is_mergeable(segment: &SegmentMeta) -> bool {
    segment.level == 0 && segment.location != Location::Remote
}

fn is_settled(segment: &SegmentMeta, options: &Options) -> bool {
    is_own(segment, |_| true) && segment.batch_bytes >= options.limits.own_bytes_min
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn own(id: u64, batch_bytes: u64) -> SegmentMeta {
        let extent = Extent::Own { partition: PartitionId(1), base_offset: id * 10, next_offset: id * 10 + 10 };
        meta(id, batch_bytes, extent)
    }

    fn shared(id: u64) -> SegmentMeta {
        meta(id, 20 * MIB, Extent::Shared { first: PartitionId(1), last: PartitionId(9) })
    }

    fn meta(id: u64, batch_bytes: u64, extent: Extent) -> SegmentMeta {
        SegmentMeta {
            id: SegmentId(id),
            level: 0,
            extent,
            bytes: batch_bytes + 8192,
            batch_bytes,
            footer_position: batch_bytes + 4096,
            timestamp_max: 0,
            location: Location::Local,
        }
    }

    fn picked(segments: &[SegmentMeta]) -> Option<(Vec<u64>, Vec<u64>)> {
        picked_with(segments, &[])
    }

    fn picked_with(segments: &[SegmentMeta], dead: &[(u64, u64)]) -> Option<(Vec<u64>, Vec<u64>)> {
        let ids = |segments: Vec<SegmentMeta>| segments.into_iter().map(|segment| segment.id.0).collect();
        let dead = dead.iter().map(|&(id, bytes)| (SegmentId(id), bytes)).collect();
        match pick(segments, &dead, |_| false, &Options::default()) {
            Choice::Nothing => None,
            Choice::Merge(inputs) => Some((ids(inputs.unsettled), ids(inputs.between))),
        }
    }

    #[test]
    fn a_large_partitions_segments_are_rewritten_one_by_one_to_be_compressed() {
        let pick = |segments: &[SegmentMeta], partition| {
            pick(segments, &BTreeMap::new(), |found| found == PartitionId(partition), &Options::default())
        };
        let alone = |segment: &SegmentMeta| {
            Choice::Merge(MergeInputs { unsettled: vec![segment.clone()], between: Vec::new() })
        };
        let mut segments: Vec<_> = (1..=3).rev().map(|id| own(id, 8 * MIB)).collect();
        assert_eq!(pick(&segments, 2), Choice::Nothing, "another partition's");
        assert_eq!(pick(&segments, 1), alone(&own(1, 8 * MIB)), "the oldest first");
        segments[2].level = 1;
        assert_eq!(pick(&segments, 1), alone(&own(2, 8 * MIB)), "one that was merged before stays");
        segments.push(own(4, 8 * MIB - 1));
        segments.extend((5..=19).map(shared));
        let Choice::Merge(inputs) = pick(&segments, 1) else { panic!("sixteen flushes are one merge") };
        assert_eq!(inputs.unsettled.len(), 16, "flushes come first");
        let settled = [own(20, 8 * MIB)].map(|segment| SegmentMeta { location: Location::Remote, ..segment });
        assert_eq!(pick(&settled, 1), Choice::Nothing);
    }

    #[test]
    fn sixteen_flushes_are_one_merge() {
        let mut segments: Vec<_> = (1..=15).map(shared).collect();
        assert_eq!(picked(&segments), None);
        segments.insert(3, shared(16));
        assert_eq!(picked(&segments), Some(((1..=16).collect(), vec![])));
    }

    #[test]
    fn a_backlog_is_merged_oldest_first() {
        let segments: Vec<_> = (1..=40).rev().map(shared).collect();
        assert_eq!(picked(&segments), Some(((1..=16).collect(), vec![])));
    }

    #[test]
    fn merges_that_wait_are_counted() {
        let mut segments: Vec<_> = (1..=31).map(shared).collect();
        assert_eq!(backlog(&segments, &Options::default()), 0);
        segments.extend((32..=50).map(|id| own(id, 8 * MIB)));
        assert_eq!(backlog(&segments, &Options::default()), 0);
        segments.push(shared(51));
        assert_eq!(backlog(&segments, &Options::default()), 1);
    }

    #[test]
    fn a_large_partitions_segments_are_left_as_they_are() {
        let segments: Vec<_> = (1..=100).map(|id| own(id, 8 * MIB)).collect();
        assert_eq!(picked(&segments), None);
    }

    #[test]
    fn a_small_partitions_own_segments_are_merged() {
        let segments: Vec<_> = (1..=16).map(|id| own(id, 8 * MIB - 1)).collect();
        assert_eq!(picked(&segments), Some(((1..=16).collect(), vec![])));
    }

    #[test]
    fn settled_ones_between_the_inputs_are_named() {
        let mut segments: Vec<_> = (2..=17).map(shared).collect();
        segments.extend([1, 18].map(|id| own(id, 9 * MIB)));
        segments[4] = own(6, 9 * MIB);
        segments.push(shared(19));
        let unsettled = (2..=19).filter(|id| ![6, 18].contains(id)).collect();
        assert_eq!(picked(&segments), Some((unsettled, vec![6, 18])));
    }

    #[test]
    fn half_dead_segments_are_rewritten() {
        let mut segments: Vec<_> = (1..=10).map(shared).collect();
        segments[0].level = 1;
        assert_eq!(picked_with(&segments, &[(1, 10 * MIB - 1), (4, 10 * MIB - 1)]), None);
        assert_eq!(picked_with(&segments, &[(1, 10 * MIB), (4, 20 * MIB)]), Some((vec![1], vec![])));
        assert_eq!(picked_with(&segments, &[(4, 10 * MIB), (6, 1)]), Some((vec![2, 3, 4], vec![])));
        segments[2] = own(3, 9 * MIB);
        assert_eq!(picked_with(&segments, &[(4, 10 * MIB)]), Some((vec![2, 4], vec![3])));
        segments[0].location = Location::Remote;
        assert_eq!(picked_with(&segments, &[(1, 20 * MIB)]), None);
    }

    #[test]
    fn merged_and_remote_segments_are_no_inputs() {
        let mut segments: Vec<_> = (1..=17).map(shared).collect();
        segments[0].level = 1;
        segments[1].location = Location::Remote;
        assert_eq!(picked(&segments), None);
    }
}
