//! Which compacted partitions are worth a round: what their segments hold in, segments to merge out.
//!
//! The one hard idea: a round has to take all of a partition from its start, or a tombstone could go while something older
//! under its key stays. Small partitions share segments, so one of them brings along all that shares with it, and these
//! what they need; a large one is on its own. Those who go together are worth it together: one dirty partition among
//! thousands does not have all of them rewritten, unless it is overdue.

use std::{collections::BTreeSet, ops::Range};

use super::{merge::CLEAN_LEVEL, strategy::Input};
use crate::{
    PartitionId,
    segment::{Extent, Location, SegmentMeta},
};

/// What one segment holds of a compacted partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its place among the live segments.
    pub segment: usize,
    /// Bytes of the batches.
    pub bytes: u64,
    /// The offset behind the last record.
    pub next_offset: u64,
    /// About the timestamp of the first record.
    pub timestamp_first: i64,
    /// The largest timestamp.
    pub timestamp_max: i64,
}

/// A compacted partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The partition.
    pub partition: PartitionId,
    /// What it has in segments, lower offsets first.
    pub held: Vec<Held>,
    /// Records from here on may still be taken back.
    pub stable_end: u64,
    /// Records with a later timestamp are too young.
    pub timestamp_max: i64,
    /// When one that is not clean is older than this, there is no waiting for more.
    pub overdue_before: Option<i64>,
    /// So many thousandths of the bytes have to be dirty.
    pub dirty_permille_min: u16,
}

/// What to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The segments, in the order of the manifest.
    pub inputs: Vec<Input>,
    /// The partitions that get a round: the inputs hold all of each, or a prefix.
    pub partitions: BTreeSet<PartitionId>,
}

/// Picks the dirtiest partition that is worth a round, and what has to go with it.
pub fn pick(segments: &[SegmentMeta], candidates: &[Candidate]) -> Option<Job> {
    let is_whole =
        |candidate: &&Candidate| candidate.held.iter().all(|held| segments[held.segment].location != Location::Remote);
    let candidates: Vec<_> = candidates.iter().filter(is_whole).collect();
    let due = candidates.iter().map(|candidate| (candidate.dirt(segments), *candidate));
    let mut due: Vec<_> = due.filter(|(dirt, candidate)| dirt.is_due(candidate)).collect();
    due.sort_by_key(|(dirt, candidate)| (std::cmp::Reverse(dirt.permille()), candidate.partition));
    // Who goes together is looked at once.
    let mut not_worth_it = BTreeSet::new();
    for (dirt, candidate) in due {
        if not_worth_it.contains(&candidate.partition) && !dirt.is_overdue {
            continue;
        }
        let job = candidate.job(segments, &candidates);
        let together = candidates.iter().filter(|other| job.partitions.contains(&other.partition));
        let together = together.fold(Dirt { is_overdue: dirt.is_overdue, ..Dirt::default() }, |sum, other| {
            let Dirt { dirty_bytes, bytes, .. } = other.dirt(segments);
            Dirt { dirty_bytes: sum.dirty_bytes + dirty_bytes, bytes: sum.bytes + bytes, ..sum }
        });
        if together.is_due(candidate) {
            return Some(job);
        }
        not_worth_it.extend(job.partitions);
    }
    None
}

/// The candidates all of whose segments lie at these places, which count from the first of them on, and are not in any of
/// the `unreadable` ones: a round has to take all of a partition.
pub(super) fn all_within(
    candidates: &[Candidate],
    places: &Range<usize>,
    unreadable: &[&SegmentMeta],
) -> Vec<Candidate> {
    let is_within = |candidate: &&Candidate| {
        candidate.held.iter().all(|held| places.contains(&held.segment))
            && !unreadable.iter().any(|segment| segment.extent.may_hold(candidate.partition))
    };
    let moved = |candidate: &Candidate| {
        let mut moved = candidate.clone();
        moved.held.iter_mut().for_each(|held| held.segment -= places.start);
        moved
    };
    candidates.iter().filter(is_within).map(moved).collect()
}

/// How dirty a partition is, or several are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dirt {
    dirty_bytes: u64,
    bytes: u64,
    is_overdue: bool,
}

impl Dirt {
    /// Thousandths of the bytes that are dirty.
    fn permille(&self) -> u64 {
        (u128::from(self.dirty_bytes) * 1_000 / u128::from(self.bytes.max(1))) as u64
    }

    fn is_due(&self, candidate: &Candidate) -> bool {
        self.dirty_bytes > 0 && (self.is_overdue || self.permille() >= candidate.dirty_permille_min.into())
    }
}

impl Candidate {
    /// How many of `held` a round can take: the clean ones, and those behind them that are old and stable enough.
    fn eligible(&self, segments: &[SegmentMeta]) -> usize {
        let is_eligible = |held: &Held| {
            is_clean(&segments[held.segment])
                || (held.next_offset <= self.stable_end && held.timestamp_max <= self.timestamp_max)
        };
        self.held.iter().take_while(|held| is_eligible(held)).count()
    }

