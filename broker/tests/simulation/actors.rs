//! Producers and consumers of a run, and the notes they take.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use history::{Moment, Payload, Reader, Writer};
use runtime::{Runtime, sim::SimRuntime};
use wire::{
    ErrorCode, PartitionId,
    api::{fetch, init_producer, produce, topic_create},
    codec::List,
    record::{Batch, BatchBuilder, Batches, Producer},
};

use crate::{
    client::Client,
    node::{World, connect},
};

const RECORD_BYTES: usize = 100;

/// What the actors of a run share.
pub(crate) struct Run {
    pub(crate) world: Rc<World>,
    pub(crate) payload: Payload,
    /// Writers stop when this is set.
    pub(crate) is_ending: Cell<bool>,
    /// Sends acknowledged so far, over all writers.
    pub(crate) acked: Cell<u64>,
}

impl Run {
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.world.now().as_nanos())
    }
}

/// Creates a topic; its partitions and their shards.
pub(crate) async fn create_topic(run: Rc<Run>, name: &'static str, partition_count: u32) -> Vec<(PartitionId, u16)> {
    let rt = run.world.outside();
    let mut client = connect(&rt, run.world.address(), None).await;
    let request = topic_create::Request { name, partition_count, settings: List::default() };
    let answer = client.call(&request, &[]).await.expect("nothing crashes yet");
    let created = answer.message::<topic_create::Response<'_>>().expect("the name is free");
    created.partitions.iter().map(|placed| (placed.partition, placed.shard)).collect()
}

/// Sends batches to a partition until the run ends, each repeated until its fate is known.
pub(crate) async fn write(run: Rc<Run>, writer: Rc<RefCell<Writer>>, wanted_shard: Option<u16>) {
    let rt = run.world.outside();
    let mut builder = BatchBuilder::new(16 << 10);
    let mut link = Link { run: Rc::clone(&run), rt: rt.clone(), wanted_shard, client: None };
    let producer_id = link.producer_id().await;
    let mut sequence = 0;
    let partition = PartitionId(writer.borrow().partition());
    while !run.is_ending.get() {
        let count = 1 + run.world.simulation.rng().below(20);
        let first = writer.borrow_mut().send(count);
        for place in 0..count {
            let mut record = [0; RECORD_BYTES];
            run.payload.write(first.plus(place), &mut record);
            builder.append(0, None, Some(&record), &[]).expect("twenty records fit");
        }
        let batch = builder.build(Producer { id: producer_id, epoch: 0, base_sequence: sequence });
        loop {
            match link.produce(partition, &batch).await {
                Ok(Ok(base_offset)) => {
                    writer.borrow_mut().acked(first, count, base_offset, run.moment());
                    run.acked.set(run.acked.get() + count);
                    sequence += count as i32;
                    break;
                }
                Ok(Err(error)) => assert!(error.is_retriable(), "{error} at sequence {sequence}"),
                Err(_) => link.client = None,
            }
            rt.sleep(Duration::from_micros(200)).await;
        }
    }
}

/// Reads a partition from its start, for as long as the run goes and then to the offset in `end`.
pub(crate) async fn read(run: Rc<Run>, reader: Rc<RefCell<Reader>>, end: Rc<Cell<Option<u64>>>) {
    let rt = run.world.outside();
    let mut link = Link { run: Rc::clone(&run), rt: rt.clone(), wanted_shard: None, client: None };
    let partition = PartitionId(reader.borrow().partition());
    loop {
        let position = reader.borrow().position();
        if end.get().is_some_and(|end| position >= end) {
            return;
        }
        match link.fetch(partition, position, &reader).await {
            Ok(()) => {}
            Err(_) => {
                link.client = None;
                rt.sleep(Duration::from_micros(200)).await;
            }
        }
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
    async fn client(&mut self) -> &mut Client {
        if self.client.is_none() {
            self.client = Some(connect(&self.rt, self.run.world.address(), self.wanted_shard).await);
        }
        self.client.as_mut().expect("it was just made")
    }

    async fn producer_id(&mut self) -> i64 {
        loop {
            match self.client().await.call(&init_producer::Request, &[]).await {
                Ok(answer) => {
                    if let Ok(response) = answer.message::<init_producer::Response>() {
                        return response.producer_id;
                    }
                }
                Err(_) => self.client = None,
            }
        }
    }

    async fn produce(&mut self, partition: PartitionId, batch: &[u8]) -> io::Result<Result<u64, ErrorCode>> {
        let rows = [produce::BatchRow { partition, batch_bytes: batch.len() as u32 }];
        let head = produce::RequestHead { timeout_ms: 0, batches: List::from(&rows) };
        let answer = self.client().await.call(&head, batch).await?;
        let response = answer.message::<produce::Response<'_>>()?;
        let result = response.results.iter().next().expect("one batch, one result");
        match result.error {
            ErrorCode::None => Ok(Ok(result.base_offset)),
            error => Ok(Err(error)),
        }
    }

    /// Fetches once and notes what came.
    async fn fetch(&mut self, partition: PartitionId, offset: u64, reader: &RefCell<Reader>) -> io::Result<()> {
        let rows = [fetch::Position { partition, offset, bytes_max: 1 << 20 }];
        let request =
            fetch::Request { wait_ms_max: 20, bytes_min: 1, bytes_max: 1 << 20, partitions: List::from(&rows) };
        let answer = self.client().await.call(&request, &[]).await?;
        let response = answer.message::<fetch::Response<'_>>()?;
        let (row, batches) = response.partitions().next().expect("one partition, one row");
        assert_eq!(row.error, ErrorCode::None, "{}", row.reason);
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
