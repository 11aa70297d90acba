//! Compacted partitions: whatever happens, each key's last record is there, and a lookup finds exactly what a reader would.
//!
//! The stories are random: keyed appends and deletions by idempotent producers, lookups, crashes at any step of the disk,
//! recovery. One seed: `STREAMBUS_SEED=42 cargo test -p storage --test engine keyed stories`.

use std::{cell::RefCell, collections::BTreeMap, path::Path, rc::Rc, time::Duration};

use runtime::{
    Runtime,
    sim::{Crash, NodeId, RunError, SimRuntime, Simulation, seeds},
};
use storage::{AppendError, Cleanup, Durability, Log, Partition, PartitionId, PartitionSettings};
use wire::record::{Batch, BatchBuilder, Batches, Codec, Producer};

use crate::support::{DIR, simulation, small};

pub(crate) type Record = (u8, Option<u64>);

const DELETE_RETENTION_MS: u64 = 3_000;

pub(crate) fn compacted() -> PartitionSettings {
    PartitionSettings {
        cleanup: Cleanup { delete: false, compact: true },
        delete_retention_ms: DELETE_RETENTION_MS,
        ..PartitionSettings::default()
    }
}

async fn open(rt: &SimRuntime) -> Log<SimRuntime> {
    rt.create_dir_all(Path::new(DIR)).await.unwrap();
    // Room for the keys of a part of the partitions only, so that they take several rounds.
    let mut options = small();
    options.compaction.key_bytes_max = 600;
    Log::open(rt.clone(), Path::new(DIR), options).await.unwrap()
}

pub(crate) fn key_bytes(key: u8) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

fn value_bytes(value: u64) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.resize(8 + (value % 97) as usize, 0xa5);
    bytes
}

pub(crate) fn batch(now_ms: i64, records: &[Record], producer: Producer, codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1 << 20);
    for &(key, value) in records {
        let value = value.map(value_bytes);
        builder.append(now_ms, Some(&key_bytes(key)), value.as_deref(), &[]).unwrap();
    }
    builder.build_compressed(producer, codec).to_vec()
}

pub(crate) async fn append(
    rt: &SimRuntime,
    log: &Log<SimRuntime>,
    partition: &Partition<SimRuntime>,
    records: &[Record],
) -> u64 {
    log.admit().await;
    let bytes = batch(rt.wall_clock_ms(), records, Producer::NONE, Codec::None);
    let appended = partition.append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap();
    let synced = log.synced(appended.lsn()).await.unwrap();
    appended.acknowledge(synced).base_offset()
}

/// What a consumer sees: offset, key and value of each record, and the batches' headers.
pub(crate) async fn read_all(
    partition: &Partition<SimRuntime>,
) -> (BTreeMap<u64, Record>, Vec<wire::record::BatchHeader>) {
    let (mut records, mut headers) = (BTreeMap::new(), Vec::new());
    let mut next = partition.offsets().log_start;
    while next < partition.offsets().high_watermark {
        let read = partition.read(next, 3_000).await.unwrap();
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.to_vec()).collect();
        for batch in Batches::new(&bytes) {
            let batch = batch.unwrap();
            batch.verify_stored().unwrap();
            headers.push(*batch.header());
            let mut buffer = Vec::new();
            for record in batch.records_decompressed(1 << 20, &mut buffer).unwrap() {
                let record = record.unwrap();
                let key = std::str::from_utf8(record.key.unwrap()).unwrap();
                let key = key.strip_prefix("key-").unwrap().parse().unwrap();
                let value = record.value.map(|value| u64::from_le_bytes(value[..8].try_into().unwrap()));
                assert_eq!(records.insert(record.offset, (key, value)), None, "an offset twice");
            }
        }
        assert!(read.next_offset > next, "a read below the high watermark gets on from {next}");
        next = read.next_offset;
    }
    (records, headers)
}

/// All that was acknowledged: the record at offset `n` is the `n`-th.
#[derive(Clone, Default)]
struct Model {
    records: Vec<Record>,
    /// Sent, and not answered: in the log or not.
    under_way: Option<Vec<Record>>,
}

impl Model {
    fn last(&self, key: u8) -> Option<(u64, Option<u64>)> {
        let last = self.records.iter().rposition(|(found, _)| *found == key)?;
        Some((last as u64, self.records[last].1))
    }

