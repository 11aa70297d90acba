//! Topics, offsets, counters and health: what an operator asks, and what tests and tools need.
//!
//! Questions are asked again until the request timeout is over. A change is asked for again only while it certainly was not
//! made; after that its outcome is unknown and the error says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use wire::{
    Durability, ErrorCode, PartitionId, TopicId,
    api::{
        Setting, delete_records, health, hold, list_offsets, loss_accept, stats, topic_alter, topic_create,
        topic_delete, topic_describe, topic_list,
    },
};

use crate::{
    client::{Inner, Repeat},
    error::Error,
};

pub use wire::api::health::State;

/// Calls that manage a cluster; made by [`Client::admin`](crate::Client::admin).
#[derive(Debug, Clone)]
pub struct Admin {
    client: Arc<Inner>,
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    name: String,
    partition_count: u32,
    settings: BTreeMap<String, String>,
}

/// Other settings for a topic, all of them or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicChange {
    set: BTreeMap<String, String>,
    unset: BTreeSet<String>,
}

/// A log whose segments are held, see [`Admin::hold_segments`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldLog {
    /// Its id.
    pub id: u128,
    /// The last sync group that is in segments; 0 without a flush.
    pub flushed: u64,
}

/// A topic in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSummary {
    /// Its name.
    pub name: String,
    /// Its id; a topic deleted and created anew has another.
    pub id: TopicId,
    /// How many partitions it has.
    pub partition_count: u32,
    /// What its acknowledgements mean.
    pub durability: Durability,
}

/// A topic in full.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id; a topic deleted and created anew has another.
    pub id: TopicId,
    /// What its acknowledgements mean.
    pub durability: Durability,
    /// Every setting with its value in force, by name: given or default.
    pub settings: BTreeMap<String, String>,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition: where it lives and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// Its number in the topic, from 0.
    pub partition: u32,
    /// Its id on the wire and on disk.
    pub id: PartitionId,
    /// Why it cannot be used: [`ErrorCode::None`] when it can.
    pub error: ErrorCode,
    /// The node that leads it.
    pub leader_node: u32,
    /// The epoch of that leadership.
    pub leader_epoch: u32,
    /// The shard of that node.
    pub shard: u16,
    /// The first offset that can be read.
    pub log_start_offset: u64,
    /// The first offset that consumers may not read yet.
    pub high_watermark: u64,
    /// The offset that the next record gets.
    pub log_end_offset: u64,
    /// The first offset that cannot be proven, if the log is damaged: the partition is served below it and takes nothing.
    pub refused_from: Option<u64>,
    /// The first offset at which damage in a segment was met since the broker started: reads of it are refused, all else is
    /// served. More may be damaged that nobody has read yet: [`Admin::damage`] looks.
    pub damaged_from: Option<u64>,
}

/// What damage took of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The offsets that are lost, ascending. Of some nobody knows whether they held anything.
    pub lost: Vec<Range<u64>>,
    /// The numbers of damaged segments, in the log the partition lives in, that hold something of it or may. There may be one
    /// although nothing is lost.
    pub segments: BTreeSet<u64>,
}

impl Damage {
    /// Whether nothing is damaged.
    pub fn is_none(&self) -> bool {
        self.lost.is_empty() && self.segments.is_empty()
    }

    /// Adds what was found of the stretch behind.
    fn extend(&mut self, (lost, segments): (Vec<loss_accept::Lost>, Vec<loss_accept::Segment>)) {
        for loss_accept::Lost { from, to } in lost {
            match self.lost.last_mut().filter(|before| before.end >= from) {
                Some(before) => before.end = before.end.max(to),
                None => self.lost.push(from..to),
            }
        }
        self.segments.extend(segments.into_iter().map(|segment| segment.number));
    }
}

/// A place in a partition, in words or as a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffsetAt {
    /// The first record there is.
    Earliest,
    /// Where the next record will be.
    Latest,
    /// The first record with this timestamp or a later one, in milliseconds since 1970; [`Self::Latest`] if there is none.
    Timestamp(i64),
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The worst state of any shard.
    pub state: State,
    /// By number.
    pub shards: Vec<ShardHealth>,
}

/// How a shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardHealth {
    /// Its number, from 0.
    pub shard: u16,
    /// How it is.
    pub state: State,
    /// What is the matter; empty when it serves.
    pub reason: String,
}

impl NewTopic {
    /// A topic of one partition, with the broker's default settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), partition_count: 1, settings: BTreeMap::new() }
    }

    /// How many partitions, at least 1. Default: 1.
    pub fn partitions(mut self, count: u32) -> Self {
        self.partition_count = count;
        self
    }

    /// What an acknowledgement means. Default: [`Durability::Durable`].
    pub fn durability(self, durability: Durability) -> Self {
        self.setting(Durability::SETTING, durability.name())
    }

    /// A topic setting, such as `retention.ms`. The last value of a name counts.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }
}

