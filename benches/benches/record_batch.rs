//! Record batches: built by a producer, verified by the broker, read by a consumer.

use std::hint::black_box;

use benches::batch;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wire::record::{Batch, BatchBuilder, Producer};

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record batch");
    for (records, value_bytes) in [(1, 100), (1000, 100), (1000, 1024)] {
        let bytes = batch(records, value_bytes);
        let shape = format!("{records} x {value_bytes} B");
        group.throughput(Throughput::ElementsAndBytes { elements: records as u64, bytes: bytes.len() as u64 });
        group.bench_function(BenchmarkId::new("build", &shape), |bencher| {
            let value = vec![7; value_bytes];
            let mut builder = BatchBuilder::new(4 << 20);
            bencher.iter(|| {
                for record in 0..records {
                    builder.append(record as i64, None, Some(black_box(&value)), &[]).expect("it fits");
                }
                builder.build(Producer::NONE)
            });
        });
        group.bench_function(BenchmarkId::new("verify", &shape), |bencher| {
            bencher.iter(|| {
                let batch = Batch::parse_one(black_box(&bytes)).expect("it is one");
                batch.verify_for_produce().expect("it holds");
            });
        });
        group.bench_function(BenchmarkId::new("read", &shape), |bencher| {
            bencher.iter(|| {
                let batch = Batch::parse_one(black_box(&bytes)).expect("it is one");
                let records = batch.records().expect("it is not compressed");
                records.map(|record| record.expect("it parses").value.map_or(0, <[u8]>::len)).sum::<usize>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
