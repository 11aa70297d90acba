//! TopicDelete: a topic and all its records, for good.

use super::{Api, Kind, Message};
use crate::{
    codec::{DecodeError, Reader, Writer},
    id::TopicId,
};

/// The topic to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its name.
    pub name: &'a str,
}

/// The topic deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// The id it had.
    pub topic: TopicId,
}

impl<'a> Message<'a> for Request<'a> {
    const API: Api = Api::TopicDelete;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { name: reader.string("name")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.string("name", self.name);
    }
}

impl Message<'_> for Response {
    const API: Api = Api::TopicDelete;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { topic: TopicId(reader.u128("topic")?) })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u128(self.topic.0);
    }
}
