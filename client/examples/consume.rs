//! Prints every record of a topic, from the first one on, and goes on with what comes, until Ctrl-C.
//!
//! ```sh
//! cargo run --example consume -- orders
//! ```

use std::env;

use streambus::{Client, ErrorKind, Record};
use tokio_stream::StreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let topic = env::args().nth(1).unwrap_or_else(|| "orders".to_owned());
    let addresses = env::var("STREAMBUS_BROKERS").unwrap_or_else(|_| "127.0.0.1:9092".to_owned());
    let client = Client::connect(addresses).await?;
    let mut records = client.consumer().topic(&topic).build().await?;
    loop {
        tokio::select! {
            next = records.next() => match next {
                Some(Ok(record)) => print(&record),
                // A gap or a loss: worth knowing, and reading goes on behind it.
                Some(Err(error)) if error.kind() == ErrorKind::Retriable => eprintln!("{error}"),
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
    }
}

fn print(record: &Record) {
    let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
    println!("{}/{} offset {}: {value}", record.topic, record.partition, record.offset);
}
