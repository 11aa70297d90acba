//! Lookups by key: what a plain walk over the batches would find, at the cost of a page and a batch.

use std::{collections::BTreeMap, ops::Range, path::Path, rc::Rc};

use proptest::prelude::*;
use runtime::{
    Runtime as _,
    sim::{SimRuntime, Simulation, disk::OpKind},
};
use storage::{
    Last, PartitionId,
    index::key_hash::KeyHasher,
    segment::{SegmentError, SegmentId, SegmentMeta, SegmentWriter, Segments, file_name},
};
use wire::record::{BatchBuilder, Producer, patch_base_offset, patch_leader_epoch};

use crate::model::{DIR, LOG_ID, segments, with_blocks};

pub(crate) const ID: SegmentId = SegmentId(0x12);

/// Key and value of each record of a batch; no value deletes the key.
pub(crate) type KeyedBatch = Vec<(Option<u8>, Option<u16>)>;

/// Batches of each partition, and whether it gets a key table.
pub(crate) type KeyedModel = BTreeMap<PartitionId, (bool, Vec<KeyedBatch>)>;

fn key_bytes(key: u8) -> Vec<u8> {
    vec![key; 1 + usize::from(key % 40)]
}

fn value_bytes(value: u16) -> Vec<u8> {
    value.to_le_bytes().repeat(1 + usize::from(value % 50))
}

fn batch(records: &KeyedBatch, base_offset: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1 << 20);
    for &(key, value) in records {
        let (key, value) = (key.map(key_bytes), value.map(value_bytes));
        builder.append(1_000, key.as_deref(), value.as_deref(), &[]).expect("the batch has room");
    }
    let mut bytes = builder.build(Producer::NONE).to_vec();
    patch_base_offset(&mut bytes, base_offset);
    patch_leader_epoch(&mut bytes, 1);
    bytes
}

pub(crate) async fn write(rt: &SimRuntime, model: &KeyedModel) -> SegmentMeta {
    let dir = Path::new(DIR);
    rt.create_dir_all(dir).await.unwrap();
    let mut writer = SegmentWriter::create(rt, dir, ID, LOG_ID, 0).await.unwrap();
    for (&partition, (indexed, batches)) in model {
        if *indexed {
            writer.index_keys(partition).await;
        }
        let mut offset = 0;
        for records in batches {
            writer.push(partition, &batch(records, offset)).await.unwrap();
            offset += records.len() as u64;
        }
    }
    let meta = writer.finish().await.unwrap();
    rt.sync_dir(dir).await.unwrap();
    meta
}

/// The last record of a key by brute force: its offset, and its value.
fn expected(batches: &[KeyedBatch], offsets: &Range<u64>, key: u8) -> Option<(u64, Option<u16>)> {
    let (mut next, mut last) = (0, None);
    for records in batches {
        let base = next;
        next += records.len() as u64;
        if next > offsets.end {
            break;
        }
        for (offset, &(found, value)) in (base..).zip(records) {
            if found == Some(key) && offset >= offsets.start {
                last = Some((offset, value));
            }
        }
    }
    last
}

async fn last_of_key(
    segments: &Segments<SimRuntime>,
    meta: &SegmentMeta,
    partition: PartitionId,
    offsets: Range<u64>,
    key: u8,
) -> Result<Option<Last>, SegmentError> {
    let key = key_bytes(key);
    segments.last_of_key(meta, partition, offsets, &key, KeyHasher::new(LOG_ID).hash(&key)).await
}

