//! What the client knows of topics: their partitions, and which shard of which node leads each.
//!
//! The hard idea: it may be stale at any time, and that is harmless. A partition is addressed by an id that is never given
//! out twice, so an old answer leads to a refusal, never to someone else's records; the refusal is the signal to ask again.
//! A partition that moved to another shard of its node is still served by the old connection, one hop dearer, so nobody is
//! refused; therefore it is asked for again after each reconnection, and every [`AGE_MAX`].

use std::{sync::Arc, time::Duration};

use wire::{
    Durability, ErrorCode, PartitionId, TopicId,
    api::topic_describe::{Partition as DescribedPartition, Topic as Described},
};

/// What is older is asked for again.
pub(crate) const AGE_MAX: Duration = Duration::from_secs(60);

/// The shard that leads a partition, and so the connection that its requests go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Route {
    pub(crate) node: u32,
    pub(crate) shard: u16,
}

/// A topic as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) id: TopicId,
    pub(crate) durability: Durability,
    /// By index; never empty.
    pub(crate) partitions: Vec<Partition>,
}

/// A partition as it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    pub(crate) route: Route,
}

impl Topic {
    /// The topic of a description, unless there is none of that name or its partitions are not numbered from 0.
    pub(crate) fn from_description(described: &Described<'_>) -> Result<Self, ErrorCode> {
        if described.error.is_error() {
            return Err(described.error);
        }
        let in_order = described.partitions.iter().zip(0..).all(|(partition, index)| partition.index == index);
        if described.partitions.is_empty() || !in_order {
            return Err(ErrorCode::Internal);
        }
        Ok(Self {
            name: described.name.into(),
            id: described.topic,
            durability: described.durability,
            partitions: described.partitions.iter().map(Partition::from).collect(),
        })
    }

    pub(crate) fn partition_count(&self) -> u32 {
        self.partitions.len() as u32
    }
}

impl From<DescribedPartition> for Partition {
    fn from(described: DescribedPartition) -> Self {
        let route = Route { node: described.leader_node, shard: described.shard };
        Self { id: described.partition, route }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(indexes: &[u32], error: ErrorCode) -> Result<Topic, ErrorCode> {
        let partition = |&index| DescribedPartition {
            index,
            partition: PartitionId(u64::from(index) + 10),
            error: ErrorCode::None,
            leader_node: 1,
            leader_epoch: 1,
            shard: 3,
            log_start_offset: 0,
            high_watermark: 0,
            log_end_offset: 0,
            refused_from: 0,
            damaged_from: u64::MAX,
        };
        let partitions: Vec<_> = indexes.iter().map(partition).collect();
        Topic::from_description(&Described {
            name: "t",
            error,
            topic: TopicId(5),
            durability: Durability::Durable,
            settings: Default::default(),
            partitions: (&partitions).into(),
        })
    }

    #[test]
    fn partitions_are_found_by_their_index() {
        let topic = described(&[0, 1], ErrorCode::None).unwrap();
        assert_eq!(topic.partitions[1].id, PartitionId(11));
        assert_eq!(topic.partitions[1].route, Route { node: 1, shard: 3 });
    }

    #[test]
    fn a_description_that_cannot_be_used_is_refused() {
        assert_eq!(described(&[], ErrorCode::UnknownTopic), Err(ErrorCode::UnknownTopic));
        assert_eq!(described(&[], ErrorCode::None), Err(ErrorCode::Internal));
        assert_eq!(described(&[1, 0], ErrorCode::None), Err(ErrorCode::Internal));
    }
}
