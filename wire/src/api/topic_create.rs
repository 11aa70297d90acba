//! TopicCreate: a name, its partitions and its settings. Answered once it can be produced to.

use super::{Api, Kind, Message, Setting};
use crate::{
    codec::{DecodeError, Item, List, Reader, Writer},
    id::{PartitionId, TopicId},
};

/// The topic to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// 1 to 249 of `A-Z a-z 0-9 . _ -`, and not `.` or `..`.
    pub name: &'a str,
    /// At least 1.
    pub partition_count: u32,
    /// What differs from the defaults.
    pub settings: List<'a, Setting<'a>>,
}

/// The topic created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// Its id.
    pub topic: TopicId,
    /// Its partitions, by index.
    pub partitions: List<'a, Placement>,
}

/// Where a partition lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Its number in the topic, from 0.
    pub index: u32,
    /// Its id, by which it is produced to and fetched from.
    pub partition: PartitionId,
    /// The node that leads it.
    pub leader_node: u32,
    /// The shard of that node.
    pub shard: u16,
}

impl<'a> Message<'a> for Request<'a> {
    const API: Api = Api::TopicCreate;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: reader.string("name")?,
            partition_count: reader.u32("partition_count")?,
            settings: reader.list("settings")?,
        })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.string("name", self.name);
        writer.u32(self.partition_count);
        writer.list(&self.settings);
    }
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::TopicCreate;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { topic: TopicId(reader.u128("topic")?), partitions: reader.list("partitions")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u128(self.topic.0);
        writer.list(&self.partitions);
    }
}

impl<'a> Item<'a> for Placement {
    const BYTES_MIN: usize = 18;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            index: reader.u32("index")?,
            partition: PartitionId(reader.u64("partition")?),
            leader_node: reader.u32("leader_node")?,
            shard: reader.u16("shard")?,
        })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u32(self.index);
        writer.u64(self.partition.0);
        writer.u32(self.leader_node);
        writer.u16(self.shard);
    }
}