    fn keys(&self) -> impl Iterator<Item = u8> {
        0..KEYS
    }

    /// Every key's last record is there, unless it is a tombstone; nothing is there that was not appended so.
    fn check_read(&self, found: &BTreeMap<u64, Record>, why: &str) {
        for (&offset, record) in found {
            assert_eq!(self.records.get(offset as usize), Some(record), "{why}: offset {offset}");
        }
        for key in self.keys() {
            if let Some((offset, value @ Some(_))) = self.last(key) {
                assert_eq!(found.get(&offset), Some(&(key, value)), "{why}: the last record of key {key} is missing");
            }
        }
    }

    async fn check_get(&self, partition: &Partition<SimRuntime>, key: u8, why: &str) {
        let found = partition.get(&key_bytes(key)).await.unwrap();
        let found = found.map(|found| (found.offset, found.value.to_vec()));
        let expected = self.last(key).and_then(|(offset, value)| Some((offset, value_bytes(value?))));
        assert_eq!(found, expected, "{why}: get of key {key}");
    }

    async fn check(&self, partition: &Partition<SimRuntime>, why: &str) -> u64 {
        let (found, _) = read_all(partition).await;
        self.check_read(&found, why);
        for key in self.keys() {
            self.check_get(partition, key, why).await;
        }
        self.records.len() as u64 - found.len() as u64
    }
}

const KEYS: u8 = 30;
/// Partitions 1 and 2 share segments with each other, 3 is large enough for its own, and 4 is not compacted. Of 2 the
/// producer compresses, of 3 and 4 merges do.
const PARTITIONS: u64 = 4;

#[derive(Default)]
struct Story {
    models: Vec<RefCell<Model>>,
    next_value: RefCell<u64>,
    rounds: RefCell<u64>,
    dropped: RefCell<u64>,
    saved_bytes: RefCell<u64>,
    duplicates: RefCell<u64>,
}

impl Story {
    fn new() -> Self {
        Self { models: (0..PARTITIONS).map(|_| RefCell::default()).collect(), ..Self::default() }
    }

    fn model(&self, number: usize) -> Model {
        self.models[number].borrow().clone()
    }

    fn adopt(log: &Log<SimRuntime>, number: usize) -> Partition<SimRuntime> {
        let id = PartitionId(1 + number as u64);
        match id.0 {
            PARTITIONS => log.adopt(id, PartitionSettings { compression: Codec::Lz4, ..PartitionSettings::default() }),
            3 => log.adopt(id, PartitionSettings { compression: Codec::Zstd, ..compacted() }),
            _ => log.adopt(id, compacted()),
        }
    }

    async fn live(&self, rt: &SimRuntime, steps: u64) {
        let log = open(rt).await;
        let partitions: Vec<_> = (0..self.models.len()).map(|number| Self::adopt(&log, number)).collect();
        for (number, partition) in partitions.iter().enumerate() {
            self.repeat(rt, &log, number, partition).await;
            let dropped = self.model(number).check(partition, "after the start").await;
            *self.dropped.borrow_mut() += dropped;
        }
        for _ in 0..steps {
            let number = [0, 1, 2, 2, 2, 2, 3][(rt.random_u64() % 7) as usize];
            match rt.random_u64() % 20 {
                0 => rt.sleep(Duration::from_millis(rt.random_u64() % 2_000)).await,
                1 => drop(self.model(number).check(&partitions[number], "on the way").await),
                2 if number < 3 => {
                    // In the middle of a round, perhaps.
                    let settings = partitions[number].settings();
                    let is_plain = rt.random_u64().is_multiple_of(4);
                    let cleanup = if is_plain { PartitionSettings::default().cleanup } else { compacted().cleanup };
                    partitions[number].configure(PartitionSettings { cleanup, ..settings });
                }
                2..5 => {
                    let key = (rt.random_u64() % u64::from(KEYS)) as u8;
                    self.model(number).check_get(&partitions[number], key, "on the way").await;
                }
                _ => self.append(rt, &log, number, &partitions[number]).await,
            }
            let stats = log.stats();
            let (mut rounds, mut saved_bytes) = (self.rounds.borrow_mut(), self.saved_bytes.borrow_mut());
            (*rounds, *saved_bytes) = (stats.rounds.max(*rounds), stats.compression_saved_bytes.max(*saved_bytes));
        }
        if steps < u64::MAX {
            rt.sleep(Duration::from_secs(5)).await;
            for (number, partition) in partitions.iter().enumerate() {
                self.model(number).check(partition, "at the end").await;
            }
            log.close().await.unwrap();
        }
    }

