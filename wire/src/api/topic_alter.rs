//! TopicAlter: other settings for a topic, all of them or none. Answered once they are in force.

use super::{Api, Kind, Message, Setting};
use crate::{
    codec::{DecodeError, List, Reader, Writer},
    id::TopicId,
};

/// What is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The topic.
    pub name: &'a str,
    /// Settings that get another value.
    pub set: List<'a, Setting<'a>>,
    /// Settings that go back to their defaults, by name.
    pub unset: List<'a, &'a str>,
}

/// The topic altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Its id.
    pub topic: TopicId,
}

impl<'a> Message<'a> for Request<'a> {
    const API: Api = Api::TopicAlter;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { name: reader.string("name")?, set: reader.list("set")?, unset: reader.list("unset")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.string("name", self.name);
        writer.list(&self.set);
        writer.list(&self.unset);
    }
}

impl Message<'_> for Response {
    const API: Api = Api::TopicAlter;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { topic: TopicId(reader.u128("topic")?) })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u128(self.topic.0);
    }
}
