//! What was given up of segments: damage touches it, and an operator said that the partition goes on without.
//!
//! It is kept by partition and segment, for as long as both are there: the next rewrite of the segment leaves it behind.

use std::{collections::BTreeMap, ops::Range};

use thin_vec::ThinVec;

use super::state::add_lost;
use crate::{PartitionId, segment::SegmentId};

/// All offsets: what is given up where not even a segment's footer can be read.
pub const ALL_OFFSETS: Range<u64> = 0..u64::MAX;

/// Offsets of partitions in segments, which nobody reads any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenUp(BTreeMap<(PartitionId, SegmentId), ThinVec<Range<u64>>>);

impl GivenUp {
    /// Adds offsets, joined with those they touch.
    pub fn add(&mut self, partition: PartitionId, segment: SegmentId, offsets: Range<u64>) {
        add_lost(self.0.entry((partition, segment)).or_default(), offsets);
    }

    /// What was given up of a partition in a segment, ascending.
    pub fn of(&self, partition: PartitionId, segment: SegmentId) -> &[Range<u64>] {
        self.0.get(&(partition, segment)).map_or(&[], |offsets| offsets)
    }

    /// Whether all of these offsets were.
    pub fn covers(&self, partition: PartitionId, segment: SegmentId, offsets: &Range<u64>) -> bool {
        let covers = |given_up: &Range<u64>| given_up.start <= offsets.start && offsets.end <= given_up.end;
        self.of(partition, segment).iter().any(covers)
    }

    /// Whether something was given up in a segment, of any partition.
    pub fn concerns(&self, segment: SegmentId) -> bool {
        self.0.keys().any(|&(_, of)| of == segment)
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of it, in order.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, SegmentId, Range<u64>)> {
        self.0.iter().flat_map(|(&(partition, segment), offsets)| {
            offsets.iter().map(move |offsets| (partition, segment, offsets.clone()))
        })
    }

    /// Forgets what this says no to.
    pub(super) fn retain(&mut self, stays: impl Fn(PartitionId, SegmentId) -> bool) {
        self.0.retain(|&(partition, segment), _| stays(partition, segment));
    }
}

impl FromIterator<(PartitionId, SegmentId, Range<u64>)> for GivenUp {
    fn from_iter<I: IntoIterator<Item = (PartitionId, SegmentId, Range<u64>)>>(all: I) -> Self {
        let mut given_up = Self::default();
        all.into_iter().for_each(|(partition, segment, offsets)| given_up.add(partition, segment, offsets));
        given_up
    }
}