fn models() -> impl Strategy<Value = KeyedModel> {
    let record = (prop::option::weighted(0.9, 0..30u8), prop::option::weighted(0.8, any::<u16>()));
    let batches = prop::collection::vec(prop::collection::vec(record, 1..20), 1..30);
    prop::collection::btree_map((0..50u64).prop_map(PartitionId), (any::<bool>(), batches), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn lookups_agree_with_a_plain_walk(model in models(), ranges in prop::collection::vec((0..200u64, 0..400u64), 3)) {
        let failure = with_blocks(128 << 10, async move |rt| {
            let meta = write(&rt, &model).await;
            let segments = segments(&rt);
            for (&partition, (_, batches)) in &model {
                for offsets in ranges.iter().map(|&(start, length)| start..start + length).chain([0..u64::MAX]) {
                    for key in 0..31 {
                        let found = last_of_key(&segments, &meta, partition, offsets.clone(), key).await.unwrap();
                        let found = found.map(|last| (last.offset(), last.record().map(|record| record.value.to_vec())));
                        let expected = expected(batches, &offsets, key).map(|(at, value)| (at, value.map(value_bytes)));
                        if found != expected {
                            return Some(format!("{partition}, {offsets:?}, key {key}: {found:?}, {expected:?} expected"));
                        }
                    }
                }
            }
            None
        });
        prop_assert_eq!(failure, None);
    }
}

/// One partition with enough keys for several pages; key `n` is at offset `n`.
fn many_keys(indexed: bool) -> (KeyedModel, u64) {
    let batches: Vec<KeyedBatch> =
        (0..40u16).map(|n| (0..50).map(|at| (Some((n % 5 * 50 + at) as u8), Some(n))).collect()).collect();
    (KeyedModel::from([(PartitionId(1), (indexed, batches))]), 35 * 50)
}

#[test]
fn a_lookup_reads_a_page_and_a_batch_and_a_stranger_nothing() {
    let simulation = Simulation::with_options(1, runtime::sim::Options { block_bytes: 1 << 20, ..Default::default() });
    let node = simulation.add_node();
    let disk = simulation.disk(node);
    let counted = Rc::clone(&disk);
    simulation
        .block_on(node, async move |rt| {
            let (model, first_of_last) = many_keys(true);
            let meta = write(&rt, &model).await;
            let segments = segments(&rt);
            let mut reads = counted.ops(OpKind::Read);
            let mut reads_since = || {
                let before = std::mem::replace(&mut reads, counted.ops(OpKind::Read));
                reads - before
            };
            let all = 0..u64::MAX;
            let found = last_of_key(&segments, &meta, PartitionId(1), all.clone(), 7).await.unwrap().unwrap();
            assert_eq!((found.offset(), reads_since()), (first_of_last + 7, 4), "footer, filter, page, batch");
            last_of_key(&segments, &meta, PartitionId(1), all.clone(), 8).await.unwrap().unwrap();
            assert_eq!(reads_since(), 2, "page and batch");
            let strangers = (250..=255u8).chain(251..=255);
            for stranger in strangers {
                assert_eq!(last_of_key(&segments, &meta, PartitionId(1), all.clone(), stranger).await.unwrap(), None);
            }
            assert!(reads_since() <= 2, "strangers are turned away by the filter");
        })
        .unwrap();
}

#[test]
fn what_lookups_keep_counts_against_the_limit_of_footers() {
    with_blocks(1 << 20, async |rt| {
        let (model, _) = many_keys(true);
        let meta = write(&rt, &model).await;
        let segments = Segments::new(&rt, DIR.into(), LOG_ID, 1 << 20);
        segments.open(&meta).await.unwrap();
        let footer_bytes = segments.footer_bytes();
        last_of_key(&segments, &meta, PartitionId(1), 0..u64::MAX, 7).await.unwrap().unwrap();
        // 250 keys: one fence, and 11 blocks of filter.
        assert_eq!(segments.footer_bytes(), footer_bytes + 8 + 11 * 32);
    });
}

#[test]
fn damage_in_a_table_is_named_and_nothing_is_guessed() {
    let simulation = Simulation::with_options(2, runtime::sim::Options { block_bytes: 1 << 20, ..Default::default() });
    let node = simulation.add_node();
    let meta = simulation.block_on(node, async |rt| write(&rt, &many_keys(true).0).await).unwrap();
    simulation.disk(node).flip_byte(format!("{DIR}/{}", file_name(ID)), 4096 + meta.batch_bytes + 5);
    let found = simulation
        .block_on(node, async move |rt| last_of_key(&segments(&rt), &meta, PartitionId(1), 0..u64::MAX, 7).await);
    assert!(matches!(found.unwrap(), Err(SegmentError::Format { .. })));
}

#[test]
fn a_partition_without_a_table_is_walked() {
    with_blocks(1 << 20, async |rt| {
        let (model, first_of_last) = many_keys(false);
        let meta = write(&rt, &model).await;
        assert!(segments(&rt).open(&meta).await.unwrap().footer().key_table(PartitionId(1)).is_none());
        let found = last_of_key(&segments(&rt), &meta, PartitionId(1), 0..u64::MAX, 7).await.unwrap().unwrap();
        assert_eq!(found.offset(), first_of_last + 7);
    });
}

/// What a table says the batches say too: damage to it makes a lookup slow, not impossible.
#[test]
fn a_damaged_table_is_walked_around() {
    let simulation = Simulation::new(3);
    let node = simulation.add_node();
    let disk = simulation.disk(node);
    let lived = simulation.block_on(node, async move |rt: SimRuntime| {
        let partition = PartitionId(1);
        // So many that the table ends in a block behind those of the batches.
        for count in 200.. {
            let batches: Vec<KeyedBatch> = (0..count).map(|n| vec![(Some((n % 200) as u8), Some(n)); 4]).collect();
            let meta = write(&rt, &KeyedModel::from([(partition, (true, batches.clone()))])).await;
            let (batches_end, table_end) = (4096 + meta.batch_bytes, meta.footer_position - 1);
            if table_end / (64 << 10) == batches_end / (64 << 10) {
                rt.remove_file(&Path::new(DIR).join(file_name(ID))).await.unwrap();
                continue;
            }
            disk.flip_byte(format!("{DIR}/{}", file_name(ID)), table_end);
            let segments = segments(&rt);
            for key in [0, 77, 199] {
                let last = last_of_key(&segments, &meta, partition, 0..u64::MAX, key).await.unwrap();
                let found = last.map(|last| last.offset());
                assert_eq!(found, expected(&batches, &(0..u64::MAX), key).map(|(offset, _)| offset));
            }
            return;
        }
    });
    lived.unwrap();
}
