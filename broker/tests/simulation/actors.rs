//! Producers and consumers of a run, and the notes they take.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    io,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use history::{Level, Moment, Payload, Reader, Value, Writer};
use runtime::{Runtime, sim::SimRuntime};
use wire::{
    Durability, ErrorCode, PartitionId,
    api::{
        Setting, fetch, hold, init_producer, list_offsets, produce, stats, topic_create, topic_delete, topic_describe,
    },
    codec::List,
    record::{Batch, BatchBuilder, Batches, Producer},
};

use crate::{
    client::Client,
    node::{World, connect},
};

const RECORD_BYTES: usize = 100;

/// Batches that a writer sends ahead of their acks: as many as a partition remembers of a producer.
const IN_FLIGHT_MAX: usize = 5;

/// Pause before a broken connection is made again.
const RETRY_AFTER: Duration = Duration::from_micros(200);

/// What the actors of a run share.
pub(crate) struct Run {
    pub(crate) world: Rc<World>,
    pub(crate) payload: Payload,
    /// Writers stop when this is set.
    pub(crate) is_ending: Cell<bool>,
    /// Records acknowledged so far, over all writers.
    pub(crate) acked: Cell<u64>,
}

impl Run {
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.world.now().as_nanos())
    }
}

/// Creates a topic; its partitions and their shards.
pub(crate) async fn create_topic(
    run: Rc<Run>,
    name: &'static str,
    partition_count: u32,
    durability: Durability,
) -> Vec<(PartitionId, u16)> {
    let mut link = Link::new(&run, None);
    let settings = [Setting { key: Durability::SETTING, value: durability.name() }];
    let request = topic_create::Request { name, partition_count, settings: List::from(&settings) };
    let answer = link.client().await.call(&request).await.expect("nothing crashes yet");
    let created = answer.message::<topic_create::Response<'_>>().expect("the name is free");
    created.partitions.iter().map(|placed| (placed.partition, placed.shard)).collect()
}

/// Deletes a topic.
pub(crate) async fn delete_topic(run: Rc<Run>, name: &'static str) {
    let mut link = Link::new(&run, None);
    let answer = link.client().await.call(&topic_delete::Request { name }).await.expect("nothing crashes meanwhile");
    answer.message::<topic_delete::Response>().expect("the topic is there");
}

/// Holds the logs, as for a backup; their ids.
pub(crate) async fn hold(run: Rc<Run>, hold_ms: u32) -> Vec<u128> {
    let mut link = Link::new(&run, None);
    let answer = link.client().await.call(&hold::Request { hold_ms, flush: true }).await.expect("nothing crashes");
    let held = answer.message::<hold::Response<'_>>().expect("a move ends soon enough");
    held.logs.iter().map(|log| log.log_id).collect()
}

/// Sends batches to a partition until the run ends, several ahead of their acks. Where the partition is durable each is
/// repeated until its fate is known; one that may lose records also forgets who sent them, so there it stays unknown.
pub(crate) async fn write(run: Rc<Run>, writer: Rc<RefCell<Writer>>, level: Level, wanted_shard: Option<u16>) {
    let mut link = Link::new(&run, wanted_shard);
    let producer_id = if level == Level::Durable { Some(link.producer_id().await) } else { None };
    let partition = PartitionId(writer.borrow().partition());
    let mut source = Source { run: Rc::clone(&run), writer, producer_id, next_sequence: 0 };
    let mut window = VecDeque::new();
    while !run.is_ending.get() || !window.is_empty() {
        if exchange(&mut link, partition, &mut source, &mut window).await.is_err() {
            link.client = None;
            link.rt.sleep(RETRY_AFTER).await;
            if level == Level::Memory {
                window.clear();
            }
        }
    }
}

/// Sends what is in the window, which has no ack yet, then goes on for as long as the connection holds.
async fn exchange(
    link: &mut Link,
    partition: PartitionId,
    source: &mut Source,
    window: &mut VecDeque<Sent>,
) -> io::Result<()> {
    let mut sent = 0;
    let run = Rc::clone(&link.run);
    let client = link.client().await;
    loop {
        while sent < IN_FLIGHT_MAX {
            if sent == window.len() {
                if run.is_ending.get() {
                    break;
                }
                window.push_back(source.next());
            }
            window[sent].correlation = send_batch(client, partition, &window[sent].batch).await?;
            sent += 1;
        }
        if window.is_empty() {
            return Ok(());
        }
        let response = client.receive().await?;
        assert_eq!(response.header.correlation, window[0].correlation, "answers come in the order of the requests");
        let response = response.message::<produce::Response<'_>>()?;
        let result = response.results.iter().next().expect("one batch, one result");
        if result.error != ErrorCode::None {
            assert!(result.error.is_retriable(), "{}: {}", result.error, result.reason);
            return Err(io::Error::other(result.reason.to_owned()));
        }
        source.acked(&window.pop_front().expect("it was just looked at"), result.base_offset);
        sent -= 1;
    }
}

async fn send_batch(client: &mut Client, partition: PartitionId, batch: &[u8]) -> io::Result<u32> {
    let rows = [produce::BatchRow { partition, batch_bytes: batch.len() as u32 }];
    let head = produce::RequestHead { timeout_ms: 0, batches: List::from(&rows) };
    client.send(&head, batch).await
}

/// Reads a partition from its start, for as long as the run goes and then to the offset in `end`.
pub(crate) async fn read(run: Rc<Run>, reader: Rc<RefCell<Reader>>, end: Rc<Cell<Option<u64>>>) {
    let mut link = Link::new(&run, None);
    let partition = PartitionId(reader.borrow().partition());
    loop {
        let position = reader.borrow().position();
        if end.get().is_some_and(|end| position >= end) {
            return;
        }
        if link.fetch(partition, position, &reader).await.is_err() {
            link.client = None;
            link.rt.sleep(RETRY_AFTER).await;
        }
    }
}

