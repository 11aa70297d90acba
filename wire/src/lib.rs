//! StreamBus on the wire: bytes in, values out.
//!
//! The crate reads and writes bytes and does nothing else: no socket, no clock, no task, no file. What it is given may come
//! from anyone, so every length is compared with the bytes at hand before it is believed, nothing is allocated on the word of
//! a peer, and no input reaches a panic.
//!
//! - [`record`]: record batch v2, the one layout of records on the socket, in memory and on disk.

#![forbid(unsafe_code)]

pub mod record;
mod varint;
