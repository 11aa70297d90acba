//! A produce request of one batch: the frame's head, encoded and decoded. The batch itself is never copied by either.

use std::hint::black_box;

use benches::{batch, id};
use criterion::{Criterion, criterion_group, criterion_main};
use wire::{
    PartitionId,
    api::{
        Request,
        produce::{BatchRow, RequestHead},
    },
    frame::{Decoded, Frame, encode},
    header::RequestHeader,
};

const FRAME_BYTES_MAX: usize = 1 << 20;

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("produce request");
    let batch = batch(10, 100);
    let rows = [BatchRow { partition: PartitionId(7), batch_bytes: batch.len() as u32 }];
    let head = RequestHead { timeout_ms: 5000, batches: (&rows).into() };
    let mut frame = Vec::new();
    group.bench_function(id("encode", 10, 80), |bencher| {
        bencher.iter(|| {
            frame.clear();
            encode(&mut frame, black_box(9), 0, black_box(&head), FRAME_BYTES_MAX).expect("it is not too large");
            frame.len()
        });
    });
    frame.clear();
    encode(&mut frame, 9, 0, &head, FRAME_BYTES_MAX).expect("it is not too large");
    frame.extend_from_slice(&batch);
    group.bench_function(id("decode", 10, 202), |bencher| {
        bencher.iter(|| {
            let decoded = Frame::<RequestHeader>::decode(black_box(&frame), FRAME_BYTES_MAX).expect("it is a frame");
            let Decoded::Frame(frame) = decoded else { unreachable!("it is whole") };
            let Ok(Request::Produce(request)) = Request::decode(&frame.header, frame.body) else {
                unreachable!("it is a produce request")
            };
            request.batches().map(|(partition, batch)| partition.0 + batch.len() as u64).sum::<u64>()
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
