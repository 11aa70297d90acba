//! What is in a log, in words: one line a partition, a lost range, a record, and a batch that a producer may repeat.

use std::{collections::BTreeMap, fmt, str::FromStr};

use runtime::sim::SimRuntime;
use storage::{Durability, Log, Partition, PartitionId};
use wire::record::{Batch, BatchBuilder, Batches, Producer, Record};

/// A record's value begins so when it was added after a directory was written.
const SEQUEL: &[u8] = b"sequel";

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) log_id: u128,
    /// Durability and first offset.
    pub(crate) partitions: BTreeMap<u64, (Durability, u64)>,
    pub(crate) lost: Vec<(u64, u64, u64)>,
    /// What a record says, by partition and offset.
    pub(crate) records: BTreeMap<(u64, u64), String>,
    /// Batches that are known when they come again.
    pub(crate) repeats: Vec<Repeat>,
}

/// A batch of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeat {
    pub(crate) partition: u64,
    pub(crate) producer: Producer,
    pub(crate) records: u32,
    pub(crate) base_offset: u64,
}

impl Expected {
    /// What is in a log of the partitions that `of` names.
    pub(crate) async fn of(log: &Log<SimRuntime>, of: &Self) -> Self {
        let mut found = Self { log_id: log.id(), ..Self::default() };
        for (&id, &(durability, _)) in &of.partitions {
            let partition = log.adopt(PartitionId(id), durability);
            assert_eq!(partition.refused_from(), None, "partition {id}");
            found.partitions.insert(id, (durability, partition.offsets().log_start));
            found.read(&partition).await;
        }
        assert_eq!(log.quarantined(), [], "no partition but those that are expected");
        found
    }

    async fn read(&mut self, partition: &Partition<SimRuntime>) {
        let id = partition.id().0;
        let mut next = partition.offsets().log_start;
        while next < partition.offsets().high_watermark {
            let read = partition.read(next, 4000).await.unwrap();
            self.lost.extend(read.lost.map(|lost| (id, lost.start, lost.end)));
            for slice in &read.slices {
                for batch in Batches::new(slice) {
                    let batch = batch.unwrap();
                    batch.verify_stored().unwrap();
                    for record in batch.records().unwrap() {
                        let record = record.unwrap();
                        // A batch comes whole, and may begin below the log's start.
                        if record.offset >= next {
                            self.records.insert((id, record.offset), describe(&record, batch.leader_epoch()));
                        }
                    }
                }
            }
            assert!(read.next_offset > next);
            next = read.next_offset;
        }
    }

    /// Says where two differ, in one line of each.
    pub(crate) fn assert_same(&self, expected: &Self, context: &str) {
        let (found, expected) = (self.to_string(), expected.to_string());
        let mut lines = found.lines().map(Some).chain([None]).zip(expected.lines().map(Some).chain([None]));
        if let Some((found, expected)) = lines.find(|(found, expected)| found != expected) {
            panic!("{context}: found {found:?}, expected {expected:?}");
        }
    }

    /// Without what [`Self::go_on`] added, and what only those who wrote it know.
    pub(crate) fn without_sequel(&self) -> Self {
        let mut all = self.clone();
        all.records.retain(|_, record| !record.ends_with("sequel"));
        // A power cut takes the reservations of the sequel, which comes behind everything else.
        let last = |id| all.records.range((id, 0)..(id + 1, 0)).next_back().map_or(0, |(&(_, offset), _)| offset);
        let lost = self.lost.iter().filter(|&&(id, from, _)| from < last(id));
        all.lost = lost.copied().collect();
        all.repeats.clear();
        all
    }

