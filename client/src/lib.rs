//! The StreamBus client: producer, consumer, administration. Async, on tokio.
//!
//! A producer:
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), streambus::Error> {
//! let client = streambus::Client::connect("127.0.0.1:9092").await?;
//! let producer = client.producer().topic("orders").build().await?;
//! let delivery = producer.send(("customer-7", "two coffees")).await?; // queued
//! println!("stored at offset {}", delivery.await?.offset); // on disk
//! producer.close().await
//! # }
//! ```
//!
//! A consumer, which is a [`Stream`](tokio_stream::Stream) of records:
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), streambus::Error> {
//! use tokio_stream::StreamExt;
//!
//! let client = streambus::Client::connect("127.0.0.1:9092").await?;
//! let mut orders = client.consumer().topic("orders").build().await?;
//! while let Some(record) = orders.next().await {
//!     let record = record?;
//!     println!("{}: {:?}", record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - **Durable.** A [`Delivery`] that resolves means what the topic's durability says: for `durable`, the record is on disk.
//! - **Once, in order.** By default a producer is idempotent: it sends a batch again until it is acknowledged, over as many
//!   connections as it takes, and the broker keeps one copy, in the order of sending.
//! - **No silent loss.** A record that cannot be delivered within the delivery timeout fails with an error that says whether it
//!   certainly is not written ([`Error::DeliveryTimeout`]) or may be ([`Error::OutcomeUnknown`]). A consumer tells of lost
//!   ranges and of gaps.
//! - **Bounded.** Records wait in a buffer of fixed size, and `send` waits with them; every call has a timeout.
//!
//! # Errors
//!
//! One enum, [`Error`]; [`Error::kind`] says what the caller can do.
//!
//! # Inside
//!
//! Protocol and bookkeeping are pure state machines that take the time as an argument: `connection/core`, `producer/queue`,
//! `producer/accumulator`, `consumer/fetcher`. Around them: one task for each connection (`connection`), a caretaker task for
//! each producer and consumer (`producer/sender`, `consumer/puller`), and nothing else.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod admin;
mod client;
mod connection;
mod consumer;
mod error;
mod get;
mod metadata;
mod producer;
mod retry;
mod routes;

pub use admin::{
    Admin, Damage, Health, HeldLog, NewTopic, OffsetAt, PartitionDescription, ShardHealth, State, TopicChange,
    TopicDescription, TopicSummary,
};
pub use client::{Client, ClientBuilder};
pub use consumer::{Consumer, ConsumerBuilder, Gaps, OutOfRange, Progress, Record, RecordBatch, SeekTo};
pub use error::{Error, ErrorKind};
pub use producer::{Compression, Delivered, Delivery, Header, Producer, ProducerBuilder, ProducerRecord};
pub use wire::{
    Durability, ErrorCode, PartitionId, TopicId,
    record::{Headers, Record as RecordRef},
};
