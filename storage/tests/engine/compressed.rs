//! Topics whose segments are compressed: fewer bytes on the disk, and the same records, offsets, times and answers.

use std::{collections::BTreeMap, path::Path, time::Duration};

use runtime::{
    Runtime,
    sim::{Crash, NodeId, SimRuntime, Simulation},
};
use storage::{
    Cleanup, Durability, Log, LogOptions, Partition, PartitionId, PartitionSettings, compaction, segment::PlanLimits,
};
use wire::record::{Batch, BatchBuilder, BatchHeader, Batches, Codec, Header, Producer};

use crate::support::{DIR, simulation, small};

/// So much of it that a flush gives it segments of its own.
const LARGE: u64 = 1;
/// Shares segments with the next one, and in a flush with the last one too.
const SMALL: u64 = 2;
/// Deleted in the end: more than half of what it shares, since nothing makes it smaller.
const DROPPED: u64 = 3;
/// Stays as it came.
const PLAIN: u64 = 4;

/// A flush takes ten rounds or so: about 70 KiB of the large partition, and 5 to 8 KiB of each other.
async fn open(rt: &SimRuntime) -> Result<Log<SimRuntime>, storage::OpenError> {
    rt.create_dir_all(Path::new(DIR)).await.expect("the directory can be made");
    let limits = PlanLimits { own_bytes_min: 32 << 10, shared_bytes_max: 56 << 10 };
    let compaction = compaction::Options { limits, read_bytes_max: 16 << 10, ..small().compaction };
    let often = Duration::from_millis(500);
    let options = LogOptions {
        memtable_bytes: 1 << 20,
        batch_bytes_max: 16 << 10,
        compaction,
        retention_check_every: often,
        ..small()
    };
    Log::open(rt.clone(), Path::new(DIR), options).await
}

const PARTITIONS: [u64; 4] = [LARGE, SMALL, DROPPED, PLAIN];
const ROUNDS: u64 = 60;

fn settings(id: u64, compression: Codec) -> PartitionSettings {
    let compression = if id == PLAIN { Codec::None } else { compression };
    PartitionSettings { compression, ..PartitionSettings::default() }
}

fn adopt(log: &Log<SimRuntime>, id: u64, compression: Codec) -> Partition<SimRuntime> {
    log.adopt(PartitionId(id), settings(id, compression))
}

/// Bytes that no codec makes fewer.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed + 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(720).collect()
}

/// What a partition's producer sends for the `round`-th time.
fn sent(id: u64, round: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(16 << 10);
    let records = match id {
        LARGE => 30,
        DROPPED => 1,
        _ => 2,
    };
    for number in 0..records {
        let key = format!("key-{}", (round + number) % 7);
        let value = format!("{{\"round\": {round}, \"number\": {number}, \"of\": \"partition {id}\"}}").repeat(5);
        let value = if id == DROPPED { noise(round) } else { value.into_bytes() };
        let value = (!(round + number).is_multiple_of(11)).then_some(&value[..]);
        let headers = [Header { key: b"trace", value: Some(&round.to_le_bytes()) }];
        // Times that jump, so that they are not offsets by another name.
        let timestamp_ms = 1_000 + (round as i64) * 10 - (number as i64 % 3);
        builder.append(timestamp_ms, Some(key.as_bytes()), value, &headers).unwrap();
    }
    let base_sequence = (round * records) as i32;
    let producer = Producer { id: id as i64, epoch: 1, base_sequence };
    match round % 10 {
        3 => builder.build_compressed(producer, Codec::Gzip).to_vec(),
        _ => builder.build(producer).to_vec(),
    }
}

async fn append(log: &Log<SimRuntime>, partition: &Partition<SimRuntime>, bytes: &[u8]) -> (u64, bool) {
    log.admit().await;
    let appended = partition.append(&Batch::parse_one(bytes).unwrap(), 1).unwrap();
    let is_duplicate = appended.is_duplicate();
    let synced = log.synced(appended.lsn()).await.unwrap();
    (appended.acknowledge(synced).base_offset(), is_duplicate)
}

/// A batch as a consumer gets it, and its records in words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    header: BatchHeader,
    bytes: Vec<u8>,
    records: Vec<String>,
}

impl Read {
    fn new(batch: &Batch<'_>) -> Self {
        batch.verify_stored().unwrap();
        let mut buffer = Vec::new();
        let records = batch.records_decompressed(1 << 20, &mut buffer).unwrap();
        let records = records.map(|record| {
            let record = record.unwrap();
            let headers: Vec<_> = record.headers.collect();
            format!("{} {} {:?} {:?} {headers:?}", record.offset, record.timestamp_ms, record.key, record.value)
        });
        Self { header: *batch.header(), bytes: batch.bytes().to_vec(), records: records.collect() }
    }

    fn codec(&self) -> Codec {
        self.header.attributes.codec().unwrap()
    }

    /// What does not change by compression.
    fn sense(&self) -> (BatchHeader, &[String]) {
        let attributes = self.header.attributes.with_codec(Codec::None);
        (BatchHeader { attributes, length: 0, crc: 0, ..self.header }, &self.records)
    }
}

