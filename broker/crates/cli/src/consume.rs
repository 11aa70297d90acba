//! `streambus consume`: records to standard output, from a place in the topic to its end, or on and on.

use std::{
    io::{self, BufWriter, Write},
    str::FromStr,
    time::Duration,
};

use clap::{Args, ValueEnum};
use streambus::{Client, Consumer, Error, OffsetAt, RecordBatch, SeekTo};
use tokio::time::timeout;

use crate::{
    connect::Brokers,
    failure::Failure,
    output::{Format, to_json, written},
    told::Told,
};

/// How long to wait for records before looking whether the end was reached without any.
const LOOK: Duration = Duration::from_millis(100);

/// Print the records of a topic: from its start to where its end is now
#[derive(Debug, Args)]
pub(crate) struct Consume {
    /// The topic
    topic: String,

    /// Where to begin: start, end, an offset, or @ and a time in milliseconds since 1970. Also takes text or json, as
    /// --output does
    #[arg(short, value_name = "OFFSET|FORMAT")]
    o: Vec<Choice>,

    /// Where to begin [default: start]
    #[arg(long, value_name = "OFFSET", conflicts_with = "o")]
    offset: Option<Offset>,

    /// How to print records and errors
    #[arg(long = "output", value_enum, value_name = "FORMAT")]
    format: Option<Format>,

    /// Stop after so many records
    #[arg(short = 'n', long, value_name = "N")]
    number: Option<u64>,

    /// Read only these partitions
    #[arg(short, long = "partition", value_name = "N", value_delimiter = ',')]
    partitions: Vec<u32>,

    /// Go on with records to come
    #[arg(long)]
    follow: bool,

    #[command(flatten)]
    brokers: Brokers,
}

/// What `-o` says: an offset, or a format, whose names no offset has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Offset(Offset),
    Format(Format),
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offset(SeekTo);

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match Format::from_str(text, false) {
            Ok(format) => Ok(Self::Format(format)),
            Err(_) => text.parse().map(Self::Offset).map_err(|error| format!("{error}; or text, or json")),
        }
    }
}

impl FromStr for Offset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u64>().ok().filter(|&number| i64::try_from(number).is_ok());
        let seek = match text {
            "start" => Some(SeekTo::Earliest),
            "end" => Some(SeekTo::Latest),
            text => match text.strip_prefix('@') {
                Some(time) => number(time).map(|time| SeekTo::Timestamp(time as i64)),
                None => number(text).map(SeekTo::Offset),
            },
        };
        seek.map(Self).ok_or_else(|| "it is none of start, end, an offset, @milliseconds".to_owned())
    }
}

impl Consume {
    pub(crate) fn format(&self) -> Format {
        let short = self.o.iter().rev().find_map(|choice| match choice {
            Choice::Format(format) => Some(*format),
            Choice::Offset(_) => None,
        });
        self.format.or(short).unwrap_or_default()
    }

    fn start(&self) -> SeekTo {
        let short = self.o.iter().rev().find_map(|choice| match choice {
            Choice::Offset(offset) => Some(*offset),
            Choice::Format(_) => None,
        });
        self.offset.or(short).map_or(SeekTo::Earliest, |Offset(seek)| seek)
    }

    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.brokers.connect().await?;
        let builder = match self.partitions.as_slice() {
            [] => client.consumer().topic(&self.topic),
            partitions => client.consumer().partitions(&self.topic, partitions.iter().copied()),
        };
        let mut consumer = builder.start(self.start()).build().await?;
        let mut left = Left::new(&self, &client, &consumer).await?;
        let mut out = BufWriter::new(io::stdout().lock());
        while !left.is_done() {
            match timeout(LOOK, consumer.recv_batch()).await {
                Ok(Ok(batch)) => {
                    let printed = self.print(&mut out, &batch, left.records).and_then(|()| out.flush());
                    written(printed)?;
                    left.take(&batch);
                }
                Ok(Err(Error::Lost { topic, partition, from, to })) => {
                    eprintln!("streambus: {}", Error::Lost { topic, partition, from, to });
                    left.reach(partition, to);
                }
                Ok(Err(Error::Gap { topic, partition, from, to })) => {
                    eprintln!("streambus: {}", Error::Gap { topic, partition, from, to });
                    left.reach(partition, to);
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_silence) => {}
            }
        }
        Ok(())
    }

    /// Prints the batch's records, at most so many.
    fn print(&self, out: &mut impl Write, batch: &RecordBatch, at_most: u64) -> io::Result<()> {
        for record in batch.records().take(usize::try_from(at_most).unwrap_or(usize::MAX)) {
            match self.format() {
                Format::Text => {
                    out.write_all(record.value.unwrap_or_default())?;
                    out.write_all(b"\n")?;
                }
                Format::Json => writeln!(out, "{}", to_json(&Told::new(batch, &record)))?,
            }
        }
        Ok(())
    }
}

/// What is left to read.
struct Left {
    records: u64,
    /// Partition, next offset, and where its end was; nothing while following.
    partitions: Option<Vec<(u32, u64, u64)>>,
}

impl Left {
    async fn new(consume: &Consume, client: &Client, consumer: &Consumer) -> Result<Self, Failure> {
        let records = consume.number.unwrap_or(u64::MAX);
        if consume.follow {
            return Ok(Self { records, partitions: None });
        }
        let ends = client.admin().list_offsets(&consume.topic, OffsetAt::Latest).await?;
        let partitions = consumer.progress().into_iter().map(|progress| {
            let end = ends.get(progress.partition as usize).copied().unwrap_or_default();
            (progress.partition, progress.position, end)
        });
        Ok(Self { records, partitions: Some(partitions.collect()) })
    }

    fn is_done(&self) -> bool {
        let is_read = |partitions: &Vec<(u32, u64, u64)>| partitions.iter().all(|(_, next, end)| next >= end);
        self.records == 0 || self.partitions.as_ref().is_some_and(is_read)
    }

    fn take(&mut self, batch: &RecordBatch) {
        self.records = self.records.saturating_sub(batch.record_count() as u64);
        self.reach(batch.partition(), batch.next_offset());
    }

    fn reach(&mut self, partition: u32, offset: u64) {
        for (number, next, _) in self.partitions.iter_mut().flatten() {
            if *number == partition {
                *next = offset;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_begin() {
        let check = |text: &str, expected: Option<SeekTo>| {
            assert_eq!(text.parse::<Offset>().ok(), expected.map(Offset), "{text}");
        };
        check("start", Some(SeekTo::Earliest));
        check("end", Some(SeekTo::Latest));
        check("17", Some(SeekTo::Offset(17)));
        check("@1700000000000", Some(SeekTo::Timestamp(1_700_000_000_000)));
        for bad in ["", "@", "-1", "middle", "9223372036854775808", "json"] {
            check(bad, None);
        }
    }

    #[test]
    fn one_letter_serves_offset_and_format() {
        assert_eq!("json".parse(), Ok(Choice::Format(Format::Json)));
        assert_eq!("5".parse(), Ok(Choice::Offset(Offset(SeekTo::Offset(5)))));
        assert!("yaml".parse::<Choice>().is_err());
    }
}
