//! What is damaged in a segment is given up: everything else is read on, readers are told, and the damage goes.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use runtime::{
    Runtime,
    sim::{Crash, SimRuntime},
};
use storage::{Log, LogOptions, Partition, ReadError, Survey};

use super::story::{Story, append_each, roomy};
use crate::{
    keyed,
    support::{DIR, append_acked, durable, read_all},
};

/// Where the batches of a segment start.
const BATCHES: u64 = 4096;
const BLOCK_BYTES: u64 = 64 << 10;

/// A log whose flushes are of several blocks.
fn large() -> LogOptions {
    LogOptions { memtable_bytes: 4 << 20, ..roomy() }
}

fn segments(story: &Story) -> BTreeSet<String> {
    story.disk().files().into_iter().filter(|path| path.ends_with(".seg")).collect()
}

/// The segments one by one, in the order of their flushes.
fn nth_segment(story: &Story, number: usize) -> String {
    segments(story).into_iter().nth(number).expect("there are as many")
}

async fn survey(partition: &Partition<SimRuntime>) -> Survey {
    let survey = partition.survey(0, u64::MAX).await.unwrap();
    assert_eq!(survey.next_offset, None);
    survey
}

async fn give_up(partition: &Partition<SimRuntime>) -> Vec<Range<u64>> {
    let said = survey(partition).await;
    let given_up = partition.give_up_damaged(0, u64::MAX).await.unwrap();
    assert_eq!(given_up, said, "what was said before");
    assert_eq!(survey(partition).await, Survey::default(), "once is enough");
    given_up.lost
}

async fn is_refused(partition: &Partition<SimRuntime>, offset: u64) -> bool {
    matches!(partition.read(offset, 1).await, Err(ReadError::Segment(_)))
}

/// The records of partition 1 but those in `lost`.
fn all_but(lost: &[Range<u64>], end: u64) -> Vec<(u64, u64)> {
    (0..end).filter(|offset| !lost.iter().any(|lost| lost.contains(offset))).map(|offset| (offset, offset)).collect()
}

/// Appends `batches` of 40 records each, whose values are their offsets.
async fn append_many(log: &Log<SimRuntime>, id: u64, batches: u64) -> u64 {
    let partition = durable(log, id);
    for _ in 0..batches {
        let next = partition.offsets().log_end;
        append_acked(log, &partition, &(next..next + 40).collect::<Vec<_>>()).await;
    }
    partition.offsets().log_end
}

/// A partition with a segment of its own, of which the third block is damaged.
fn with_damaged_block(seed: u64) -> (Story, u64) {
    let story = Story::with_options(seed, large());
    let end = story.live(|_, log| async move {
        let end = append_many(&log, 1, 90).await;
        log.close().await.unwrap();
        end
    });
    story.disk().flip_byte(nth_segment(&story, 0), 2 * BLOCK_BYTES + 17);
    (story, end)
}

#[test]
fn a_damaged_block_costs_what_lies_in_it_and_nothing_else() {
    let (story, end) = with_damaged_block(1);
    let damaged = nth_segment(&story, 0);
    let lost = story.live(move |_, log| async move {
        let partition = durable(&log, 1);
        assert_eq!(partition.damaged_from(), None, "nobody met it yet");
        let found = survey(&partition).await;
        assert_eq!((found.lost.len(), found.segments.len()), (1, 1), "{found:?}");
        let lost = found.lost[0].clone();
        assert!(lost.start > 500 && lost.end < end && lost.end - lost.start < 1500, "{lost:?} of {end}");
        assert!(is_refused(&partition, lost.start).await, "to look changes nothing");
        assert_eq!(partition.damaged_from(), Some(lost.start));
        assert!(!is_refused(&partition, lost.start - 1).await);
        assert!(!is_refused(&partition, lost.end).await);
        assert_eq!(give_up(&partition).await, std::slice::from_ref(&lost));
        assert_eq!(partition.damaged_from(), None);
        assert_eq!(read_all(&partition, 0).await, (all_but(std::slice::from_ref(&lost), end), vec![lost.clone()]));
        assert_eq!(append_acked(&log, &partition, &[end]).await, end, "it took records all the time");
        lost
    });
    for life in 0..3 {
        let lost = lost.clone();
        story.live(move |rt, log| async move {
            let partition = durable(&log, 1);
            let told = (all_but(std::slice::from_ref(&lost), end + 1), vec![lost.clone()]);
            assert_eq!(read_all(&partition, 0).await, told, "life {life}");
            rt.sleep(Duration::from_secs(2)).await;
            assert_eq!(read_all(&partition, 0).await, told, "life {life}, after a merge");
        });
    }
    // The merge left the damage behind, and then there was nothing to remember.
    assert!(!segments(&story).contains(&damaged), "the damaged file is still there");
    assert!(story.manifest().given_up.is_empty());
}

