//! The memtable's index: put, get and iterate.

use std::hint::black_box;

use benches::{ENTRIES, PARTITIONS, id, random_below, rounds};
use criterion::{Criterion, criterion_group, criterion_main};
use runtime::sim::SimRuntime;
use storage::{
    PartitionId,
    memtable::{Memtable, Slot},
};

/// Batches of 10 records, each to a random partition.
fn puts() -> Vec<(PartitionId, Slot)> {
    let mut next_offsets = [0; PARTITIONS as usize];
    let mut put = |partition: &u64| {
        let next_offset = &mut next_offsets[*partition as usize];
        let slot =
            Slot { base_offset: *next_offset, offset_count: 10, timestamp_max: 0, group: 0, position: 0, bytes: 1000 };
        *next_offset = slot.next_offset();
        (PartitionId(*partition), slot)
    };
    random_below(PARTITIONS).iter().map(&mut put).collect()
}

fn filled(puts: &[(PartitionId, Slot)]) -> Memtable<SimRuntime> {
    let mut memtable = Memtable::default();
    puts.iter().for_each(|&(partition, slot)| memtable.put(partition, slot));
    memtable
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memtable");
    let puts = puts();
    let memtable = filled(&puts);
    group.bench_function(id("put", 50, 698), |bencher| {
        bencher.iter_custom(|iterations| {
            rounds(iterations, Memtable::<SimRuntime>::default, |memtable, number| {
                let (partition, slot) = puts[number];
                memtable.put(partition, slot);
            })
        });
    });
    group.bench_function(id("get", 20, 225), |bencher| {
        let order = random_below(ENTRIES as u64);
        let asked: Vec<_> = order.iter().map(|&number| puts[number as usize]).collect();
        let mut at = 0;
        bencher.iter(|| {
            at = (at + 1) % ENTRIES;
            let (partition, slot) = &asked[at];
            memtable.get(*partition, slot.base_offset + 5).map(|slot| slot.base_offset)
        });
    });
    // One pass over as many entries as a fetch of 100 kB serves.
    group.bench_function(id("iterate 100", 300, 3853), |bencher| {
        let mut one = Memtable::<SimRuntime>::default();
        for number in 0..ENTRIES as u64 {
            one.put(PartitionId(1), Slot { base_offset: number * 10, ..puts[0].1 });
        }
        let starts = random_below(ENTRIES as u64 - 100);
        let slots = one.partition(PartitionId(1)).expect("it was just filled").slots();
        let mut at = 0;
        bencher.iter(|| {
            at = (at + 1) % ENTRIES;
            let slots = &slots[starts[at] as usize..][..100];
            slots.iter().map(|slot| black_box(slot.base_offset) + u64::from(slot.bytes)).sum::<u64>()
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