    async fn append(&self, rt: &SimRuntime, log: &Log<SimRuntime>, number: usize, partition: &Partition<SimRuntime>) {
        let count = 1 + rt.random_u64() % 8;
        let records = (0..count).map(|_| {
            let key = (rt.random_u64() % u64::from(KEYS)) as u8;
            let mut next_value = self.next_value.borrow_mut();
            *next_value += 1;
            (key, (!rt.random_u64().is_multiple_of(4)).then_some(*next_value))
        });
        self.models[number].borrow_mut().under_way = Some(records.collect());
        self.repeat(rt, log, number, partition).await;
    }

    /// Sends what is under way, perhaps not for the first time.
    async fn repeat(&self, rt: &SimRuntime, log: &Log<SimRuntime>, number: usize, partition: &Partition<SimRuntime>) {
        let model = &self.models[number];
        let Some(records) = model.borrow().under_way.clone() else { return };
        let next = model.borrow().records.len();
        let producer = Producer { id: number as i64, epoch: 0, base_sequence: next as i32 };
        let codec = if number == 1 { Codec::Lz4 } else { Codec::None };
        log.admit().await;
        let bytes = batch(rt.wall_clock_ms(), &records, producer, codec);
        let appended = partition.append(&Batch::parse_one(&bytes).unwrap(), 1).expect("it is in sequence");
        *self.duplicates.borrow_mut() += u64::from(appended.is_duplicate());
        assert_eq!(appended.base_offset(), next as u64, "a repeat gets the offset of the first");
        let synced = log.synced(appended.lsn()).await.unwrap();
        let _ = appended.acknowledge(synced);
        let mut model = model.borrow_mut();
        model.records.extend(records);
        model.under_way = None;
    }
}

#[test]
fn stories_with_crashes_end_well() {
    let (mut rounds, mut dropped, mut duplicates, mut saved_bytes) = (0, 0, 0, 0);
    for seed in seeds(25) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let story = Rc::new(Story::new());
        for _ in 0..4 {
            let crash = if simulation.rng().one_in(2) { Crash::Kill } else { Crash::PowerCut };
            let disk = simulation.disk(node);
            disk.crash_at_step(disk.steps() + simulation.rng().within(20..1_500), crash);
            let told = Rc::clone(&story);
            let ended = simulation.block_on(node, move |rt: SimRuntime| async move { told.live(&rt, u64::MAX).await });
            assert!(matches!(ended, Err(RunError::Crashed { .. })), "seed {seed}: {ended:?}");
        }
        let told = Rc::clone(&story);
        simulation.block_on(node, move |rt: SimRuntime| async move { told.live(&rt, 300).await }).unwrap();
        rounds += *story.rounds.borrow();
        dropped += *story.dropped.borrow();
        duplicates += *story.duplicates.borrow();
        saved_bytes += *story.saved_bytes.borrow();
    }
    println!("{rounds} rounds, {dropped} records dropped, {duplicates} repeats recognised, {saved_bytes} bytes saved");
    if std::env::var("STREAMBUS_SEED").is_err() {
        assert!(rounds > 10 && dropped > 100 && duplicates > 0 && saved_bytes > 1_000);
    }
}

/// Appends the same keys again and again, and stops cleanly, so that all of it lies in segments.
fn filled(seed: u64) -> (Simulation, NodeId, Rc<RefCell<Model>>) {
    let simulation = simulation(seed);
    let node = simulation.add_node();
    let model = Rc::new(RefCell::new(Model::default()));
    let told = Rc::clone(&model);
    simulation
        .block_on(node, move |rt: SimRuntime| async move {
            let log = open(&rt).await;
            // Not compacted yet, so that nothing happens before the test looks.
            let partition = log.adopt(PartitionId(1), Durability::Durable);
            for value in 0..120 {
                let records = [
                    ((value % 12) as u8, (!u64::is_multiple_of(value, 7)).then_some(value)),
                    ((value % 5) as u8, Some(value)),
                ];
                append(&rt, &log, &partition, &records).await;
                told.borrow_mut().records.extend(records);
            }
            log.close().await.unwrap();
        })
        .unwrap();
    (simulation, node, model)
}

