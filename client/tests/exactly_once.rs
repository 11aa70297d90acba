//! Producers and consumers over a network that cuts, delays, reorders and corrupts, for many seeds, judged by the history
//! checker: what was acknowledged is there once, in order, and every reader sees all of it.

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use history::{
    Faults, Moment, Observations, PAYLOAD_BYTES_MIN, Payload, Reader, Report, Value, Verdict, Writer, WriterId,
};
use streambus::{Client, Delivery, ProducerRecord};
use support::{Fake, Fault, Plan};
use tokio::task::JoinSet;

const PARTITIONS: u32 = 3;
const PRODUCERS: u32 = 2;
const RECORDS: u64 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_every_kind_lose_double_and_reorder_nothing() {
    let mut campaign = Report::default();
    for seed in 0..6 {
        let run = tokio::time::timeout(Duration::from_secs(60), run(seed)).await.expect("the run ends");
        assert!(run.verdict() != Verdict::Violated, "seed {seed}: {run}");
        campaign.absorb(run);
    }
    assert_eq!(campaign.verdict(), Verdict::Pass, "{campaign}");
}

async fn run(seed: u64) -> Report {
    let fake = Fake::with_topic(PARTITIONS).await;
    let start = Instant::now();
    let payload = Arc::new(Payload::new(seed, 200));
    fake.plan(Plan { produce_per_mille: 150, fetch_per_mille: 100, seed, ..Plan::default() });

    let mut readers = JoinSet::new();
    for partition in 0..PARTITIONS {
        readers.spawn(read(fake.client().await, partition, payload.clone(), start));
    }
    let mut writers = JoinSet::new();
    for producer in 0..PRODUCERS {
        writers.spawn(write(fake.client().await, producer, seed, payload.clone(), start));
    }
    let mut observations = Observations::new();
    let mut written = Vec::new();
    while let Some(writers) = writers.join_next().await {
        written.extend(writers.unwrap());
    }
    // Life after the last fault: one more record of a writer of its own in each partition, which is also where readers stop.
    fake.calm();
    written.extend(last(&fake.client().await, &payload, start).await);
    written.into_iter().for_each(|writer| observations.add_writer(writer));
    while let Some(reader) = readers.join_next().await {
        observations.add_reader(reader.unwrap());
    }
    observations.set_faults(faults(&fake, start));
    observations.check()
}

/// Sends to every partition in turn; one writer of the history for each.
async fn write(client: Client, producer: u32, seed: u64, payload: Arc<Payload>, start: Instant) -> Vec<Writer> {
    let mut rng = fastrand::Rng::with_seed(seed << 8 | u64::from(producer));
    let sender = client.producer().topic("t").linger(Duration::from_millis(rng.u64(0..2))).build().await.unwrap();
    let writer = |partition: u32| Writer::new(WriterId::new(producer * PARTITIONS + partition), partition.into());
    let mut writers: Vec<_> = (0..PARTITIONS).map(writer).collect();
    let mut sent: Vec<(usize, Value, Delivery)> = Vec::new();
    for number in 0..RECORDS {
        let partition = (number % u64::from(PARTITIONS)) as usize;
        let value = writers[partition].send(1);
        let mut record = vec![0; rng.usize(PAYLOAD_BYTES_MIN..200)];
        payload.write(value, &mut record);
        let record = ProducerRecord::value(&record).partition(partition as u32);
        sent.push((partition, value, sender.send(record).await.unwrap()));
        if rng.u8(..8) == 0 {
            tokio::time::sleep(Duration::from_micros(rng.u64(..500))).await;
        }
    }
    sender.flush().await.unwrap();
    for (partition, value, delivery) in sent {
        let delivered = delivery.await.unwrap();
        writers[partition].acked(value, 1, delivered.offset, moment(start));
    }
    writers
}

async fn last(client: &Client, payload: &Payload, start: Instant) -> Vec<Writer> {
    let sender = client.producer().topic("t").build().await.unwrap();
    let mut writers = Vec::new();
    for partition in 0..PARTITIONS {
        let mut writer = Writer::new(WriterId::new(LAST + partition), partition.into());
        let value = writer.send(1);
        let mut record = [0; PAYLOAD_BYTES_MIN];
        payload.write(value, &mut record);
        let delivered = sender.send_and_confirm(ProducerRecord::value(&record).partition(partition)).await.unwrap();
        writer.acked(value, 1, delivered.offset, moment(start));
        writers.push(writer);
    }
    writers
}

/// Writers from this one on send the last record of their partition.
const LAST: u32 = 1_000;

/// Reads a partition up to its last record.
async fn read(client: Client, partition: u32, payload: Arc<Payload>, start: Instant) -> Reader {
    let mut reader = Reader::new(partition.into(), 0);
    let mut consumer = client.consumer().partitions("t", [partition]).build().await.unwrap();
    loop {
        let batch = consumer.recv_batch().await.unwrap();
        for record in batch.records() {
            let value = payload.read(record.value.unwrap()).unwrap();
            reader.delivered(record.offset, value, 1, moment(start));
            if value.writer() >= WriterId::new(LAST) {
                return reader;
            }
        }
    }
}

fn faults(fake: &Fake, start: Instant) -> Faults {
    let mut faults = Faults::new();
    let kinds = Fault::PRODUCE.iter().chain(&Fault::FETCH);
    kinds.for_each(|fault| faults.schedule(fault.name()));
    for (fault, at) in &fake.state().fired {
        faults.fire(fault.name(), Moment((*at - start).as_nanos() as u64));
    }
    faults
}

fn moment(start: Instant) -> Moment {
    Moment(start.elapsed().as_nanos() as u64)
}