/// A reader asks for much and gets what lies in front of the damage.
#[test]
fn what_lies_in_front_of_damage_is_served() {
    let (story, _) = with_damaged_block(2);
    story.live(|_, log| async move {
        let partition = durable(&log, 1);
        let lost = survey(&partition).await.lost[0].clone();
        let mut next = 0;
        while next < lost.start {
            next = partition.read(next, 1 << 20).await.unwrap().next_offset;
        }
        assert_eq!(next, lost.start);
        assert!(is_refused(&partition, next).await);
    });
}

#[test]
fn who_shares_a_damaged_block_gives_up_for_himself() {
    let story = Story::new(3);
    story.live(|_, log| async move {
        for id in 1..=2 {
            append_each(&log, id, 0..4).await;
        }
        log.close().await.unwrap();
    });
    let damaged = nth_segment(&story, 0);
    story.disk().flip_byte(&damaged, BATCHES + 100);
    story.live(|rt, log| async move {
        let (one, two) = (durable(&log, 1), durable(&log, 2));
        assert_eq!(give_up(&one).await, [0..4]);
        assert_eq!(read_all(&one, 0).await, (vec![], vec![0..4]));
        // It cannot be rewritten: nobody said that partition 2 may lose what it has there.
        rt.sleep(Duration::from_secs(2)).await;
        assert!(is_refused(&two, 0).await);
        assert_eq!((two.damaged_from(), log.stats().segments_unreadable), (Some(0), 1));
    });
    assert!(segments(&story).contains(&damaged));
    story.live(|rt, log| async move {
        let (one, two) = (durable(&log, 1), durable(&log, 2));
        assert_eq!(read_all(&one, 0).await, (vec![], vec![0..4]));
        assert_eq!(give_up(&two).await, [0..4]);
        append_each(&log, 2, 4..5).await;
        rt.sleep(Duration::from_secs(2)).await;
        assert_eq!(read_all(&two, 0).await, (vec![(4, 4)], vec![0..4]));
        assert_eq!(log.stats().segments_unreadable, 0);
    });
    assert!(!segments(&story).contains(&damaged), "a merge left it behind");
}

/// The footer says whose batches a segment holds: without it everyone's may be in there, and are missed where they are.
#[test]
fn a_footer_that_cannot_be_read_costs_what_lies_between() {
    let story = Story::new(4);
    for life in 0..3 {
        story.live(move |_, log| async move {
            for id in [1, 2, 3] {
                if (id, life) != (2, 1) {
                    let next = durable(&log, id).offsets().log_end;
                    append_each(&log, id, next..next + id).await;
                }
            }
            log.close().await.unwrap();
        });
    }
    let damaged = nth_segment(&story, 1);
    story.disk().flip_byte(&damaged, story.manifest().segments[1].footer_position + 10);
    story.live(|_, log| async move {
        let [one, two, three] = [1, 2, 3].map(|id| durable(&log, id));
        for partition in [&one, &two, &three] {
            assert!(is_refused(partition, partition.offsets().high_watermark - 1).await);
        }
        let found = survey(&two).await;
        assert_eq!((&found.lost[..], found.segments.len()), (&[][..], 1), "it had nothing in there");
        assert_eq!(give_up(&two).await, []);
        assert_eq!(read_all(&two, 0).await, (all_but(&[], 4), vec![]));
        assert_eq!(give_up(&one).await, [1..2]);
        assert_eq!(read_all(&one, 0).await, (vec![(0, 0), (2, 2)], vec![1..2]));
        assert!(is_refused(&three, 0).await || is_refused(&three, 3).await, "it did not give up anything");
    });
    assert!(segments(&story).contains(&damaged));
    story.live(|_, log| async move {
        assert_eq!(give_up(&durable(&log, 3)).await, [3..6]);
        for (id, end) in [(1, 3), (2, 4), (3, 9)] {
            let (records, lost) = read_all(&durable(&log, id), 0).await;
            assert_eq!(records, all_but(&lost, end));
        }
    });
    assert!(!segments(&story).contains(&damaged), "nobody has anything in it any more");
    assert!(story.manifest().given_up.is_empty());
}

