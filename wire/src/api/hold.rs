//! Hold: what was acknowledged is flushed to segments, and no segment is deleted for a while: so that they can be copied.

use super::{Api, Kind, Message};
use crate::codec::{DecodeError, Item, List, Reader, Writer};

/// Holds all segments of the node, the longest hold of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// For so long, in milliseconds; the server holds for a minute at most.
    pub hold_ms: u32,
    /// Whether to flush first. A hold that is only to last longer needs no flush.
    pub flush: bool,
}

/// How far each log is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// By their number.
    pub logs: List<'a, Log>,
}

/// One log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// Its id.
    pub log_id: u128,
    /// The last sync group that is flushed; 0 without a flush.
    pub flushed_lsn: u64,
}

impl Message<'_> for Request {
    const API: Api = Api::Hold;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { hold_ms: reader.u32("hold_ms")?, flush: reader.bool("flush")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u32(self.hold_ms);
        writer.u8(self.flush.into());
    }
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::Hold;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { logs: reader.list("logs")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.list(&self.logs);
    }
}

impl Item<'_> for Log {
    const BYTES_MIN: usize = 24;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { log_id: reader.u128("log_id")?, flushed_lsn: reader.u64("flushed_lsn")? })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u128(self.log_id);
        writer.u64(self.flushed_lsn);
    }
}
