//! Fetch: record batches out, waiting for them if need be.
//!
//! As in a produce request, the batches stand behind a head that says how long each partition's are: a server writes the head
//! and sends the batches from the memory they lie in.

use super::{Api, Kind, Message};
use crate::{
    codec::{DecodeError, Item, Items, List, Problem, Reader, Writer},
    error_code::ErrorCode,
    id::PartitionId,
};

/// What to read, how much of it, and how long to wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// How long to wait for `bytes_min`; 0 answers at once.
    pub wait_ms_max: u32,
    /// Bytes of batches worth answering before the wait is over. An error of any partition is answered at once.
    pub bytes_min: u32,
    /// Bytes of batches to answer at most; the server may have a lower limit. One batch comes whole even if it is larger.
    pub bytes_max: u32,
    /// Partitions in the order in which they share `bytes_max`.
    pub partitions: List<'a, Position>,
}

/// Where to read a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset wanted. The batch that holds it comes whole: records before it are the client's to skip.
    pub offset: u64,
    /// Bytes of batches to answer at most for this partition.
    pub bytes_max: u32,
}

/// The fields of a response: all of it but the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    /// One row for each partition, in the order of the request and in which their batches follow.
    pub partitions: List<'a, PartitionRow<'a>>,
}

/// What a partition has to say, and how many bytes of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionRow<'a> {
    /// The partition of the request.
    pub partition: PartitionId,
    /// Why nothing was read; [`ErrorCode::None`] when there was just nothing to read.
    pub error: ErrorCode,
    /// Why, for people; empty without an error.
    pub reason: &'a str,
    /// The first offset that can still be read.
    pub log_start_offset: u64,
    /// The first offset that consumers may not read yet.
    pub high_watermark: u64,
    /// The offset that the next record gets.
    pub log_end_offset: u64,
    /// Offsets at or after the one asked for that a `memory` topic lost in an unclean stop: nothing will ever be there.
    pub lost: Option<Lost>,
    /// Bytes of the partition's batches.
    pub batch_bytes: u32,
}

/// Offsets that were given out and lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The first.
    pub from: u64,
    /// The first that is not; always larger.
    pub to: u64,
}

/// A whole response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    head: ResponseHead<'a>,
    tail: &'a [u8],
}

impl<'a> Response<'a> {
    /// Each partition's row with its batches: whole, back to back, unchecked; [`record::Batches`](crate::record::Batches)
    /// takes them apart.
    #[inline]
    pub fn partitions(&self) -> Partitions<'a> {
        Partitions { rows: self.head.partitions.iter(), tail: self.tail }
    }
}

/// The partitions of a response, each with its batches.
#[derive(Clone)]
pub struct Partitions<'a> {
    rows: Items<'a, PartitionRow<'a>>,
    tail: &'a [u8],
}

impl<'a> Iterator for Partitions<'a> {
    type Item = (PartitionRow<'a>, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        let (batches, rest) = self.tail.split_at(row.batch_bytes as usize);
        self.tail = rest;
        Some((row, batches))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

impl ExactSizeIterator for Partitions<'_> {}

impl<'a> Message<'a> for Request<'a> {
    const API: Api = Api::Fetch;
    const KIND: Kind = Kind::Request;

    #[inline]
    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            wait_ms_max: reader.u32("wait_ms_max")?,
            bytes_min: reader.u32("bytes_min")?,
            bytes_max: reader.u32("bytes_max")?,
            partitions: reader.list("partitions")?,
        })
    }

    #[inline]
    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u32(self.wait_ms_max);
        writer.u32(self.bytes_min);
        writer.u32(self.bytes_max);
        writer.list(&self.partitions);
    }
}

impl<'a> Item<'a> for Position {
    const BYTES_MIN: usize = 20;

    #[inline]
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            partition: PartitionId(reader.u64("partition")?),
            offset: reader.u64("offset")?,
            bytes_max: reader.u32("bytes_max")?,
        })
    }

    #[inline]
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u64(self.partition.0);
        writer.u64(self.offset);
        writer.u32(self.bytes_max);
    }
}

