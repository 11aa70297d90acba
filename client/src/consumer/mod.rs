//! The consumer: records of assigned partitions, in order, from wherever one likes.
//!
//! **The way of a record.** A long poll asks for every partition of a connection that has room (`fetcher`), the answer's bytes
//! are kept as they came (`puller`), [`Consumer::recv_batch`] takes one batch off their front, verifies it, and hands it out
//! as a slice, decompressed if need be (`record`); [`Consumer::recv`] and the [`Stream`] hand out its records one by one.

mod fetcher;
mod puller;
mod record;

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use wire::record::{Batch, BatchError};

use self::{
    fetcher::{Assigned, Fetcher, Item, Limits},
    puller::{Puller, take_care},
    record::Demands,
};
pub use self::{
    fetcher::{Gaps, OutOfRange},
    record::{Record, RecordBatch},
};
use crate::{
    admin::OffsetAt,
    client::{DURATION_MAX, Inner},
    error::Error,
    metadata::Topic,
    routes::Routes,
};

const FETCH_BYTES_MIN: usize = 1024;

/// Where to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SeekTo {
    /// The first record there is.
    #[default]
    Earliest,
    /// The next record to come.
    Latest,
    /// This offset.
    Offset(u64),
    /// The first record with this timestamp or a later one, in milliseconds since 1970; the next to come if there is none.
    Timestamp(i64),
}

/// Says how a [`Consumer`] works; made by [`Client::consumer`](crate::Client::consumer).
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ConsumerBuilder {
    client: Arc<Inner>,
    /// Topics, each with the partitions to read; none means all.
    topics: Vec<(String, Option<Vec<u32>>)>,
    start: SeekTo,
    demands: Demands,
    wait: Duration,
    limits: Limits,
}

/// Reads records of the partitions it was given. It is a [`Stream`] of records, and can be read by batch.
///
/// Records of a partition come in order; partitions take turns. A failure concerns one partition and is told once: what can
/// be read goes on being read, see [`Error::kind`].
#[derive(Debug)]
pub struct Consumer {
    puller: Arc<Puller>,
    caretaker: JoinHandle<()>,
    demands: Demands,
    /// The next offset to hand out, by partition.
    positions: Vec<u64>,
    run: Option<Run>,
    /// The records of a batch that are handed out one by one.
    records: VecDeque<Record>,
    /// That batch, and whose it is.
    batch: Option<(usize, RecordBatch)>,
}

/// Where a consumer stands in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The offset of the next record to be handed out.
    pub position: u64,
    /// The first offset that could not be read yet when the broker last answered; `None` before it did.
    pub high_watermark: Option<u64>,
}

