//! The life that a fixture's log had: everything a log can hold, and a note of all that was acknowledged.

use std::{cell::RefCell, rc::Rc, time::Duration};

use runtime::{
    Runtime as _,
    sim::{Crash, Options, SimRuntime, Simulation},
};
use storage::{
    Durability, Log, LogOptions, PartitionId, compaction,
    group::{Builder, Entry, EntryKind, Group, Stamp, Tail},
    segment::PlanLimits,
};
use wire::record::{Batch, BatchBuilder, Header, Producer};

use super::{
    directory::{Directory, salt_of},
    expected::{Expected, Repeat, describe},
};
use crate::support::DIR;

/// How the life ends.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// Flushed and closed.
    Stopped,
    /// With much in the WAL.
    Killed,
}

/// Much traffic.
const LARGE: u64 = 1;
/// A little, with keys, headers and tombstones.
const SMALL: u64 = 2;
/// Of two idempotent producers.
const IDEMPOTENT: u64 = 3;
const MEMORY: u64 = 4;
/// Deleted while most of it is in segments.
const DROPPED: u64 = 5;
/// Truncated where it is in segments.
const CLIPPED: u64 = 6;
/// Deleted while it is in the WAL.
const DROPPED_LATE: u64 = 7;
/// Truncated while it is in the WAL, and trimmed.
const TRUNCATED: u64 = 8;

/// Partitions that are there at the end.
const LEFT: [u64; 6] = [LARGE, SMALL, IDEMPOTENT, MEMORY, CLIPPED, TRUNCATED];

/// The power is cut so long after batches were appended that the write of their group is half done.
const UNTIL_TORN: Duration = Duration::from_micros(1);

const PRODUCERS: [Producer; 2] =
    [Producer { id: 1007, epoch: 0, base_sequence: 0 }, Producer { id: 1008, epoch: 3, base_sequence: i32::MAX - 20 }];

/// A log so small that a few appends roll, flush and merge.
pub(crate) fn options() -> LogOptions {
    LogOptions {
        memtable_bytes: 64 << 10,
        cache_bytes: 16 << 10,
        batch_bytes_max: 4 << 10,
        flush_age_max: Duration::from_secs(3600),
        compaction: compaction::Options {
            merge_inputs: 4,
            limits: PlanLimits { own_bytes_min: 2 << 10, shared_bytes_max: 16 << 10 },
            read_bytes_max: 4 << 10,
            ..compaction::Options::default()
        },
        ..LogOptions::default()
    }
}

/// Lives the life. Returns the directory and what is in it.
pub(crate) fn write(end: End) -> (Directory, Expected) {
    let simulation = Simulation::with_options(7, Options { block_bytes: 8 << 10, ..Options::default() });
    let node = simulation.add_node();
    let notes = Rc::new(RefCell::new(Expected::default()));
    let first = {
        let notes = notes.clone();
        move |rt: SimRuntime| async move {
            rt.create_dir_all(DIR.as_ref()).await.unwrap();
            let life = Life::open(rt, notes, 1).await;
            life.work(0..24).await;
            life.append_unacknowledged(20);
        }
    };
    simulation.block_on(node, first).unwrap();
    simulation.crash(node, Crash::PowerCut);
    let second = {
        let notes = notes.clone();
        move |rt: SimRuntime| async move {
            let life = Life::open(rt, notes, 2).await;
            life.work(24..48).await;
            if let End::Stopped = end {
                life.log.close().await.unwrap();
            }
        }
    };
    simulation.block_on(node, second).unwrap();
    simulation.crash(node, Crash::Kill);
    if let End::Killed = end {
        let third = {
            let notes = notes.clone();
            |rt: SimRuntime| async move {
                let life = Life::open(rt, notes, 3).await;
                life.end_in_the_wal().await;
                life.append_unacknowledged(1);
                life.rt.sleep(UNTIL_TORN).await;
            }
        };
        simulation.block_on(node, third).unwrap();
        simulation.crash(node, Crash::PowerCut);
        // It finds the torn end, cuts it off, and goes on for as long as nothing is flushed.
        let fourth = {
            let notes = notes.clone();
            |rt: SimRuntime| async move {
                let life = Life::open(rt, notes, 4).await;
                life.append_all(vec![(MEMORY, plain(5, 1, 10), Producer::NONE)]).await;
                let batches = vec![(TRUNCATED, plain(4, 1, 10), Producer::NONE), (SMALL, small(101), Producer::NONE)];
                life.append_all(batches).await;
            }
        };
        simulation.block_on(node, fourth).unwrap();
        simulation.crash(node, Crash::Kill);
    }
    let mut directory = Directory::of(&simulation.disk(node));
    let mut expected = notes.borrow().clone();
    if let End::Killed = end {
        trim(&mut directory, &mut expected);
    }
    complete(&directory, &mut expected);
    (directory, expected)
}

