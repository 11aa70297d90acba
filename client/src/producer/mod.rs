//! The producer: records in, acknowledgements out.
//!
//! **The way of a record.** [`Producer::send`] takes room in the buffer, the `partitioner` chooses the partition, the record
//! is encoded at the end of that partition's open batch (`accumulator`), the batch is closed, numbered and put in line
//! (`queue`), travels in a produce request (`sender`), and its answer resolves the [`Delivery`] of each of its records.

mod accumulator;
mod answer;
mod compression;
mod delivery;
mod partitioner;
mod queue;
mod record;
mod sender;
#[cfg(test)]
mod simulation;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::TryAcquireError,
    task::{JoinHandle, coop},
};
use wire::api::init_producer;

pub(crate) use self::partitioner::keyed as partition_of_key;
use self::{
    accumulator::{Accumulator, Limits},
    partitioner::Partitioner,
    queue::Numbering,
    sender::{Sender, take_care},
};
pub use self::{
    compression::Compression,
    delivery::{Delivered, Delivery},
    record::{Header, ProducerRecord},
};
use crate::{
    client::{DURATION_MAX, Inner, Repeat},
    error::Error,
    routes::Routes,
};

/// Batches that the broker remembers of each producer and partition, and so tells a repeat by.
const IN_FLIGHT_MAX_IDEMPOTENT: usize = 5;
const IN_FLIGHT_MAX: usize = 1_000;
const BATCH_BYTES_MIN: usize = 1024;

/// Says how a [`Producer`] works; made by [`Client::producer`](crate::Client::producer).
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ProducerBuilder {
    client: Arc<Inner>,
    topic: String,
    batch_bytes_max: usize,
    linger: Duration,
    in_flight_max: usize,
    buffer_bytes_max: usize,
    delivery_timeout: Duration,
    idempotent: bool,
    compression: Compression,
}

