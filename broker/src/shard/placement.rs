//! Partition to log to shard: the only place that decides.
//!
//! MetaLog says which log a partition lives in; a shard runs the log of its own number. When one day a shard runs several
//! logs, this table is what changes.

use std::{collections::BTreeMap, sync::Arc};

use rustc_hash::FxHashMap;
use storage::PartitionSettings;
use wire::PartitionId;

use crate::{
    meta::{self, Snapshot, TopicName, TopicPartition},
    request::{PlacedPartition, Topic},
};

/// The metadata in force on a shard, and where every partition is served.
#[derive(Default)]
pub(crate) struct Placement {
    snapshot: Arc<Snapshot>,
    shards: FxHashMap<PartitionId, u16>,
}

impl Placement {
    /// The placement of a snapshot.
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        let partitions = snapshot.topics.values().flat_map(|topic| &topic.partitions);
        let shards = partitions.map(|partition| (partition.id, shard_of_log(partition.log))).collect();
        Self { snapshot, shards }
    }

    /// The snapshot's number.
    pub(crate) fn version(&self) -> u64 {
        self.snapshot.version
    }

    /// The shard that leads a partition.
    pub(crate) fn shard_of(&self, id: PartitionId) -> Option<u16> {
        self.shards.get(&id).copied()
    }

    /// Whether a partition is any topic's.
    pub(crate) fn contains(&self, id: PartitionId) -> bool {
        self.shards.contains_key(&id)
    }

    /// The partitions that `shard` leads, each with what it is kept by.
    pub(crate) fn led_by(&self, shard: u16) -> impl Iterator<Item = (PartitionId, PartitionSettings)> {
        self.snapshot.topics.values().flat_map(move |topic| {
            let led = topic.partitions.iter().filter(move |partition| shard_of_log(partition.log) == shard);
            led.map(|partition| (partition.id, topic.settings.meant()))
        })
    }

    /// All topics, by name.
    pub(crate) fn topics(&self) -> impl Iterator<Item = Topic> {
        self.snapshot.topics.iter().map(|(name, topic)| described(name, topic))
    }

    /// The topic of this name.
    pub(crate) fn topic(&self, name: &str) -> Option<Topic> {
        self.snapshot.topics.get_key_value(name).map(|(name, topic)| described(name, topic))
    }
}

/// Partitions whose records have to go from each shard's disk.
pub(crate) fn tombstones(snapshot: &Snapshot) -> BTreeMap<u16, Vec<PartitionId>> {
    let mut by_shard: BTreeMap<u16, Vec<PartitionId>> = BTreeMap::new();
    for (&partition, &log) in &snapshot.tombstones {
        by_shard.entry(shard_of_log(log)).or_default().push(partition);
    }
    by_shard
}

fn described(name: &TopicName, topic: &meta::Topic) -> Topic {
    let placed =
        |partition: &TopicPartition| PlacedPartition { partition: partition.id, shard: shard_of_log(partition.log) };
    Topic {
        name: name.to_string(),
        id: topic.id,
        settings: topic.settings.clone(),
        partitions: topic.partitions.iter().map(placed).collect(),
    }
}

/// A log's number is that of the shard that runs it; a node has fewer shards than a u16 counts.
fn shard_of_log(log: u32) -> u16 {
    u16::try_from(log).expect("a start with fewer shards than logs is refused")
}
