//! StreamBus on the wire: bytes in, values out.
//!
//! The crate reads and writes bytes and does nothing else: no socket, no clock, no task, no file. What it is given may come
//! from anyone, so every length is compared with the bytes at hand before it is believed, reading allocates nothing, and no
//! input reaches a panic. `PROTOCOL.md` beside this crate specifies every byte.
//!
//! - [`record`]: record batch v2, the one layout of records on the socket, in memory and on disk.
//! - [`protocol`]: which protocol a connection speaks, told by its first bytes; the native preface.
//! - [`frame`] and [`header`]: where one message ends and the next begins.
//! - [`api`]: the API table; one module per API, request beside response.
//! - [`codec`]: the fields that messages are made of.
//! - [`ErrorCode`]: everything a server can refuse.
//!
//! A frame out and back in:
//!
//! ```
//! use wire::{Api, api::{Request, topic_delete}, frame::{self, Decoded, Frame}, header::RequestHeader};
//!
//! let mut out = Vec::new();
//! frame::encode(&mut out, 7, 0, &topic_delete::Request { name: "orders" }, 1 << 20)?;
//!
//! match Frame::<RequestHeader>::decode(&out, 1 << 20)? {
//!     Decoded::NeedMore { bytes } => unreachable!("{bytes} missing"),
//!     Decoded::Frame(frame) => {
//!         assert_eq!(frame.header.correlation, 7);
//!         let request = Request::decode(&frame.header, frame.body)?;
//!         assert_eq!(request, Request::TopicDelete(topic_delete::Request { name: "orders" }));
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod api;
pub mod codec;
mod durability;
mod error_code;
pub mod frame;
pub mod header;
mod id;
pub mod protocol;
pub mod record;
mod varint;

pub use api::Api;
pub use durability::{Durability, UnknownDurability};
pub use error_code::ErrorCode;
pub use id::{PartitionId, TopicId};
