//! DeleteRecords: the oldest records of partitions go, for good. Answered once that is durable.

use super::{Api, Kind, Message};
use crate::{
    codec::{DecodeError, Item, List, Reader, Writer},
    error_code::ErrorCode,
    id::PartitionId,
};

/// What stands for the high watermark where an offset is asked for.
const OFFSET_HIGH_WATERMARK: u64 = u64::MAX;

/// What is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// One row for each partition.
    pub partitions: List<'a, Before>,
}

/// Where a partition is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset that stays; `None` for the high watermark, so that nothing stays that consumers see.
    pub offset: Option<u64>,
}

/// Where the partitions start now, in the order of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// One row for each partition.
    pub partitions: List<'a, Deleted<'a>>,
}

/// What became of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted<'a> {
    /// The partition of the request.
    pub partition: PartitionId,
    /// Why nothing was deleted.
    pub error: ErrorCode,
    /// Why, for people; empty without an error.
    pub reason: &'a str,
    /// Where it starts; 0 with an error.
    pub log_start_offset: u64,
}

impl<'a> Message<'a> for Request<'a> {
    const API: Api = Api::DeleteRecords;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { partitions: reader.list("partitions")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.partitions);
    }
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::DeleteRecords;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { partitions: reader.list("partitions")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.partitions);
    }
}

impl<'a> Item<'a> for Before {
    const BYTES_MIN: usize = 16;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let partition = PartitionId(reader.u64("partition")?);
        let offset = reader.u64("offset")?;
        Ok(Self { partition, offset: Some(offset).filter(|&offset| offset != OFFSET_HIGH_WATERMARK) })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u64(self.partition.0);
        writer.u64(self.offset.unwrap_or(OFFSET_HIGH_WATERMARK));
    }
}

impl<'a> Item<'a> for Deleted<'a> {
    const BYTES_MIN: usize = 20;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            partition: PartitionId(reader.u64("partition")?),
            error: ErrorCode::from_number(reader.u16("error")?),
            reason: reader.string("reason")?,
            log_start_offset: reader.u64("log_start_offset")?,
        })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u64(self.partition.0);
        writer.u16(self.error.number());
        writer.string("reason", self.reason);
        writer.u64(self.log_start_offset);
    }
}
