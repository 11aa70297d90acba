//! Segments opened on demand: once, few, and not for ever.

use std::rc::Rc;

use runtime::{
    Runtime as _,
    sim::{Simulation, disk::OpKind},
};
use storage::{
    PartitionId,
    segment::{SegmentId, SegmentMeta, Segments, file_name},
};

use crate::model::{BatchSpec, DIR, LOG_ID, Model, batches, segments, write};

fn small_model() -> Model {
    Model::from([(PartitionId(1), batches(0, &[BatchSpec::of_records(1, 50)]))])
}

/// Three segments, and how many reads of the disk `task` takes once they are written.
fn reads_taken<F: Future<Output = ()> + 'static>(
    task: impl FnOnce(runtime::sim::SimRuntime, Vec<SegmentMeta>) -> F + 'static,
) -> u64 {
    let simulation = Simulation::new(9);
    let node = simulation.add_node();
    let disk = simulation.disk(node);
    let counted = Rc::clone(&disk);
    let before = simulation.block_on(node, async move |rt| {
        let mut metas = Vec::new();
        for id in 1..=3 {
            metas.push(write(&rt, SegmentId(id), 0, &small_model()).await);
        }
        let before = counted.ops(OpKind::Read);
        task(rt, metas).await;
        before
    });
    disk.ops(OpKind::Read) - before.unwrap()
}

#[test]
fn those_who_want_the_same_segment_share_one_opening() {
    let reads = reads_taken(async |rt, metas| {
        let segments = Rc::new(segments(&rt));
        let open = |meta: SegmentMeta| {
            let segments = Rc::clone(&segments);
            rt.spawn(async move { segments.open(&meta).await.map(drop) })
        };
        let tasks: Vec<_> = (0..8).map(|_| open(metas[0].clone())).collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(segments.open_files(), 1);
    });
    assert_eq!(reads, 1);
}

#[test]
fn the_least_recently_used_is_closed_first() {
    for (used_last, used_before) in [(0, 1), (1, 0)] {
        let reads = reads_taken(async move |rt, metas| {
            // Room for two footers of a page each, in the half that is theirs.
            let segments = Segments::new(&rt, DIR.into(), LOG_ID, 4 * 4096);
            for number in [0, 1, used_before, used_last, 2, used_last] {
                segments.open(&metas[number]).await.unwrap();
            }
            assert_eq!((segments.open_files(), segments.footer_bytes()), (2, 2 * 4096));
        });
        assert_eq!(reads, 3, "the third opening closed segment {used_before}");
    }
}

#[test]
fn a_footer_larger_than_the_limit_is_used_all_the_same() {
    reads_taken(async |rt, metas| {
        let segments = Segments::new(&rt, DIR.into(), LOG_ID, 0);
        for meta in &metas {
            assert!(segments.read(meta, PartitionId(1), 0..u64::MAX, 1).await.unwrap().is_some());
            assert_eq!(segments.open_files(), 1);
        }
    });
}

#[test]
fn a_forgotten_segment_is_opened_anew() {
    reads_taken(async |rt, metas| {
        let segments = segments(&rt);
        let in_use = segments.open(&metas[0]).await.unwrap();
        segments.forget(metas[0].id);
        rt.remove_file(format!("{DIR}/{}", file_name(metas[0].id)).as_ref()).await.unwrap();
        assert!(in_use.read(PartitionId(1), 0..u64::MAX, 1).await.unwrap().is_some(), "a read under way goes on");
        assert!(segments.open(&metas[0]).await.is_err());
        assert_eq!(segments.open_files(), 0);
    });
}

#[test]
fn a_time_behind_the_last_record_opens_nothing() {
    let reads = reads_taken(async |rt, metas| {
        let segments = segments(&rt);
        let found = segments.first_at_or_after_timestamp(&metas[0], PartitionId(1), 0..u64::MAX, 1_001).await;
        assert_eq!(found.unwrap(), None);
    });
    assert_eq!(reads, 0);
}
