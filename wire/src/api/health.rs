//! Health: whether the node serves, shard by shard.

use super::{Api, Kind, Message};
use crate::codec::{DecodeError, Item, List, Reader, Writer};

/// Asks how the node is. It has no fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request;

/// How the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The worst state of any shard.
    pub state: State,
    /// By number.
    pub shards: List<'a, Shard<'a>>,
}

/// How a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard<'a> {
    /// Its number, from 0.
    pub shard: u16,
    /// How it is.
    pub state: State,
    /// What is the matter, for people; empty when it serves.
    pub reason: &'a str,
}

/// From well to worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Takes and gives records.
    Serving = 0,
    /// Serves, but not all: partitions are refused, or the disk is full.
    Degraded = 1,
    /// Not yet: it replays its WAL.
    Starting = 2,
    /// No longer: it drains and closes.
    Stopping = 3,
}

impl State {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8("state")? {
            0 => Ok(Self::Serving),
            1 => Ok(Self::Degraded),
            2 => Ok(Self::Starting),
            3 => Ok(Self::Stopping),
            other => Err(reader.meaningless("state", other.into())),
        }
    }
}

impl Message<'_> for Request {
    const API: Api = Api::Health;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, _reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self)
    }

    fn encode_fields(&self, _version: u8, _writer: &mut Writer<'_>) {}
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::Health;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { state: State::decode(reader)?, shards: reader.list("shards")? })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u8(self.state as u8);
        writer.list(&self.shards);
    }
}

impl<'a> Item<'a> for Shard<'a> {
    const BYTES_MIN: usize = 5;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { shard: reader.u16("shard")?, state: State::decode(reader)?, reason: reader.string("reason")? })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u16(self.shard);
        writer.u8(self.state as u8);
        writer.string("reason", self.reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_numbered_from_well_to_worse() {
        let states = [State::Serving, State::Degraded, State::Starting, State::Stopping];
        assert!(states.is_sorted());
        for (number, state) in (0..).zip(states) {
            assert_eq!(state as u8, number);
            assert_eq!(State::decode(&mut Reader::new(&[number])), Ok(state));
        }
        assert!(State::decode(&mut Reader::new(&[4])).is_err());
    }
}
