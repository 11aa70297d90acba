//! Counts what a topic received since some minutes ago, reading whole batches, and ends where the topic ended at the start.
//!
//! ```sh
//! cargo run --release --example seek_by_time -- orders 10
//! ```

use std::{
    env,
    time::{Duration, SystemTime},
};

use streambus::{Client, OffsetAt, SeekTo};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let topic = env::args().nth(1).unwrap_or_else(|| "orders".to_owned());
    let minutes: u64 = env::args().nth(2).map_or(Ok(10), |minutes| minutes.parse())?;
    let addresses = env::var("STREAMBUS_BROKERS").unwrap_or_else(|_| "127.0.0.1:9092".to_owned());
    let client = Client::connect(addresses).await?;

    let since = SystemTime::now() - Duration::from_secs(60 * minutes);
    let since_ms = since.duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as i64;
    let ends = client.admin().list_offsets(&topic, OffsetAt::Latest).await?;
    let mut consumer = client.consumer().topic(&topic).start(SeekTo::Timestamp(since_ms)).build().await?;

    let (mut records, mut bytes) = (0, 0);
    while consumer.progress().iter().any(|progress| progress.position < ends[progress.partition as usize]) {
        // Records are borrowed from the batch: no copy, no allocation.
        for record in consumer.recv_batch().await?.records() {
            records += 1;
            bytes += record.value.map_or(0, <[u8]>::len);
        }
    }
    println!("{records} records, {bytes} bytes in the last {minutes} minutes of {topic}");
    Ok(())
}
