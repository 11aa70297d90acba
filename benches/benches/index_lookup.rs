//! The sparse offset index of a segment.

use std::hint::black_box;

use benches::{ENTRIES, id, random_below, rounds};
use criterion::{Criterion, criterion_group, criterion_main};
use storage::index::offset_index::{Builder, INTERVAL_BYTES};

/// Gaps as batches of different sizes leave them.
fn offsets() -> Vec<u64> {
    let gaps = random_below(2000);
    gaps.iter()
        .scan(0, |offset, gap| {
            *offset += 1 + gap;
            Some(*offset)
        })
        .collect()
}

fn built(offsets: &[u64]) -> Builder {
    let mut builder = Builder::default();
    for (number, &offset) in offsets.iter().enumerate() {
        builder.add(offset, number as u64 * INTERVAL_BYTES);
    }
    builder
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index");
    let offsets = offsets();
    let builder = built(&offsets);
    let asked = random_below(*offsets.last().expect("there are some"));
    group.bench_function(id("lookup", 10, 35), |bencher| {
        let index = builder.index();
        let mut at = 0;
        bencher.iter(|| {
            at = (at + 1) % ENTRIES;
            index.floor(asked[at])
        });
    });
    group.bench_function(id("add", 50, 775), |bencher| {
        bencher.iter_custom(|iterations| {
            rounds(iterations, Builder::default, |builder, number| {
                black_box(builder.add(offsets[number], number as u64 * INTERVAL_BYTES));
            })
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