async fn read_all(partition: &Partition<SimRuntime>) -> Vec<Read> {
    let (mut all, mut next) = (Vec::new(), partition.offsets().log_start);
    while next < partition.offsets().high_watermark {
        let read = partition.read(next, 3_000).await.unwrap();
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.to_vec()).collect();
        all.extend(Batches::new(&bytes).map(|batch| Read::new(&batch.unwrap())));
        assert!(read.next_offset > next);
        next = read.next_offset;
    }
    all
}

fn assert_same_sense(found: &[Read], expected: &[Read]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.sense(), expected.sense());
    }
}

/// All that the partitions hold, as it was sent.
fn as_sent() -> BTreeMap<u64, Vec<Read>> {
    let partition = |id| {
        let mut next = 0;
        let batches = (0..ROUNDS).map(|round| {
            let mut bytes = sent(id, round);
            wire::record::patch_base_offset(&mut bytes, next);
            wire::record::patch_leader_epoch(&mut bytes, 1);
            let read = Read::new(&Batch::parse_one(&bytes).unwrap());
            next += u64::from(read.header.record_count as u32);
            read
        });
        (id, batches.collect())
    };
    PARTITIONS.into_iter().map(partition).collect()
}

/// Fills a log, has it merge until nothing is left to do, and stops it.
fn filled(compression: Codec) -> (Simulation, NodeId, u64) {
    let simulation = simulation(21);
    let node = simulation.add_node();
    let lived = simulation.block_on(node, move |rt: SimRuntime| async move {
        let log = open(&rt).await.unwrap();
        let partitions = PARTITIONS.map(|id| (id, adopt(&log, id, compression)));
        for round in 0..ROUNDS {
            for (id, partition) in &partitions {
                append(&log, partition, &sent(*id, round)).await;
            }
        }
        log.close().await.unwrap();
        // What the stop flushed is merged by the next start, all but the last few.
        let log = open(&rt).await.unwrap();
        let _adopted = PARTITIONS.map(|id| adopt(&log, id, compression));
        rt.sleep(Duration::from_secs(3)).await;
        let stats = log.stats();
        assert_eq!(stats.compression_saved_bytes > 0, compression != Codec::None, "{stats:?}");
        log.close().await.unwrap();
        stats.segment_bytes
    });
    (simulation, node, lived.unwrap())
}

#[test]
fn segments_become_smaller_and_hold_the_same() {
    let (_, _, plain_bytes) = filled(Codec::None);
    for codec in [Codec::Lz4, Codec::Zstd, Codec::Gzip, Codec::Snappy] {
        let (simulation, node, bytes) = filled(codec);
        println!("{codec:?}: {bytes} bytes of segments, {plain_bytes} uncompressed");
        assert!(bytes < plain_bytes * 3 / 4, "{codec:?}: {bytes} bytes, uncompressed {plain_bytes}");
        let lived = simulation.block_on(node, move |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            for (id, expected) in as_sent() {
                let partition = adopt(&log, id, codec);
                let found = read_all(&partition).await;
                assert_same_sense(&found, &expected);
                let of = |codec| found.iter().filter(|batch| batch.codec() == codec).count();
                if [PLAIN, DROPPED].contains(&id) {
                    assert_eq!(found, expected, "byte for byte");
                } else {
                    assert!(of(codec) > found.len() / 2, "{codec:?}: {} of {} batches of {id}", of(codec), found.len());
                    assert!(of(Codec::Gzip) >= 6, "what its producer compressed stays as it came");
                }
                check_times(&partition, &expected).await;
                // The last five of each producer are known when they come again, and nothing is appended.
                let end = partition.offsets().log_end;
                for round in ROUNDS - 5..ROUNDS {
                    let first = expected[round as usize].header.base_offset;
                    assert_eq!(
                        append(&log, &partition, &sent(id, round)).await,
                        (first, true),
                        "{codec:?} {id} {round}"
                    );
                }
                assert_eq!(partition.offsets().log_end, end);
            }
        });
        lived.unwrap();
    }
}

/// A lookup by time finds the first record that is not older, whatever it is compressed with.
async fn check_times(partition: &Partition<SimRuntime>, expected: &[Read]) {
    let records = expected.iter().flat_map(|batch| &batch.records);
    let records: Vec<(u64, i64)> = records
        .map(|record| {
            let mut words = record.split(' ');
            (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap())
        })
        .collect();
    for timestamp_ms in (990..1_000 + 10 * ROUNDS as i64).step_by(7) {
        let first = records.iter().find(|(_, found)| *found >= timestamp_ms);
        assert_eq!(partition.offset_at(timestamp_ms).await.unwrap(), first.copied(), "at {timestamp_ms}");
    }
}