struct Life {
    rt: SimRuntime,
    log: Log<SimRuntime>,
    notes: Rc<RefCell<Expected>>,
    epoch: i32,
}

impl Life {
    async fn open(rt: SimRuntime, notes: Rc<RefCell<Expected>>, epoch: i32) -> Self {
        let log = Log::open(rt.clone(), DIR.as_ref(), options()).await.unwrap();
        notes.borrow_mut().log_id = log.id();
        Self { rt, log, notes, epoch }
    }

    /// Rounds of appends, each of one group, and what happens between them.
    async fn work(&self, rounds: std::ops::Range<u64>) {
        for round in rounds {
            self.log.admit().await;
            let mut batches = vec![
                (LARGE, self.large(round), Producer::NONE),
                (SMALL, small(round), Producer::NONE),
                (MEMORY, plain(round, 2, 40), Producer::NONE),
            ];
            let producer = PRODUCERS[round as usize % 2];
            let base_sequence = producer.sequence_after(round as i32 / 2 * 2);
            batches.push((IDEMPOTENT, plain(round, 2, 20), Producer { base_sequence, ..producer }));
            if round < 12 {
                batches.push((DROPPED, plain(round, 1, 200), Producer::NONE));
            }
            if round < 30 {
                batches.push((CLIPPED, plain(round, 1, 60), Producer::NONE));
            }
            self.append_all(batches).await;
            match round {
                12 => self.log.adopt(PartitionId(DROPPED), Durability::Durable).drop_partition().await.unwrap(),
                40 => self.truncate(CLIPPED, 7).await,
                41 => self.append_all(vec![(CLIPPED, plain(round, 3, 10), Producer::NONE)]).await,
                _ => {}
            }
        }
        // So that the log is quiet, and what is sealed is flushed.
        self.rt.sleep(Duration::from_secs(3)).await;
        self.append_all(vec![(TRUNCATED, plain(99, 4, 10), Producer::NONE)]).await;
    }

    /// Now and then so much that it gets segments of its own.
    fn large(&self, round: u64) -> BatchBuilder {
        plain(round, 1, if round % 24 < 20 { 90 } else { 900 })
    }

    /// Batches that the crash takes, some of them already visible, and a torn group.
    fn append_unacknowledged(&self, batches: u64) {
        for number in 0..batches {
            let bytes = plain(number, 1, 900).build(Producer::NONE);
            let partition = self.log.adopt(PartitionId(MEMORY), Durability::Memory);
            let _ = partition.append(&Batch::parse_one(&bytes).unwrap(), self.epoch).unwrap();
        }
    }

    /// What is in the WAL and nowhere else when the process is killed: the last comes last, since files are short, and the oldest
    /// are flushed by whoever finds them.
    async fn end_in_the_wal(&self) {
        let late = || (DROPPED_LATE, plain(1, 1, 10), Producer::NONE);
        self.append_all(vec![late(), (TRUNCATED, plain(2, 3, 10), Producer::NONE)]).await;
        self.append_all(vec![(MEMORY, plain(1, 3, 10), Producer::NONE)]).await;
        self.rt.sleep(Duration::from_millis(20)).await;
        self.append_all(vec![(TRUNCATED, plain(3, 1, 10), Producer::NONE), (SMALL, small(100), Producer::NONE)]).await;
        self.log.adopt(PartitionId(DROPPED_LATE), Durability::Durable).drop_partition().await.unwrap();
        let end = self.log.adopt(PartitionId(TRUNCATED), Durability::Durable).offsets().log_end;
        self.truncate(TRUNCATED, end - 3).await;
    }

    /// Appends to several partitions at once, waits for the acks, and notes what was acknowledged.
    async fn append_all(&self, batches: Vec<(u64, BatchBuilder, Producer)>) {
        let mut appended = Vec::new();
        for (id, mut builder, producer) in batches {
            let durability = if id == MEMORY { Durability::Memory } else { Durability::Durable };
            let partition = self.log.adopt(PartitionId(id), durability);
            self.notes.borrow_mut().partitions.insert(id, (durability, 0));
            let records = builder.record_count() as u32;
            let bytes = builder.build(producer);
            let accepted = partition.append(&Batch::parse_one(&bytes).unwrap(), self.epoch).unwrap();
            assert!(!accepted.is_duplicate());
            let repeat = Repeat { partition: id, producer, records, base_offset: accepted.base_offset() };
            appended.push((id, bytes, repeat, accepted.lsn()));
        }
        for &(.., lsn) in &appended {
            // The `memory` partition too: what is noted here is to be found later.
            self.log.synced(lsn).await.unwrap();
        }
        let notes = &mut *self.notes.borrow_mut();
        for (id, bytes, repeat, _) in appended {
            for record in Batch::parse_one(&bytes).unwrap().records().unwrap() {
                let record = record.unwrap();
                notes.records.insert((id, repeat.base_offset + record.offset), describe(&record, self.epoch));
            }
            if repeat.producer.is_idempotent() {
                notes.repeats.push(repeat);
            }
        }
    }

