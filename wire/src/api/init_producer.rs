//! InitProducer: an id under which the server tells a repeated batch from a new one.

use super::{Api, Kind, Message};
use crate::codec::{DecodeError, Reader, Writer};

/// Asks for a new producer id. It has no fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request;

/// The id, never given out before and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Goes into the batch header; at least 0.
    pub producer_id: i64,
    /// Goes into the batch header; at least 0.
    pub producer_epoch: i16,
}

impl Message<'_> for Request {
    const API: Api = Api::InitProducer;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, _reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self)
    }

    fn encode_fields(&self, _version: u8, _writer: &mut Writer<'_>) {}
}

impl Message<'_> for Response {
    const API: Api = Api::InitProducer;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let producer_id = reader.i64("producer_id")?;
        let producer_epoch = reader.i16("producer_epoch")?;
        Ok(Self { producer_id, producer_epoch })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.i64(self.producer_id);
        writer.raw(&self.producer_epoch.to_le_bytes());
    }
}
