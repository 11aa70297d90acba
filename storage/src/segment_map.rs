//! Where a partition's offsets lie among the live segments, without looking at all of them.
//!
//! The one hard idea: the manifest's list is the truth, and this an index over it that is made anew when the manifest has
//! changed, which a flush or a merge does every few seconds and reads do not. A log with terabytes of one partition then
//! costs a reader a binary search; shared segments, few and of many partitions each, are gone through.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
};

use rustc_hash::FxHashMap;

use crate::{
    PartitionId,
    kept::Kept,
    manifest::Manifest,
    segment::{Extent, SegmentId, SegmentMeta},
};

/// See the module.
#[derive(Default)]
pub(crate) struct SegmentMap {
    /// The manifest's count of changes that the index reflects.
    changes: Cell<Option<u64>>,
    index: RefCell<Index>,
}

/// Numbers are places in the manifest's list.
#[derive(Default)]
struct Index {
    own: FxHashMap<PartitionId, Vec<OwnSegment>>,
    shared: Vec<SharedSegment>,
    numbers: FxHashMap<SegmentId, usize>,
}

struct OwnSegment {
    /// The highest offset behind this segment or one before it: never lower than the one before has.
    next_offset_max: u64,
    number: usize,
}

struct SharedSegment {
    first: PartitionId,
    last: PartitionId,
    number: usize,
}

/// Live segments, lower offsets first, with the offsets of theirs that count: one with holes several times.
pub(crate) type Found = Vec<(SegmentMeta, Range<u64>)>;

impl SegmentMap {
    /// The place of a segment in the list; the start of it if the segment is not live.
    pub(crate) fn place_of(&self, manifest: &Manifest, segment: Option<SegmentId>) -> usize {
        let Some(segment) = segment else { return 0 };
        self.refresh(manifest);
        self.index.borrow().numbers.get(&segment).copied().unwrap_or(0)
    }

    /// The next `count_max` segments or more that may hold batches of these offsets of a partition, from place `from` of the list
    /// on, and the place at which to go on.
    pub(crate) fn find(
        &self,
        manifest: &Manifest,
        partition: PartitionId,
        offsets: &Range<u64>,
        from: usize,
        count_max: usize,
    ) -> (Found, usize) {
        self.refresh(manifest);
        let index = self.index.borrow();
        let state = manifest.state();
        let mut own = index.own_from(partition, offsets.start, from).iter().map(|own| own.number).peekable();
        let mut shared = index.shared_from(partition, from).peekable();
        let mut found = Vec::new();
        let mut place = from;
        while found.len() < count_max {
            let is_own_next = own.peek().is_some_and(|own| shared.peek().is_none_or(|shared| own < shared));
            let Some(number) = (if is_own_next { own.next() } else { shared.next() }) else { break };
            place = number + 1;
            let segment = &state.segments[number];
            let ends_before = matches!(segment.extent, Extent::Own { next_offset, .. } if next_offset <= offsets.start);
            if !ends_before {
                let clip = state.clip_of(partition, segment.id).unwrap_or(u64::MAX);
                // A clip may lie below the log start: nothing of the segment counts then.
                let counts = offsets.start..offsets.end.min(clip).max(offsets.start);
                let kept = Kept::new(counts, state.given_up.of(partition, segment.id).into());
                found.extend(kept.stretches().map(|stretch| (segment.clone(), stretch)));
            }
        }
        (found, place)
    }

    fn refresh(&self, manifest: &Manifest) {
        let changes = Some(manifest.changes());
        if self.changes.replace(changes) != changes {
            self.index.replace(Index::of(&manifest.state().segments));
        }
    }
}

impl Index {
    fn of(segments: &[SegmentMeta]) -> Self {
        let mut index = Self::default();
        for (number, segment) in segments.iter().enumerate() {
            index.numbers.insert(segment.id, number);
            match segment.extent {
                Extent::Own { partition, next_offset, .. } => {
                    let own = index.own.entry(partition).or_default();
                    let before = own.last().map_or(0, |before| before.next_offset_max);
                    own.push(OwnSegment { next_offset_max: next_offset.max(before), number });
                }
                Extent::Shared { first, last } => {
                    index.shared.push(SharedSegment { first, last, number });
                }
            }
        }
        index
    }