impl<'a> Message<'a> for ResponseHead<'a> {
    const API: Api = Api::Fetch;
    const KIND: Kind = Kind::Response;

    #[inline]
    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { partitions: reader.list("partitions")? })
    }

    #[inline]
    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.partitions);
    }

    #[inline]
    fn tail_bytes(&self) -> usize {
        self.partitions.iter().map(|row| row.batch_bytes as usize).sum()
    }
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::Fetch;
    const KIND: Kind = Kind::Response;

    #[inline]
    fn decode_fields(version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let head = ResponseHead::decode_fields(version, reader)?;
        let tail = reader.rest();
        // `Partitions` slices the tail by these lengths.
        match head.tail_bytes() {
            expected if expected == tail.len() => Ok(Self { head, tail }),
            expected => Err(reader.error("batch_bytes", Problem::Sum { expected: expected as u64, found: tail.len() })),
        }
    }

    fn encode_fields(&self, version: u8, writer: &mut Writer<'_>) {
        self.head.encode_fields(version, writer);
        writer.raw(self.tail);
    }
}

impl<'a> Item<'a> for PartitionRow<'a> {
    const BYTES_MIN: usize = 56;

    #[inline]
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            partition: PartitionId(reader.u64("partition")?),
            error: ErrorCode::from_number(reader.u16("error")?),
            reason: reader.string("reason")?,
            log_start_offset: reader.u64("log_start_offset")?,
            high_watermark: reader.u64("high_watermark")?,
            log_end_offset: reader.u64("log_end_offset")?,
            lost: Lost::decode(reader)?,
            batch_bytes: reader.u32("batch_bytes")?,
        })
    }

    #[inline]
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u64(self.partition.0);
        writer.u16(self.error.number());
        writer.string("reason", self.reason);
        writer.u64(self.log_start_offset);
        writer.u64(self.high_watermark);
        writer.u64(self.log_end_offset);
        let Lost { from, to } = self.lost.unwrap_or(Lost::NOTHING);
        writer.u64(from);
        writer.u64(to);
        writer.u32(self.batch_bytes);
    }
}

impl Lost {
    /// How the absence of a loss is written.
    const NOTHING: Self = Self { from: 0, to: 0 };

    #[inline]
    fn decode(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let lost = Self { from: reader.u64("lost_from")?, to: reader.u64("lost_to")? };
        if lost.from < lost.to {
            Ok(Some(lost))
        } else if lost == Self::NOTHING {
            Ok(None)
        } else {
            Err(reader.meaningless("lost_to", lost.to as i64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: PartitionRow<'_> = PartitionRow {
        partition: PartitionId(9),
        error: ErrorCode::None,
        reason: "",
        log_start_offset: 0,
        high_watermark: 0,
        log_end_offset: 0,
        lost: None,
        batch_bytes: 3,
    };

    fn body(rows: &[PartitionRow<'_>], tail: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        ResponseHead { partitions: rows.into() }.encode_fields(0, &mut Writer::new(&mut body));
        body.extend_from_slice(tail);
        body
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        for tail in [&b"abcde"[..], b"abcdefg", b""] {
            let error = Response::decode(0, &body(&[ROW, ROW], tail)).unwrap_err();
            assert_eq!(error.problem, Problem::Sum { expected: 6, found: tail.len() });
        }
        let body = body(&[ROW, ROW], b"abcdef");
        let batches: Vec<_> = Response::decode(0, &body).unwrap().partitions().map(|(_, batches)| batches).collect();
        assert_eq!(batches, [b"abc", b"def"]);
    }

    #[test]
    fn a_loss_has_one_way_to_be_written() {
        let check = |from, to, expected| {
            let mut body = body(&[PartitionRow { batch_bytes: 0, ..ROW }], b"");
            let lost_position = body.len() - 20;
            body[lost_position..][..8].copy_from_slice(&u64::to_le_bytes(from));
            body[lost_position + 8..][..8].copy_from_slice(&u64::to_le_bytes(to));
            let lost = Response::decode(0, &body).map(|response| response.partitions().next().unwrap().0.lost);
            assert_eq!(lost.ok(), expected, "{from} to {to}");
        };
        check(0, 0, Some(None));
        check(0, 1, Some(Some(Lost { from: 0, to: 1 })));
        check(5, 5, None);
        check(6, 5, None);
        check(1, 0, None);
    }
}
