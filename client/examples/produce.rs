//! Sends lines of text to a topic, creating it if need be, and says where each one is stored.
//!
//! ```sh
//! streambus serve &
//! printf 'two coffees\none tea\n' | cargo run --example produce -- orders
//! ```

use std::{env, io};

use streambus::{Client, Error, ErrorCode, NewTopic};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let topic = env::args().nth(1).unwrap_or_else(|| "orders".to_owned());
    let addresses = env::var("STREAMBUS_BROKERS").unwrap_or_else(|_| "127.0.0.1:9092".to_owned());
    let client = Client::connect(addresses).await?;
    create_unless_there(&client, &topic).await?;

    let producer = client.producer().topic(&topic).build().await?;
    let mut deliveries = Vec::new();
    for line in io::stdin().lines() {
        // Queues the record and goes on; waits only while the producer's buffer is full.
        deliveries.push(producer.send(&line?).await?);
    }
    for delivery in deliveries {
        let delivered = delivery.await?;
        println!("{topic}/{} offset {} ({})", delivered.partition, delivered.offset, delivered.durability);
    }
    producer.close().await?;
    Ok(())
}

async fn create_unless_there(client: &Client, topic: &str) -> Result<(), Error> {
    match client.admin().create_topic(NewTopic::new(topic).partitions(4)).await {
        Err(error) if error.code() != Some(ErrorCode::TopicExists) => Err(error),
        _ => Ok(()),
    }
}
