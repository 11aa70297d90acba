//! What partitions cost that nobody uses: memory of the broker, and time to start.
//!
//! `cargo test` makes 20,000 of them. The campaign: `STREAMBUS_PARTITIONS=100000 cargo test --release -p streambus-cli
//! --test idle_partitions -- --nocapture`. Each has one record, so that each is known to metadata, to the log's manifest and
//! to the shard that leads it. Measured is the broker that just made them, and the one that was started anew and did nothing yet:
//! it also knows the producer that wrote each record.

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use streambus::{Client, Error, NewTopic, ProducerRecord, SeekTo};
use support::{Served, scratch};

const PARTITIONS_DEFAULT: u32 = 20_000;
/// Partitions of each topic.
const TOPIC_PARTITIONS: u32 = 10_000;
/// Resident memory that a partition may cost which nobody ever wrote to.
const EMPTY_PARTITION_BYTES_MAX: u64 = 640;
/// The same of one that has records of a producer.
const PARTITION_BYTES_MAX: u64 = 1 << 10;
/// Resident memory of a broker with 100,000 of them.
const BYTES_MAX: u64 = 256 << 20;
/// Memory that was freed is back with the system after this long.
const REST: Duration = Duration::from_secs(3);
/// What two starts of a broker differ by without any.
const NOISE_BYTES: u64 = 4 << 20;

#[test]
fn an_idle_partition_costs_little_memory() {
    let partitions: u32 =
        std::env::var("STREAMBUS_PARTITIONS").map_or(PARTITIONS_DEFAULT, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio");
    let home = scratch();
    let dir = home.path().join("data");

    let broker = Served::start(&dir);
    let empty_bytes = at_rest(&broker);
    let began = Instant::now();
    runtime.block_on(create(broker.address(), partitions)).unwrap();
    let (created, created_bytes) = (began.elapsed(), at_rest(&broker));
    runtime.block_on(fill(broker.address(), partitions)).unwrap();
    assert_eq!(broker.end(Signal::TERM), Some(0));

    let broker = Served::start(&dir);
    let (started, started_bytes) = (broker.ready["ready_ms"].as_f64().unwrap(), at_rest(&broker));
    println!(
        "{partitions} partitions: created in {created:?}, {} B each; started in {started} ms, {} B each, {} MiB in all",
        created_bytes.saturating_sub(empty_bytes) / u64::from(partitions),
        started_bytes.saturating_sub(empty_bytes) / u64::from(partitions),
        started_bytes >> 20,
    );
    for (bytes, partition_bytes) in [(created_bytes, EMPTY_PARTITION_BYTES_MAX), (started_bytes, PARTITION_BYTES_MAX)] {
        let allowed = empty_bytes + NOISE_BYTES + partition_bytes * u64::from(partitions);
        assert!(bytes <= allowed.min(BYTES_MAX), "{bytes} bytes resident, {empty_bytes} without partitions");
    }
    runtime.block_on(read_last(broker.address(), partitions)).unwrap();
}

/// Resident memory of a broker that has done nothing for a while.
fn at_rest(broker: &Served) -> u64 {
    thread::sleep(REST);
    broker.resident_bytes()
}

/// Names of the topics, and partitions of each.
fn topics(partitions: u32) -> impl Iterator<Item = (String, u32)> {
    let starts = (0..partitions).step_by(TOPIC_PARTITIONS as usize);
    starts.map(move |start| (format!("idle-{start}"), TOPIC_PARTITIONS.min(partitions - start)))
}

async fn create(address: &str, partitions: u32) -> Result<(), Error> {
    let client = Client::connect(address).await?;
    for (name, partitions) in topics(partitions) {
        client.admin().create_topic(NewTopic::new(&name).partitions(partitions)).await?;
    }
    Ok(())
}

/// Writes a record into each partition.
async fn fill(address: &str, partitions: u32) -> Result<(), Error> {
    let client = Client::connect(address).await?;
    for (name, partitions) in topics(partitions) {
        let producer = client.producer().topic(&name).build().await?;
        let mut deliveries = Vec::new();
        for partition in 0..partitions {
            deliveries.push(producer.send(ProducerRecord::value(b"one").partition(partition)).await?);
        }
        for delivery in deliveries {
            assert_eq!(delivery.await?.offset, 0);
        }
    }
    Ok(())
}

/// Reads the record of the last partition.
async fn read_last(address: &str, partitions: u32) -> Result<(), Error> {
    let client = Client::connect(address).await?;
    let (name, partitions) = topics(partitions).last().expect("there is a topic");
    let consumer = client.consumer().partitions(&name, [partitions - 1]).start(SeekTo::Earliest);
    let record =
        tokio::time::timeout(Duration::from_secs(60), consumer.build().await?.recv()).await.expect("a record")?;
    assert_eq!(record.value.as_deref(), Some(&b"one"[..]));
    Ok(())
}
