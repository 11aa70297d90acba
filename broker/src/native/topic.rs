//! TopicCreate, TopicAlter, TopicDelete, TopicList and TopicDescribe, between frames and their handlers.

use runtime::Runtime;
use wire::{
    Durability, ErrorCode, TopicId,
    api::{
        Setting, topic_alter, topic_create,
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
    request::{DescribedTopic, NewTopic, PartitionStatus, PlacedPartition, Topic, TopicChange},
    shard::{Node, Shard},
};

/// What a frame asks for.
pub(super) fn new_topic(request: &topic_create::Request<'_>) -> NewTopic {
    NewTopic {
        name: request.name.to_owned(),
        partition_count: request.partition_count,
        settings: owned(&request.settings),
    }
}

/// What a frame asks to be changed.
pub(super) fn change(request: &topic_alter::Request<'_>) -> TopicChange {
    TopicChange {
        name: request.name.to_owned(),
        set: owned(&request.set),
        unset: request.unset.iter().map(str::to_owned).collect(),
    }
}

fn owned(settings: &List<'_, Setting<'_>>) -> Vec<(String, String)> {
    settings.iter().map(|Setting { key, value }| (key.to_owned(), value.to_owned())).collect()
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

/// Appends the answer to TopicAlter.
pub(super) fn encode_altered(out: &mut Answer<'_>, altered: Result<TopicId, TopicError>) {
    match altered {
        Ok(topic) => out.response(&topic_alter::Response { topic }),
        Err(error) => out.failure::<topic_alter::Response>(error.code(), &error.to_string()),
    }
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
        let Topic { name, id, settings, partitions } = topic;
        let (partition_count, durability) = (partitions.len() as u32, settings.durability());
        topic_list::Topic { name, topic: *id, partition_count, durability }
    };
    let lines: Vec<_> = topics.iter().map(line).collect();
    out.response(&topic_list::Response { topics: List::from(&lines) });
}

/// Appends the answer to TopicDescribe: each topic, or the name there is none of.
pub(super) fn encode_described<R: Runtime>(
    out: &mut Answer<'_>,
    shard: &Shard<R>,
    described: &[Result<DescribedTopic, String>],
) {
    let (node, limit) = (shard.node(), shard.limits().batch_bytes_max);
    let values: Vec<Vec<(&str, String)>> = described
        .iter()
        .map(|topic| topic.as_ref().map_or(Vec::new(), |described| described.topic.settings.effective(limit)))
        .collect();
    let settings: Vec<Vec<Setting<'_>>> =
        values.iter().map(|values| values.iter().map(|(key, value)| Setting { key, value }).collect()).collect();
    let partitions: Vec<Vec<Partition>> =
        described.iter().map(|topic| topic.as_ref().map_or(Vec::new(), |topic| partitions(node, topic))).collect();
    let rows: Vec<_> = described
        .iter()
        .zip(settings.iter().zip(&partitions))
        .map(|(topic, (settings, partitions))| {
            let (name, error, id, durability) = match topic {
                Ok(DescribedTopic { topic, .. }) => {
                    (&topic.name, ErrorCode::None, topic.id, topic.settings.durability())
                }
                Err(name) => (name, ErrorCode::UnknownTopic, TopicId(0), Durability::Memory),
            };
            let (settings, partitions) = (List::from(settings), List::from(partitions));
            topic_describe::Topic { name, error, topic: id, durability, settings, partitions }
        })
        .collect();
    out.response(&topic_describe::Response { topics: List::from(&rows) });
}

fn partitions(node: Node, described: &DescribedTopic) -> Vec<Partition> {
    let placed = described.topic.partitions.iter().zip(&described.statuses);
    (0..).zip(placed).map(|(index, (placed, status))| partition(node, index, placed, status.as_ref())).collect()
}

fn partition(node: Node, index: u32, placed: &PlacedPartition, status: Option<&PartitionStatus>) -> Partition {
    let error = match status {
        None => ErrorCode::NotLeader,
        Some(status) if status.refused_from.is_some() => ErrorCode::PartitionRefused,
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
        refused_from: status.and_then(|status| status.refused_from).unwrap_or(0),
        damaged_from: status.and_then(|status| status.damaged_from).unwrap_or(Partition::SOUND),
    }
}