    fn dirt(&self, segments: &[SegmentMeta]) -> Dirt {
        let eligible = &self.held[..self.eligible(segments)];
        let dirty = || eligible.iter().filter(|held| !is_clean(&segments[held.segment]));
        Dirt {
            dirty_bytes: dirty().map(|held| held.bytes).sum(),
            bytes: eligible.iter().map(|held| held.bytes).sum(),
            is_overdue: dirty().any(|held| self.overdue_before.is_some_and(|before| held.timestamp_first < before)),
        }
    }

    fn job(&self, segments: &[SegmentMeta], candidates: &[&Self]) -> Job {
        let mut inputs: BTreeSet<usize> =
            self.held[..self.eligible(segments)].iter().map(|held| held.segment).collect();
        let mut partitions = BTreeSet::from([self.partition]);
        loop {
            let before = inputs.len() + partitions.len();
            for candidate in candidates {
                let taken = candidate.held.iter().rposition(|held| {
                    inputs.contains(&held.segment) && matches!(segments[held.segment].extent, Extent::Shared { .. })
                });
                let Some(last) = taken else { continue };
                partitions.insert(candidate.partition);
                let reach = candidate.eligible(segments).max(last + 1);
                inputs.extend(candidate.held[..reach].iter().map(|held| held.segment));
            }
            if inputs.len() + partitions.len() == before {
                break;
            }
        }
        let range = inputs.first().copied().unwrap_or(0)..=inputs.last().copied().unwrap_or(0);
        let all = range.map(|at| Input { meta: segments[at].clone(), is_between: !inputs.contains(&at) });
        let is_local = |input: &Input| input.meta.location != Location::Remote;
        Job { inputs: all.filter(is_local).collect(), partitions }
    }
}