/// Sends records to one topic. Share it by reference or in an [`Arc`]; records sent one after the other to one partition are
/// written in that order.
#[derive(Debug)]
pub struct Producer {
    sender: Arc<Sender>,
    caretaker: JoinHandle<()>,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Arc<Inner>) -> Self {
        Self {
            client,
            topic: String::new(),
            batch_bytes_max: 1 << 20,
            linger: Duration::ZERO,
            in_flight_max: IN_FLIGHT_MAX_IDEMPOTENT,
            buffer_bytes_max: 32 << 20,
            delivery_timeout: Duration::from_secs(120),
            idempotent: true,
            compression: Compression::None,
        }
    }

    /// The topic to send to. It must be given.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = topic.into();
        self
    }

    /// Bytes of a batch before it is compressed, at least 1 KiB; lowered to what the broker takes. Also what bounds a record.
    /// Default: 1 MiB.
    pub fn batch_bytes_max(mut self, bytes: usize) -> Self {
        self.batch_bytes_max = bytes;
        self
    }

    /// How long a batch that is not full waits for more records, at most the delivery timeout. Default: 0, which sends a
    /// record at once while fewer than `in_flight_max` requests are under way; beyond that batches grow by themselves.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Requests without an answer for each connection, and so also batches of each partition: 1 to 5, or to 1,000 without
    /// idempotence. Default: 5.
    pub fn in_flight_max(mut self, requests: usize) -> Self {
        self.in_flight_max = requests;
        self
    }

    /// Bytes of records that are not yet acknowledged; a send beyond waits. At least one batch, at most 4 GiB - 1.
    /// Default: 32 MiB.
    pub fn buffer_bytes_max(mut self, bytes: usize) -> Self {
        self.buffer_bytes_max = bytes;
        self
    }

    /// How long a record may take from `send` to its acknowledgement, all retries included, before it is given up; more
    /// than 0. Default: 2 min.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// Whether the broker tells a repeated batch from a new one: then retries cause neither duplicates nor disorder.
    /// Without it, a batch that got no answer is not sent again but fails as [`Error::OutcomeUnknown`]. Default: true.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// How batches are compressed; one that would not become smaller, or so much smaller that readers take it for an attack
    /// (above 1 MiB, beyond 1,032 to 1), is sent as it is. A compressed batch costs its time once, when it is closed, on the
    /// task that closes it. Give batches time to fill with [`Self::linger`]: a batch of one record shrinks little.
    /// Default: [`Compression::None`].
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Finds the topic and makes the producer.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::InvalidSetting`], and whatever keeps the broker from answering.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn build(self) -> Result<Producer, Error> {
        self.validate()?;
        let client = self.client;
        let topic = client.topic(&self.topic).await?;
        let mut routes = Routes::default();
        let by_partition = routes.of_topic(&client, &topic).await?;
        let batch_bytes_max = self.batch_bytes_max.min(client.peer().await?.batch_bytes_max);
        let limits = Limits {
            batch_bytes_max,
            linger: self.linger,
            in_flight_max: self.in_flight_max,
            delivery_timeout: self.delivery_timeout,
        };
        let numbering = if self.idempotent { init_producer(&client).await? } else { Numbering::None };
        let partitioner = Partitioner::new(topic.partition_count(), fastrand::u32(..), batch_bytes_max);
        let accumulator = Accumulator::new(limits, numbering, self.compression.into(), partitioner, &by_partition);
        let buffer_bytes_max = self.buffer_bytes_max.max(batch_bytes_max);
        let delivery_timeout = self.delivery_timeout;
        let sender = Arc::new(Sender::new(
            client,
            topic,
            batch_bytes_max,
            buffer_bytes_max,
            delivery_timeout,
            routes,
            accumulator,
        ));
        let caretaker = tokio::spawn(take_care(sender.clone()));
        Ok(Producer { sender, caretaker })
    }

    fn validate(&self) -> Result<(), Error> {
        let in_flight_max = if self.idempotent { IN_FLIGHT_MAX_IDEMPOTENT } else { IN_FLIGHT_MAX };
        check("topic", !self.topic.is_empty(), || "a producer needs a topic".to_owned())?;
        check("batch_bytes_max", (BATCH_BYTES_MIN..=i32::MAX as usize).contains(&self.batch_bytes_max), || {
            format!("{} is not between {BATCH_BYTES_MIN} and {}", self.batch_bytes_max, i32::MAX)
        })?;
        check("in_flight_max", (1..=in_flight_max).contains(&self.in_flight_max), || {
            format!("{} is not between 1 and {in_flight_max} (idempotent: {})", self.in_flight_max, self.idempotent)
        })?;
        check("buffer_bytes_max", (self.batch_bytes_max..=u32::MAX as usize).contains(&self.buffer_bytes_max), || {
            format!("{} is not between batch_bytes_max and {}", self.buffer_bytes_max, u32::MAX)
        })?;
        let timeout = self.delivery_timeout;
        check("delivery_timeout", !timeout.is_zero() && timeout <= DURATION_MAX, || {
            format!("{timeout:?} is not between 1 ns and {DURATION_MAX:?}")
        })?;
        check("linger", self.linger <= timeout, || format!("{:?} is longer than delivery_timeout", self.linger))
    }
}

impl Producer {
    /// Queues a record; waits while the buffer is full. The [`Delivery`] tells what becomes of it; dropping this future
    /// before it is done leaves the record unsent.
    ///
    /// ```no_run
    /// # async fn example(producer: &streambus::Producer) -> Result<(), streambus::Error> {
    /// let delivery = producer.send(("user-7", "signed in")).await?;
    /// println!("stored at offset {}", delivery.await?.offset);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`], [`Error::UnknownPartition`], or why the partition takes nothing more.
    #[inline]
    pub async fn send<'a>(&self, record: impl Into<ProducerRecord<'a>>) -> Result<Delivery, Error> {
        let record = record.into();
        let buffer_bytes = self.buffer_bytes(&record)?;
        // A task that only sends would otherwise never let the connection's task run, if they share a thread.
        coop::consume_budget().await;
        match self.sender.room.try_acquire_many(buffer_bytes) {
            Ok(room) => room.forget(),
            Err(_) => self.sender.room.acquire_many(buffer_bytes).await.expect("the room is never closed").forget(),
        }
        self.sender.append(&record, buffer_bytes as usize)
    }

    /// Queues a record if there is room for it now.
    ///
    /// # Errors
    /// As [`Self::send`], and [`Error::BufferFull`].
    pub fn try_send<'a>(&self, record: impl Into<ProducerRecord<'a>>) -> Result<Delivery, Error> {
        let record = record.into();
        let buffer_bytes = self.buffer_bytes(&record)?;
        match self.sender.room.try_acquire_many(buffer_bytes) {
            Ok(room) => room.forget(),
            Err(TryAcquireError::NoPermits) => return Err(Error::BufferFull),
            Err(TryAcquireError::Closed) => unreachable!("the room is never closed"),
        }
        self.sender.append(&record, buffer_bytes as usize)
    }

    /// Sends a record and waits for its acknowledgement.
    ///
    /// # Errors
    /// As [`Self::send`], and whatever the [`Delivery`] resolves to.
    pub async fn send_and_confirm<'a>(&self, record: impl Into<ProducerRecord<'a>>) -> Result<Delivered, Error> {
        self.send(record).await?.await
    }

    /// Sends what waits, without its linger, and waits until everything sent before is decided.
    ///
    /// # Errors
    /// The first failure of any record since the last flush, whether or not its [`Delivery`] was awaited.
    pub async fn flush(&self) -> Result<(), Error> {
        for outcome in self.sender.flush() {
            // Failures are told below, each once.
            let _ = outcome.await;
        }
        self.sender.take_failure().map_or(Ok(()), Err)
    }

    /// Flushes and ends the producer.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn close(self) -> Result<(), Error> {
        self.flush().await
    }

    /// Records sent and not yet acknowledged or given up. A producer that is dropped with any gives them up: their
    /// deliveries fail, and a warning is logged with their number.
    pub fn unacknowledged(&self) -> u64 {
        self.sender.records()
    }

    /// The topic it sends to.
    pub fn topic(&self) -> &str {
        &self.sender.topic.name
    }

    /// How many partitions the topic has.
    pub fn partition_count(&self) -> u32 {
        self.sender.topic.partition_count()
    }

    /// What the record takes in the buffer. What cannot fit a batch is refused here, before it waits for room.
    #[inline]
    fn buffer_bytes(&self, record: &ProducerRecord<'_>) -> Result<u32, Error> {
        let (buffer_bytes, batch_bytes_max) = (record.buffer_bytes(), self.sender.batch_bytes_max);
        if buffer_bytes > batch_bytes_max {
            return Err(Error::RecordTooLarge { record_bytes: buffer_bytes, batch_bytes_max });
        }
        Ok(buffer_bytes as u32)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.caretaker.abort();
        let records = self.sender.abandon();
        if records > 0 {
            tracing::warn!(records, topic = self.topic(), "producer dropped before its records were acknowledged");
        }
    }
}

async fn init_producer(client: &Inner) -> Result<Numbering, Error> {
    let request = init_producer::Request;
    client
        .ask("get a producer id", Repeat::Harmless, &request, |response| {
            let init_producer::Response { producer_id, producer_epoch } = response.message()?;
            Ok(Numbering::Idempotent { id: producer_id, epoch: producer_epoch })
        })
        .await
}

fn check(setting: &'static str, holds: bool, reason: impl FnOnce() -> String) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::InvalidSetting { setting, reason: reason().into() }) }
}
