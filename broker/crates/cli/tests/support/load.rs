//! Writers and readers that go on through every death of the broker, and the history checker over all they were told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use history::{Faults, Moment, Observations, PAYLOAD_BYTES_MIN, Payload, Reader, Report, Value, Writer, WriterId};
use streambus::{Client, Consumer, NewTopic, ProducerRecord, SeekTo};
use tokio::task::JoinHandle;

/// What has to be newly acknowledged for life to go on.
const ACKED_PER_CYCLE: u64 = 1000;
const PARTITIONS: u32 = 4;
const RECORD_BYTES: usize = 1000;
const TOPIC: &str = "kills";

/// A load under way.
pub(crate) struct Load {
    pub(crate) client: Client,
    run: Arc<Run>,
    writers: Vec<JoinHandle<Writer>>,
    readers: Vec<JoinHandle<Reader>>,
}

/// What writers and readers share.
struct Run {
    started: Instant,
    payload: Payload,
    acked: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    /// Creates the topic and begins.
    pub(crate) async fn begin(address: &str, seed: u64) -> Self {
        const { assert!(RECORD_BYTES >= PAYLOAD_BYTES_MIN) };
        let run = Arc::new(Run {
            started: Instant::now(),
            payload: Payload::new(seed, RECORD_BYTES),
            acked: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let client = Client::connect(address).await.expect("the broker serves");
        client.admin().create_topic(NewTopic::new(TOPIC).partitions(PARTITIONS)).await.expect("it is new");
        let writers = (0..PARTITIONS).map(|partition| tokio::spawn(run.clone().write(client.clone(), partition)));
        let writers = writers.collect();
        let readers = (0..PARTITIONS).map(|partition| tokio::spawn(run.clone().read(client.clone(), partition)));
        let readers = readers.collect();
        Self { client, run, writers, readers }
    }

    pub(crate) fn now(&self) -> Moment {
        self.run.now()
    }

    /// Waits until enough is newly acknowledged.
    pub(crate) async fn go_on(&self) {
        let wanted = self.run.acked.load(Relaxed) + ACKED_PER_CYCLE;
        wait_until("1,000 records are acknowledged", || self.run.acked.load(Relaxed) >= wanted).await;
    }

    /// Ends it, reads every partition once more from its start, and judges.
    pub(crate) async fn end(self, faults: Faults) -> Report {
        self.go_on().await;
        self.run.stop.store(true, Relaxed);
        let mut observations = Observations::new();
        for writer in self.writers {
            observations.add_writer(writer.await.expect("writers do not panic"));
        }
        for reader in self.readers {
            observations.add_reader(reader.await.expect("readers do not panic"));
        }
        for partition in 0..PARTITIONS {
            let mut reader = Reader::new(u64::from(partition), 0);
            let mut consumer = consumer(&self.client, partition, 0).await;
            self.run.drain(&self.client, &mut consumer, &mut reader, partition).await;
            observations.add_reader(reader);
        }
        observations.set_faults(faults);
        observations.check()
    }
}

/// Waits, but not for ever.
pub(crate) async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < deadline, "waited two minutes until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn consumer(client: &Client, partition: u32, offset: u64) -> Consumer {
    let builder = client.consumer().partitions(TOPIC, [partition]).start(SeekTo::Offset(offset));
    builder.build().await.expect("the topic is there")
}

impl Run {
    fn now(&self) -> Moment {
        Moment(self.started.elapsed().as_nanos() as u64)
    }

    async fn write(self: Arc<Self>, client: Client, partition: u32) -> Writer {
        let mut notes = Writer::new(WriterId::new(partition), u64::from(partition));
        let producer = client.producer().topic(TOPIC).delivery_timeout(Duration::from_secs(60));
        let producer = producer.build().await.expect("the topic is there");
        let mut value = vec![0; RECORD_BYTES];
        while !self.stop.load(Relaxed) {
            let first = notes.send(50);
            let mut deliveries = Vec::new();
            for number in 0..50 {
                let this = Value::from_u64(first.to_u64() + number);
                self.payload.write(this, &mut value);
                let record = ProducerRecord::value(&value).partition(partition);
                deliveries.push(producer.send(record).await.expect("the producer retries"));
            }
            for (number, delivery) in deliveries.into_iter().enumerate() {
                let delivered = delivery.await.expect("within a minute the broker is back");
                let this = Value::from_u64(first.to_u64() + number as u64);
                notes.acked(this, 1, delivered.offset, self.now());
            }
            self.acked.fetch_add(50, Relaxed);
        }
        producer.close().await.expect("everything is acknowledged");
        notes
    }

    /// Follows a partition until the run stops.
    async fn read(self: Arc<Self>, client: Client, partition: u32) -> Reader {
        let mut notes = Reader::new(u64::from(partition), 0);
        let mut consumer = consumer(&client, partition, 0).await;
        while !self.stop.load(Relaxed) {
            if let Ok(batch) = tokio::time::timeout(Duration::from_millis(100), consumer.recv_batch()).await {
                match batch {
                    Ok(batch) => self.note(&mut notes, &batch),
                    Err(error) => assert!(error.is_retriable(), "{error}"),
                }
            }
        }
        self.drain(&client, &mut consumer, &mut notes, partition).await;
        notes
    }

    /// Reads what is left of a partition.
    async fn drain(&self, client: &Client, consumer: &mut Consumer, notes: &mut Reader, partition: u32) {
        let ends = client.admin().list_offsets(TOPIC, streambus::OffsetAt::Latest).await.expect("the broker serves");
        notes.high_watermark(ends[partition as usize]);
        while notes.position() < ends[partition as usize] {
            match consumer.recv_batch().await {
                Ok(batch) => self.note(notes, &batch),
                Err(error) => assert!(error.is_retriable(), "{error}"),
            }
        }
    }

    fn note(&self, notes: &mut Reader, batch: &streambus::RecordBatch) {
        for record in batch.records() {
            match record.value.map(|value| self.payload.read(value)) {
                Some(Ok(value)) => notes.delivered(record.offset, value, 1, self.now()),
                _ => notes.corrupt(record.offset),
            }
        }
    }
}
