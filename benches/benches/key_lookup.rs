//! `Partition::get` of random keys of a compacted partition, from segments on a real disk.
//!
//! Prints percentiles cold and warm, and the memory a key takes, before criterion times lookups once more.
//! `STREAMBUS_BENCH_KEYS=10000000` sets the number of keys; 100,000 run in seconds.

use std::{
    hint::black_box,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use benches::{SEED, Shard, directory};
use criterion::{Criterion, criterion_group, criterion_main};
use runtime_glommio::GlommioRuntime;
use storage::{Cleanup, Log, LogOptions, Partition, PartitionId, PartitionSettings};
use wire::record::{Batch, BatchBuilder, Producer};

const VALUE_BYTES: usize = 100;
const BATCH_RECORDS: u64 = 100;
/// Lookups that the printed percentiles are of.
const LOOKUPS: usize = 2_000;
/// Memory for footers and filters, so that 10 million keys have theirs.
const CACHE_BYTES: usize = 64 << 20;

fn bench(criterion: &mut Criterion) {
    let keys = std::env::var("STREAMBUS_BENCH_KEYS").map_or(100_000, |keys| keys.parse().expect("a number of keys"));
    let shard = Shard::start();
    let directory = directory();
    let path = directory.path().to_owned();
    shard.run({
        let path = path.clone();
        move |rt| async move {
            fill(rt.clone(), &path, keys).await;
            report(rt, &path, keys).await;
        }
    });
    let mut group = criterion.benchmark_group("key_lookup");
    group.bench_function("get from a segment", |bencher| {
        bencher.iter_custom(|iterations| {
            let path = path.clone();
            shard.run(move |rt| async move { time(rt, path, keys, iterations).await })
        });
    });
    group.finish();
}

async fn open(rt: GlommioRuntime, path: &Path) -> (Log<GlommioRuntime>, Partition<GlommioRuntime>) {
    let options = LogOptions { memtable_bytes: 64 << 20, cache_bytes: CACHE_BYTES, ..LogOptions::default() };
    let log = Log::open(rt, path, options).await.expect("the directory can be opened");
    let cleanup = Cleanup { delete: false, compact: true };
    let partition = log.adopt(PartitionId(1), PartitionSettings { cleanup, ..PartitionSettings::default() });
    (log, partition)
}

/// Each key once, and a tenth of them again.
async fn fill(rt: GlommioRuntime, path: &Path, keys: u64) {
    let (log, partition) = open(rt, path).await;
    let mut builder = BatchBuilder::new(1 << 20);
    let mut lsn = 0;
    let numbers: Vec<u64> = (0..keys).chain(0..keys / 10).collect();
    for numbers in numbers.chunks(BATCH_RECORDS as usize) {
        for number in numbers {
            let value = [*number as u8; VALUE_BYTES];
            builder.append(0, Some(&number.to_be_bytes()), Some(&value), &[]).expect("it fits");
        }
        let bytes = builder.build(Producer::NONE);
        log.admit().await;
        lsn = partition.append(&Batch::parse_one(&bytes).expect("it is one"), 1).expect("it is taken").lsn();
    }
    log.synced(lsn).await.expect("the disk works");
    log.close().await.expect("the disk works");
}

async fn report(rt: GlommioRuntime, path: &Path, keys: u64) {
    let (log, partition) = open(rt, path).await;
    let mut rng = fastrand::Rng::with_seed(SEED);
    let asked: Vec<u64> = (0..LOOKUPS).map(|_| rng.u64(..keys)).collect();
    println!("get, {keys} keys of 8 bytes with values of {VALUE_BYTES} bytes, {} segments:", log.stats().segments);
    for name in ["cold", "warm"] {
        let mut took = Vec::with_capacity(asked.len());
        for number in &asked {
            let start = Instant::now();
            let found = partition.get(&number.to_be_bytes()).await.expect("it can be read");
            took.push(start.elapsed());
            assert_eq!(found.expect("the key is there").value[0], *number as u8);
        }
        took.sort_unstable();
        let at = |permille: usize| took[(took.len() - 1) * permille / 1_000];
        println!("  {name}: p50 {:?}, p99 {:?}, max {:?}", at(500), at(990), at(1_000));
    }
    let start = Instant::now();
    for number in 0..LOOKUPS as u64 {
        let found = partition.get(&(keys + number).to_be_bytes()).await.expect("it can be read");
        assert_eq!(found, None);
    }
    println!("  a key that is not there: {:?} on average", start.elapsed() / LOOKUPS as u32);
    let resident = log.stats().footer_bytes;
    println!("  memory: {resident} bytes of footers, filters and fences, {:.2} a key", resident as f64 / keys as f64);
    log.close().await.expect("the disk works");
}

async fn time(rt: GlommioRuntime, path: PathBuf, keys: u64, iterations: u64) -> Duration {
    let (log, partition) = open(rt, &path).await;
    let mut rng = fastrand::Rng::with_seed(SEED);
    let start = Instant::now();
    for _ in 0..iterations {
        let found = partition.get(&rng.u64(..keys).to_be_bytes()).await.expect("it can be read");
        assert!(black_box(found).is_some());
    }
    let elapsed = start.elapsed();
    log.close().await.expect("the disk works");
    elapsed
}

criterion_group!(benches, bench);
criterion_main!(benches);
