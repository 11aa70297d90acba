//! Producers and consumers that use the SDK, each on a thread and runtime of its own.
//!
//! The hard idea: records are sent in order by one task, while small tasks, one for each few records, wait for their
//! acknowledgements. So an acknowledgement is noticed when it comes, whatever the sender is waiting for.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use futures_util::FutureExt;
use history::{Moment, Value};
use streambus::{Client, Delivery, Error, ErrorKind, Producer, ProducerRecord, RecordRef, SeekTo};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{LocalSet, spawn_local, yield_now},
    time::timeout,
};

use crate::{
    failure::Failure,
    load::{Consumed, Produced, Ready},
    pacer::{Pacer, Ticker},
    run::{Counters, Meter, Run},
    scenario::{KEY_BYTES, key},
    verify::{ReadNotes, SentNotes},
};

/// Records that one task waits for, and that share a look at the clock.
const RECORDS_AT_ONCE: usize = 16;

/// Requests a producer may have under way without giving up idempotence.
const IN_FLIGHT_MAX_IDEMPOTENT: usize = 5;

/// What a record adds to a batch at most, beside its key and value; and a batch's own header.
const RECORD_OVERHEAD: usize = 24;
const BATCH_OVERHEAD: usize = 1024;

/// How long a consumer waits before it looks whether it is done.
const LOOK: Duration = Duration::from_millis(50);

/// How long to leave a partition alone that takes nothing.
const PAUSE: Duration = Duration::from_millis(10);

/// Sends until the run's last window ends, and waits for what is under way.
pub(crate) fn produce(run: &Arc<Run>, index: usize, ready: &Ready) -> Result<Produced, Failure> {
    let runtime = runtime();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let producer = connect_producer(run).await?;
        ready.tell();
        run.wait_for_start();
        let state = State::new(run, index);
        let mut source = Source::new(run, index);
        for window in run.windows() {
            let open_loop = run.scenario.rate.map(|rate| {
                let pacer = Pacer::one_of(window.start, rate, index, run.scenario.producers);
                (pacer, Ticker::start(run, pacer, window.end))
            });
            match open_loop {
                Some((pacer, ticker)) => {
                    send_on_schedule(run, &producer, &state, &mut source, pacer, &ticker, window.end).await;
                    ticker.join();
                }
                None => {
                    tokio::time::sleep(Duration::from_nanos(window.start.saturating_sub(run.now_ns()))).await;
                    send_as_acknowledged(run, &producer, &state, &mut source, window.end).await;
                }
            }
            settle(&producer, &state).await;
        }
        let State { notes, meter, .. } = Rc::into_inner(state).expect("every task ended").into_inner();
        Ok(Produced::new(notes, meter))
    })
}

/// Reads its partitions from their starts to their ends.
pub(crate) fn consume(run: &Arc<Run>, partitions: &[u32], ready: &Ready, is_timed: bool) -> Result<Consumed, Failure> {
    runtime().block_on(async {
        let topic = &run.topic;
        let client = Client::connect(&topic.brokers).await?;
        let consumer = client.consumer().partitions(&topic.name, partitions.iter().copied());
        let mut consumer = consumer.start(SeekTo::Latest).verify(run.scenario.verifies()).build().await?;
        let starts: Vec<_> = topic.partitions.iter().map(|partition| partition.start).collect();
        for &partition in partitions {
            consumer.seek(&topic.name, partition, SeekTo::Offset(starts[partition as usize])).await?;
        }
        ready.tell();
        run.wait_for_start();
        let (mut notes, mut meter, mut last_ns) = (ReadNotes::new(partitions, &starts), run.meter(), run.now_ns());
        let mut positions: Vec<_> =
            partitions.iter().map(|&partition| (partition, starts[partition as usize])).collect();
        let is_read = |notes: &ReadNotes, positions: &[(u32, u64)], last_ns| match run.scenario.consume_only {
            true => run.is_read(positions.iter().copied(), last_ns),
            false => run.is_read(notes.positions(), last_ns),
        };
        while !is_read(&notes, &positions, last_ns) {
            match timeout(LOOK, consumer.recv_batch()).await {
                Ok(Ok(batch)) => {
                    let now = run.now();
                    last_ns = now.0;
                    meter.count(now.0, batch.record_count() as u64);
                    Counters::add(&run.counters.read, batch.record_count() as u64);
                    if run.scenario.consume_only {
                        let read = positions.iter_mut().find(|(partition, _)| *partition == batch.partition());
                        read.expect("it is one of those asked for").1 = batch.next_offset();
                        meter.count_bytes(now.0, batch.records().map(|record| record_bytes(&record)).sum());
                    }
                    if let Some(proof) = &run.proof {
                        let records = batch.records().map(|record| (record.offset, record.value.unwrap_or_default()));
                        proof.read(notes.reader(batch.partition()), records, now, |stretch| {
                            if is_timed {
                                proof.take_sent(stretch, |sent_ns, count| meter.time(sent_ns, now.0, count));
                            }
                        });
                    }
                }
                Ok(Err(error)) => {
                    heed(run, &mut notes, &mut meter, &error);
                    if matches!(error, Error::AllStopped) {
                        break;
                    }
                }
                Err(_silence) => {}
            }
        }
        Ok(Consumed::new(notes, meter))
    })
}