#[test]
fn what_is_compressed_is_not_compressed_again() {
    let (simulation, node, _) = filled(Codec::Lz4);
    let lived = simulation.block_on(node, |rt: SimRuntime| async move {
        let log = open(&rt).await.unwrap();
        let [large, small, dropped, plain] = PARTITIONS.map(|id| adopt(&log, id, Codec::Zstd));
        let before = [read_all(&large).await, read_all(&small).await, read_all(&plain).await];
        dropped.drop_partition().await.unwrap();
        let merges = log.stats().merges;
        rt.sleep(Duration::from_secs(3)).await;
        assert!(log.stats().merges > merges, "what the deleted one shared was rewritten");
        let after = [read_all(&large).await, read_all(&small).await, read_all(&plain).await];
        let lz4 = |batches: &[Read]| batches.iter().filter(|batch| batch.codec() == Codec::Lz4).count();
        for (before, after) in before.iter().zip(&after) {
            assert_same_sense(after, before);
            assert_eq!(lz4(after), lz4(before));
            for (before, after) in before.iter().zip(after) {
                assert!(before == after || before.codec() == Codec::None, "{before:?}, now {after:?}");
            }
        }
        assert_eq!(before[2], after[2], "byte for byte");
    });
    lived.unwrap();
}

#[test]
fn a_topic_is_compressed_from_when_it_is_asked_for() {
    let (simulation, node, plain_bytes) = filled(Codec::None);
    let lived = simulation.block_on(node, move |rt: SimRuntime| async move {
        let log = open(&rt).await.unwrap();
        let partitions = PARTITIONS.map(|id| adopt(&log, id, Codec::None));
        rt.sleep(Duration::from_secs(3)).await;
        assert_eq!((log.stats().merges, log.stats().segment_bytes), (0, plain_bytes));
        partitions[0].configure(settings(LARGE, Codec::Zstd));
        rt.sleep(Duration::from_secs(3)).await;
        let stats = log.stats();
        assert!(stats.merges > 0 && stats.segment_bytes < plain_bytes, "its own segments are: {stats:?}");
        let merges = stats.merges;
        rt.sleep(Duration::from_secs(30)).await;
        assert_eq!(log.stats().merges, merges, "once");
        for (partition, (_, expected)) in partitions.iter().zip(as_sent()) {
            assert_same_sense(&read_all(partition).await, &expected);
        }
    });
    lived.unwrap();
}

#[test]
fn a_compacted_topic_is_compressed_too_and_keys_are_found() {
    let simulation = simulation(22);
    let node = simulation.add_node();
    let lived = simulation.block_on(node, |rt: SimRuntime| async move {
        let settings =
            PartitionSettings { cleanup: Cleanup { delete: false, compact: true }, ..settings(SMALL, Codec::Zstd) };
        let log = open(&rt).await.unwrap();
        let partition = log.adopt(PartitionId(SMALL), Durability::Durable);
        let mut last = BTreeMap::new();
        for round in 0..ROUNDS {
            let bytes = sent(SMALL, round);
            append(&log, &partition, &bytes).await;
            let batch = Batch::parse_one(&bytes).unwrap();
            let mut buffer = Vec::new();
            for record in batch.records_decompressed(1 << 20, &mut buffer).unwrap().map(Result::unwrap) {
                last.insert(record.key.unwrap().to_vec(), record.value.map(<[u8]>::to_vec));
            }
        }
        log.close().await.unwrap();
        let log = open(&rt).await.unwrap();
        let partition = log.adopt(PartitionId(SMALL), settings);
        rt.sleep(Duration::from_secs(3)).await;
        let stats = log.stats();
        assert!(stats.rounds > 0 && stats.compression_saved_bytes > 0, "{stats:?}");
        let batches = read_all(&partition).await;
        assert!(batches.iter().any(|batch| batch.codec() == Codec::Zstd));
        assert!(batches.iter().map(|batch| batch.records.len()).sum::<usize>() <= 2 * last.len());
        for (key, value) in last {
            let found = partition.get(&key).await.unwrap();
            assert_eq!(found.map(|found| found.value.to_vec()), value, "{}", key.escape_ascii());
        }
    });
    lived.unwrap();
}

#[test]
fn a_crash_in_the_compression_loses_nothing() {
    let (simulation, node, _) = filled(Codec::None);
    let disk = simulation.disk(node);
    let image = disk.snapshot();
    let compress = |rt: SimRuntime| async move {
        let log = open(&rt).await.unwrap();
        let partitions = PARTITIONS.map(|id| adopt(&log, id, Codec::Lz4));
        rt.sleep(Duration::from_secs(3)).await;
        for (partition, (_, expected)) in partitions.iter().zip(as_sent()) {
            assert_same_sense(&read_all(partition).await, &expected);
        }
        log.stats().segment_bytes
    };
    let first = disk.steps();
    let bytes = simulation.block_on(node, compress).unwrap();
    let steps = disk.steps() - first;
    assert!(steps > 20, "{steps} steps");
    for step in (1..=steps).step_by(1 + steps as usize / 60) {
        for crash in [Crash::Kill, Crash::PowerCut] {
            disk.restore(image.clone());
            disk.crash_at_step(disk.steps() + step, crash);
            let _ended = simulation.block_on(node, compress);
            simulation.crash(node, crash);
            assert_eq!(simulation.block_on(node, compress).unwrap(), bytes, "step {step}, {crash:?}");
            simulation.crash(node, crash);
        }
    }
    assert!(disk.files().iter().any(|path| path.starts_with(DIR)));
}
