//! Merges: nothing lost, nothing revived, nothing changed.

use std::{collections::BTreeMap, ops::Range, path::Path, rc::Rc};

use proptest::prelude::*;
use runtime::{
    Runtime as _,
    sim::{SimRuntime, Simulation},
};
use storage::{
    PartitionId,
    compaction::{
        Options,
        merge::{Merge, MergeError},
        strategy::{Choice, MergeInputs, pick},
    },
    segment::{
        Extent, PlanLimits, SegmentError, SegmentId, SegmentMeta, file_name,
        format::{Identity, SectionKind, encode_footer},
    },
};
use wire::record::BatchError;

use crate::model::{
    BatchSpec, DIR, LOG_ID, Model, ModelBatch, batch_specs, batches, kept, read_all, segments, with_blocks, write,
};

/// Small enough that a few batches make a segment.
const OPTIONS: Options = Options {
    merge_inputs: 4,
    limits: PlanLimits { own_bytes_min: 30_000, shared_bytes_max: 80_000 },
    read_bytes_max: 20_000,
    key_bytes_max: 1 << 20,
    look_every: std::time::Duration::from_secs(15),
};

const FIRST_OUTPUT: u64 = 100;

/// One flush: what it wrote, partition after partition. Offsets go on where the flush before ended.
type Flushes = Vec<BTreeMap<PartitionId, Vec<BatchSpec>>>;

fn flushes() -> impl Strategy<Value = Flushes> {
    let flush = prop::collection::btree_map((1..6u64).prop_map(PartitionId), batch_specs(6), 1..4);
    prop::collection::vec(flush, 4..8)
}

/// Numbers the offsets of all flushes through.
fn placed(flushes: &Flushes) -> Vec<Model> {
    let mut next_offsets = BTreeMap::<PartitionId, u64>::new();
    let mut place = |(&partition, specs): (&PartitionId, &Vec<BatchSpec>)| {
        let next_offset = next_offsets.entry(partition).or_default();
        let placed = batches(*next_offset, &without_epochs(specs));
        *next_offset = placed[placed.len() - 1].next_offset;
        (partition, placed)
    };
    flushes.iter().map(|flush| flush.iter().map(&mut place).collect()).collect()
}

/// Leader epochs would have to rise across flushes too; one will do.
fn without_epochs(specs: &[BatchSpec]) -> Vec<BatchSpec> {
    specs.iter().map(|spec| BatchSpec { epoch_step: 0, ..spec.clone() }).collect()
}

/// Writes each flush as the engine does: large partitions alone, the others together.
async fn flush(rt: &SimRuntime, flushes: &[Model]) -> Vec<(SegmentMeta, Model)> {
    let mut written = Vec::new();
    for model in flushes {
        let bytes = |batches: &[ModelBatch]| batches.iter().map(|batch| batch.bytes.len() as u64).sum();
        let sizes = model.iter().map(|(&partition, batches)| (partition, bytes(batches)));
        for planned in storage::segment::plan(sizes, &OPTIONS.limits) {
            let part: Model = model.clone().into_iter().filter(|(id, _)| planned.partitions.contains(id)).collect();
            let id = SegmentId(written.len() as u64 + 1);
            written.push((write(rt, id, 0, &part).await, part));
        }
    }
    written
}

/// All that counts of some segments, in their order.
fn contents<'a>(
    segments: impl IntoIterator<Item = &'a (SegmentMeta, Model)>,
    keep: &impl Fn(SegmentId, PartitionId) -> Option<Range<u64>>,
) -> Model {
    let mut all = Model::new();
    for (meta, model) in segments {
        for (&partition, batches) in model {
            let Some(offsets) = keep(meta.id, partition) else { continue };
            let kept = kept(batches, &offsets);
            if !kept.is_empty() {
                all.entry(partition).or_default().extend(kept);
            }
        }
    }
    all
}

