//! Producers and consumers that speak the protocol over bare blocking sockets, one thread and one connection each: what they
//! reach is the broker's own limit, because they cost as little as they can.
//!
//! A producer sends frames that were encoded beforehand, and writes only what differs between two of them. Its batches are
//! not idempotent, so those under way when a connection ends are not sent again: their outcome is unknown, and the history
//! checker takes them as such.

mod connection;
mod consumer;
mod frames;
mod producer;

pub(crate) use self::{consumer::consume, producer::produce};
