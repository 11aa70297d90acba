//! `Partition::append`, on the production runtime and a real disk.

use std::time::{Duration, Instant};

use benches::{ENTRIES, PARTITIONS, Shard, batch, directory, id, random_below};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runtime_glommio::GlommioRuntime;
use storage::{Durability, Log, LogOptions, Partition, PartitionId};
use wire::record::Batch;

/// A log with room for many rounds between two flushes.
fn options() -> LogOptions {
    LogOptions { memtable_bytes: 64 << 20, ..LogOptions::default() }
}

fn bench(criterion: &mut Criterion) {
    let shard = Shard::start();
    let mut group = criterion.benchmark_group("log");
    for value_bytes in [10, 100, 1000] {
        let batch = batch(1, value_bytes);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        // The call alone: offsets, producer state, the copy into the open group.
        group.bench_function(id(&format!("append {} B", batch.len()), 200, 1763), |bencher| {
            bencher.iter_custom(|iterations| time(&shard, &batch, iterations, Until::Appended));
        });
        // With everything up to stable storage, 4,096 under way at once.
        group.bench_function(format!("append {} B until synced", batch.len()), |bencher| {
            bencher.iter_custom(|iterations| time(&shard, &batch, iterations, Until::Synced));
        });
    }
    group.finish();
}

/// What counts.
#[derive(Clone, Copy)]
enum Until {
    Appended,
    Synced,
}

/// Appends in rounds to random partitions of a new log.
fn time(shard: &Shard, batch: &[u8], iterations: u64, until: Until) -> Duration {
    let directory = directory();
    let (path, batch) = (directory.path().to_owned(), batch.to_vec());
    shard.run(move |rt: GlommioRuntime| async move {
        let log = Log::open(rt, &path, options()).await.expect("an empty directory makes a log");
        let partitions: Vec<_> = (0..PARTITIONS).map(|id| log.adopt(PartitionId(id), Durability::Durable)).collect();
        let order = random_below(PARTITIONS);
        let mut elapsed = Duration::ZERO;
        let mut left = iterations;
        while left > 0 {
            let calls = left.min(ENTRIES as u64);
            log.admit().await;
            let start = Instant::now();
            let lsn = append_all(&partitions, &order[..calls as usize], &batch);
            let appended = start.elapsed();
            log.synced(lsn).await.expect("the disk works");
            elapsed += match until {
                Until::Appended => appended,
                Until::Synced => start.elapsed(),
            };
            left -= calls;
        }
        log.close().await.expect("the disk works");
        elapsed
    })
}

/// Appends a batch to each of these partitions. Returns the last sync group.
fn append_all(partitions: &[Partition<GlommioRuntime>], order: &[u64], batch: &[u8]) -> u64 {
    let batch = Batch::parse_one(batch).expect("it is one");
    let append = |&partition: &u64| partitions[partition as usize].append(&batch, 1).expect("it is taken").lsn();
    order.iter().fold(None, |_, partition| Some(append(partition))).expect("there is a call")
}

criterion_group!(benches, bench);
criterion_main!(benches);