async fn merge<K>(
    rt: &SimRuntime,
    inputs: &MergeInputs,
    keep: K,
) -> Result<(Vec<SegmentId>, Vec<SegmentMeta>), MergeError>
where
    K: Fn(SegmentId, PartitionId) -> Option<Range<u64>>,
{
    let keep = move |segment: SegmentId, partition: PartitionId| keep(segment, partition).into();
    let merge = Merge::plan(&segments(rt), rt, inputs, keep, OPTIONS).await?;
    let ids: Vec<_> = (FIRST_OUTPUT..).take(merge.outputs()).map(SegmentId).collect();
    let outputs = merge.run(Path::new(DIR), &ids).await?;
    rt.sync_dir(Path::new(DIR)).await.unwrap();
    Ok((merge.inputs().collect(), outputs))
}

fn check_shape(outputs: &[(SegmentMeta, Model)]) {
    let mut partitions = Vec::new();
    for (meta, model) in outputs {
        assert_eq!(meta.level, 1);
        assert!(model.len() == 1 || meta.batch_bytes <= OPTIONS.limits.shared_bytes_max);
        partitions.extend(model.keys().copied());
    }
    let count = partitions.len();
    partitions.sort();
    partitions.dedup();
    assert_eq!(partitions.len(), count, "a partition lies in one output");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn outputs_hold_what_counts_of_the_inputs(
        flushes in flushes(),
        block_bytes in prop_oneof![Just(4096usize), Just(1 << 20)],
        log_starts in prop::collection::btree_map((1..6u64).prop_map(PartitionId), 0..40u64, 0..3),
        dropped in prop::collection::btree_set((1..6u64).prop_map(PartitionId), 0..2),
    ) {
        with_blocks(block_bytes, async move |rt| {
            let flushed = flush(&rt, &placed(&flushes)).await;
            let metas: Vec<_> = flushed.iter().map(|(meta, _)| meta.clone()).collect();
            let Choice::Merge(inputs) = pick(&metas, &BTreeMap::new(), |_| false, &OPTIONS) else { return };
            let keep = move |_: SegmentId, partition: PartitionId| {
                let log_start = log_starts.get(&partition).copied().unwrap_or(0);
                (!dropped.contains(&partition)).then_some(log_start..u64::MAX)
            };
            let (merged, outputs) = merge(&rt, &inputs, &keep).await.unwrap();
            let mut written = Vec::new();
            for meta in outputs {
                let model = read_all(&segments(&rt), &meta, 50_000).await.unwrap();
                written.push((meta, model));
            }
            check_shape(&written);
            let everything = |_: SegmentId, _: PartitionId| Some(0..u64::MAX);
            let expected = contents(flushed.iter().filter(|(meta, _)| merged.contains(&meta.id)), &keep);
            assert_eq!(contents(&written, &everything), expected);

            // With the outputs in the place of the first input, offsets of every partition still ascend.
            let place = metas.iter().position(|meta| merged.contains(&meta.id)).unwrap();
            let mut live: Vec<_> = flushed.into_iter().filter(|(meta, _)| !merged.contains(&meta.id)).collect();
            live.splice(place..place, written);
            for (partition, batches) in contents(&live, &everything) {
                assert!(batches.is_sorted_by(|a, b| a.next_offset <= b.base_offset), "{partition:?}");
            }
        });
    }

    #[test]
    fn what_was_truncated_does_not_come_back(
        specs in prop::collection::vec(batch_specs(6), 4),
        cut in 1..4usize,
        cut_offset in any::<prop::sample::Index>(),
    ) {
        let partition = PartitionId(1);
        let mut next_offset = 0;
        let mut before = Vec::new();
        for specs in &specs[..cut] {
            before.push(batches(next_offset, &without_epochs(specs)));
            next_offset = before.last().unwrap().last().unwrap().next_offset;
        }
        let clip = cut_offset.index(next_offset as usize) as u64;
        let all_before: Vec<_> = before.iter().flatten().cloned().collect();
        next_offset = kept(&all_before, &(0..clip)).last().map_or(0, |batch| batch.next_offset);
        let mut after = Vec::new();
        for specs in &specs[cut..] {
            after.push(batches(next_offset, &without_epochs(specs)));
            next_offset = after.last().unwrap().last().unwrap().next_offset;
        }
        let mut expected = kept(&all_before, &(0..clip));
        expected.extend(after.iter().flatten().cloned());
        with_blocks(16384, async move |rt| {
            let mut unsettled = Vec::new();
            for (id, batches) in (1..).zip(before.iter().chain(&after)) {
                unsettled.push(write(&rt, SegmentId(id), 0, &Model::from([(partition, batches.clone())])).await);
            }
            let clipped = SegmentId(cut as u64);
            let keep = |id: SegmentId, _: PartitionId| Some(0..if id <= clipped { clip } else { u64::MAX });
            let (_, outputs) = merge(&rt, &MergeInputs { unsettled, between: Vec::new() }, keep).await.unwrap();
            let read = read_all(&segments(&rt), &outputs[0], 1_000_000).await.unwrap();
            assert_eq!((outputs.len(), &read[&partition]), (1, &expected));
        });
    }
}

