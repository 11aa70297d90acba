//! Topics: created, altered and deleted by MetaLog on shard 0, listed from the snapshot every shard holds, described with what
//! each partition's shard says it holds.

use std::{collections::BTreeMap, rc::Rc};

use runtime::Runtime;
use wire::TopicId;

use super::error::TopicError;
use crate::{
    request::{DescribedTopic, NewTopic, PartitionStatus, Topic, TopicChange},
    shard::{
        Shard,
        mesh::{Message, call},
        metadata,
    },
};

/// Creates a topic; answered once every shard serves it.
pub(crate) async fn create<R: Runtime>(shard: &Rc<Shard<R>>, topic: NewTopic) -> Result<Topic, TopicError> {
    let (reply, answer) = call();
    if shard.index == 0 {
        metadata::create_topic(shard, topic, reply);
    } else {
        ask(shard, Message::CreateTopic { topic, reply })?;
    }
    answer.receive().await.unwrap_or(Err(TopicError::Stopping))
}

/// Gives a topic other settings; answered once every shard goes by them.
pub(crate) async fn alter<R: Runtime>(shard: &Rc<Shard<R>>, change: TopicChange) -> Result<TopicId, TopicError> {
    let (reply, answer) = call();
    if shard.index == 0 {
        metadata::alter_topic(shard, change, reply);
    } else {
        ask(shard, Message::AlterTopic { change, reply })?;
    }
    answer.receive().await.unwrap_or(Err(TopicError::Stopping))
}

/// Deletes a topic; answered once its records are gone from every disk.
pub(crate) async fn delete<R: Runtime>(shard: &Rc<Shard<R>>, name: String) -> Result<TopicId, TopicError> {
    let (reply, answer) = call();
    if shard.index == 0 {
        metadata::delete_topic(shard, name, reply);
    } else {
        ask(shard, Message::DeleteTopic { name, reply })?;
    }
    answer.receive().await.unwrap_or(Err(TopicError::Stopping))
}

/// All topics, by name.
pub(crate) fn list<R: Runtime>(shard: &Shard<R>) -> Vec<Topic> {
    shard.placement().topics().collect()
}

/// The topics of these names, or all, by name; of an unknown one the name.
pub(crate) async fn describe<R: Runtime>(
    shard: &Rc<Shard<R>>,
    names: Vec<String>,
) -> Vec<Result<DescribedTopic, String>> {
    let placement = shard.placement();
    let topics: Vec<Result<Topic, String>> = if names.is_empty() {
        placement.topics().map(Ok).collect()
    } else {
        names.into_iter().map(|name| placement.topic(&name).ok_or(name)).collect()
    };
    let statuses = statuses(shard, topics.iter().flatten()).await;
    let described = |topic: Topic| {
        let statuses = topic.partitions.iter().map(|placed| statuses.get(&placed.partition).copied()).collect();
        DescribedTopic { topic, statuses }
    };
    topics.into_iter().map(|topic| topic.map(described)).collect()
}

/// What the partitions of these topics hold, asked of each shard once.
async fn statuses<R: Runtime>(
    shard: &Rc<Shard<R>>,
    topics: impl Iterator<Item = &Topic>,
) -> BTreeMap<wire::PartitionId, PartitionStatus> {
    let mut by_shard: BTreeMap<u16, Vec<wire::PartitionId>> = BTreeMap::new();
    for placed in topics.flat_map(|topic| &topic.partitions) {
        by_shard.entry(placed.shard).or_default().push(placed.partition);
    }
    let mut statuses = BTreeMap::new();
    for (other, partitions) in by_shard {
        let answered = if other == shard.index {
            partitions.iter().map(|&id| Some(shard.partition(id)?.status())).collect()
        } else {
            let (reply, answer) = call();
            match shard.send(other, Message::Describe { partitions: partitions.clone(), reply }) {
                true => answer.receive().await.unwrap_or_default(),
                false => Vec::new(),
            }
        };
        statuses.extend(partitions.into_iter().zip(answered).filter_map(|(id, status)| Some((id, status?))));
    }
    statuses
}

fn ask<R: Runtime>(shard: &Shard<R>, message: Message<R>) -> Result<(), TopicError> {
    if shard.send(0, message) { Ok(()) } else { Err(TopicError::Busy) }
}