    async fn truncate(&self, id: u64, next_offset: u64) {
        let partition = self.log.adopt(PartitionId(id), Durability::Durable);
        partition.truncate(next_offset, self.epoch).await.unwrap();
        self.notes.borrow_mut().records.retain(|&(of, offset), _| of != id || offset < next_offset);
    }
}

fn plain(round: u64, records: u64, value_bytes: usize) -> BatchBuilder {
    let mut builder = BatchBuilder::new(1 << 16);
    for number in 0..records {
        let value = format!("{round}/{number} ");
        let value = value.bytes().cycle().take(value_bytes).collect::<Vec<_>>();
        builder.append((round * 1000 + number) as i64, None, Some(&value), &[]).unwrap();
    }
    builder
}

fn small(round: u64) -> BatchBuilder {
    let mut builder = BatchBuilder::new(1 << 16);
    let key = format!("key {}", round % 5);
    let headers =
        [Header { key: b"round", value: Some(&round.to_le_bytes()) }, Header { key: b"nothing", value: None }];
    let value = b"0123456789".repeat(12);
    let value = (!round.is_multiple_of(7)).then_some(&value[..]);
    builder.append(-5 + round as i64, Some(key.as_bytes()), value, &headers[..round as usize % 3]).unwrap();
    builder
}

/// Adds a group that trims a partition: the format has it from the start, whoever writes it.
fn trim(directory: &mut Directory, expected: &mut Expected) {
    const TRIMMED_TO: u64 = 2;
    let last = directory.groups(expected.log_id).pop().expect("the WAL holds groups");
    let salt = salt_of(&last.file);
    let log_id = expected.log_id;
    let bytes = directory.0.get_mut(&last.file).expect("it was just read");
    let tails: Vec<Tail> = [SMALL, TRUNCATED]
        .map(|id| {
            let next = expected.records.range((id, 0)..(id + 1, 0)).next_back().expect("it has records").0.1 + 1;
            Tail { partition: PartitionId(id), next_offset: next }
        })
        .into_iter()
        .rev()
        .collect();
    let group = runtime::sim::block_on(1, move |rt: SimRuntime| async move {
        let mut group = Builder::new(rt.block(4096));
        let next_offset = tails[0].next_offset;
        let partition = PartitionId(TRUNCATED);
        let entry =
            Entry { kind: EntryKind::LogStart, partition, leader_epoch: 2, base_offset: TRIMMED_TO, next_offset };
        group.push(entry, &[]);
        let stamp = Stamp { log_id, salt, lsn: last.lsn + 1, previous_lsn: last.lsn };
        group.seal(stamp, &tails).bytes.to_vec()
    });
    bytes.resize(bytes.len().max(last.end + group.len()), 0);
    assert!(Group::parse(&bytes[last.end..], log_id, salt).is_err());
    bytes[last.end..last.end + group.len()].copy_from_slice(&group);
    expected.partitions.insert(TRUNCATED, (Durability::Durable, TRIMMED_TO));
    expected.records.retain(|&(id, offset), _| id != TRUNCATED || offset >= TRIMMED_TO);
}

/// Adds what only a look tells: which offsets and which unacknowledged records of the `memory` partition were lost. All
/// else has to be as it was noted.
fn complete(directory: &Directory, expected: &mut Expected) {
    expected.partitions.retain(|id, _| LEFT.contains(id));
    expected.records.retain(|(id, _), _| LEFT.contains(id));
    // Of each producer, the last few batches are remembered.
    let repeats = std::mem::take(&mut expected.repeats);
    for producer in PRODUCERS {
        let of: Vec<_> = repeats.iter().filter(|repeat| repeat.producer.id == producer.id).collect();
        expected.repeats.extend(of[of.len() - 5..].iter().copied());
    }
    let found = runtime::sim::block_on(2, {
        let (directory, expected) = (directory.clone(), expected.clone());
        |rt: SimRuntime| async move {
            directory.install(&rt).await;
            let log = Log::open(rt, DIR.as_ref(), options()).await.unwrap();
            Expected::of(&log, &expected).await
        }
    });
    let durable = |all: &Expected| {
        let mut all = Expected { lost: Vec::new(), repeats: Vec::new(), ..all.clone() };
        all.records.retain(|&(id, _), _| id != MEMORY);
        all
    };
    durable(&found).assert_same(&durable(expected), "what was acknowledged");
    for (place, record) in &expected.records {
        assert_eq!(found.records.get(place), Some(record), "{place:?} was synced");
    }
    expected.lost = found.lost;
    expected.records = found.records;
}
