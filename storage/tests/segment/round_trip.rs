//! What was written comes back: by offset, by time, by leader epoch.

use std::{ops::Range, path::Path};

use proptest::prelude::*;
use runtime::sim;
use storage::{
    PartitionId,
    index::offset_index::INTERVAL_BYTES,
    segment::{Extent, SegmentId, file_name, reader::SegmentReader},
};

use crate::model::{
    BatchSpec, DIR, Model, ModelBatch, batches, decode, joined, kept, models, read_all, segments, with_blocks, write,
};

const ID: SegmentId = SegmentId(7);

/// Checks one read against the model: the right first batch, whole consecutive ones behind it, and no more than asked.
fn check_run(expected: &[ModelBatch], found: Option<Vec<ModelBatch>>, bytes_max: usize) {
    let Some(found) = found else {
        assert!(expected.is_empty(), "nothing read, {:?} expected", expected[0].base_offset..expected[0].next_offset);
        return;
    };
    assert!(!found.is_empty() && found.len() <= expected.len());
    assert_eq!(found, expected[..found.len()]);
    let bytes: usize = found.iter().map(|batch| batch.bytes.len()).sum();
    assert!(found.len() == 1 || bytes <= bytes_max, "{bytes} bytes read, at most {bytes_max} asked for");
}

fn first_at_or_after(batches: &[ModelBatch], offsets: &Range<u64>, timestamp_ms: i64) -> Option<(u64, i64)> {
    kept(batches, offsets)
        .iter()
        .flat_map(|batch| batch.records.clone())
        .find(|&(offset, found_ms)| offset >= offsets.start && found_ms >= timestamp_ms)
}

