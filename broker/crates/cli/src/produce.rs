//! `streambus produce`: lines of standard input become records.
//!
//! Lines are read by a thread, since a person may take their time over one while acknowledgements arrive; they are told in
//! the order of the lines.

use std::{
    collections::VecDeque,
    io::{self, BufRead},
    thread,
};

use clap::{Args, ValueEnum};
use serde::Serialize;
use streambus::{Compression, Delivered, Delivery, Error, Producer, ProducerRecord};
use tokio::sync::mpsc::{Receiver, channel};

use crate::{
    connect::Brokers,
    failure::Failure,
    output::{Format, Output, to_json, write_line},
};

/// Lines read ahead.
const LINES_AHEAD: usize = 1_000;

/// Produce the lines of standard input, one record each
#[derive(Debug, Args)]
pub(crate) struct Produce {
    /// The topic
    topic: String,

    /// What separates key and value in a line; a line without it has no key
    #[arg(short, long, value_name = "DELIMITER")]
    key_delimiter: Option<String>,

    /// Produce to this partition [default: the key's, or one after the other]
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,

    /// Compress batches that become smaller by it
    #[arg(short = 'z', long, value_name = "CODEC", value_enum, default_value_t = Codec::None)]
    compression: Codec,

    #[command(flatten)]
    brokers: Brokers,

    #[command(flatten)]
    output: Output,
}

/// What batches are compressed with.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// What is printed of a delivered record.
#[derive(Serialize)]
struct Told<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    durability: &'static str,
    synced: bool,
}

impl Produce {
    pub(crate) fn format(&self) -> Format {
        self.output.format
    }

    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.brokers.connect().await?;
        let producer = client.producer().topic(&self.topic).compression(self.compression.into()).build().await?;
        let mut lines = lines();
        let mut deliveries: VecDeque<Delivery> = VecDeque::new();
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(line) => deliveries.push_back(self.send(&producer, &line?).await?),
                    None => break,
                },
                delivered = first(&mut deliveries), if !deliveries.is_empty() => {
                    deliveries.pop_front();
                    self.tell(&delivered?)?;
                }
            }
        }
        for delivery in deliveries {
            self.tell(&delivery.await?)?;
        }
        Ok(producer.close().await?)
    }

    async fn send(&self, producer: &Producer, line: &[u8]) -> Result<Delivery, Failure> {
        let (key, value) = split(line, self.key_delimiter.as_deref());
        let mut record = ProducerRecord::value(value);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(partition) = self.partition {
            record = record.partition(partition);
        }
        Ok(producer.send(record).await?)
    }

    fn tell(&self, delivered: &Delivered) -> Result<(), Failure> {
        if self.format() == Format::Text {
            return Ok(());
        }
        let Delivered { partition, offset, durability, synced, .. } = *delivered;
        write_line(&to_json(&Told { topic: &self.topic, partition, offset, durability: durability.name(), synced }))
    }
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip,
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

/// What becomes of the oldest record.
async fn first(deliveries: &mut VecDeque<Delivery>) -> Result<Delivered, Error> {
    match deliveries.front_mut() {
        Some(delivery) => delivery.await,
        None => std::future::pending().await,
    }
}

/// The lines of standard input, without their ends.
fn lines() -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = channel(LINES_AHEAD);
    thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n') {
            let is_last = line.is_err();
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// Key and value of a line.
fn split<'a>(line: &'a [u8], delimiter: Option<&str>) -> (Option<&'a [u8]>, &'a [u8]) {
    let Some(delimiter) = delimiter.map(str::as_bytes).filter(|delimiter| !delimiter.is_empty()) else {
        return (None, line);
    };
    match line.windows(delimiter.len()).position(|window| window == delimiter) {
        Some(at) => (Some(&line[..at]), &line[at + delimiter.len()..]),
        None => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_the_first_delimiter() {
        let check = |line: &'static str, delimiter, key: Option<&str>, value: &str| {
            assert_eq!(split(line.as_bytes(), delimiter), (key.map(str::as_bytes), value.as_bytes()), "{line}");
        };
        check("a:b:c", Some(":"), Some("a"), "b:c");
        check("a::b", Some("::"), Some("a"), "b");
        check(":b", Some(":"), Some(""), "b");
        check("b", Some(":"), None, "b");
        check("a:b", None, None, "a:b");
        check("a:b", Some(""), None, "a:b");
    }
}
