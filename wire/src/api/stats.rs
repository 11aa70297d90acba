//! Stats: the node's counters, as names and numbers.

use super::{Api, Kind, Message};
use crate::codec::{DecodeError, Item, List, Reader, Writer};

/// Asks for all counters of the node. It has no fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request;

/// All counters of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// By name.
    pub counters: List<'a, Counter<'a>>,
}

/// A counter or a gauge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter<'a> {
    /// What it counts, with its unit last.
    pub name: &'a str,
    /// Since the node started, or now.
    pub value: u64,
}

impl Message<'_> for Request {
    const API: Api = Api::Stats;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, _reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self)
    }

    fn encode_fields(&self, _version: u8, _writer: &mut Writer<'_>) {}
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::Stats;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { counters: reader.list("counters")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.counters);
    }
}

impl<'a> Item<'a> for Counter<'a> {
    const BYTES_MIN: usize = 10;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { name: reader.string("name")?, value: reader.u64("value")? })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.string("name", self.name);
        writer.u64(self.value);
    }
}