fn epoch_end(batches: &[ModelBatch], leader_epoch: i32, end_offset: u64) -> Option<(i32, u64)> {
    let end_offset = end_offset.min(batches[batches.len() - 1].next_offset);
    let counts = |batch: &&ModelBatch| batch.base_offset < end_offset;
    let found = batches.iter().filter(counts).rfind(|batch| batch.leader_epoch <= leader_epoch)?.leader_epoch;
    let next = batches.iter().filter(counts).find(|batch| batch.leader_epoch > found);
    Some((found, next.map_or(end_offset, |batch| batch.base_offset)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_offset_is_found_within_every_clip(
        model in models(5, 12),
        block_bytes in prop_oneof![Just(4096usize), Just(16384), Just(1 << 20)],
        bytes_max in prop::collection::vec(prop_oneof![Just(0usize), 1..1_000usize, 1_000..300_000usize], 3),
        clips in prop::collection::vec(0..80u64, 3),
    ) {
        with_blocks(block_bytes, async move |rt| {
            let meta = write(&rt, ID, 0, &model).await;
            let segments = segments(&rt);
            for (&partition, batches) in &model {
                let ends = batches.last().unwrap().next_offset;
                for (clip, &bytes_max) in clips.iter().copied().chain([u64::MAX]).zip(bytes_max.iter().cycle()) {
                    for offset in 0..=ends + 1 {
                        let offsets = offset..clip;
                        let run = segments.read(&meta, partition, offsets.clone(), bytes_max).await.unwrap();
                        let found = run.as_ref().map(|run| decode(&joined(run)));
                        if let (Some(run), Some(found)) = (&run, &found) {
                            assert_eq!(run.base_offset, found[0].base_offset);
                            assert_eq!(run.next_offset, found[found.len() - 1].next_offset);
                        }
                        check_run(&kept(batches, &offsets), found, bytes_max);
                    }
                }
            }
            assert!(segments.read(&meta, PartitionId(5_000), 0..u64::MAX, 100).await.unwrap().is_none());
        });
    }

    #[test]
    fn reading_on_gives_everything_once(model in models(8, 20), bytes_max in 0..400_000usize) {
        with_blocks(16384, async move |rt| {
            let meta = write(&rt, ID, 1, &model).await;
            assert_eq!(read_all(&segments(&rt), &meta, bytes_max).await.unwrap(), model);
        });
    }

    #[test]
    fn every_time_is_found_within_every_range(
        model in models(4, 12),
        asked in prop::collection::vec((0..80u64, 0..90u64, -1..1_010i64), 60),
    ) {
        with_blocks(16384, async move |rt| {
            let meta = write(&rt, ID, 0, &model).await;
            let segments = segments(&rt);
            for (&partition, batches) in &model {
                for &(start, length, timestamp_ms) in &asked {
                    let offsets = start..start + length;
                    let found = segments.first_at_or_after_timestamp(&meta, partition, offsets.clone(), timestamp_ms);
                    let expected = first_at_or_after(batches, &offsets, timestamp_ms);
                    assert_eq!(found.await.unwrap(), expected, "{timestamp_ms} in {offsets:?}");
                }
            }
        });
    }

    #[test]
    fn epochs_end_where_the_next_ones_start(model in models(4, 20)) {
        with_blocks(16384, async move |rt| {
            let meta = write(&rt, ID, 0, &model).await;
            let segments = segments(&rt);
            for (&partition, batches) in &model {
                for leader_epoch in 0..8 {
                    for clip in batches.iter().map(|batch| batch.base_offset).chain([0, u64::MAX]) {
                        let found = segments.epoch_end(&meta, partition, leader_epoch, clip).await.unwrap();
                        assert_eq!(found, epoch_end(batches, leader_epoch, clip), "{leader_epoch} below {clip}");
                    }
                }
            }
        });
    }

    #[test]
    fn the_manifest_is_told_what_the_file_says(model in models(6, 10)) {
        with_blocks(16384, async move |rt| {
            let meta = write(&rt, ID, 0, &model).await;
            let path = Path::new(DIR).join(file_name(ID));
            let unlisted = SegmentReader::open_unlisted(&rt, &path).await.unwrap();
            assert_eq!(unlisted.meta(), meta);

            let all: Vec<_> = model.values().flatten().collect();
            assert_eq!(meta.batch_bytes, all.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>());
            let timestamps = all.iter().flat_map(|batch| &batch.records).map(|record| record.1);
            assert_eq!(Some(meta.timestamp_max), timestamps.max());
            let (first, last) = (model.first_key_value().unwrap(), model.last_key_value().unwrap());
            match meta.extent {
                Extent::Own { partition, base_offset, next_offset } => {
                    assert_eq!((model.len(), partition), (1, *first.0));
                    assert_eq!(base_offset, first.1[0].base_offset);
                    assert_eq!(next_offset, first.1.last().unwrap().next_offset);
                }
                Extent::Shared { first: lowest, last: highest } => {
                    assert!(model.len() > 1);
                    assert_eq!((lowest, highest), (*first.0, *last.0));
                }
            }
            for (&partition, batches) in &model {
                let extent = segments(&rt).extent_of(&meta, partition).await.unwrap().unwrap();
                let (first, last) = (&batches[0], batches.last().unwrap());
                assert_eq!((extent.base_offset, extent.next_offset), (first.base_offset, last.next_offset));
                assert_eq!(extent.bytes, batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>());
            }
        });
    }
}

#[test]
fn large_reads_are_as_large_as_asked_and_lie_in_few_pieces() {
    const ASKED_BYTES: usize = 1 << 20;
    let specs = vec![BatchSpec::of_records(10, 11_000); 30];
    let model = Model::from([(PartitionId(1), batches(0, &specs))]);
    with_blocks(ASKED_BYTES, async move |rt| {
        let meta = write(&rt, ID, 0, &model).await;
        let segments = segments(&rt);
        let mut next_offset = 0;
        let mut lengths = Vec::new();
        while let Some(run) = segments.read(&meta, PartitionId(1), next_offset..u64::MAX, ASKED_BYTES).await.unwrap() {
            assert!(run.slices.len() <= 4, "1 MiB in {} pieces", run.slices.len());
            lengths.push(run.bytes);
            next_offset = run.next_offset;
        }
        let (_, full) = lengths.split_last().unwrap();
        assert!(full.len() > 2 && full.iter().all(|&length| length > ASKED_BYTES - 2 * 111_000), "{lengths:?}");
    });
}

#[test]
fn a_point_read_fetches_no_more_than_the_blocks_it_needs() {
    let specs = vec![BatchSpec::of_records(1, 100); 3_000];
    let model = Model::from([(PartitionId(1), batches(0, &specs))]);
    let simulation = sim::Simulation::new(3);
    let node = simulation.add_node();
    let capacity = simulation.block_on(node, async move |rt| {
        let meta = write(&rt, ID, 0, &model).await;
        let run = segments(&rt).read(&meta, PartitionId(1), 1_500..u64::MAX, 1).await.unwrap().unwrap();
        assert_eq!((run.base_offset, run.next_offset), (1_500, 1_501));
        run.slices.iter().map(runtime::Frozen::block_capacity).sum::<usize>()
    });
    assert!(capacity.unwrap() <= 2 * 64 * 1024, "an interval lies in two blocks at most");
    const { assert!(INTERVAL_BYTES < 64 * 1024) };
}