/// The high watermark of a partition.
pub(crate) async fn latest(run: Rc<Run>, partition: u64) -> u64 {
    let mut link = Link::new(&run, None);
    let rows = [list_offsets::Query { partition: PartitionId(partition), at: list_offsets::At::Latest }];
    let request = list_offsets::Request { partitions: List::from(&rows) };
    loop {
        let answer = link.client().await.call(&request).await.expect("nothing crashes any more");
        let found = answer.message::<list_offsets::Response<'_>>().expect("it is answered");
        let found = found.partitions.iter().next().expect("one question, one answer");
        match found.error {
            ErrorCode::None => return found.offset,
            error => assert_eq!(error, ErrorCode::NotLeader, "{}", found.reason),
        }
    }
}

/// The counters of the node, added up, and how many partitions each shard leads.
pub(crate) async fn shape(run: Rc<Run>) -> io::Result<(BTreeMap<String, u64>, BTreeMap<u16, usize>)> {
    let mut link = Link::new(&run, None);
    let client = link.client().await;
    let answer = client.call(&stats::Request).await?;
    let counters = answer.message::<stats::Response<'_>>()?;
    let counters = counters.counters.iter().map(|counter| (counter.name.to_owned(), counter.value)).collect();
    let answer = client.call(&topic_describe::Request { names: List::default() }).await?;
    let described = answer.message::<topic_describe::Response<'_>>()?;
    let mut led = BTreeMap::new();
    for partition in described.topics.iter().flat_map(|topic| topic.partitions.iter()) {
        *led.entry(partition.shard).or_default() += 1;
    }
    Ok((counters, led))
}

/// A batch that was sent.
struct Sent {
    first: Value,
    count: u64,
    batch: Bytes,
    correlation: u32,
}

/// Makes batches and notes their acks.
struct Source {
    run: Rc<Run>,
    writer: Rc<RefCell<Writer>>,
    producer_id: Option<i64>,
    next_sequence: i32,
}

impl Source {
    fn next(&mut self) -> Sent {
        let mut builder = BatchBuilder::new(16 << 10);
        let count = 1 + self.run.world.simulation.rng().below(20);
        let first = self.writer.borrow_mut().send(count);
        for place in 0..count {
            let mut record = [0; RECORD_BYTES];
            self.run.payload.write(first.plus(place), &mut record);
            builder.append(0, None, Some(&record), &[]).expect("twenty records fit");
        }
        let numbered = |id| Producer { id, epoch: 0, base_sequence: self.next_sequence };
        let batch = builder.build(self.producer_id.map_or(Producer::NONE, numbered));
        self.next_sequence += count as i32;
        Sent { first, count, batch, correlation: 0 }
    }

    fn acked(&mut self, sent: &Sent, base_offset: u64) {
        self.writer.borrow_mut().acked(sent.first, sent.count, base_offset, self.run.moment());
        self.run.acked.set(self.run.acked.get() + sent.count);
    }
}

/// A connection that is made again when it breaks.
struct Link {
    run: Rc<Run>,
    rt: SimRuntime,
    wanted_shard: Option<u16>,
    client: Option<Client>,
}

impl Link {
    fn new(run: &Rc<Run>, wanted_shard: Option<u16>) -> Self {
        Self { run: Rc::clone(run), rt: run.world.outside(), wanted_shard, client: None }
    }

    async fn client(&mut self) -> &mut Client {
        if self.client.is_none() {
            self.client = Some(connect(&self.rt, self.run.world.address(), self.wanted_shard).await);
        }
        self.client.as_mut().expect("it was just made")
    }

    async fn producer_id(&mut self) -> i64 {
        loop {
            let answered = self.client().await.call(&init_producer::Request).await;
            match answered.and_then(|answer| answer.message::<init_producer::Response>()) {
                Ok(response) => return response.producer_id,
                Err(_) => self.client = None,
            }
        }
    }

    /// Fetches once and notes what came.
    async fn fetch(&mut self, partition: PartitionId, offset: u64, reader: &RefCell<Reader>) -> io::Result<()> {
        // Less than a frame may have: a reader that fell behind asks for much.
        let bytes_max = 32 << 10;
        let rows = [fetch::Position { partition, offset, bytes_max }];
        let request = fetch::Request { wait_ms_max: 20, bytes_min: 1, bytes_max, partitions: List::from(&rows) };
        let answer = self.client().await.call(&request).await?;
        let response = answer.message::<fetch::Response<'_>>()?;
        let (row, batches) = response.partitions().next().expect("one partition, one row");
        if row.error == ErrorCode::NotLeader {
            return Err(io::Error::other(row.reason.to_owned())); // It moved while it was asked for.
        }
        assert_eq!(row.error, ErrorCode::None, "partition {partition} at {offset}: {}", row.reason);
        let reader = &mut *reader.borrow_mut();
        reader.high_watermark(row.high_watermark);
        if let Some(lost) = row.lost {
            reader.lost(lost.from..lost.to);
        }
        for batch in Batches::new(batches) {
            note(&self.run, &batch.expect("a whole batch"), reader);
        }
        Ok(())
    }
}

fn note(run: &Run, batch: &Batch<'_>, reader: &mut Reader) {
    batch.verify_stored().expect("the producer's CRC still holds");
    for record in batch.records().expect("not compressed") {
        let record = record.expect("a whole record");
        if record.offset < reader.position() {
            continue;
        }
        match record.value.and_then(|value| run.payload.read(value).ok()) {
            Some(value) => reader.delivered(record.offset, value, 1, run.moment()),
            None => reader.corrupt(record.offset),
        }
    }
}
