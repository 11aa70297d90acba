//! What a segment should hold, kept beside it: plain lists that a test can search by brute force.

use std::{collections::BTreeMap, ops::Range, path::Path};

use proptest::prelude::*;
use runtime::{
    Frozen, Runtime as _,
    sim::{self, SimRuntime},
};
use storage::{
    PartitionId,
    segment::{SegmentId, SegmentMeta, SegmentWriter, Segments, reader::Run},
};
use wire::record::{Batch, BatchBuilder, Producer, patch_base_offset, patch_leader_epoch};

pub(crate) const DIR: &str = "log/segments";
pub(crate) const LOG_ID: u128 = 0x1234_5678_9abc_def0_0fed_cba9_8765_4321;

/// One batch, and what is known of it without looking inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelBatch {
    pub(crate) base_offset: u64,
    pub(crate) next_offset: u64,
    pub(crate) leader_epoch: i32,
    /// Offset and timestamp of each record.
    pub(crate) records: Vec<(u64, i64)>,
    pub(crate) bytes: Vec<u8>,
}

/// The batches of some partitions, each in order.
pub(crate) type Model = BTreeMap<PartitionId, Vec<ModelBatch>>;

/// What a batch is made from.
#[derive(Clone, Debug)]
pub(crate) struct BatchSpec {
    /// Offsets left out in front of it.
    pub(crate) gap: u64,
    /// How much later its leader epoch is.
    pub(crate) epoch_step: i32,
    /// One timestamp a record.
    pub(crate) timestamps: Vec<i64>,
    /// Bytes of each record's value.
    pub(crate) value_bytes: usize,
}

impl BatchSpec {
    pub(crate) fn of_records(records: usize, value_bytes: usize) -> Self {
        Self { gap: 0, epoch_step: 0, timestamps: vec![1_000; records], value_bytes }
    }
}

/// The batches that `specs` describe, from `base_offset` on.
pub(crate) fn batches(base_offset: u64, specs: &[BatchSpec]) -> Vec<ModelBatch> {
    let (mut next_offset, mut leader_epoch) = (base_offset, 1);
    specs
        .iter()
        .map(|spec| {
            leader_epoch += spec.epoch_step;
            let batch = batch(next_offset + spec.gap, leader_epoch, spec);
            next_offset = batch.next_offset;
            batch
        })
        .collect()
}

fn batch(base_offset: u64, leader_epoch: i32, spec: &BatchSpec) -> ModelBatch {
    let mut builder = BatchBuilder::new(16 << 20);
    let mut records = Vec::new();
    for (offset, &timestamp_ms) in (base_offset..).zip(&spec.timestamps) {
        // Values that differ from place to place, so that no two blocks are alike.
        let value: Vec<u8> = (0..spec.value_bytes).map(|at| (offset as usize * 31 + at * 7 + at / 251) as u8).collect();
        builder.append(timestamp_ms, None, Some(&value), &[]).expect("the batch has room");
        records.push((offset, timestamp_ms));
    }
    let mut bytes = builder.build(Producer::NONE).to_vec();
    patch_base_offset(&mut bytes, base_offset);
    patch_leader_epoch(&mut bytes, leader_epoch);
    ModelBatch { base_offset, next_offset: base_offset + records.len() as u64, leader_epoch, records, bytes }
}

/// Specs of batches of all sizes: many small ones in an interval, and ones that span several blocks.
pub(crate) fn batch_specs(batches_max: usize) -> impl Strategy<Value = Vec<BatchSpec>> {
    let value_bytes = prop_oneof![6 => 0..200usize, 3 => 1_000..6_000usize, 1 => 20_000..150_000usize];
    let timestamps = prop_oneof![
        prop::collection::vec(0..1_000i64, 1..6),
        (0..1_000i64, 1..6usize).prop_map(|(first, records)| (first..).take(records).collect()),
    ];
    let spec =
        (prop_oneof![4 => Just(0u64), 1 => 1..20u64], prop_oneof![9 => Just(0), 1 => 1..3], timestamps, value_bytes)
            .prop_map(|(gap, epoch_step, timestamps, value_bytes)| BatchSpec {
                gap,
                epoch_step,
                timestamps,
                value_bytes,
            });
    prop::collection::vec(spec, 1..batches_max)
}

