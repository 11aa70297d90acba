//! A merge of sixteen flushes that a thousand partitions share: what each batch costs.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use benches::{Shard, batch, directory};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runtime::Runtime;
use runtime_glommio::GlommioRuntime;
use storage::{
    Kept, PartitionId,
    compaction::{Options, merge::Merge, strategy::MergeInputs},
    segment::{SegmentId, SegmentMeta, SegmentWriter, Segments, file_name},
};
use wire::record::patch_base_offset;

const INPUTS: u64 = 16;
const PARTITIONS: u64 = 1_000;
/// Batches of each partition in each input: a few KiB.
const BATCHES: u64 = 24;
const LOG_ID: u128 = 7;

fn bench(criterion: &mut Criterion) {
    let shard = Shard::start();
    let mut group = criterion.benchmark_group("segment");
    group.sample_size(10);
    group.throughput(Throughput::Elements(INPUTS * PARTITIONS * BATCHES));
    group.bench_function("merge", |bencher| {
        bencher.iter_custom(|iterations| {
            let directory = directory();
            let path = directory.path().to_owned();
            shard.run(move |rt: GlommioRuntime| async move {
                let inputs = write_inputs(&rt, &path).await;
                let mut elapsed = Duration::ZERO;
                for _ in 0..iterations {
                    elapsed += merge(&rt, &path, &inputs).await;
                }
                elapsed
            })
        });
    });
    group.finish();
}

/// One record of 100 bytes a batch.
async fn write_inputs<R: Runtime>(rt: &R, dir: &Path) -> MergeInputs {
    let mut bytes = batch(1, 100);
    let mut unsettled = Vec::new();
    for input in 0..INPUTS {
        let mut writer = SegmentWriter::create(rt, dir, SegmentId(input), LOG_ID, 0).await.expect("the disk works");
        for partition in 0..PARTITIONS {
            for number in 0..BATCHES {
                patch_base_offset(&mut bytes, input * BATCHES + number);
                writer.push(PartitionId(partition), &bytes).await.expect("the disk works");
            }
        }
        unsettled.push(writer.finish().await.expect("the disk works"));
    }
    MergeInputs { unsettled, between: Vec::new() }
}

async fn merge<R: Runtime>(rt: &R, dir: &Path, inputs: &MergeInputs) -> Duration {
    let segments = Segments::new(rt, dir.to_owned(), LOG_ID, 64 << 20);
    let everything = |_: SegmentId, _: PartitionId| Kept::from(0..u64::MAX);
    let start = Instant::now();
    let merge = Merge::plan(&segments, rt, inputs, everything, Options::default()).await.expect("the inputs are sound");
    let ids: Vec<_> = (INPUTS..).take(merge.outputs()).map(SegmentId).collect();
    let outputs: Vec<SegmentMeta> = merge.run(dir, &ids).await.expect("the inputs are sound");
    let elapsed = start.elapsed();
    for output in outputs {
        rt.remove_file(&dir.join(file_name(output.id))).await.expect("it was just written");
    }
    elapsed
}

criterion_group!(benches, bench);
criterion_main!(benches);