/// Opens the log, lets it compact until nothing is left to do, and checks.
async fn compact(rt: &SimRuntime, model: &Model) -> (u64, Log<SimRuntime>) {
    let log = open(rt).await;
    let partition = log.adopt(PartitionId(1), compacted());
    rt.sleep(Duration::from_secs(3)).await;
    let dropped = model.check(&partition, "after compaction").await;
    (dropped, log)
}

#[test]
fn a_crash_at_any_step_of_a_round_loses_nothing() {
    let (simulation, node, model) = filled(7);
    let disk = simulation.disk(node);
    let image = disk.snapshot();
    let first = disk.steps();
    let told = model.borrow().clone();
    let dropped = simulation.block_on(node, move |rt: SimRuntime| async move {
        let (dropped, log) = compact(&rt, &told).await;
        assert!(log.stats().rounds > 1, "{:?}", log.stats());
        dropped
    });
    assert!(dropped.unwrap() > 100);
    let steps = disk.steps() - first;
    assert!(steps > 40, "{steps} steps");
    for step in 1..=steps {
        for crash in [Crash::Kill, Crash::PowerCut] {
            disk.restore(image.clone());
            disk.crash_at_step(disk.steps() + step, crash);
            let told = model.borrow().clone();
            let ended = simulation.block_on(node, move |rt: SimRuntime| async move {
                compact(&rt, &told).await;
            });
            assert!(matches!(ended, Ok(()) | Err(RunError::Crashed { .. })), "step {step}: {ended:?}");
            simulation.crash(node, crash);
            let told = model.borrow().clone();
            let dropped = simulation.block_on(node, move |rt: SimRuntime| async move {
                let (dropped, log) = compact(&rt, &told).await;
                log.close().await.unwrap();
                dropped
            });
            assert!(dropped.unwrap() > 100, "step {step}");
        }
    }
}

#[test]
fn a_tombstone_stays_for_its_time_and_then_goes() {
    runtime::sim::block_on(11, |rt: SimRuntime| async move {
        // However little is dirty.
        let settings = PartitionSettings { dirty_permille_min: 1, ..compacted() };
        let turn = async |records: &[Record]| {
            let log = open(&rt).await;
            let partition = log.adopt(PartitionId(1), settings);
            append(&rt, &log, &partition, records).await;
            log.close().await.unwrap();
            let log = open(&rt).await;
            let partition = log.adopt(PartitionId(1), settings);
            rt.sleep(Duration::from_secs(1)).await;
            assert_eq!(partition.get(&key_bytes(1)).await.unwrap().is_some(), records[0] == (1, Some(10)));
            let found: Vec<_> = read_all(&partition).await.0.into_iter().collect();
            log.close().await.unwrap();
            found
        };
        let one = (0, (1, Some(10)));
        assert_eq!(turn(&[(1, Some(10))]).await, [one]);
        assert_eq!(turn(&[(1, None), (2, Some(20))]).await, [(1, (1, None)), (2, (2, Some(20)))]);
        assert_eq!(turn(&[(2, Some(21))]).await, [(1, (1, None)), (3, (2, Some(21)))], "its time is not over");
        rt.sleep(Duration::from_millis(DELETE_RETENTION_MS)).await;
        assert_eq!(turn(&[(2, Some(22))]).await, [(4, (2, Some(22)))]);
    });
}

