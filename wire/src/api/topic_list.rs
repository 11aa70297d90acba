//! TopicList: every topic, in one line each.

use super::{Api, Kind, Message};
use crate::{
    codec::{DecodeError, Item, List, Reader, Writer},
    durability::Durability,
    id::TopicId,
};

/// Asks for all topics. It has no fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request;

/// All topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// By name.
    pub topics: List<'a, Topic<'a>>,
}

/// A topic, in one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its id.
    pub topic: TopicId,
    /// How many partitions it has.
    pub partition_count: u32,
    /// What its acknowledgements mean.
    pub durability: Durability,
}

impl Message<'_> for Request {
    const API: Api = Api::TopicList;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, _reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self)
    }

    fn encode_fields(&self, _version: u8, _writer: &mut Writer<'_>) {}
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::TopicList;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { topics: reader.list("topics")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.topics);
    }
}

impl<'a> Item<'a> for Topic<'a> {
    const BYTES_MIN: usize = 23;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: reader.string("name")?,
            topic: TopicId(reader.u128("topic")?),
            partition_count: reader.u32("partition_count")?,
            durability: Durability::decode(reader)?,
        })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.string("name", self.name);
        writer.u128(self.topic.0);
        writer.u32(self.partition_count);
        self.durability.encode(writer);
    }
}
