//! Who gets a segment of its own, and who shares one.
//!
//! The one hard idea: files cost per file, rewriting costs per byte. A partition with much to write has a segment that
//! nobody else's retention or deletion ever touches; the many with little share one, so that ten thousand partitions are
//! one file.

use crate::PartitionId;

/// What [`plan`] goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// A partition with at least this many bytes gets a segment of its own. Default 8 MiB.
    pub own_bytes_min: u64,
    /// Partitions share a segment up to this many bytes; it is cut between partitions. Default 128 MiB.
    pub shared_bytes_max: u64,
}

impl Default for PlanLimits {
    fn default() -> Self {
        Self { own_bytes_min: 8 << 20, shared_bytes_max: 128 << 20 }
    }
}

/// One segment to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Whose batches it will hold, ascending; at least one.
    pub partitions: Vec<PartitionId>,
    /// Bytes of their batches.
    pub bytes: u64,
}

/// Divides partitions, each with the bytes of its batches, among segments. Partitions with nothing are left out.
///
/// # Panics
/// If the partitions do not ascend.
pub fn plan(sizes: impl IntoIterator<Item = (PartitionId, u64)>, limits: &PlanLimits) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut shared = Planned { partitions: Vec::new(), bytes: 0 };
    let mut previous = None;
    for (partition, bytes) in sizes {
        assert!(previous < Some(partition), "partitions ascend");
        previous = Some(partition);
        if bytes >= limits.own_bytes_min {
            planned.push(Planned { partitions: vec![partition], bytes });
        } else if bytes > 0 {
            if shared.bytes + bytes > limits.shared_bytes_max && shared.bytes > 0 {
                planned.push(std::mem::replace(&mut shared, Planned { partitions: Vec::new(), bytes: 0 }));
            }
            shared.partitions.push(partition);
            shared.bytes += bytes;
        }
    }
    if shared.bytes > 0 {
        planned.push(shared);
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PlanLimits = PlanLimits { own_bytes_min: 100, shared_bytes_max: 150 };

    fn check(sizes: &[u64], expected: &[(&[u64], u64)]) {
        let sizes = sizes.iter().enumerate().map(|(partition, &bytes)| (PartitionId(partition as u64), bytes));
        let planned: Vec<_> = plan(sizes, &LIMITS)
            .into_iter()
            .map(|planned| (planned.partitions.iter().map(|partition| partition.0).collect::<Vec<_>>(), planned.bytes))
            .collect();
        let expected: Vec<_> = expected.iter().map(|&(partitions, bytes)| (partitions.to_vec(), bytes)).collect();
        assert_eq!(planned, expected);
    }

    #[test]
    fn large_ones_are_alone_and_small_ones_together() {
        check(&[], &[]);
        check(&[0, 0], &[]);
        check(&[10, 100, 20, 0, 99], &[(&[1], 100), (&[0, 2, 4], 129)]);
    }

    #[test]
    fn a_shared_segment_is_cut_between_partitions() {
        check(&[99, 51, 1, 99, 50, 99], &[(&[0, 1], 150), (&[2, 3, 4], 150), (&[5], 99)]);
    }

    #[test]
    fn one_partition_may_be_larger_than_a_shared_segment() {
        let limits = PlanLimits { own_bytes_min: u64::MAX, shared_bytes_max: 10 };
        let sizes = [(PartitionId(1), 3), (PartitionId(2), 50), (PartitionId(3), 3)];
        assert_eq!(plan(sizes, &limits).iter().map(|planned| planned.bytes).collect::<Vec<_>>(), [3, 50, 3]);
    }
}
