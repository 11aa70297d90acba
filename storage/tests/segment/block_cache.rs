//! Blocks in memory: read once for all, ahead of who reads on, within their limit, and never without proof.

use std::{cell::RefCell, ops::Range, rc::Rc, time::Duration};

use runtime::{
    Runtime as _,
    sim::{
        SimRuntime, Simulation,
        disk::{Disk, OpKind},
    },
};
use storage::{
    PartitionId, Writes,
    segment::{SegmentId, SegmentMeta, Segments, file_name},
};

use crate::model::{BatchSpec, DIR, LOG_ID, Model, batches, decode, joined, write};

const PARTITION: PartitionId = PartitionId(1);
const KIB: usize = 1 << 10;
const EXTENT_BYTES: usize = 1024 * KIB;

/// So many batches of 60 KiB, from `base_offset` on.
fn model(base_offset: u64, count: usize) -> Model {
    Model::from([(PARTITION, batches(base_offset, &vec![BatchSpec::of_records(1, 60 * KIB); count]))])
}

/// Runs `task` with segments of `count` batches each, one behind the other, and a cache.
fn with_segments<F: Future<Output = ()> + 'static>(
    counts: &'static [usize],
    cache_bytes: usize,
    task: impl FnOnce(SimRuntime, Rc<Disk>, Rc<Segments<SimRuntime>>, Vec<SegmentMeta>) -> F + 'static,
) {
    let simulation = Simulation::new(4);
    let node = simulation.add_node();
    let disk = simulation.disk(node);
    let ran = simulation.block_on(node, async move |rt| {
        let (mut metas, mut base_offset) = (Vec::new(), 0);
        for (number, &count) in counts.iter().enumerate() {
            metas.push(write(&rt, SegmentId(number as u64 + 1), 0, &model(base_offset, count)).await);
            base_offset += count as u64;
        }
        let segments = Rc::new(Segments::new(&rt, DIR.into(), LOG_ID, cache_bytes));
        task(rt, disk, Rc::clone(&segments), metas).await;
        segments.close().await;
    });
    ran.unwrap();
}

/// Reads on from `offsets.start`; the offsets that came.
async fn read_on(
    segments: &Segments<SimRuntime>,
    metas: &[SegmentMeta],
    offsets: Range<u64>,
    bytes_max: usize,
) -> Vec<u64> {
    let mut found = Vec::new();
    let mut next_offset = offsets.start;
    while next_offset < offsets.end {
        let live: Vec<_> = metas.iter().map(|meta| (meta.clone(), next_offset..u64::MAX)).collect();
        let run = segments.read_first(&live, PARTITION, bytes_max).await.unwrap().expect("there is more");
        found.extend(decode(&joined(&run)).iter().map(|batch| batch.base_offset));
        next_offset = run.next_offset;
    }
    found
}

#[test]
fn a_read_under_way_is_joined() {
    with_segments(&[4], 4 << 20, async |rt, disk, segments, metas| {
        segments.open(&metas[0]).await.unwrap();
        let before = disk.ops(OpKind::Read);
        let read = |_| {
            let (segments, meta) = (Rc::clone(&segments), metas[0].clone());
            rt.spawn(async move { segments.read(&meta, PARTITION, 1..u64::MAX, 1).await.unwrap().unwrap().next_offset })
        };
        let tasks: Vec<_> = (0..8).map(read).collect();
        for task in tasks {
            assert_eq!(task.await, 2);
        }
        assert_eq!(disk.ops(OpKind::Read) - before, 1);
        let stats = segments.cache_stats();
        assert_eq!((stats.misses, stats.hits), (1, 7));
    });
}

#[test]
fn who_reads_on_is_read_ahead_for_in_large_pieces_and_nothing_is_read_twice() {
    with_segments(&[200], 64 << 20, async |_, disk, segments, metas| {
        segments.open(&metas[0]).await.unwrap();
        let before = disk.ops(OpKind::Read);
        assert_eq!(read_on(&segments, &metas, 0..200, 100 * KIB).await, (0..200).collect::<Vec<_>>());
        let (reads, stats) = (disk.ops(OpKind::Read) - before, segments.cache_stats());
        let fewest = metas[0].batch_bytes.div_ceil(EXTENT_BYTES as u64);
        assert!(reads <= fewest + 6, "{reads} reads, {fewest} would do");
        assert!(stats.read_bytes <= metas[0].bytes, "{stats:?}");
        assert!(stats.ahead_bytes * 10 >= stats.read_bytes * 9, "{stats:?}");
        assert!(stats.misses <= 3, "{stats:?}");
    });
}

#[test]
fn reading_ahead_goes_on_in_the_next_segment() {
    with_segments(&[40, 40, 40], 64 << 20, async |_, _, segments, metas| {
        assert_eq!(read_on(&segments, &metas, 0..120, 100 * KIB).await, (0..120).collect::<Vec<_>>());
        let stats = segments.cache_stats();
        assert!(stats.misses <= 3, "{stats:?}");
        assert_eq!(segments.last_used(PARTITION, 120), Some(SegmentId(3)));
        assert_eq!(segments.last_used(PARTITION, 119), None);
    });
}