/// Some partitions with some batches each.
pub(crate) fn models(partitions_max: usize, batches_max: usize) -> impl Strategy<Value = Model> {
    let partition = (0..1_000u64, 0..50u64, batch_specs(batches_max));
    prop::collection::vec(partition, 1..partitions_max).prop_map(|partitions| {
        partitions.into_iter().map(|(id, base, specs)| (PartitionId(id), batches(base, &specs))).collect()
    })
}

/// What lies in `offsets`: a batch that ends behind the start, and does not reach beyond the end.
pub(crate) fn kept(batches: &[ModelBatch], offsets: &Range<u64>) -> Vec<ModelBatch> {
    batches
        .iter()
        .filter(|batch| batch.next_offset > offsets.start)
        .take_while(|batch| batch.next_offset <= offsets.end)
        .cloned()
        .collect()
}

/// Writes a model as segment `id`, handing over a few batches at a time.
pub(crate) async fn write(rt: &SimRuntime, id: SegmentId, level: u8, model: &Model) -> SegmentMeta {
    let dir = Path::new(DIR);
    rt.create_dir_all(dir).await.unwrap();
    let mut writer = SegmentWriter::create(rt, dir, id, LOG_ID, level).await.unwrap();
    for (&partition, batches) in model {
        for batches in batches.chunks(3) {
            let bytes: Vec<u8> = batches.iter().flat_map(|batch| batch.bytes.clone()).collect();
            writer.push(partition, &bytes).await.unwrap();
        }
    }
    let meta = writer.finish().await.unwrap();
    rt.sync_dir(dir).await.unwrap();
    meta
}

/// The segments of the log under test, with room for a few footers.
pub(crate) fn segments(rt: &SimRuntime) -> Segments<SimRuntime> {
    Segments::new(rt, DIR.into(), LOG_ID, 1 << 20)
}

/// Everything a segment holds, read in runs of at most `bytes_max` bytes.
pub(crate) async fn read_all(
    segments: &Segments<SimRuntime>,
    meta: &SegmentMeta,
    bytes_max: usize,
) -> Result<Model, storage::segment::SegmentError> {
    let partitions: Vec<_> =
        segments.open(meta).await?.footer().holdings().map(|holding| holding.entry.partition).collect();
    let mut model = Model::new();
    for partition in partitions {
        let mut next_offset = 0;
        while let Some(run) = segments.read(meta, partition, next_offset..u64::MAX, bytes_max).await? {
            assert!(run.next_offset > next_offset, "a read that leads nowhere");
            next_offset = run.next_offset;
            model.entry(partition).or_default().extend(decode(&joined(&run)));
        }
    }
    Ok(model)
}

/// The bytes of a run in one piece.
pub(crate) fn joined<F: Frozen>(run: &Run<F>) -> Vec<u8> {
    let bytes = run.slices.iter().map(|slice| &**slice).collect::<Vec<_>>().concat();
    assert_eq!(bytes.len(), run.bytes);
    bytes
}

/// The batches of a run, as a model has them.
pub(crate) fn decode(run: &[u8]) -> Vec<ModelBatch> {
    wire::record::Batches::new(run)
        .map(|batch: Result<Batch<'_>, _>| {
            let batch = batch.expect("a run is whole batches");
            batch.verify_stored().expect("batches come back as they went in");
            ModelBatch {
                base_offset: batch.base_offset(),
                next_offset: batch.next_offset(),
                leader_epoch: batch.leader_epoch(),
                records: batch
                    .records()
                    .unwrap()
                    .map(|record| record.map(|record| (record.offset, record.timestamp_ms)).unwrap())
                    .collect(),
                bytes: batch.bytes().to_vec(),
            }
        })
        .collect()
}

/// Runs `task` on a node whose blocks have `block_bytes`.
pub(crate) fn with_blocks<T: 'static, F: Future<Output = T> + 'static>(
    block_bytes: usize,
    task: impl FnOnce(SimRuntime) -> F,
) -> T {
    let simulation = sim::Simulation::with_options(1, sim::Options { block_bytes, ..sim::Options::default() });
    let node = simulation.add_node();
    simulation.block_on(node, task).unwrap_or_else(|error| panic!("{error}"))
}
