//! TopicDescribe: topics in full, with where their partitions live and what they hold.

use super::{Api, Kind, Message, Setting};
use crate::{
    codec::{DecodeError, Item, List, Reader, Writer},
    durability::Durability,
    error_code::ErrorCode,
    id::{PartitionId, TopicId},
};

/// The topics to describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Their names; none means all.
    pub names: List<'a, &'a str>,
}

/// The topics described: those asked for, in that order, or all, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// One for each name.
    pub topics: List<'a, Topic<'a>>,
}

/// A topic, in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic<'a> {
    /// Its name.
    pub name: &'a str,
    /// `UnknownTopic` where there is none of that name: what follows then means nothing, and both lists are empty.
    pub error: ErrorCode,
    /// Its id.
    pub topic: TopicId,
    /// What its acknowledgements mean.
    pub durability: Durability,
    /// Every setting with its value in force, defaults included.
    pub settings: List<'a, Setting<'a>>,
    /// Its partitions, by index.
    pub partitions: List<'a, Partition>,
}

/// A partition: where it lives and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its number in the topic, from 0.
    pub index: u32,
    /// Its id, by which it is produced to and fetched from.
    pub partition: PartitionId,
    /// `PartitionRefused` where its log is damaged, `NotLeader` where the offsets below are not known here.
    pub error: ErrorCode,
    /// The node that leads it.
    pub leader_node: u32,
    /// The epoch of that leadership, as in the batches that it places.
    pub leader_epoch: u32,
    /// The shard of that node.
    pub shard: u16,
    /// The first offset that can still be read.
    pub log_start_offset: u64,
    /// The first offset that consumers may not read yet.
    pub high_watermark: u64,
    /// The offset that the next record gets.
    pub log_end_offset: u64,
    /// With `PartitionRefused`: the first offset that cannot be proven; what lies below is served. Otherwise 0.
    pub refused_from: u64,
    /// The first offset at which damage in a segment was met: reads of it are refused, all else is served.
    /// [`Self::SOUND`] where none was.
    pub damaged_from: u64,
}

impl Partition {
    /// No damage is known.
    pub const SOUND: u64 = u64::MAX;
}

impl<'a> Message<'a> for Request<'a> {
    const API: Api = Api::TopicDescribe;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { names: reader.list("names")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.names);
    }
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::TopicDescribe;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { topics: reader.list("topics")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.topics);
    }
}

impl<'a> Item<'a> for Topic<'a> {
    const BYTES_MIN: usize = 29;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: reader.string("name")?,
            error: ErrorCode::from_number(reader.u16("error")?),
            topic: TopicId(reader.u128("topic")?),
            durability: Durability::decode(reader)?,
            settings: reader.list("settings")?,
            partitions: reader.list("partitions")?,
        })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.string("name", self.name);
        writer.u16(self.error.number());
        writer.u128(self.topic.0);
        self.durability.encode(writer);
        writer.list(&self.settings);
        writer.list(&self.partitions);
    }
}

impl<'a> Item<'a> for Partition {
    const BYTES_MIN: usize = 64;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            index: reader.u32("index")?,
            partition: PartitionId(reader.u64("partition")?),
            error: ErrorCode::from_number(reader.u16("error")?),
            leader_node: reader.u32("leader_node")?,
            leader_epoch: reader.u32("leader_epoch")?,
            shard: reader.u16("shard")?,
            log_start_offset: reader.u64("log_start_offset")?,
            high_watermark: reader.u64("high_watermark")?,
            log_end_offset: reader.u64("log_end_offset")?,
            refused_from: reader.u64("refused_from")?,
            damaged_from: reader.u64("damaged_from")?,
        })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u32(self.index);
        writer.u64(self.partition.0);
        writer.u16(self.error.number());
        writer.u32(self.leader_node);
        writer.u32(self.leader_epoch);
        writer.u16(self.shard);
        writer.u64(self.log_start_offset);
        writer.u64(self.high_watermark);
        writer.u64(self.log_end_offset);
        writer.u64(self.refused_from);
        writer.u64(self.damaged_from);
    }
}
