//! Get: the last record of a key, of a topic that is compacted.

use super::{Api, Kind, Message};
use crate::{
    codec::{DecodeError, Item, List, Reader, Writer},
    id::PartitionId,
};

/// Which key to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The partition that the key's producers chose for it.
    pub partition: PartitionId,
    /// The key; may be empty.
    pub key: &'a [u8],
}

/// What the partition holds of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// Its last record; `None` when there is none, or it says that the key is deleted.
    pub found: Option<Found<'a>>,
}

/// The last record of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// Its number in the partition.
    pub offset: u64,
    /// Milliseconds since 1970: the producer's clock, or the broker's where the topic says so.
    pub timestamp_ms: i64,
    /// The payload.
    pub value: &'a [u8],
    /// What travels beside it.
    pub headers: List<'a, Header<'a>>,
}

/// One header of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name, UTF-8 by convention; names may repeat.
    pub key: &'a [u8],
    /// Its value, if there is one.
    pub value: Option<&'a [u8]>,
}

impl<'a> Message<'a> for Request<'a> {
    const API: Api = Api::Get;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { partition: PartitionId(reader.u64("partition")?), key: reader.bytes("key")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u64(self.partition.0);
        writer.bytes(self.key);
    }
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::Get;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        if !reader.bool("found")? {
            return Ok(Self { found: None });
        }
        let found = Found {
            offset: reader.u64("offset")?,
            timestamp_ms: reader.i64("timestamp_ms")?,
            value: reader.bytes("value")?,
            headers: reader.list("headers")?,
        };
        Ok(Self { found: Some(found) })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u8(self.found.is_some().into());
        if let Some(found) = &self.found {
            writer.u64(found.offset);
            writer.i64(found.timestamp_ms);
            writer.bytes(found.value);
            writer.list(&found.headers);
        }
    }
}

impl<'a> Item<'a> for Header<'a> {
    const BYTES_MIN: usize = 5;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let key = reader.bytes("key")?;
        let value = if reader.bool("has_value")? { Some(reader.bytes("value")?) } else { None };
        Ok(Self { key, value })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(self.key);
        writer.u8(self.value.is_some().into());
        if let Some(value) = self.value {
            writer.bytes(value);
        }
    }
}