/// Batches of a partition, back to back, being taken one by one.
#[derive(Debug)]
struct Run {
    index: usize,
    bytes: Bytes,
    from: u64,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Arc<Inner>) -> Self {
        let limits = Limits {
            fetch_bytes_max: 1 << 20,
            buffer_bytes_max: 32 << 20,
            out_of_range: OutOfRange::default(),
            gaps: Gaps::default(),
        };
        let demands = Demands { verify: true, decompressed_bytes_max: 64 << 20 };
        let (start, wait) = (SeekTo::default(), Duration::from_millis(500));
        Self { client, topics: Vec::new(), start, demands, wait, limits }
    }

    /// Reads every partition of a topic.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.push((topic.into(), None));
        self
    }

    /// Reads some partitions of a topic.
    pub fn partitions(mut self, topic: impl Into<String>, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.topics.push((topic.into(), Some(partitions.into_iter().collect())));
        self
    }

    /// Where to start. Default: [`SeekTo::Earliest`].
    pub fn start(mut self, start: SeekTo) -> Self {
        self.start = start;
        self
    }

    /// Whether the CRC of each batch is verified, which its producer computed. Default: true.
    pub fn verify(mut self, verify: bool) -> Self {
        self.demands.verify = verify;
        self
    }

    /// Bytes that the records of a compressed batch may have once decompressed; a batch with more stops its partition with
    /// [`Error::UnreadableBatch`], and so does one above 1 MiB with more than 1,032 for each compressed byte. One batch at a
    /// time is decompressed. Default: 64 MiB.
    pub fn decompressed_bytes_max(mut self, bytes: usize) -> Self {
        self.demands.decompressed_bytes_max = bytes;
        self
    }

    /// What to do when the offset to be read is not, or no longer, there. Default: [`OutOfRange::Stop`].
    pub fn out_of_range(mut self, policy: OutOfRange) -> Self {
        self.limits.out_of_range = policy;
        self
    }

    /// What to do when offsets are missing that nobody declared lost. Default: [`Gaps::Report`].
    pub fn gaps(mut self, policy: Gaps) -> Self {
        self.limits.gaps = policy;
        self
    }

    /// Bytes of one answer, at least 1 KiB; a batch that is larger comes all the same. Default: 1 MiB.
    pub fn fetch_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.fetch_bytes_max = bytes;
        self
    }

    /// Bytes received ahead of the reader, and asked for; at least `fetch_bytes_max`. Default: 32 MiB, of which a partition
    /// uses two answers.
    pub fn buffer_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.buffer_bytes_max = bytes;
        self
    }

    /// How long the broker may hold a question back while there are no records. Records are sent as soon as there are any,
    /// whatever this says. Default: 500 ms.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Finds the topics, looks up where to start, and begins to receive.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`], [`Error::InvalidSetting`], and whatever keeps the broker from
    /// answering.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn build(self) -> Result<Consumer, Error> {
        self.validate()?;
        let client = self.client;
        let (mut routes, mut assigned, mut described) = (Routes::default(), Vec::new(), Vec::new());
        for (name, partitions) in &self.topics {
            let topic = client.topic(name).await?;
            let partitions = partitions.clone().unwrap_or_else(|| (0..topic.partition_count()).collect());
            check_partitions(&topic, &partitions)?;
            let by_partition = routes.of_topic(&client, &topic).await?;
            let offsets = start_offsets(&client, &topic, &partitions, self.start).await?;
            for (&partition, offset) in partitions.iter().zip(offsets) {
                let (id, route) = (topic.partitions[partition as usize].id, by_partition[partition as usize]);
                described.push((topic.clone(), partition));
                assigned.push(Assigned { topic: topic.name.clone(), partition, id, route, offset });
            }
        }
        let positions = assigned.iter().map(|assigned| assigned.offset).collect();
        let fetcher = Fetcher::new(self.limits, assigned);
        let puller = Puller::new(client, self.wait, described, routes, fetcher);
        let caretaker = tokio::spawn(take_care(puller.clone()));
        let (run, records, batch) = (None, VecDeque::new(), None);
        Ok(Consumer { puller, caretaker, demands: self.demands, positions, run, records, batch })
    }

    fn validate(&self) -> Result<(), Error> {
        let Limits { fetch_bytes_max, buffer_bytes_max, .. } = self.limits;
        let invalid = |setting, reason: String| Err(Error::InvalidSetting { setting, reason: reason.into() });
        if self.topics.is_empty()
            || self.topics.iter().any(|(_, partitions)| partitions.as_ref().is_some_and(Vec::is_empty))
        {
            return invalid("topic", "a consumer needs a topic with at least one partition".to_owned());
        }
        if !(FETCH_BYTES_MIN..=i32::MAX as usize).contains(&fetch_bytes_max) {
            return invalid(
                "fetch_bytes_max",
                format!("{fetch_bytes_max} is not between {FETCH_BYTES_MIN} and {}", i32::MAX),
            );
        }
        if buffer_bytes_max < fetch_bytes_max {
            return invalid(
                "buffer_bytes_max",
                format!("{buffer_bytes_max} is below fetch_bytes_max, {fetch_bytes_max}"),
            );
        }
        if self.wait > DURATION_MAX {
            return invalid("wait", format!("{:?} is longer than {DURATION_MAX:?}", self.wait));
        }
        Ok(())
    }
}

impl Consumer {
    /// The next record; waits until there is one. Dropping this future loses nothing.
    ///
    /// # Errors
    /// What happened to a partition; once every partition has stopped, [`Error::AllStopped`].
    pub async fn recv(&mut self) -> Result<Record, Error> {
        poll_fn(|context| self.poll_record(context)).await.unwrap_or(Err(Error::AllStopped))
    }

    /// The next batch, or what [`Self::recv`] has left of one; waits until there is one. Dropping this future loses nothing.
    ///
    /// ```no_run
    /// # async fn example(consumer: &mut streambus::Consumer) -> Result<(), streambus::Error> {
    /// let batch = consumer.recv_batch().await?;
    /// let bytes: usize = batch.records().filter_map(|record| record.value).map(<[u8]>::len).sum();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::recv`].
    pub async fn recv_batch(&mut self) -> Result<RecordBatch, Error> {
        poll_fn(|context| self.poll_batch(context)).await.unwrap_or(Err(Error::AllStopped))
    }

    /// Goes on somewhere else in a partition; what was received of it is dropped.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`] for one that this consumer does not read, and whatever keeps the broker from answering.
    /// An offset that is out of range is told when it is read.
    pub async fn seek(&mut self, topic: &str, partition: u32, to: SeekTo) -> Result<(), Error> {
        let found =
            self.puller.assigned.iter().position(|(known, number)| *known.name == *topic && *number == partition);
        let Some(index) = found else {
            let known = self.puller.assigned.iter().find(|(known, _)| *known.name == *topic);
            let partition_count = known.map_or(0, |(topic, _)| topic.partition_count());
            return Err(Error::UnknownPartition { topic: topic.into(), partition, partition_count });
        };
        let (topic, _) = &self.puller.assigned[index];
        let offset = start_offsets(&self.puller.client, topic, &[partition], to).await?[0];
        self.go_to(index, offset);
        Ok(())
    }

