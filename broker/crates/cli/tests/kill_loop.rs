//! `kill -9` under load, again and again, and the history checker over everything the clients were told.
//!
//! `cargo test` does three cycles. The campaign: `STREAMBUS_KILLS=100 cargo test --release -p streambus-cli --test
//! kill_loop -- --nocapture`. A third of the kills wait until a flush is running, a third hit the recovery of the one
//! before. A cycle ends only when at least 1,000 records were newly acknowledged.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use history::{Faults, Moment, Observations, PAYLOAD_BYTES_MIN, Payload, Reader, Value, Verdict, Writer, WriterId};
use rustix::process::Signal;
use streambus::{Client, Consumer, NewTopic, ProducerRecord, SeekTo};
use support::{Served, scratch};

const KILLS_DEFAULT: u64 = 3;
/// What each cycle must have acknowledged before its kill.
const ACKED_PER_CYCLE: u64 = 1000;
const PARTITIONS: u32 = 4;
const RECORD_BYTES: usize = 1000;
const TOPIC: &str = "kills";

#[test]
fn nothing_acknowledged_is_lost_across_kills() {
    let kills = std::env::var("STREAMBUS_KILLS").map_or(KILLS_DEFAULT, |text| text.parse().expect("a number"));
    let seed = std::env::var("STREAMBUS_SEED").map_or(1, |text| text.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio");
    runtime.block_on(campaign(kills, seed));
}

async fn campaign(kills: u64, mut seed: u64) {
    let home = scratch();
    let dir = home.path().join("data");
    let mut broker = Served::start(&dir);
    let address = broker.address().to_owned();
    let run = Arc::new(Run::new(seed));
    let client = Client::connect(&address).await.expect("the broker serves");
    client.admin().create_topic(NewTopic::new(TOPIC).partitions(PARTITIONS)).await.expect("it is new");
    let writers: Vec<_> =
        (0..PARTITIONS).map(|partition| tokio::spawn(run.clone().write(client.clone(), partition))).collect();
    let readers: Vec<_> =
        (0..PARTITIONS).map(|partition| tokio::spawn(run.clone().read(client.clone(), partition))).collect();

    let mut faults = Faults::new();
    let mut restarts = Vec::new();
    for kill in 0..kills {
        let acked_before = run.acked.load(Relaxed);
        wait_until("1,000 records are acknowledged", || run.acked.load(Relaxed) >= acked_before + ACKED_PER_CYCLE)
            .await;
        let kind = ["kill under load", "kill during flush", "kill during recovery"][(kill % 3) as usize];
        if kind == "kill during flush" {
            wait_until("a flush runs", || is_flushing(&dir)).await;
        } else {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            tokio::time::sleep(Duration::from_micros(seed >> 49)).await;
        }
        faults.schedule(kind);
        assert_eq!(broker.end(Signal::KILL), None, "killed, not ended");
        faults.fire(kind, run.now());
        if kind == "kill during recovery" {
            Served::kill_while_starting(&dir, &address, Duration::from_micros(seed % 12_000));
        }
        let started = Instant::now();
        broker = Served::start_at(&dir, &address, &[]);
        restarts.push(started.elapsed());
    }
    let acked_before = run.acked.load(Relaxed);
    wait_until("life goes on after the last kill", || run.acked.load(Relaxed) > acked_before + ACKED_PER_CYCLE).await;
    run.stop.store(true, Relaxed);
    let mut observations = Observations::new();
    for writer in writers {
        observations.add_writer(writer.await.expect("writers do not panic"));
    }
    for reader in readers {
        observations.add_reader(reader.await.expect("readers do not panic"));
    }
    for partition in 0..PARTITIONS {
        let mut reader = Reader::new(u64::from(partition), 0);
        let mut consumer = consumer(&client, partition, 0).await;
        run.drain(&client, &mut consumer, &mut reader, partition).await;
        observations.add_reader(reader);
    }
    observations.set_faults(faults);
    let report = observations.check();
    restarts.sort();
    let median = restarts.get(restarts.len() / 2).copied().unwrap_or_default();
    println!("{kills} kills, restart p50 {median:?}, max {:?}\n{report}", restarts.last());
    assert_eq!(report.verdict(), Verdict::Pass, "{report}");
    assert_eq!(broker.end(Signal::TERM), Some(0), "the last stop is clean");
}

/// Whether segments are being written: an intent's file is there that the last look did not see finished.
fn is_flushing(dir: &std::path::Path) -> bool {
    let Ok(shards) = std::fs::read_dir(dir) else { return false };
    shards.flatten().any(|shard| {
        let segments = shard.path().join("segments");
        let newest = |entry: std::fs::DirEntry| entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        std::fs::read_dir(segments)
            .is_ok_and(|files| files.flatten().filter_map(newest).any(|age| age < Duration::from_millis(20)))
    })
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
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

/// What writers and readers share.
struct Run {
    started: Instant,
    payload: Payload,
    acked: AtomicU64,
    stop: AtomicBool,
}

impl Run {
    fn new(seed: u64) -> Self {
        const { assert!(RECORD_BYTES >= PAYLOAD_BYTES_MIN) };
        Self {
            started: Instant::now(),
            payload: Payload::new(seed, RECORD_BYTES),
            acked: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

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
