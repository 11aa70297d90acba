//! Produce: record batches in, their offsets out.
//!
//! The hard idea: the request is a head, which says how long each batch is, and the batches behind it, back to back. So a
//! client writes the head and sends its batches from where they are, and a server that has received only the head knows where
//! every byte still to come belongs.

use super::{Api, Kind, Message};
use crate::{
    codec::{DecodeError, Item, Items, List, Problem, Reader, Writer},
    durability::Durability,
    error_code::ErrorCode,
    id::PartitionId,
};

/// The fields of a request: all of it but the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// How long the server may take; a part that is not acknowledged by then is answered with `TimedOut`. 0: as long as the
    /// server allows.
    pub timeout_ms: u32,
    /// One row for each batch, in the order in which the batches follow. Where a partition has several they are appended in
    /// this order.
    pub batches: List<'a, BatchRow>,
}

/// Where a batch goes and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRow {
    /// The partition to append to.
    pub partition: PartitionId,
    /// Bytes of the batch.
    pub batch_bytes: u32,
}

/// A whole request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    head: RequestHead<'a>,
    tail: &'a [u8],
}

/// What became of each batch, in the order of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// One result for each batch.
    pub results: List<'a, BatchResult<'a>>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchResult<'a> {
    /// The partition of the request.
    pub partition: PartitionId,
    /// Why it was not appended; [`ErrorCode::None`] when it was.
    pub error: ErrorCode,
    /// Why, for people; empty without an error.
    pub reason: &'a str,
    /// What the acknowledgement means.
    pub durability: Durability,
    /// Whether the batch is on stable storage already: always so for [`Durability::Durable`], by chance for
    /// [`Durability::Memory`].
    pub synced: bool,
    /// Offset of the batch's first record; of a repeated batch that of the original. 0 with an error.
    pub base_offset: u64,
    /// The partition's first offset that can still be read. 0 where it is not known.
    pub log_start_offset: u64,
}

impl<'a> RequestHead<'a> {
    /// The head of a request whose batches may not have arrived yet, and the bytes it takes.
    ///
    /// [`Problem::CutShort`] means that the head itself is incomplete.
    #[inline]
    pub fn decode_prefix(version: u8, body: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let mut reader = Reader::new(body);
        let head = Self::decode_fields(version, &mut reader)?;
        Ok((head, reader.position()))
    }
}

impl<'a> Request<'a> {
    /// How long the server may take.
    #[inline]
    pub fn timeout_ms(&self) -> u32 {
        self.head.timeout_ms
    }

    /// Each partition with its batch, in order. The bytes of a batch were not looked at.
    #[inline]
    pub fn batches(&self) -> Batches<'a> {
        Batches { rows: self.head.batches.iter(), tail: self.tail }
    }
}

/// The batches of a request, each with its partition.
#[derive(Clone)]
pub struct Batches<'a> {
    rows: Items<'a, BatchRow>,
    tail: &'a [u8],
}

impl<'a> Iterator for Batches<'a> {
    type Item = (PartitionId, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        let (batch, rest) = self.tail.split_at(row.batch_bytes as usize);
        self.tail = rest;
        Some((row.partition, batch))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

impl ExactSizeIterator for Batches<'_> {}

impl<'a> Message<'a> for RequestHead<'a> {
    const API: Api = Api::Produce;
    const KIND: Kind = Kind::Request;

    #[inline]
    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { timeout_ms: reader.u32("timeout_ms")?, batches: reader.list("batches")? })
    }

    #[inline]
    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u32(self.timeout_ms);
        writer.list(&self.batches);
    }

    #[inline]
    fn tail_bytes(&self) -> usize {
        self.batches.iter().map(|row| row.batch_bytes as usize).sum()
    }
}

impl<'a> Message<'a> for Request<'a> {
    const API: Api = Api::Produce;
    const KIND: Kind = Kind::Request;

    #[inline]
    fn decode_fields(version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let head = RequestHead::decode_fields(version, reader)?;
        let tail = reader.rest();
        // `Batches` slices the tail by these lengths.
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

impl<'a> Item<'a> for BatchRow {
    const BYTES_MIN: usize = 12;

    #[inline]
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let partition = PartitionId(reader.u64("partition")?);
        let batch_bytes = reader.u32("batch_bytes")?;
        Ok(Self { partition, batch_bytes })
    }

    #[inline]
    fn encode(&self, writer: &mut Writer<'_>) {
        // Joined: room for all is looked for once.
        let mut row = [0; Self::BYTES_MIN];
        row[..8].copy_from_slice(&self.partition.0.to_le_bytes());
        row[8..].copy_from_slice(&self.batch_bytes.to_le_bytes());
        writer.raw(&row);
    }
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::Produce;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { results: reader.list("results")? })
    }

    #[inline]
    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.results);
    }
}

impl<'a> Item<'a> for BatchResult<'a> {
    const BYTES_MIN: usize = 30;

    #[inline]
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            partition: PartitionId(reader.u64("partition")?),
            error: ErrorCode::from_number(reader.u16("error")?),
            reason: reader.string("reason")?,
            durability: Durability::decode(reader)?,
            synced: reader.bool("synced")?,
            base_offset: reader.u64("base_offset")?,
            log_start_offset: reader.u64("log_start_offset")?,
        })
    }

    #[inline]
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u64(self.partition.0);
        writer.u16(self.error.number());
        writer.string("reason", self.reason);
        self.durability.encode(writer);
        writer.u8(self.synced.into());
        writer.u64(self.base_offset);
        writer.u64(self.log_start_offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(batch_bytes: &[u32], tail: &[u8]) -> Vec<u8> {
        let rows: Vec<_> =
            batch_bytes.iter().map(|&batch_bytes| BatchRow { partition: PartitionId(9), batch_bytes }).collect();
        let mut body = Vec::new();
        let head = RequestHead { timeout_ms: 500, batches: (&rows).into() };
        head.encode_fields(0, &mut Writer::new(&mut body));
        body.extend_from_slice(tail);
        body
    }

    #[test]
    fn batches_are_cut_where_the_rows_say() {
        let body = body(&[3, 0, 2], b"abcde");
        let request = Request::decode(0, &body).unwrap();
        let batches: Vec<_> = request.batches().map(|(_, batch)| batch).collect();
        assert_eq!(batches, [&b"abc"[..], b"", b"de"]);
        assert_eq!(request.batches().len(), 3);
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        let check = |batch_bytes: &[u32], expected| {
            let error = Request::decode(0, &body(batch_bytes, b"abcde")).unwrap_err();
            assert_eq!(error.problem, Problem::Sum { expected, found: 5 });
        };
        check(&[4], 4);
        check(&[6], 6);
        check(&[], 0);
        check(&[u32::MAX, u32::MAX, 7], 2 * u64::from(u32::MAX) + 7);
    }

    #[test]
    fn the_head_is_readable_before_the_batches_arrive() {
        let body = body(&[1 << 20], b"first bytes");
        let (head, head_bytes) = RequestHead::decode_prefix(0, &body).unwrap();
        assert_eq!((head.tail_bytes(), head_bytes), (1 << 20, 20));
        for cut in 0..head_bytes {
            let error = RequestHead::decode_prefix(0, &body[..cut]).unwrap_err();
            assert!(matches!(error.problem, Problem::CutShort { .. } | Problem::Count { .. }), "{error}");
        }
    }
}