/// Nothing lies behind: the log end says how far it reached.
#[test]
fn the_last_segment_costs_what_was_given_out() {
    let story = Story::new(5);
    story.live(|_, log| async move {
        for id in 1..=2 {
            append_each(&log, id, 0..3).await;
        }
        log.close().await.unwrap();
    });
    story.disk().damage_len(nth_segment(&story, 0), BATCHES);
    story.live(|_, log| async move {
        assert_eq!(give_up(&durable(&log, 1)).await, [0..3]);
        assert_eq!(append_acked(&log, &durable(&log, 1), &[3]).await, 3);
        assert_eq!(read_all(&durable(&log, 1), 0).await, (vec![(3, 3)], vec![0..3]));
        assert!(is_refused(&durable(&log, 2), 0).await);
    });
}

/// Whatever a crash leaves of it, the damage is refused as before or readers are told of the loss.
#[test]
fn giving_up_cut_short_is_done_or_undone() {
    let (mut undone, mut done) = (0, 0);
    for ahead in 1.. {
        let (story, end) = with_damaged_block(6);
        let (disk, options) = (story.disk(), large());
        let ended = story.simulation.block_on(story.node, move |rt: SimRuntime| async move {
            let log = Log::open(rt, DIR.as_ref(), options).await.unwrap();
            let partition = durable(&log, 1);
            disk.crash_at_step(disk.steps() + ahead, Crash::PowerCut);
            partition.give_up_damaged(0, u64::MAX).await.unwrap();
        });
        story.simulation.crash(story.node, Crash::PowerCut);
        let is_done = story.live(move |_, log| async move {
            let partition = durable(&log, 1);
            let found = survey(&partition).await;
            if let [lost] = &found.lost[..] {
                assert!(is_refused(&partition, lost.start).await);
                return false;
            }
            let (records, lost) = read_all(&partition, 0).await;
            assert_eq!((records, lost.len()), (all_but(&lost, end), 1));
            true
        });
        if is_done {
            done += 1
        } else {
            undone += 1
        }
        if ended.is_ok() {
            assert!(is_done, "what was given up stays so");
            break;
        }
    }
    assert!(undone > 0 && done > 0, "{undone} undone, {done} done");
}

/// Between two batches that compaction left there may be nothing, up to what is lost: a reader gets on all the same.
#[test]
fn a_reader_gets_over_a_gap_in_front_of_what_is_lost() {
    let story = Story::with_options(7, crate::support::small());
    let first = story.live(|rt, log| async move {
        let partition = log.adopt(storage::PartitionId(1), keyed::compacted());
        for value in 0..150 {
            keyed::append(&rt, &log, &partition, &[(0, Some(value))]).await;
        }
        for key in 1..200 {
            keyed::append(&rt, &log, &partition, &[(key, Some(u64::from(key)))]).await;
        }
        log.flush().await.unwrap();
        rt.sleep(Duration::from_secs(20)).await;
        let (records, _) = keyed::read_all(&partition).await;
        log.close().await.unwrap();
        *records.keys().next().unwrap()
    });
    assert!(first > 100, "compaction left {first}");
    story.disk().flip_byte(format!("{DIR}/segments/{:016x}.seg", story.manifest().segments[0].id.0), BATCHES + 100);
    story.live(move |_, log| async move {
        let partition = log.adopt(storage::PartitionId(1), keyed::compacted());
        let lost = give_up(&partition).await;
        assert_eq!(lost[0].start, first, "what compaction took is not lost");
        assert_eq!(partition.read(0, 1).await.unwrap().lost, Some(lost[0].clone()));
        let (records, _) = keyed::read_all(&partition).await;
        assert!(!records.is_empty() && !records.contains_key(&first));
    });
}
