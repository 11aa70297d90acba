//! LossAccept: what damage took from a partition is looked for and given up, a stretch at a time.

use super::{Api, Kind, Message};
use crate::{
    codec::{DecodeError, Item, List, Reader, Writer},
    id::PartitionId,
};

/// A stretch of a partition to be gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The partition.
    pub partition: PartitionId,
    /// Where to begin; 0 first, and then what the answer before says.
    pub from_offset: u64,
    /// Only to say what is damaged, and to change nothing.
    pub dry_run: bool,
}

/// What was found, and without `dry_run` given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The offsets that are lost, ascending.
    pub lost: List<'a, Lost>,
    /// The damaged segments, by their numbers in the log; damage may take nothing of the partition.
    pub segments: List<'a, Segment>,
    /// Where to go on; [`Self::END`] when all was gone through.
    pub next_offset: u64,
}

/// Offsets that damage took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The first.
    pub from: u64,
    /// The one behind the last.
    pub to: u64,
}

/// A damaged segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its number.
    pub number: u64,
}

impl Response<'_> {
    /// Nothing is left to be gone through.
    pub const END: u64 = u64::MAX;
}

impl Message<'_> for Request {
    const API: Api = Api::LossAccept;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            partition: PartitionId(reader.u64("partition")?),
            from_offset: reader.u64("from_offset")?,
            dry_run: reader.bool("dry_run")?,
        })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u64(self.partition.0);
        writer.u64(self.from_offset);
        writer.u8(self.dry_run.into());
    }
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::LossAccept;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            lost: reader.list("lost")?,
            segments: reader.list("segments")?,
            next_offset: reader.u64("next_offset")?,
        })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.lost);
        writer.list(&self.segments);
        writer.u64(self.next_offset);
    }
}

impl Item<'_> for Lost {
    const BYTES_MIN: usize = 16;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { from: reader.u64("from")?, to: reader.u64("to")? })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u64(self.from);
        writer.u64(self.to);
    }
}

impl Item<'_> for Segment {
    const BYTES_MIN: usize = 8;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { number: reader.u64("number")? })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u64(self.number);
    }
}
