//! A damaged segment: its bytes are refused to readers, no merge drops or passes what it holds, and the rest is merged on.

use std::time::Duration;

use runtime::{Runtime, sim::SimRuntime};
use storage::{Log, ReadError};

use super::story::{Story, append_each};
use crate::support::{append_acked, durable, read_all, records, small};

/// Segments that a merge has not touched.
fn segments(story: &Story) -> Vec<String> {
    let mut segments: Vec<_> = story.disk().files().into_iter().filter(|path| path.ends_with(".seg")).collect();
    segments.sort();
    segments
}

/// Makes `count` segments, each of one flush.
async fn flush_one_by_one(rt: &SimRuntime, log: &Log<SimRuntime>, count: u64, from: u64) {
    for number in 0..count {
        let flushes = log.stats().flushes;
        while log.stats().flushes == flushes {
            for id in 1..=2 {
                append_acked(log, &durable(log, id), &[durable(log, id).offsets().log_end]).await;
            }
            rt.sleep(Duration::from_millis(1)).await;
            assert!(log.stats().groups < 1 << 20, "flush {number} behind {from} never came");
        }
    }
}

#[test]
fn a_segment_that_a_merge_cannot_read_is_left_and_the_others_are_merged() {
    let story = Story::with_options(1, small());
    let ends = story.live(|rt, log| async move {
        // One less than a merge takes, and nobody's own.
        flush_one_by_one(&rt, &log, 3, 0).await;
        let ends = [1, 2].map(|id| durable(&log, id).offsets().log_end);
        log.close().await.unwrap();
        ends
    });
    let damaged = segments(&story)[1].clone();
    story.disk().flip_byte(&damaged, 4096 + 100);
    let refused = story.live(move |rt, log| async move {
        let merges = log.stats().merges;
        flush_one_by_one(&rt, &log, 12, 3).await;
        rt.sleep(Duration::from_secs(2)).await;
        let stats = log.stats();
        assert_eq!(stats.segments_unreadable, 1, "a merge met the damage");
        assert!(stats.merges > merges, "compaction goes on behind it");
        let named: Vec<_> = [1, 2].into_iter().filter_map(|id| durable(&log, id).damaged_from()).collect();
        assert!(!named.is_empty() && named.iter().all(|from| *from < *ends.iter().max().unwrap()), "{named:?}");
        let mut refused = 0;
        for (id, end) in [(1, ends[0]), (2, ends[1])] {
            let partition = durable(&log, id);
            let high_watermark = partition.offsets().high_watermark;
            assert!(high_watermark > end);
            let mut next = 0;
            while next < high_watermark {
                match partition.read(next, 1).await {
                    Ok(batches) => {
                        let bytes: Vec<u8> = batches.slices.iter().flat_map(|slice| slice.to_vec()).collect();
                        let found = records(&bytes);
                        assert!(found.iter().all(|(offset, value)| offset == value), "partition {id}: {found:?}");
                        assert_eq!(found[0].0, next, "something was skipped without a word");
                        next = batches.next_offset;
                    }
                    Err(ReadError::Segment(_)) => {
                        refused += 1;
                        next += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        refused
    });
    assert!(refused > 0, "the damage was not found by readers");
    assert!(segments(&story).contains(&damaged), "what could not be read was removed");
    // Nothing of it was lost: with the byte back, everything is there.
    story.disk().flip_byte(&damaged, 4096 + 100);
    story.live(move |rt, log| async move {
        append_each(&log, 3, 0..1).await;
        for id in 1..=2 {
            let (records, lost) = read_all(&durable(&log, id), 0).await;
            assert_eq!(records, (0..durable(&log, id).offsets().log_end).map(|n| (n, n)).collect::<Vec<_>>());
            assert!(lost.is_empty());
        }
        rt.sleep(Duration::from_secs(2)).await;
        assert_eq!(log.stats().segments_unreadable, 0);
    });
}