fn one_batch(partition: u64, base_offset: u64, value_bytes: usize) -> Model {
    Model::from([(PartitionId(partition), batches(base_offset, &[BatchSpec::of_records(1, value_bytes)]))])
}

async fn write_all(rt: &SimRuntime, models: &[Model]) -> Vec<SegmentMeta> {
    let mut metas = Vec::new();
    for (id, model) in (1..).zip(models) {
        metas.push(write(rt, SegmentId(id), 0, model).await);
    }
    metas
}

fn everything(_: SegmentId, _: PartitionId) -> Option<Range<u64>> {
    Some(0..u64::MAX)
}

#[test]
fn a_settled_segment_is_merged_along_only_if_its_partition_goes_on_behind_it() {
    let merged = |models: Vec<Model>| {
        with_blocks(16384, async move |rt| {
            let Choice::Merge(inputs) = pick(&write_all(&rt, &models).await, &BTreeMap::new(), |_| false, &OPTIONS)
            else {
                panic!("too few inputs")
            };
            assert_eq!(inputs.between.len(), 1);
            merge(&rt, &inputs, everything).await.unwrap().0.iter().map(|id| id.0).collect::<Vec<_>>()
        })
    };
    let (small, large) = (100, 40_000);
    let own = one_batch(1, 10, large);
    let before = one_batch(1, 0, small);
    let behind = one_batch(1, 20, small);
    let other = |offset| one_batch(2, offset, small);
    assert_eq!(merged(vec![before.clone(), own.clone(), other(0), other(1), other(2)]), [1, 3, 4, 5]);
    assert_eq!(merged(vec![other(0), own.clone(), other(1), other(2), behind.clone()]), [1, 2, 3, 4, 5]);
    assert_eq!(merged(vec![before, own, other(0), other(1), behind]), [1, 2, 3, 4, 5]);
}

#[test]
fn where_nothing_counts_nothing_is_written() {
    let simulation = Simulation::new(2);
    let node = simulation.add_node();
    let outputs = simulation.block_on(node, async |rt| {
        let models: Vec<_> = (0..4).map(|number| one_batch(1, number * 10, 100)).collect();
        let inputs = MergeInputs { unsettled: write_all(&rt, &models).await, between: Vec::new() };
        merge(&rt, &inputs, |_, _| None).await.unwrap()
    });
    assert_eq!(outputs.unwrap(), ((1..=4).map(SegmentId).collect(), Vec::new()));
    assert_eq!(simulation.disk(node).files().len(), 4);
}

#[test]
fn a_partition_dropped_while_the_merge_runs_leaves_no_file() {
    let simulation = Simulation::new(2);
    let node = simulation.add_node();
    let outputs = simulation.block_on(node, async |rt| {
        let models: Vec<_> = (0..4).map(|number| one_batch(1, number * 10, 100)).collect();
        let inputs = MergeInputs { unsettled: write_all(&rt, &models).await, between: Vec::new() };
        let dropped = Rc::new(std::cell::Cell::new(false));
        let keep = |_: SegmentId, _: PartitionId| (!dropped.get()).then_some(0..u64::MAX).into();
        let merge = Merge::plan(&segments(&rt), &rt, &inputs, keep, OPTIONS).await.unwrap();
        dropped.set(true);
        merge.run(Path::new(DIR), &[SegmentId(FIRST_OUTPUT)]).await.unwrap()
    });
    assert_eq!(outputs.unwrap(), []);
    assert_eq!(simulation.disk(node).files().len(), 4);
}

