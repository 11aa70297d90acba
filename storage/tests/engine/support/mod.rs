//! What the tests of the log share: a small log on a simulated disk, and batches whose records say who they are.

use std::{path::Path, time::Duration};

use runtime::{
    Runtime,
    sim::{Options, SimRuntime, Simulation},
};
use storage::{Durability, Log, LogOptions, OpenError, Partition, PartitionId, compaction};
use wire::record::{Batch, BatchBuilder, Batches, Producer};

/// Where the log lies on the simulated disk.
pub(crate) const DIR: &str = "log";

/// A log so small that a few dozen appends roll, flush and merge.
pub(crate) fn small() -> LogOptions {
    LogOptions {
        memtable_bytes: 64 << 10,
        wal_bytes: None,
        cache_bytes: 16 << 10,
        batch_bytes_max: 4 << 10,
        flush_age_max: Duration::from_millis(50),
        compaction: compaction::Options {
            merge_inputs: 4,
            limits: storage::segment::PlanLimits { own_bytes_min: 4 << 10, shared_bytes_max: 16 << 10 },
            read_bytes_max: 4 << 10,
            key_bytes_max: 1 << 10,
            look_every: Duration::from_secs(1),
        },
        ..LogOptions::default()
    }
}

/// A simulation with blocks of 8 KiB: two pages, so that groups are both packed and kept.
pub(crate) fn simulation(seed: u64) -> Simulation {
    Simulation::with_options(seed, Options { block_bytes: 8 << 10, ..Options::default() })
}

pub(crate) async fn open(rt: &SimRuntime) -> Result<Log<SimRuntime>, OpenError> {
    rt.create_dir_all(Path::new(DIR)).await.expect("the directory can be made");
    Log::open(rt.clone(), Path::new(DIR), small()).await
}

/// A batch of records with these values.
pub(crate) fn batch(values: &[u64], producer: Producer) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1 << 20);
    for value in values {
        // A length that varies, so that groups and blocks fill unevenly.
        let mut bytes = value.to_le_bytes().to_vec();
        bytes.resize(8 + (value % 97) as usize, 0xa5);
        builder.append(*value as i64, None, Some(&bytes), &[]).expect("small records fit");
    }
    builder.build(producer).to_vec()
}

/// Offset and value of every record in bytes that are whole batches.
pub(crate) fn records(bytes: &[u8]) -> Vec<(u64, u64)> {
    let mut records = Vec::new();
    for batch in Batches::new(bytes) {
        let batch = batch.expect("what is served is whole batches");
        batch.verify_stored().expect("what is served proves itself");
        for record in batch.records().expect("nothing is compressed here") {
            let record = record.expect("records parse");
            let value = record.value.expect("every record has a value");
            records.push((record.offset, u64::from_le_bytes(value[..8].try_into().expect("eight bytes of value"))));
        }
    }
    records
}

/// Appends and waits for the ack. Returns the offset of the first record.
pub(crate) async fn append_acked(log: &Log<SimRuntime>, partition: &Partition<SimRuntime>, values: &[u64]) -> u64 {
    let bytes = batch(values, Producer::NONE);
    let appended = partition.append(&Batch::parse_one(&bytes).expect("it was just built"), 1).expect("it is taken");
    if !appended.needs_sync() {
        return appended.acknowledge_unsynced().expect("no sync is needed").base_offset();
    }
    let synced = log.synced(appended.lsn()).await.expect("the disk works");
    appended.acknowledge(synced).base_offset()
}

/// Reads everything from `offset` to the high watermark. Lost ranges are skipped and returned.
pub(crate) async fn read_all(
    partition: &Partition<SimRuntime>,
    offset: u64,
) -> (Vec<(u64, u64)>, Vec<std::ops::Range<u64>>) {
    let (mut all, mut lost) = (Vec::new(), Vec::new());
    let mut next = offset;
    while next < partition.offsets().high_watermark {
        let batches = partition.read(next, 3000).await.expect("it can be read");
        lost.extend(batches.lost.clone());
        let bytes: Vec<u8> = batches.slices.iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!(bytes.len(), batches.bytes);
        all.extend(records(&bytes));
        assert!(batches.next_offset > next, "a read below the high watermark gets on from {next}");
        next = batches.next_offset;
    }
    (all, lost)
}

pub(crate) fn durable(log: &Log<SimRuntime>, id: u64) -> Partition<SimRuntime> {
    log.adopt(PartitionId(id), Durability::Durable)
}
