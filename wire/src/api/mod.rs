//! The API table, and what every message of it can do.
//!
//! One file per API holds the request beside the response; their fields stand in the order of their bytes. How to add one:
//! `.github/CONTRIBUTING.md`.

use std::ops::RangeInclusive;

use crate::{
    codec::{DecodeError, Item, Reader, Writer},
    error_code::ErrorCode,
    header::RequestHeader,
};

pub mod delete_records;
pub mod fetch;
pub mod get;
pub mod health;
pub mod hello;
pub mod hold;
pub mod init_producer;
pub mod list_offsets;
pub mod loss_accept;
pub mod produce;
pub mod stats;
pub mod topic_alter;
pub mod topic_create;
pub mod topic_delete;
pub mod topic_describe;
pub mod topic_list;

macro_rules! apis {
    ($($key:literal $name:ident $versions:expr, $request:ty;)*) => {
        /// What can be asked of a server. Grows with later versions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Api {
            $(#[doc = concat!("API key ", stringify!($key), ".")] $name = $key,)*
        }

        impl Api {
            /// Every API, by key.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The API of a key on the wire.
            #[inline]
            pub const fn from_key(key: u8) -> Option<Self> {
                match key {
                    $($key => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name in the specification.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The versions that this crate reads and writes.
            #[inline]
            pub const fn versions(self) -> RangeInclusive<u8> {
                match self {
                    $(Self::$name => $versions,)*
                }
            }
        }

        /// Any request: what a server matches on, exhaustively.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Request<'a> {
            $(#[doc = concat!("API key ", stringify!($key), ".")] $name($request),)*
        }

        impl<'a> Request<'a> {
            /// The request in a frame, or what to refuse it with.
            #[inline]
            pub fn decode(header: &RequestHeader, body: &'a [u8]) -> Result<Self, RequestError> {
                let api = header.api().map_err(|error| RequestError::NotSpoken { error, api: header.api, version: header.version })?;
                match api {
                    $(Api::$name => Ok(Self::$name(Message::decode(header.version, body)?)),)*
                }
            }
        }
    };
}

apis! {
     1 Hello         0..=0, hello::Request<'a>;
     2 InitProducer  0..=0, init_producer::Request;
     3 Produce       0..=0, produce::Request<'a>;
     4 Fetch         0..=0, fetch::Request<'a>;
     5 ListOffsets   0..=0, list_offsets::Request<'a>;
     6 TopicCreate   0..=0, topic_create::Request<'a>;
     7 TopicDelete   0..=0, topic_delete::Request<'a>;
     8 TopicList     0..=0, topic_list::Request;
     9 TopicDescribe 0..=0, topic_describe::Request<'a>;
    10 Stats         0..=0, stats::Request;
    11 Health        0..=0, health::Request;
    12 TopicAlter    0..=0, topic_alter::Request<'a>;
    13 DeleteRecords 0..=0, delete_records::Request<'a>;
    14 Get           0..=0, get::Request<'a>;
    15 Hold          0..=0, hold::Request;
    16 LossAccept    0..=0, loss_accept::Request;
}

impl Api {
    /// The number on the wire.
    #[inline]
    pub const fn key(self) -> u8 {
        self as u8
    }
}

/// Why a frame holds no request; the connection is closed after a malformed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// An API or version that this side does not have.
    #[error("{error}: API key {api}, version {version}")]
    NotSpoken {
        /// Which of the two.
        error: ErrorCode,
        /// API key asked for.
        api: u8,
        /// Version asked for.
        version: u8,
    },
    /// The body does not follow the specification.
    #[error("malformed request: {0}")]
    Malformed(#[from] DecodeError),
}

impl RequestError {
    /// What to answer.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::NotSpoken { error, .. } => *error,
            Self::Malformed(_) => ErrorCode::Malformed,
        }
    }
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From client to server.
    Request,
    /// From server to client.
    Response,
}

/// The body of a frame. Whatever is decoded encodes to the same bytes again.
pub trait Message<'a>: Sized {
    /// The API it belongs to.
    const API: Api;
    /// Which way it goes.
    const KIND: Kind;

    /// Takes the fields, in order. `version` is one of [`Api::versions`].
    fn decode_fields(version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError>;

    /// Appends the fields, in order.
    fn encode_fields(&self, version: u8, writer: &mut Writer<'_>);

    /// Bytes of the body that the sender supplies behind the fields.
    #[inline]
    fn tail_bytes(&self) -> usize {
        0
    }

    /// The message that a whole body is.
    #[inline(always)]
    fn decode(version: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let message = Self::decode_fields(version, &mut reader)?;
        reader.finish()?;
        Ok(message)
    }
}

/// The body of every response whose header has an error, whatever the API and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure<'a> {
    /// Why, for people: names what was refused and what would be taken. May be empty.
    pub reason: &'a str,
}

impl<'a> Failure<'a> {
    const REASON_BYTES_MAX: usize = 1024;

    pub(crate) fn new(reason: &'a str) -> Self {
        Self { reason: &reason[..reason.floor_char_boundary(Self::REASON_BYTES_MAX)] }
    }

    pub(crate) fn body_bytes(&self) -> u32 {
        2 + self.reason.len() as u32
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        writer.string("reason", self.reason);
    }

    /// The failure that a whole body is.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let reason = reader.string("reason")?;
        reader.finish()?;
        Ok(Self { reason })
    }
}

/// A setting of a topic, such as `streambus.durability` = `memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting<'a> {
    /// Its name.
    pub key: &'a str,
    /// Its value, as text.
    pub value: &'a str,
}

impl<'a> Item<'a> for Setting<'a> {
    const BYTES_MIN: usize = 4;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { key: reader.string("key")?, value: reader.string("value")? })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.string("key", self.key);
        writer.string("value", self.value);
    }
}
