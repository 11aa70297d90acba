//! An entry's way into the open sync group, with its share of sealing the group: the WAL without its disk.

use std::hint::black_box;

use benches::{ENTRIES, batch, id, rounds};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runtime::{
    Runtime,
    sim::{Block, block_on},
};
use storage::{
    PartitionId,
    group::{Builder, DIRECTORY_ENTRY_BYTES, Entry, EntryKind, Stamp},
};

const STAMP: Stamp = Stamp { log_id: 1, salt: 2, lsn: 4, previous_lsn: 3 };

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal");
    for value_bytes in [10, 100, 1000] {
        let batch = batch(1, value_bytes);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(id(&format!("append {} B", batch.len()), 100, 917), |bencher| {
            bencher.iter_custom(|iterations| {
                let batch = batch.clone();
                block_on(1, async move |rt| {
                    let entries_bytes = ENTRIES * (batch.len() + DIRECTORY_ENTRY_BYTES);
                    let block_bytes = Builder::<Block>::block_bytes_for(entries_bytes, 0);
                    let open = || Some(Builder::new(rt.block(block_bytes)));
                    rounds(iterations, open, |open, number| append(open, &batch, number))
                })
            });
        });
    }
    group.finish();
}

/// Appends a batch to the open group; the last one of a round seals it.
fn append(open: &mut Option<Builder<Block>>, batch: &[u8], number: usize) {
    let group = open.as_mut().expect("it is sealed by the last call only");
    let (partition, base_offset) = (PartitionId(number as u64 % 64), number as u64);
    let next_offset = base_offset + 1;
    let entry = Entry { kind: EntryKind::Batch, partition, leader_epoch: 1, base_offset, next_offset };
    black_box(group.push(entry, batch));
    if number + 1 == ENTRIES {
        let sealed = open.take().expect("it is open").seal(STAMP, &[]);
        black_box(sealed.entries_end);
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