#[test]
fn the_last_batch_of_each_producer_keeps_its_place() {
    runtime::sim::block_on(12, |rt: SimRuntime| async move {
        let log = open(&rt).await;
        let partition = log.adopt(PartitionId(1), compacted());
        for (id, value) in [(70, 1), (71, 2), (71, 3)] {
            let producer = Producer { id, epoch: 0, base_sequence: if value == 3 { 1 } else { 0 } };
            let bytes = batch(0, &[(9, Some(value))], producer, Codec::None);
            let appended = partition.append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap();
            log.synced(appended.lsn()).await.unwrap();
        }
        log.close().await.unwrap();
        let log = open(&rt).await;
        let partition = log.adopt(PartitionId(1), compacted());
        rt.sleep(Duration::from_secs(1)).await;
        let (found, headers) = read_all(&partition).await;
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(2, (9, Some(3)))]);
        let places: Vec<_> =
            headers.iter().map(|header| (header.producer.id, header.base_offset, header.record_count)).collect();
        assert_eq!(places, [(70, 0, 0), (71, 2, 1)]);
        let again = batch(0, &[(9, Some(1))], Producer { id: 70, epoch: 0, base_sequence: 0 }, Codec::None);
        let appended = partition.append(&Batch::parse_one(&again).unwrap(), 1).unwrap();
        assert!(appended.is_duplicate());
    });
}

#[test]
fn records_younger_than_the_lag_are_left_alone() {
    runtime::sim::block_on(13, |rt: SimRuntime| async move {
        let settings = PartitionSettings { compaction_lag_ms_min: 20_000, ..compacted() };
        let log = open(&rt).await;
        let partition = log.adopt(PartitionId(1), settings);
        for value in 0..10 {
            append(&rt, &log, &partition, &[(1, Some(value))]).await;
        }
        log.close().await.unwrap();
        let log = open(&rt).await;
        let partition = log.adopt(PartitionId(1), settings);
        rt.sleep(Duration::from_secs(5)).await;
        assert_eq!(read_all(&partition).await.0.len(), 10);
        rt.sleep(Duration::from_secs(20)).await;
        assert_eq!(read_all(&partition).await.0.len(), 1, "they have become old enough");
    });
}

#[test]
fn records_without_a_key_are_refused_and_nothing_is_appended() {
    runtime::sim::block_on(14, |rt: SimRuntime| async move {
        let log = open(&rt).await;
        let (keyed, plain) = (log.adopt(PartitionId(1), compacted()), log.adopt(PartitionId(2), Durability::Durable));
        for codec in [Codec::None, Codec::Zstd] {
            let mut builder = BatchBuilder::new(1 << 20);
            builder.append(0, Some(b"key"), Some(&[7; 200]), &[]).unwrap();
            builder.append(0, None, Some(&[7; 200]), &[]).unwrap();
            let bytes = builder.build_compressed(Producer::NONE, codec);
            let batch = Batch::parse_one(&bytes).unwrap();
            assert_eq!(batch.codec(), codec);
            let refused = keyed.append(&batch, 1);
            assert!(matches!(refused, Err(AppendError::Keyless { index: 1 })), "{refused:?}");
            let mut block = log.batch_block(bytes.len());
            block[storage::group::HEADER_BYTES..][..bytes.len()].copy_from_slice(&bytes);
            let refused = keyed.append_block(block, bytes.len(), 1);
            assert!(matches!(refused, Err(AppendError::Keyless { index: 1 })), "{refused:?}");
            assert_eq!(keyed.offsets().log_end, 0);
            let _ = plain.append(&batch, 1).unwrap();
        }
    });
}

#[test]
fn a_lookup_sees_what_is_visible_and_nothing_else() {
    runtime::sim::block_on(15, |rt: SimRuntime| async move {
        let log = open(&rt).await;
        let partition = log.adopt(PartitionId(1), compacted());
        append(&rt, &log, &partition, &[(1, Some(10)), (2, Some(20))]).await;
        let value = async |key| {
            let found = partition.get(&key_bytes(key)).await.unwrap();
            found.map(|found| u64::from_le_bytes(found.value[..8].try_into().unwrap()))
        };
        assert_eq!((value(1).await, value(2).await, value(3).await), (Some(10), Some(20), None));
        let bytes = batch(0, &[(1, Some(11)), (2, None)], Producer::NONE, Codec::None);
        let appended = partition.append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap();
        let unsynced = partition.offsets();
        assert!(unsynced.high_watermark < unsynced.log_end);
        assert_eq!((value(1).await, value(2).await), (Some(10), Some(20)), "not synced, so not visible");
        log.synced(appended.lsn()).await.unwrap();
        assert_eq!((value(1).await, value(2).await), (Some(11), None));
        partition.truncate(2, 1).await.unwrap();
        assert_eq!((value(1).await, value(2).await), (Some(10), Some(20)), "truncated");
    });
}