#[test]
fn inputs_that_hold_the_same_offsets_are_refused() {
    let merged = with_blocks(16384, async |rt| {
        let models = [one_batch(1, 0, 10), one_batch(1, 5, 10), one_batch(1, 5, 10)];
        let inputs = MergeInputs { unsettled: write_all(&rt, &models).await, between: Vec::new() };
        merge(&rt, &inputs, everything).await
    });
    let error = merged.unwrap_err();
    assert!(matches!(error, MergeError::Overlap { segment: SegmentId(3), found: 5, merged: 6, .. }), "{error}");
}

#[test]
fn damage_in_an_input_is_not_passed_on() {
    let simulation = Simulation::new(4);
    let node = simulation.add_node();
    let models: Vec<_> = (0..4).map(|number| one_batch(number, 0, 5_000)).collect();
    let inputs = simulation.block_on(node, async move |rt| write_all(&rt, &models).await).unwrap();
    simulation.disk(node).flip_byte(format!("{DIR}/{}", file_name(SegmentId(3))), 6_000);
    let merged = simulation.block_on(node, async move |rt| {
        merge(&rt, &MergeInputs { unsettled: inputs, between: Vec::new() }, everything).await
    });
    let error = merged.unwrap().unwrap_err();
    assert!(matches!(&error, MergeError::Read { source: SegmentError::Format { .. }, .. }), "{error}");
    assert!(error.to_string().contains(&file_name(SegmentId(3))), "{error}");
}

/// Its checksums hold, so it was written like this: a later version may do that, or a bug.
#[test]
fn a_batch_that_makes_no_sense_is_the_fault_of_its_input() {
    let simulation = Simulation::new(4);
    let node = simulation.add_node();
    let models = [one_batch(1, 0, 100), one_batch(1, 10, 100)];
    let inputs = simulation.block_on(node, async move |rt| write_all(&rt, &models).await).unwrap();
    let (id, footer_position) = (inputs[1].id, inputs[1].footer_position);
    let path = format!("{DIR}/{}", file_name(id));
    let mut blocks = simulation.disk(node).read(&path).unwrap()[..footer_position as usize].to_vec();
    blocks[4096 + wire::record::position::MAGIC] = 9;
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let seal = crc32c::crc32c_append(crc32c::crc32c(&LOG_ID.to_le_bytes()), &id.0.to_le_bytes());
    let checksum = [&[1][..], &0u64.to_le_bytes(), &blocks].into_iter().fold(seal, crc32c::crc32c_append);
    let epochs = [&1u32.to_le_bytes()[..], &10u64.to_le_bytes()].concat();
    let sections = [
        (SectionKind::Directory as u16, true, &words(&[1, 10, 11, 4096, 1_000, 0])[..]),
        (SectionKind::OffsetIndex as u16, true, &words(&[10, 4096])),
        (SectionKind::TimeIndex as u16, true, &words(&[1_000])),
        (SectionKind::EpochIndex as u16, true, &epochs),
        (SectionKind::BlockChecksums as u16, true, &checksum.to_le_bytes()),
    ];
    let identity = Identity { log_id: LOG_ID, id, level: 0 };
    let footer = encode_footer(&identity, footer_position, inputs[1].batch_bytes, &sections);
    simulation.disk(node).damage(&path, 0, &[&blocks[..], &footer].concat());
    let merged = simulation.block_on(node, async move |rt| {
        merge(&rt, &MergeInputs { unsettled: inputs, between: Vec::new() }, everything).await
    });
    let MergeError::Read { segment, source: SegmentError::Batch { position, source, .. } } =
        merged.unwrap().unwrap_err()
    else {
        panic!("another error")
    };
    assert_eq!((segment, position, source), (id, 4096, BatchError::Magic { found: 9 }));
}