    /// Goes on somewhere else in every partition.
    ///
    /// # Errors
    /// Whatever keeps the broker from answering; some partitions may have been sought by then.
    pub async fn seek_all(&mut self, to: SeekTo) -> Result<(), Error> {
        for index in 0..self.positions.len() {
            let (topic, partition) = &self.puller.assigned[index];
            let offset = start_offsets(&self.puller.client, topic, &[*partition], to).await?[0];
            self.go_to(index, offset);
        }
        Ok(())
    }

    /// Where this consumer stands in each of its partitions.
    pub fn progress(&self) -> Vec<Progress> {
        let progress = |(index, (topic, partition)): (usize, &(Arc<Topic>, u32))| Progress {
            topic: topic.name.clone(),
            partition: *partition,
            position: self.positions[index],
            high_watermark: self.puller.high_watermark(index),
        };
        self.puller.assigned.iter().enumerate().map(progress).collect()
    }

    fn go_to(&mut self, index: usize, offset: u64) {
        self.puller.seek(index, offset);
        self.positions[index] = offset;
        if self.run.as_ref().is_some_and(|run| run.index == index) {
            self.run = None;
        }
        if self.batch.as_ref().is_some_and(|(of, _)| *of == index) {
            self.batch = None;
            self.records.clear();
        }
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Record, Error>>> {
        loop {
            if let Some(record) = self.records.pop_front() {
                let (index, _) = self.batch.as_ref().expect("records come from a batch");
                self.positions[*index] = record.offset + 1;
                return Poll::Ready(Some(Ok(record)));
            }
            self.batch = None;
            match ready!(self.poll_wanted(context)) {
                Some(Ok((index, batch))) => {
                    self.records.extend(batch.records().map(|record| batch.share(&record)));
                    self.batch = Some((index, batch));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch, Error>>> {
        let (index, batch) = match (self.records.front(), self.batch.take()) {
            (Some(record), Some((index, batch))) => (index, batch.starting_at(record.offset)),
            _ => match ready!(self.poll_wanted(context)) {
                Some(Ok(next)) => next,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            },
        };
        self.records.clear();
        self.positions[index] = batch.next_offset();
        Poll::Ready(Some(Ok(batch)))
    }

    /// The next batch with records for the reader, and whose it is.
    fn poll_wanted(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(usize, RecordBatch), Error>>> {
        loop {
            if let Some(run) = &mut self.run {
                let index = run.index;
                match run.take_batch(&self.puller.assigned[index], self.demands) {
                    Ok(Some(batch)) => return Poll::Ready(Some(Ok((index, batch)))),
                    Ok(None) => self.run = None,
                    Err(error) => {
                        self.run = None;
                        self.puller.stop(index);
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
            match ready!(self.puller.poll_next(context)) {
                Some((index, Item::Run { bytes, from })) => self.run = Some(Run { index, bytes, from }),
                Some((_, Item::Notice(error))) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Records one by one; ends when every partition has stopped.
impl Stream for Consumer {
    type Item = Result<Record, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_record(context)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.caretaker.abort();
    }
}

impl Run {
    /// Takes batches off the front until one has records for the reader; `None` when the run is used up.
    fn take_batch(
        &mut self,
        (topic, partition): &(Arc<Topic>, u32),
        demands: Demands,
    ) -> Result<Option<RecordBatch>, Error> {
        while !self.bytes.is_empty() {
            let unreadable = |source: BatchError| {
                let (topic, partition, offset) = (topic.name.clone(), *partition, self.from);
                Error::UnreadableBatch { topic, partition, offset, source }
            };
            let batch = Batch::parse(&self.bytes).map_err(unreadable)?;
            let (batch_bytes, next_offset) = (batch.bytes().len(), batch.next_offset());
            let bytes = self.bytes.slice(..batch_bytes);
            let batch =
                RecordBatch::new(topic.name.clone(), *partition, bytes, self.from, demands).map_err(unreadable)?;
            self.bytes = self.bytes.slice(batch_bytes..);
            self.from = self.from.max(next_offset);
            if batch.is_some() {
                return Ok(batch);
            }
        }
        Ok(None)
    }
}

fn check_partitions(topic: &Topic, partitions: &[u32]) -> Result<(), Error> {
    let partition_count = topic.partition_count();
    match partitions.iter().find(|&&partition| partition >= partition_count) {
        Some(&partition) => Err(Error::UnknownPartition { topic: topic.name.clone(), partition, partition_count }),
        None => Ok(()),
    }
}

async fn start_offsets(client: &Inner, topic: &Topic, partitions: &[u32], to: SeekTo) -> Result<Vec<u64>, Error> {
    let at = match to {
        SeekTo::Offset(offset) => return Ok(vec![offset; partitions.len()]),
        SeekTo::Earliest => OffsetAt::Earliest,
        SeekTo::Latest => OffsetAt::Latest,
        SeekTo::Timestamp(timestamp_ms) => OffsetAt::Timestamp(timestamp_ms),
    };
    let places: Vec<_> = partitions.iter().map(|&partition| (partition, at)).collect();
    client.list_offsets(topic, &places).await
}
