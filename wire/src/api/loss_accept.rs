//! LossAccept: what damage took from a partition is given up, and the partition goes on behind it.

use super::{Api, Kind, Message};
use crate::{
    codec::{DecodeError, Reader, Writer},
    id::PartitionId,
};

/// The partition whose loss is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its id.
    pub partition: PartitionId,
}

/// What is lost: the offsets from `lost_from` up to and without `lost_end`. Both are 0 where nothing was damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// The first offset lost.
    pub lost_from: u64,
    /// The offset at which the partition goes on.
    pub lost_end: u64,
}

impl Message<'_> for Request {
    const API: Api = Api::LossAccept;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { partition: PartitionId(reader.u64("partition")?) })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u64(self.partition.0);
    }
}

impl Message<'_> for Response {
    const API: Api = Api::LossAccept;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { lost_from: reader.u64("lost_from")?, lost_end: reader.u64("lost_end")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u64(self.lost_from);
        writer.u64(self.lost_end);
    }
}