#[test]
fn neighbours_share_what_is_read() {
    with_segments(&[200], 16 << 20, async |rt, _, segments, metas| {
        let before = segments.cache_stats().read_bytes;
        let start = |number: u64| {
            let (rt, segments, metas) = (rt.clone(), Rc::clone(&segments), metas.clone());
            rt.clone().spawn(async move {
                rt.sleep(std::time::Duration::from_micros(200 * number)).await;
                read_on(&segments, &metas, 0..200, 100 * KIB).await.len()
            })
        };
        let tasks: Vec<_> = (0..4).map(start).collect();
        for task in tasks {
            assert_eq!(task.await, 200);
        }
        let read_bytes = segments.cache_stats().read_bytes - before;
        assert!(read_bytes <= metas[0].bytes + metas[0].bytes / 20, "{read_bytes} bytes read of {}", metas[0].bytes);
    });
}

#[test]
fn memory_keeps_to_its_limit_and_a_scan_leaves_what_is_hot() {
    const CACHE_BYTES: usize = 4 << 20;
    with_segments(&[400, 20], CACHE_BYTES, async |rt, _, segments, metas| {
        let hot = async |times: usize| {
            for _ in 0..times {
                for offset in 400..420 {
                    let run = segments.read(&metas[1], PARTITION, offset..u64::MAX, 1).await.unwrap().unwrap();
                    assert_eq!(run.base_offset, offset);
                }
            }
        };
        hot(4).await;
        let bytes_max = Rc::new(RefCell::new(0));
        let (watched, seen, clock) = (Rc::clone(&segments), Rc::clone(&bytes_max), rt.clone());
        drop(rt.spawn(async move {
            loop {
                let bytes = watched.cache_stats().bytes as usize + watched.footer_bytes();
                seen.replace_with(|seen| bytes.max(*seen));
                clock.sleep(std::time::Duration::from_micros(20)).await;
            }
        }));
        for start in (0..400).step_by(40) {
            read_on(&segments, &metas[..1], start..start + 40, 200 * KIB).await;
            let misses = segments.cache_stats().misses;
            hot(1).await;
            assert_eq!(segments.cache_stats().misses, misses, "what is hot was read from the disk again");
        }
        let bytes_max = *bytes_max.borrow();
        assert!(bytes_max <= CACHE_BYTES, "{bytes_max} bytes");
        assert!(bytes_max > CACHE_BYTES / 2, "{bytes_max} bytes: the cache was never full");
    });
}

#[test]
fn damage_is_told_to_everyone_and_harms_nobody_else() {
    with_segments(&[100], 16 << 20, async |rt, disk, segments, metas| {
        // In the last block of an extent that is read ahead of the reader.
        disk.flip_byte(format!("{DIR}/{}", file_name(SegmentId(1))), 24 * 65_536 - 1);
        let damaged = {
            let footer = segments.open(&metas[0]).await.unwrap();
            let holding = footer.footer().find(PARTITION).unwrap();
            (0..holding.offsets.len()).map(|number| holding.offsets.entry(number)).collect::<Vec<_>>()
        };
        let in_damaged = damaged.iter().rev().find(|entry| entry.position < 23 * 65_536).unwrap().offset;
        assert_eq!(read_on(&segments, &metas, 0..in_damaged, 1).await.len() as u64, in_damaged);
        let read = |_| {
            let (segments, meta) = (Rc::clone(&segments), metas[0].clone());
            rt.spawn(async move { segments.read(&meta, PARTITION, in_damaged + 1..u64::MAX, 1).await.is_err() })
        };
        let tasks: Vec<_> = (0..4).map(read).collect();
        for task in tasks {
            assert!(task.await, "bytes without proof were served");
        }
        assert_eq!(read_on(&segments, &metas, in_damaged + 3..100, 1).await.len() as u64, 97 - in_damaged);
    });
}

#[test]
fn a_removed_segment_gives_its_memory_back() {
    with_segments(&[30], 16 << 20, async |_, _, segments, metas| {
        read_on(&segments, &metas, 0..30, 100 * KIB).await;
        assert!(segments.cache_stats().bytes >= metas[0].batch_bytes);
        segments.forget(metas[0].id);
        assert_eq!((segments.cache_stats().bytes, segments.footer_bytes()), (0, 0));
    });
}

/// A write that comes behind a long read waits for all of it.
#[test]
fn large_reads_are_small_and_one_behind_the_other_while_the_log_is_written_to() {
    let simulation = Simulation::new(5);
    let node = simulation.add_node();
    let disk = simulation.disk(node);
    let ran = simulation.block_on(node, async move |rt| {
        let meta = write(&rt, SegmentId(1), 0, &model(0, 40)).await;
        let writes = Rc::new(Writes::default());
        let mut reads = Vec::new();
        // Never written to, written to just now, and a while ago.
        for (is_written, pause_s) in [(false, 0), (true, 0), (false, 2)] {
            rt.sleep(Duration::from_secs(pause_s)).await;
            if is_written {
                writes.note(rt.now());
            }
            let cache_bytes = 64 * EXTENT_BYTES;
            let segments = Segments::beside(&rt, DIR.into(), LOG_ID, cache_bytes, Rc::clone(&writes));
            let before = disk.ops(OpKind::Read);
            assert_eq!(read_on(&segments, std::slice::from_ref(&meta), 0..40, EXTENT_BYTES).await.len(), 40);
            segments.close().await;
            reads.push(disk.ops(OpKind::Read) - before);
        }
        assert_eq!(reads[0], reads[2]);
        let steps = meta.batch_bytes.div_ceil(128 << 10);
        assert!(reads[0] < 10 && (steps..steps + 10).contains(&reads[1]), "{reads:?}, {steps} steps");
    });
    ran.unwrap();
}
