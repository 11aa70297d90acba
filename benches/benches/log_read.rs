//! `Partition::read` of one batch at a random offset: from memory, and from a segment on a real disk.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use benches::{ENTRIES, Shard, batch, directory, id, random_below};
use criterion::{Criterion, criterion_group, criterion_main};
use runtime_glommio::GlommioRuntime;
use storage::{Durability, Log, LogOptions, Partition, PartitionId};
use wire::record::Batch;

const RECORDS: u64 = 10;

fn bench(criterion: &mut Criterion) {
    let shard = Shard::start();
    let mut group = criterion.benchmark_group("log");
    group.bench_function(id("read from memory", 500, 23_154), |bencher| {
        bencher.iter_custom(|iterations| time(&shard, iterations, From::Memory));
    });
    // Direct I/O: every read is one of the disk.
    group.bench_function("read from a segment", |bencher| {
        bencher.iter_custom(|iterations| time(&shard, iterations, From::Segment));
    });
    group.finish();
}

/// Where the batches lie.
#[derive(Clone, Copy)]
enum From {
    Memory,
    Segment,
}

fn time(shard: &Shard, iterations: u64, from: From) -> Duration {
    let directory = directory();
    let path = directory.path().to_owned();
    shard.run(move |rt: GlommioRuntime| async move {
        let open = || Log::open(rt.clone(), &path, LogOptions { memtable_bytes: 64 << 20, ..LogOptions::default() });
        let mut log = open().await.expect("an empty directory makes a log");
        fill(&log).await;
        if matches!(from, From::Segment) {
            log.close().await.expect("the disk works");
            log = open().await.expect("it was closed");
        }
        let partition = log.adopt(PartitionId(1), Durability::Durable);
        let elapsed = read(&partition, iterations).await;
        log.close().await.expect("the disk works");
        elapsed
    })
}

/// Appends as many batches as there are entries, to one partition.
async fn fill(log: &Log<GlommioRuntime>) {
    let partition = log.adopt(PartitionId(1), Durability::Durable);
    let bytes = batch(RECORDS as usize, 100);
    let batch = Batch::parse_one(&bytes).expect("it is one");
    let mut lsn = 0;
    for _ in 0..ENTRIES {
        log.admit().await;
        lsn = partition.append(&batch, 1).expect("it is taken").lsn();
    }
    log.synced(lsn).await.expect("the disk works");
}

async fn read(partition: &Partition<GlommioRuntime>, iterations: u64) -> Duration {
    let offsets = random_below(ENTRIES as u64 * RECORDS);
    let start = Instant::now();
    for number in 0..iterations as usize {
        let read = partition.read(offsets[number % ENTRIES], 1).await.expect("it is there");
        assert!(black_box(read).bytes > 0);
    }
    start.elapsed()
}

criterion_group!(benches, bench);
criterion_main!(benches);