impl TopicChange {
    /// A change of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a setting another value, such as `retention.ms`. The last value of a name counts.
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.set.insert(name.into(), value.into());
        self
    }

    /// Has a setting go back to its default.
    pub fn unset(mut self, name: impl Into<String>) -> Self {
        self.unset.insert(name.into());
        self
    }
}

impl Admin {
    pub(crate) fn new(client: Arc<Inner>) -> Self {
        Self { client }
    }

    /// Creates a topic; when this returns it can be produced to. Returns its id.
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicExists`, `InvalidTopicName`, `InvalidPartitions` or `InvalidConfig`;
    /// [`Error::OutcomeUnknown`] when the connection broke before the answer.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<TopicId, Error> {
        let settings: Vec<_> = topic.settings.iter().map(|(key, value)| Setting { key, value }).collect();
        let request = topic_create::Request {
            name: &topic.name,
            partition_count: topic.partition_count,
            settings: (&settings).into(),
        };
        let operation = format!("create topic {}", topic.name);
        let created = self.client.ask(&operation, Repeat::Harmful, &request, |response| {
            let response: topic_create::Response<'_> = response.message()?;
            Ok(response.topic)
        });
        created.await
    }

    /// Gives a topic other settings; when this returns all of them are in force.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`]; [`Error::Refused`] with `InvalidConfig` when a setting is unknown, has another kind of value,
    /// is both set and unset, or is fixed at creation; [`Error::OutcomeUnknown`] when the connection broke before the answer.
    pub async fn alter_topic(&self, name: &str, change: TopicChange) -> Result<(), Error> {
        let set: Vec<_> = change.set.iter().map(|(key, value)| Setting { key, value }).collect();
        let unset: Vec<_> = change.unset.iter().map(String::as_str).collect();
        let request = topic_alter::Request { name, set: (&set).into(), unset: (&unset).into() };
        let operation = format!("alter topic {name}");
        let altered = self.client.ask(&operation, Repeat::Harmful, &request, |response| {
            response.message::<topic_alter::Response>().map(drop)
        });
        altered.await.map_err(|error| named(error, name))
    }

    /// Deletes a topic and all its records, for good. Returns the id it had.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`]; [`Error::OutcomeUnknown`] when the connection broke before the answer.
    pub async fn delete_topic(&self, name: &str) -> Result<TopicId, Error> {
        let request = topic_delete::Request { name };
        let operation = format!("delete topic {name}");
        let deleted = self.client.ask(&operation, Repeat::Harmful, &request, |response| {
            let response: topic_delete::Response = response.message()?;
            Ok(response.topic)
        });
        deleted.await.map_err(|error| named(error, name))
    }

    /// Has everything that is stored of a partition read, and says what damage took: what [`Self::accept_loss`] would give up.
    ///
    /// # Errors
    /// When the partition is not there any more, or no broker answers within the request timeout, which counts for every
    /// 64 MiB anew.
    pub async fn damage(&self, partition: &PartitionDescription) -> Result<Damage, Error> {
        self.survey(partition, true, format!("look for damage in partition {}", partition.partition)).await
    }

    /// Gives up what damage took from a partition, for good: it goes on without the offsets answered, which consumers are told
    /// are lost.
    ///
    /// # Errors
    /// As [`Self::damage`]. What was given up until then stays so.
    pub async fn accept_loss(&self, partition: &PartitionDescription) -> Result<Damage, Error> {
        self.survey(partition, false, format!("accept the loss in partition {}", partition.partition)).await
    }

    async fn survey(
        &self,
        partition: &PartitionDescription,
        dry_run: bool,
        operation: String,
    ) -> Result<Damage, Error> {
        let (mut damage, mut from_offset) = (Damage::default(), 0);
        while from_offset != loss_accept::Response::END {
            let request = loss_accept::Request { partition: partition.id, from_offset, dry_run };
            // Accepted twice it is accepted once.
            let found = self.client.ask(&operation, Repeat::Harmless, &request, |response| {
                let found: loss_accept::Response<'_> = response.message()?;
                Ok(((found.lost.iter().collect(), found.segments.iter().collect()), found.next_offset))
            });
            let (found, next_offset) = found.await?;
            damage.extend(found);
            from_offset = next_offset;
        }
        Ok(damage)
    }

    /// Flushes all that was acknowledged, if `flush`, and has the broker delete no segment for so long, a minute at most: its
    /// data directory can be copied meanwhile. Returns how far each log is flushed, by its number.
    ///
    /// # Errors
    /// [`Error::Refused`] with `StorageFull` when the disk has no room for segments; when no broker answers within the request
    /// timeout.
    pub async fn hold_segments(&self, hold_for: Duration, flush: bool) -> Result<Vec<HeldLog>, Error> {
        let hold_ms = u32::try_from(hold_for.as_millis()).unwrap_or(u32::MAX);
        let request = hold::Request { hold_ms, flush };
        // Held twice it is held as long as the longer of the two.
        let held = self.client.ask("hold segments", Repeat::Harmless, &request, |response| {
            let response: hold::Response<'_> = response.message()?;
            Ok(response.logs.iter().map(|log| HeldLog { id: log.log_id, flushed: log.flushed_lsn }).collect())
        });
        held.await
    }

    /// Every topic, by name.
    ///
    /// # Errors
    /// When no broker answers within the request timeout.
    pub async fn list_topics(&self) -> Result<Vec<TopicSummary>, Error> {
        let listed = self.client.ask("list topics", Repeat::Harmless, &topic_list::Request, |response| {
            let response: topic_list::Response<'_> = response.message()?;
            Ok(response.topics.iter().map(TopicSummary::from).collect())
        });
        listed.await
    }

    /// A topic in full.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`]; when no broker answers within the request timeout.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, Error> {
        let names = [name];
        let request = topic_describe::Request { names: (&names).into() };
        let operation = format!("describe topic {name}");
        let described = self.client.ask(&operation, Repeat::Harmless, &request, |response| {
            let response: topic_describe::Response<'_> = response.message()?;
            let found = response.topics.iter().next().map(|topic| (topic.error, TopicDescription::from(topic)));
            Ok(found.unwrap_or_else(|| (ErrorCode::Internal, TopicDescription::unknown(name))))
        });
        match described.await? {
            (ErrorCode::None, topic) => Ok(topic),
            (code, _) => Err(named(Error::refused(operation, &self.client.address(), code, ""), name)),
        }
    }

    /// Deletes the oldest records of partitions, for good: those before an offset, or with `None` all that consumers see.
    /// Returns where each partition starts now, in the order asked; durable by then.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`]; the first partition's error if any has one, such as
    /// [`Error::Refused`] with `OffsetOutOfRange` above the high watermark; [`Error::OutcomeUnknown`] when the connection
    /// broke before the answer.
    pub async fn delete_records(&self, topic: &str, before: &[(u32, Option<u64>)]) -> Result<Vec<u64>, Error> {
        let topic = self.client.topic(topic).await?;
        let partition_count = topic.partition_count();
        if let Some(&(partition, _)) = before.iter().find(|(partition, _)| *partition >= partition_count) {
            return Err(Error::UnknownPartition { topic: topic.name.clone(), partition, partition_count });
        }
        self.client.delete_records(&topic, before).await
    }

    /// The offset at a place in each partition of a topic, by partition number.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`]; the first partition's error if any has one.
    pub async fn list_offsets(&self, topic: &str, at: OffsetAt) -> Result<Vec<u64>, Error> {
        let topic = self.client.topic(topic).await?;
        let places: Vec<_> = (0..topic.partition_count()).map(|partition| (partition, at)).collect();
        self.client.list_offsets(&topic, &places).await
    }

    /// Every counter of the node that this client is connected to, by name; the unit stands last in each name.
    ///
    /// # Errors
    /// When the broker does not answer within the request timeout.
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>, Error> {
        let counted = self.client.ask("read counters", Repeat::Harmless, &stats::Request, |response| {
            let response: stats::Response<'_> = response.message()?;
            Ok(response.counters.iter().map(|counter| (counter.name.to_owned(), counter.value)).collect())
        });
        counted.await
    }

    /// How the node is that this client is connected to.
    ///
    /// # Errors
    /// When the broker does not answer within the request timeout.
    pub async fn health(&self) -> Result<Health, Error> {
        let asked = self.client.ask("ask for health", Repeat::Harmless, &health::Request, |response| {
            let response: health::Response<'_> = response.message()?;
            Ok(Health { state: response.state, shards: response.shards.iter().map(ShardHealth::from).collect() })
        });
        asked.await
    }
}