/// Sixteen flushes of many small partitions: reads are large whatever the size of the partitions.
#[test]
fn inputs_are_read_once_from_front_to_back() {
    let simulation = Simulation::with_options(6, runtime::sim::Options { block_bytes: 1 << 20, ..Default::default() });
    let node = simulation.add_node();
    let disk = simulation.disk(node);
    let counted = Rc::clone(&disk);
    let reads = simulation.block_on(node, async move |rt| {
        let mut inputs = Vec::new();
        for id in 0..16 {
            let spec = [BatchSpec::of_records(1, 300)];
            let model: Model = (0..400).map(|partition| (PartitionId(partition), batches(id, &spec))).collect();
            inputs.push(write(&rt, SegmentId(id + 1), 0, &model).await);
        }
        let before = counted.ops(runtime::sim::disk::OpKind::Read);
        let inputs = MergeInputs { unsettled: inputs, between: Vec::new() };
        let keep = |segment, partition| everything(segment, partition).into();
        let merge = Merge::plan(&segments(&rt), &rt, &inputs, keep, Options::default()).await.unwrap();
        let ids = [SegmentId(FIRST_OUTPUT)];
        let outputs = merge.run(Path::new(DIR), &ids).await.unwrap();
        assert!(matches!(outputs[0].extent, Extent::Shared { first: PartitionId(0), last: PartitionId(399) }));
        counted.ops(runtime::sim::disk::OpKind::Read) - before
    });
    assert_eq!(reads.unwrap(), 16 * 3, "a footer, and 200 KiB of batches in steps of 128, for each input");
}

#[test]
fn what_does_not_count_is_not_read() {
    let simulation = Simulation::new(8);
    let node = simulation.add_node();
    let disk = simulation.disk(node);
    let counted = Rc::clone(&disk);
    let reads = simulation.block_on(node, async move |rt| {
        let model = Model::from([(PartitionId(1), batches(0, &vec![BatchSpec::of_records(1, 30_000); 40]))]);
        let unsettled = vec![write(&rt, SegmentId(1), 0, &model).await];
        let before = counted.ops(runtime::sim::disk::OpKind::Read);
        let keep = |_: SegmentId, _: PartitionId| Some(39..u64::MAX);
        merge(&rt, &MergeInputs { unsettled, between: Vec::new() }, keep).await.unwrap();
        counted.ops(runtime::sim::disk::OpKind::Read) - before
    });
    assert_eq!(reads.unwrap(), 2, "a footer and one batch of forty");
}

#[test]
fn damage_in_what_does_not_count_does_no_harm() {
    let simulation = Simulation::with_options(3, runtime::sim::Options { block_bytes: 1 << 20, ..Default::default() });
    let node = simulation.add_node();
    let inputs = simulation.block_on(node, async |rt| {
        let specs = vec![BatchSpec::of_records(1, 2_000); 100];
        let model = Model::from([(PartitionId(1), batches(0, &specs[..5])), (PartitionId(2), batches(0, &specs))]);
        vec![write(&rt, SegmentId(1), 0, &model).await]
    });
    simulation.disk(node).flip_byte(format!("{DIR}/{}", file_name(SegmentId(1))), 150_000);
    let merged = simulation.block_on(node, async move |rt| {
        let inputs = MergeInputs { unsettled: inputs.unwrap(), between: Vec::new() };
        let keep = |_: SegmentId, partition: PartitionId| (partition == PartitionId(1)).then_some(0..u64::MAX).into();
        let merge = Merge::plan(&segments(&rt), &rt, &inputs, keep, Options::default()).await.unwrap();
        merge.run(Path::new(DIR), &[SegmentId(FIRST_OUTPUT)]).await
    });
    assert!(matches!(
        merged.unwrap().unwrap()[0].extent,
        Extent::Own { partition: PartitionId(1), next_offset: 5, .. }
    ));
}