    /// The partition's own segments behind place `from`, without those at the front that end before `offset`.
    fn own_from(&self, partition: PartitionId, offset: u64, from: usize) -> &[OwnSegment] {
        let own = self.own.get(&partition).map_or(&[][..], Vec::as_slice);
        let by_offset = own.partition_point(|own| own.next_offset_max <= offset);
        let by_place = own.partition_point(|own| own.number < from);
        &own[by_offset.max(by_place)..]
    }

    /// Shared segments behind place `from` whose range of partitions has this one.
    fn shared_from(&self, partition: PartitionId, from: usize) -> impl Iterator<Item = usize> {
        let start = self.shared.partition_point(|shared| shared.number < from);
        let may_hold = move |shared: &&SharedSegment| shared.first <= partition && partition <= shared.last;
        self.shared[start..].iter().filter(may_hold).map(|shared| shared.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Location;

    fn meta(id: usize, extent: Extent) -> SegmentMeta {
        SegmentMeta {
            id: SegmentId(1_000 + id as u64),
            level: 0,
            extent,
            bytes: 0,
            batch_bytes: 0,
            footer_position: 0,
            timestamp_max: 0,
            location: Location::Local,
        }
    }

    fn own(partition: u64, base_offset: u64, next_offset: u64) -> Extent {
        Extent::Own { partition: PartitionId(partition), base_offset, next_offset }
    }

    fn shared(first: u64, last: u64) -> Extent {
        Extent::Shared { first: PartitionId(first), last: PartitionId(last) }
    }

    /// What going through the list finds.
    fn scan(segments: &[SegmentMeta], partition: PartitionId, offset: u64, from: usize) -> Vec<usize> {
        let holds = |number: &usize| match segments[*number].extent {
            Extent::Own { partition: own, next_offset, .. } => own == partition && offset < next_offset,
            shared => shared.may_hold(partition),
        };
        (from..segments.len()).filter(holds).collect()
    }

    #[test]
    fn it_finds_what_going_through_the_list_finds() {
        let mut extents = Vec::new();
        for round in 0..20 {
            extents.push(own(3, round * 100, round * 100 + 100));
            extents.push(shared(round % 5, 4 + round % 7));
            extents.push(own(5, round * 10, round * 10 + 10));
        }
        // What a merge put in the place of its first input may reach further than what follows it.
        extents.insert(7, own(3, 200, 900));
        let segments: Vec<_> = extents.into_iter().enumerate().map(|(id, extent)| meta(id, extent)).collect();
        let index = Index::of(&segments);
        for partition in (0..13).map(PartitionId) {
            for offset in (0..2_100).step_by(25) {
                for from in [0, 1, 17, 40, 61, 100] {
                    let ends_behind = |own: &&OwnSegment| match segments[own.number].extent {
                        Extent::Own { next_offset, .. } => next_offset > offset,
                        Extent::Shared { .. } => unreachable!("it is listed as one partition's"),
                    };
                    let own = index.own_from(partition, offset, from).iter().filter(ends_behind);
                    let mut found: Vec<_> = own.map(|own| own.number).collect();
                    found.extend(index.shared_from(partition, from));
                    found.sort_unstable();
                    assert_eq!(found, scan(&segments, partition, offset, from), "{partition:?} {offset} {from}");
                }
            }
        }
    }

    #[test]
    fn what_ends_before_is_not_looked_at() {
        let segments: Vec<_> = (0..1_000).map(|id| meta(id, own(1, id as u64 * 10, id as u64 * 10 + 10))).collect();
        let index = Index::of(&segments);
        assert_eq!(index.own_from(PartitionId(1), 5_000, 0).first().map(|own| own.number), Some(500));
        assert_eq!(index.own_from(PartitionId(1), 5_000, 700).first().map(|own| own.number), Some(700));
        assert_eq!(index.numbers[&SegmentId(1_250)], 250);
    }
}