    /// Every batch that may come again is known, and what follows the last one is taken, if it was not yet.
    pub(crate) async fn check_producers(&self, log: &Log<SimRuntime>, is_first: bool) {
        let mut last = BTreeMap::new();
        for repeat in &self.repeats {
            let partition = log.adopt(PartitionId(repeat.partition), self.partitions[&repeat.partition].0);
            let bytes = sequel(0, repeat.records, repeat.producer);
            if is_first {
                let again = partition.append(&Batch::parse_one(&bytes).unwrap(), 9).unwrap();
                assert!(again.is_duplicate(), "{repeat:?}");
                assert_eq!(again.base_offset(), repeat.base_offset);
            }
            last.insert((repeat.partition, repeat.producer.id), *repeat);
        }
        for repeat in last.into_values() {
            let partition = log.adopt(PartitionId(repeat.partition), self.partitions[&repeat.partition].0);
            let base_sequence = repeat.producer.base_sequence + repeat.records as i32;
            let bytes = sequel(0, 1, Producer { base_sequence, ..repeat.producer });
            let next = partition.append(&Batch::parse_one(&bytes).unwrap(), 9).unwrap();
            assert_eq!(next.is_duplicate(), !is_first, "{repeat:?}");
            log.synced(next.lsn()).await.unwrap();
        }
    }

    /// Appends to every partition.
    pub(crate) async fn go_on(&self, log: &Log<SimRuntime>, life: u64) {
        for round in 0..8 {
            for (&id, &(durability, _)) in &self.partitions {
                log.admit().await;
                let bytes = sequel(life * 100 + round, 2, Producer::NONE);
                let partition = log.adopt(PartitionId(id), durability);
                let appended = partition.append(&Batch::parse_one(&bytes).unwrap(), 10 + life as i32).unwrap();
                log.synced(appended.lsn()).await.unwrap();
            }
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let fields: Vec<&str> = line.splitn(4, ' ').collect();
            match fields[..] {
                ["log", id] => all.log_id = u128::from_str_radix(id, 16).unwrap(),
                ["partition", id, durability, start] => {
                    all.partitions.insert(number(id), (durability.parse().unwrap(), number(start)));
                }
                ["lost", id, from, to] => all.lost.push((number(id), number(from), number(to))),
                ["record", id, offset, record] => {
                    all.records.insert((number(id), number(offset)), record.to_owned());
                }
                ["repeat", id, offset, batch] => {
                    let [producer, epoch, sequence, records] = batch.split(' ').collect::<Vec<_>>()[..] else {
                        panic!("{line}")
                    };
                    let producer =
                        Producer { id: number(producer), epoch: number(epoch), base_sequence: number(sequence) };
                    let (partition, base_offset) = (number(id), number(offset));
                    all.repeats.push(Repeat { partition, producer, records: number(records), base_offset });
                }
                _ => panic!("{line}"),
            }
        }
        all
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "log {:032x}", self.log_id)?;
        for (id, (durability, start)) in &self.partitions {
            writeln!(f, "partition {id} {durability} {start}")?;
        }
        for (id, from, to) in &self.lost {
            writeln!(f, "lost {id} {from} {to}")?;
        }
        for ((id, offset), record) in &self.records {
            writeln!(f, "record {id} {offset} {record}")?;
        }
        for Repeat { partition, producer, records, base_offset } in &self.repeats {
            let Producer { id, epoch, base_sequence } = producer;
            writeln!(f, "repeat {partition} {base_offset} {id} {epoch} {base_sequence} {records}")?;
        }
        Ok(())
    }
}

/// Everything of a record but its offset.
pub(crate) fn describe(record: &Record<'_>, leader_epoch: i32) -> String {
    let text =
        |bytes: Option<&[u8]>| bytes.map_or("-".to_owned(), |bytes| format!("{:?}", bytes.escape_ascii().to_string()));
    let mut words = vec![format!("epoch {leader_epoch} time {} key {}", record.timestamp_ms, text(record.key))];
    words.extend(record.headers.map(|header| format!("header {} {}", header.key.escape_ascii(), text(header.value))));
    words.push(match record.value {
        None => "tombstone".to_owned(),
        Some(value) if value.starts_with(SEQUEL) => "sequel".to_owned(),
        Some(value) => format!("value {} bytes {:08x}", value.len(), crc32c::crc32c(value)),
    });
    words.join(" ")
}

pub(crate) fn sequel(number: u64, records: u32, producer: Producer) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1 << 16);
    for _ in 0..records {
        let value = [SEQUEL, &number.to_le_bytes()].concat();
        builder.append(1_000_000, None, Some(&value), &[]).unwrap();
    }
    builder.build(producer).to_vec()
}

fn number<T: FromStr<Err: fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}