impl Inner {
    /// The offsets at places in partitions of one topic, in the order asked.
    pub(crate) async fn list_offsets(
        &self,
        topic: &crate::metadata::Topic,
        places: &[(u32, OffsetAt)],
    ) -> Result<Vec<u64>, Error> {
        let query = |&(partition, at): &(u32, OffsetAt)| list_offsets::Query {
            partition: topic.partitions[partition as usize].id,
            at: at.into(),
        };
        let queries: Vec<_> = places.iter().map(query).collect();
        let request = list_offsets::Request { partitions: (&queries).into() };
        let operation = format!("list offsets of {}", topic.name);
        let found = self.ask(&operation, Repeat::Harmless, &request, |response| {
            let response: list_offsets::Response<'_> = response.message()?;
            let row = |found: list_offsets::Found<'_>| (found.offset, found.error, found.reason.to_owned());
            Ok(response.partitions.iter().map(row).collect::<Vec<_>>())
        });
        let found = found.await?;
        self.one_each(&operation, found, places.iter().map(|(partition, _)| *partition))
    }

    /// Deletes what is before each offset in partitions of one topic; where they start then, in the order asked.
    async fn delete_records(
        &self,
        topic: &crate::metadata::Topic,
        before: &[(u32, Option<u64>)],
    ) -> Result<Vec<u64>, Error> {
        let row = |&(partition, offset): &(u32, Option<u64>)| delete_records::Before {
            partition: topic.partitions[partition as usize].id,
            offset,
        };
        let rows: Vec<_> = before.iter().map(row).collect();
        let request = delete_records::Request { partitions: (&rows).into() };
        // Asked again, the high watermark may be another one.
        let is_fixed = before.iter().all(|(_, offset)| offset.is_some());
        let repeat = if is_fixed { Repeat::Harmless } else { Repeat::Harmful };
        let operation = format!("delete records of {}", topic.name);
        let deleted = self.ask(&operation, repeat, &request, |response| {
            let response: delete_records::Response<'_> = response.message()?;
            let row = |row: delete_records::Deleted<'_>| (row.log_start_offset, row.error, row.reason.to_owned());
            Ok(response.partitions.iter().map(row).collect::<Vec<_>>())
        });
        let rows = deleted.await?;
        self.one_each(&operation, rows, before.iter().map(|(partition, _)| *partition))
    }

