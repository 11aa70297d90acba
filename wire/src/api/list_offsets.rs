//! ListOffsets: from "the beginning", "the end" or a time to an offset.

use super::{Api, Kind, Message};
use crate::{
    codec::{DecodeError, Item, List, Reader, Writer},
    error_code::ErrorCode,
    id::PartitionId,
};

/// Which offsets to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// One row for each question.
    pub partitions: List<'a, Query>,
}

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// The partition.
    pub partition: PartitionId,
    /// The place.
    pub at: At,
}

/// A place, in words or as a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The log start offset.
    Earliest,
    /// The high watermark: where the next record to be read will be.
    Latest,
    /// The first record with this timestamp or a later one, milliseconds since 1970; the high watermark if there is none.
    Timestamp(i64),
}

/// The offsets found, in the order of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// One row for each question.
    pub partitions: List<'a, Found<'a>>,
}

/// An offset that was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// The partition of the request.
    pub partition: PartitionId,
    /// Why there is no answer.
    pub error: ErrorCode,
    /// Why, for people; empty without an error.
    pub reason: &'a str,
    /// The offset; 0 with an error.
    pub offset: u64,
    /// The timestamp of the record found by [`At::Timestamp`]; -1 where no record was looked for or found.
    pub timestamp_ms: i64,
}

impl<'a> Message<'a> for Request<'a> {
    const API: Api = Api::ListOffsets;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { partitions: reader.list("partitions")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.partitions);
    }
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::ListOffsets;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { partitions: reader.list("partitions")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.partitions);
    }
}

impl<'a> Item<'a> for Query {
    const BYTES_MIN: usize = 17;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let partition = PartitionId(reader.u64("partition")?);
        let kind = reader.u8("at")?;
        let timestamp_ms = reader.i64("timestamp_ms")?;
        let at = match (kind, timestamp_ms) {
            (0, 0) => At::Earliest,
            (1, 0) => At::Latest,
            (2, _) => At::Timestamp(timestamp_ms),
            (0 | 1, _) => return Err(reader.meaningless("timestamp_ms", timestamp_ms)),
            _ => return Err(reader.meaningless("at", kind.into())),
        };
        Ok(Self { partition, at })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        let (kind, timestamp_ms) = match self.at {
            At::Earliest => (0, 0),
            At::Latest => (1, 0),
            At::Timestamp(timestamp_ms) => (2, timestamp_ms),
        };
        writer.u64(self.partition.0);
        writer.u8(kind);
        writer.i64(timestamp_ms);
    }
}

impl<'a> Item<'a> for Found<'a> {
    const BYTES_MIN: usize = 28;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            partition: PartitionId(reader.u64("partition")?),
            error: ErrorCode::from_number(reader.u16("error")?),
            reason: reader.string("reason")?,
            offset: reader.u64("offset")?,
            timestamp_ms: reader.i64("timestamp_ms")?,
        })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u64(self.partition.0);
        writer.u16(self.error.number());
        writer.string("reason", self.reason);
        writer.u64(self.offset);
        writer.i64(self.timestamp_ms);
    }
}
