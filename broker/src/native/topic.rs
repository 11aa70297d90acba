//! TopicCreate, TopicDelete, TopicList and TopicDescribe, between frames and their handlers.

use wire::{
    Durability, ErrorCode, TopicId,
    api::{
        Setting, topic_create,
        topic_create::Placement,
        topic_delete,
        topic_describe::{self, Partition},
        topic_list,
    },
    codec::List,
};

use super::Answer;
use crate::{
    handler::error::TopicError,
    request::{DescribedTopic, NewTopic, PartitionStatus, PlacedPartition, Topic},
    shard::Node,
};

/// What a frame asks for.
pub(super) fn new_topic(request: &topic_create::Request<'_>) -> NewTopic {
    let owned = |setting: Setting<'_>| (setting.key.to_owned(), setting.value.to_owned());
    NewTopic {
        name: request.name.to_owned(),
        partition_count: request.partition_count,
        settings: request.settings.iter().map(owned).collect(),
    }
}

/// Appends the answer to TopicCreate.
pub(super) fn encode_created(out: &mut Answer<'_>, node: Node, created: Result<Topic, TopicError>) {
    let topic = match created {
        Ok(topic) => topic,
        Err(error) => return out.failure::<topic_create::Response<'_>>(error.code(), &error.to_string()),
    };
    let placement = |(index, placed): (u32, &PlacedPartition)| Placement {
        index,
        partition: placed.partition,
        leader_node: node.node_id,
        shard: placed.shard,
    };
    let partitions: Vec<_> = (0..).zip(&topic.partitions).map(placement).collect();
    out.response(&topic_create::Response { topic: topic.id, partitions: List::from(&partitions) });
}

/// Appends the answer to TopicDelete.
pub(super) fn encode_deleted(out: &mut Answer<'_>, deleted: Result<TopicId, TopicError>) {
    match deleted {
        Ok(topic) => out.response(&topic_delete::Response { topic }),
        Err(error) => out.failure::<topic_delete::Response>(error.code(), &error.to_string()),
    }
}

/// Appends the answer to TopicList.
pub(super) fn encode_list<'a>(out: &mut Answer<'_>, topics: &'a [Topic]) {
    let line = |topic: &'a Topic| {
        let Topic { name, id, durability, partitions, .. } = topic;
        topic_list::Topic { name, topic: *id, partition_count: partitions.len() as u32, durability: *durability }
    };
    let lines: Vec<_> = topics.iter().map(line).collect();
    out.response(&topic_list::Response { topics: List::from(&lines) });
}

/// Appends the answer to TopicDescribe: each topic, or the name there is none of.
pub(super) fn encode_described(out: &mut Answer<'_>, node: Node, described: &[Result<DescribedTopic, String>]) {
    let settings: Vec<Vec<Setting<'_>>> =
        described.iter().map(|topic| topic.as_ref().map_or(Vec::new(), settings)).collect();
    let partitions: Vec<Vec<Partition>> =
        described.iter().map(|topic| topic.as_ref().map_or(Vec::new(), |topic| partitions(node, topic))).collect();
    let rows: Vec<_> = described
        .iter()
        .zip(settings.iter().zip(&partitions))
        .map(|(topic, (settings, partitions))| {
            let (name, error, id, durability) = match topic {
                Ok(DescribedTopic { topic, .. }) => (&topic.name, ErrorCode::None, topic.id, topic.durability),
                Err(name) => (name, ErrorCode::UnknownTopic, TopicId(0), Durability::Memory),
            };
            let (settings, partitions) = (List::from(settings), List::from(partitions));
            topic_describe::Topic { name, error, topic: id, durability, settings, partitions }
        })
        .collect();
    out.response(&topic_describe::Response { topics: List::from(&rows) });
}

fn settings(described: &DescribedTopic) -> Vec<Setting<'_>> {
    described.topic.settings.iter().map(|(key, value)| Setting { key, value }).collect()
}

fn partitions(node: Node, described: &DescribedTopic) -> Vec<Partition> {
    let placed = described.topic.partitions.iter().zip(&described.statuses);
    (0..).zip(placed).map(|(index, (placed, status))| partition(node, index, placed, status.as_ref())).collect()
}

fn partition(node: Node, index: u32, placed: &PlacedPartition, status: Option<&PartitionStatus>) -> Partition {
    let error = match status {
        None => ErrorCode::NotLeader,
        Some(status) if status.is_refused => ErrorCode::PartitionRefused,
        Some(_) => ErrorCode::None,
    };
    let offsets = status.map(|status| status.offsets).unwrap_or_default();
    Partition {
        index,
        partition: placed.partition,
        error,
        leader_node: node.node_id,
        leader_epoch: node.epoch as u32,
        shard: placed.shard,
        log_start_offset: offsets.log_start,
        high_watermark: offsets.high_watermark,
        log_end_offset: offsets.log_end,
    }
}