fn record_bytes(record: &RecordRef<'_>) -> u64 {
    [record.key, record.value].into_iter().flatten().map(|part| part.len() as u64).sum()
}

/// A loss that the broker tells of is noted; everything else shows in what is read, or not.
fn heed(run: &Run, notes: &mut ReadNotes, meter: &mut Meter, error: &Error) {
    match error {
        Error::Lost { partition, from, to, .. } => notes.reader(*partition).lost(*from..*to),
        error => {
            meter.fail(run.now_ns(), 1);
            run.counters.fail(1, error);
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime of one thread can be made")
}

async fn connect_producer(run: &Run) -> Result<Producer, Failure> {
    let scenario = &run.scenario;
    let batch_bytes = BATCH_OVERHEAD + scenario.batch_records * (scenario.record_bytes() as usize + RECORD_OVERHEAD);
    let client = Client::connect(&run.topic.brokers).await?;
    let producer = client.producer().topic(&run.topic.name);
    let producer = producer
        .batch_bytes_max(batch_bytes)
        .buffer_bytes_max((2 * batch_bytes * scenario.in_flight).max(32 << 20))
        .in_flight_max(scenario.in_flight)
        .idempotent(scenario.in_flight <= IN_FLIGHT_MAX_IDEMPOTENT);
    Ok(producer.build().await?)
}

/// What the sender and the tasks that wait share.
struct State {
    notes: SentNotes,
    meter: Meter,
}

type SharedState = Rc<RefCell<State>>;

impl State {
    fn new(run: &Run, index: usize) -> SharedState {
        let notes = SentNotes::new(run.proof.is_some(), index, run.topic.partition_count());
        Rc::new(RefCell::new(Self { notes, meter: run.meter() }))
    }
}

/// A record on its way.
struct Sent {
    delivery: Delivery,
    partition: u32,
    value: Value,
    at_ns: u64,
}

/// Makes the next record: whole batches for one partition, then for the next; or keys at random, each in its partition.
struct Source {
    partitions: u32,
    keys: u32,
    batch_records: usize,
    partition: u32,
    left: usize,
    random: fastrand::Rng,
    record: Vec<u8>,
    key: [u8; KEY_BYTES],
}

impl Source {
    fn new(run: &Run, index: usize) -> Self {
        let (partitions, scenario) = (run.topic.partition_count(), &run.scenario);
        let mut record = vec![0; scenario.record_size];
        if let Some(proof) = &run.proof {
            proof.payload.write(Value::from_u64(0), &mut record);
        }
        Self {
            partitions,
            keys: scenario.keys,
            batch_records: scenario.batch_records,
            partition: index as u32 % partitions,
            left: scenario.batch_records,
            random: fastrand::Rng::with_seed(index as u64),
            record,
            key: [0; KEY_BYTES],
        }
    }

    /// Chooses partition and key of the next record.
    fn choose(&mut self) {
        if self.keys > 0 {
            let number = self.random.u32(..self.keys);
            self.key = key(number);
            self.partition = number % self.partitions;
        } else if self.left == 0 {
            self.left = self.batch_records;
            self.partition = (self.partition + 1) % self.partitions;
        }
        self.left = self.left.saturating_sub(1);
    }

    async fn send(&mut self, run: &Run, producer: &Producer, state: &SharedState, at_ns: u64) -> Option<Sent> {
        self.choose();
        let partition = self.partition;
        let value = state.borrow_mut().notes.send(partition, 1);
        if let Some(proof) = &run.proof {
            proof.payload.stamp(value, &mut self.record);
            proof.sent(value, 1, at_ns);
        }
        let record = ProducerRecord::value(&self.record).partition(partition);
        let record = if self.keys > 0 { record.key(&self.key) } else { record };
        match producer.send(record).await {
            Ok(delivery) => Some(Sent { delivery, partition, value, at_ns }),
            Err(error) => {
                state.borrow_mut().failed(run, partition, value, &error);
                tokio::time::sleep(PAUSE).await;
                None
            }
        }
    }
}

/// Closed loop: a batch grows while the requests allowed are under way, and is sent when one of them returns.
async fn send_as_acknowledged(
    run: &Arc<Run>,
    producer: &Producer,
    state: &SharedState,
    source: &mut Source,
    end_ns: u64,
) {
    let scenario = &run.scenario;
    let growing = if scenario.batch_records == 1 { 0 } else { scenario.batch_records };
    let window = Arc::new(Semaphore::new(scenario.in_flight * scenario.batch_records + growing));
    let at_once = RECORDS_AT_ONCE.min(scenario.batch_records);
    loop {
        let permit = Arc::clone(&window).acquire_many_owned(at_once as u32).await.expect("the window is never closed");
        let now_ns = run.now_ns();
        if now_ns >= end_ns || run.is_stopped() {
            return;
        }
        let mut sent = Vec::with_capacity(at_once);
        for _ in 0..at_once {
            sent.extend(source.send(run, producer, state, now_ns).await);
        }
        spawn_local(wait_for(Arc::clone(run), Rc::clone(state), sent, Some(permit)));
    }
}

/// Open loop: records are sent when they are due, and wait only for the SDK to take them.
async fn send_on_schedule(
    run: &Arc<Run>,
    producer: &Producer,
    state: &SharedState,
    source: &mut Source,
    mut pacer: Pacer,
    ticker: &Ticker,
    end_ns: u64,
) {
    while pacer.due_ns() < end_ns && run.now_ns() < end_ns && ticker.tick().await {
        let mut sent = Vec::with_capacity(RECORDS_AT_ONCE);
        loop {
            let due_ns = pacer.due_ns();
            pacer.advance();
            sent.extend(source.send(run, producer, state, due_ns).await);
            if sent.len() == RECORDS_AT_ONCE || pacer.due_ns() >= end_ns || !ticker.try_tick() {
                break;
            }
        }
        spawn_local(wait_for(Arc::clone(run), Rc::clone(state), sent, None));
    }
}

/// Waits for acknowledgements, in order, and notes them. Records of one batch are acknowledged at one time.
async fn wait_for(run: Arc<Run>, state: SharedState, sent: Vec<Sent>, _permit: Option<OwnedSemaphorePermit>) {
    let (mut now, mut acked) = (None, 0);
    for Sent { mut delivery, partition, value, at_ns } in sent {
        let outcome = match (&mut delivery).now_or_never() {
            Some(outcome) => outcome,
            None => {
                now = None;
                delivery.await
            }
        };
        let now = *now.get_or_insert_with(|| run.now());
        match outcome {
            Ok(delivered) => {
                state.borrow_mut().acked(partition, value, delivered.offset, at_ns, now);
                acked += 1;
            }
            Err(error) => state.borrow_mut().failed(&run, partition, value, &error),
        }
    }
    Counters::add(&run.counters.acked, acked);
}

impl State {
    fn acked(&mut self, partition: u32, value: Value, offset: u64, at_ns: u64, now: Moment) {
        self.notes.acked(partition, value, 1, offset, now);
        self.meter.count(now.0, 1);
        self.meter.time(at_ns, now.0, 1);
    }

    fn failed(&mut self, run: &Run, partition: u32, value: Value, error: &Error) {
        if error.kind() != ErrorKind::OutcomeUnknown {
            self.notes.refused(partition, value, 1);
        }
        self.meter.fail(run.now_ns(), 1);
        run.counters.fail(1, error);
    }
}

/// Waits until everything sent is decided and noted; the SDK decides every record within its delivery timeout.
async fn settle(producer: &Producer, state: &SharedState) {
    // Failures were counted one by one.
    let _ = producer.flush().await;
    while Rc::strong_count(state) > 1 {
        yield_now().await;
    }
}