fn is_clean(segment: &SegmentMeta) -> bool {
    segment.level >= CLEAN_LEVEL
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentId;

    /// A segment of `level` that holds so many bytes of each of these partitions.
    fn segment(level: u8, holds: &[(u64, u64)]) -> (SegmentMeta, Vec<(u64, u64)>) {
        let [(first, bytes), .., (last, _)] = holds else {
            let [(partition, bytes)] = holds else { panic!("a segment holds something") };
            let extent = Extent::Own { partition: PartitionId(*partition), base_offset: 0, next_offset: 1 };
            return (meta(level, extent, *bytes), holds.to_vec());
        };
        let extent = Extent::Shared { first: PartitionId(*first), last: PartitionId(*last) };
        (meta(level, extent, *bytes), holds.to_vec())
    }

    fn meta(level: u8, extent: Extent, batch_bytes: u64) -> SegmentMeta {
        SegmentMeta {
            id: SegmentId(0),
            level,
            extent,
            bytes: batch_bytes + 8192,
            batch_bytes,
            footer_position: batch_bytes + 4096,
            timestamp_max: 0,
            location: Location::Local,
        }
    }

    type Segments = Vec<(SegmentMeta, Vec<(u64, u64)>)>;

    /// Candidates of which segment `n` holds offsets `10 n` to `10 n + 10`, with timestamps `100 n` to `100 n + 99`.
    fn candidates(segments: &Segments, partitions: &[u64]) -> Vec<Candidate> {
        let candidate = |&partition: &u64| Candidate {
            partition: PartitionId(partition),
            held: segments
                .iter()
                .enumerate()
                .filter_map(|(number, (_, holds))| {
                    let (_, bytes) = holds.iter().find(|(id, _)| *id == partition)?;
                    let (offset, time) = (10 * number as u64, 100 * number as i64);
                    Some(Held {
                        segment: number,
                        bytes: *bytes,
                        next_offset: offset + 10,
                        timestamp_first: time,
                        timestamp_max: time + 99,
                    })
                })
                .collect(),
            stable_end: u64::MAX,
            timestamp_max: i64::MAX,
            overdue_before: None,
            dirty_permille_min: 500,
        };
        partitions.iter().map(candidate).collect()
    }

    /// Places of the inputs, those between in the second list, and the partitions.
    fn picked(segments: &Segments, candidates: &[Candidate]) -> Option<(Vec<usize>, Vec<usize>, Vec<u64>)> {
        let metas: Vec<_> =
            (0..).zip(segments).map(|(id, (meta, _))| SegmentMeta { id: SegmentId(id), ..meta.clone() }).collect();
        let job = pick(&metas, candidates)?;
        let (between, inputs): (Vec<_>, Vec<_>) = job.inputs.into_iter().partition(|input| input.is_between);
        let places = |inputs: Vec<Input>| inputs.into_iter().map(|input| input.meta.id.0 as usize).collect();
        Some((places(inputs), places(between), job.partitions.into_iter().map(|id| id.0).collect()))
    }

    #[test]
    fn a_round_is_due_when_enough_is_dirty() {
        let segments = vec![segment(2, &[(1, 100)]), segment(0, &[(1, 99)])];
        assert_eq!(picked(&segments, &candidates(&segments, &[1])), None);
        let segments = vec![segment(2, &[(1, 100)]), segment(1, &[(1, 40)]), segment(0, &[(1, 60)])];
        assert_eq!(picked(&segments, &candidates(&segments, &[1])), Some((vec![0, 1, 2], vec![], vec![1])));
        let segments = vec![segment(2, &[(1, 100)])];
        assert_eq!(picked(&segments, &candidates(&segments, &[1])), None, "what is clean is left alone");
    }

    #[test]
    fn a_partition_that_is_not_compacted_is_left_alone() {
        let segments = vec![segment(0, &[(1, 100)]), segment(0, &[(2, 100)])];
        assert_eq!(picked(&segments, &candidates(&segments, &[2])), Some((vec![1], vec![], vec![2])));
        assert_eq!(picked(&segments, &[]), None);
    }

    #[test]
    fn what_is_too_young_or_not_stable_waits_with_all_behind_it() {
        let segments = vec![segment(0, &[(1, 10)]), segment(0, &[(1, 10)]), segment(0, &[(1, 10)])];
        let mut young = candidates(&segments, &[1]);
        young[0].timestamp_max = 150;
        assert_eq!(picked(&segments, &young), Some((vec![0], vec![], vec![1])));
        young[0].timestamp_max = 50;
        assert_eq!(picked(&segments, &young), None);
        let mut unstable = candidates(&segments, &[1]);
        unstable[0].stable_end = 25;
        assert_eq!(picked(&segments, &unstable), Some((vec![0, 1], vec![], vec![1])));
    }

    #[test]
    fn what_is_overdue_does_not_wait_for_more() {
        let segments = vec![segment(2, &[(1, 1_000)]), segment(0, &[(1, 1)])];
        let mut candidates = candidates(&segments, &[1]);
        candidates[0].overdue_before = Some(100);
        assert_eq!(picked(&segments, &candidates), None);
        candidates[0].overdue_before = Some(101);
        assert_eq!(picked(&segments, &candidates), Some((vec![0, 1], vec![], vec![1])));
    }

    #[test]
    fn the_dirtiest_goes_first() {
        let segments =
            vec![segment(2, &[(1, 10)]), segment(0, &[(1, 20)]), segment(0, &[(2, 1)]), segment(0, &[(3, 9)])];
        assert_eq!(picked(&segments, &candidates(&segments, &[1, 2, 3])).map(|(_, _, ids)| ids), Some(vec![2]));
    }

    #[test]
    fn who_shares_a_segment_goes_along_with_all_of_its_own() {
        let segments = vec![
            segment(2, &[(3, 20)]),
            segment(0, &[(7, 100)]),
            segment(0, &[(1, 10), (2, 10)]),
            segment(1, &[(2, 10), (3, 1), (5, 7)]),
            segment(0, &[(9, 100)]),
        ];
        let candidates = candidates(&segments, &[1, 2, 3]);
        assert_eq!(picked(&segments, &candidates), Some((vec![0, 2, 3], vec![1], vec![1, 2, 3])));
    }

    #[test]
    fn one_dirty_partition_among_many_waits_for_them_unless_it_is_overdue() {
        let segments = vec![segment(2, &[(1, 1), (2, 100)]), segment(0, &[(1, 10), (2, 10)]), segment(0, &[(3, 1)])];
        let mut all = candidates(&segments, &[1, 2]);
        assert_eq!(picked(&segments, &all), None);
        all.extend(candidates(&segments, &[3]));
        assert_eq!(picked(&segments, &all), Some((vec![2], vec![], vec![3])), "others are not held up");
        all.pop();
        all[0].overdue_before = Some(101);
        assert_eq!(picked(&segments, &all), Some((vec![0, 1], vec![], vec![1, 2])));
    }

    #[test]
    fn a_partition_that_may_be_in_what_cannot_be_read_is_not_touched() {
        let segments = vec![
            segment(0, &[(1, 100)]),
            segment(0, &[(2, 100), (4, 100)]),
            segment(0, &[(1, 100)]),
            segment(0, &[(3, 100)]),
            segment(0, &[(5, 100), (6, 100)]),
        ];
        let all = candidates(&segments, &[1, 2, 3, 4, 5, 6]);
        let within = |places: Range<usize>| -> Vec<_> {
            let found = all_within(&all, &places, &[&segments[1].0]);
            found.into_iter().map(|found| (found.partition.0, found.held[0].segment)).collect()
        };
        assert!(within(0..1).is_empty(), "partition 1 goes on behind it");
        assert_eq!(within(2..5), [(5, 2), (6, 2)], "partition 3 may be in it");
    }

    #[test]
    fn a_partition_that_is_not_all_here_is_not_touched() {
        let mut segments = vec![segment(0, &[(1, 100)]), segment(0, &[(1, 100)])];
        segments[0].0.location = Location::Remote;
        assert_eq!(picked(&segments, &candidates(&segments, &[1])), None);
    }
}