    /// The offset of each row; the first refusal if there is one, with its partition.
    fn one_each(
        &self,
        operation: &str,
        rows: Vec<(u64, ErrorCode, String)>,
        partitions: impl ExactSizeIterator<Item = u32>,
    ) -> Result<Vec<u64>, Error> {
        if rows.len() != partitions.len() {
            let reason = format!("{} partitions asked for, {} answered", partitions.len(), rows.len()).into();
            return Err(Error::Protocol { address: self.address(), reason });
        }
        let offset = |((offset, code, reason), partition): ((u64, ErrorCode, String), u32)| match code.is_error() {
            true => Err(Error::refused(format!("{operation}/{partition}"), &self.address(), code, &reason)),
            false => Ok(offset),
        };
        rows.into_iter().zip(partitions).map(offset).collect()
    }
}

/// The broker's `UnknownTopic`, with the name.
fn named(error: Error, topic: &str) -> Error {
    match error {
        Error::Refused { code: ErrorCode::UnknownTopic, .. } => Error::UnknownTopic { topic: topic.into() },
        error => error,
    }
}

impl From<OffsetAt> for list_offsets::At {
    fn from(at: OffsetAt) -> Self {
        match at {
            OffsetAt::Earliest => Self::Earliest,
            OffsetAt::Latest => Self::Latest,
            OffsetAt::Timestamp(timestamp_ms) => Self::Timestamp(timestamp_ms),
        }
    }
}

impl From<topic_list::Topic<'_>> for TopicSummary {
    fn from(topic: topic_list::Topic<'_>) -> Self {
        Self {
            name: topic.name.to_owned(),
            id: topic.topic,
            partition_count: topic.partition_count,
            durability: topic.durability,
        }
    }
}

impl TopicDescription {
    fn unknown(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: TopicId(0),
            durability: Durability::default(),
            settings: BTreeMap::new(),
            partitions: Vec::new(),
        }
    }
}

impl From<topic_describe::Topic<'_>> for TopicDescription {
    fn from(topic: topic_describe::Topic<'_>) -> Self {
        let setting = |setting: Setting<'_>| (setting.key.to_owned(), setting.value.to_owned());
        Self {
            name: topic.name.to_owned(),
            id: topic.topic,
            durability: topic.durability,
            settings: topic.settings.iter().map(setting).collect(),
            partitions: topic.partitions.iter().map(PartitionDescription::from).collect(),
        }
    }
}

impl From<topic_describe::Partition> for PartitionDescription {
    fn from(partition: topic_describe::Partition) -> Self {
        Self {
            partition: partition.index,
            id: partition.partition,
            error: partition.error,
            leader_node: partition.leader_node,
            leader_epoch: partition.leader_epoch,
            shard: partition.shard,
            log_start_offset: partition.log_start_offset,
            high_watermark: partition.high_watermark,
            log_end_offset: partition.log_end_offset,
            refused_from: (partition.error == ErrorCode::PartitionRefused).then_some(partition.refused_from),
            damaged_from: Some(partition.damaged_from).filter(|&from| from != topic_describe::Partition::SOUND),
        }
    }
}

impl From<health::Shard<'_>> for ShardHealth {
    fn from(shard: health::Shard<'_>) -> Self {
        Self { shard: shard.shard, state: shard.state, reason: shard.reason.to_owned() }
    }
}
