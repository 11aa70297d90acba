//! A write was under way when the power went: what is left of it is cut off for ever, and nothing else is.

use std::time::Duration;

use runtime::{
    Runtime,
    sim::{Crash, seeds},
};
use storage::{Log, group::HEADER_BYTES};
use wire::record::{Batch, Producer};

use super::story::{GroupOnDisk, Story, append_each, roomy, values};
use crate::support::{DIR, append_acked, batch, durable};

const SECTOR_BYTES: usize = 512;

/// What can be left of a group.
type Tearing = fn(&Story, &GroupOnDisk);

const TEARS: [(&str, Tearing); 5] = [
    ("nothing of it", |story, group| group.wipe(&story.disk())),
    ("all but its header", |story, group| group.overwrite(&story.disk(), 0, &[0; SECTOR_BYTES])),
    ("its first sector", |story, group| {
        group.overwrite(&story.disk(), SECTOR_BYTES, &vec![0; group.bytes.len() - SECTOR_BYTES])
    }),
    ("garbage in its batch", |story, group| group.overwrite(&story.disk(), HEADER_BYTES + 100, b"garbage")),
    ("garbage in its lists", |story, group| {
        group.overwrite(&story.disk(), group.header.directory_position as usize + 20, b"garbage");
    }),
];

/// A log whose last group, behind 6 records of partition 1, was torn: as in `tear`. Its ack never left.
fn torn(seed: u64, tear: fn(&Story, &GroupOnDisk)) -> (Story, GroupOnDisk) {
    let story = Story::new(seed);
    story.live(|_, log| async move {
        append_each(&log, 1, 0..6).await;
        // Longer than a sector.
        append_acked(&log, &durable(&log, 1), &(90..100).collect::<Vec<_>>()).await;
    });
    let last = story.groups().pop().expect("there are groups");
    assert!(last.header.directory_position as usize > SECTOR_BYTES, "the group spans sectors");
    tear(&story, &last);
    (story, last)
}

#[test]
fn a_torn_group_is_cut_off_and_nothing_before_it() {
    for (what, tear) in TEARS {
        let (story, torn) = torn(1, tear);
        story.live(move |_, log| async move {
            assert_eq!(values(&log, 1).await, [0, 1, 2, 3, 4, 5], "{what} was left");
            assert_eq!(durable(&log, 1).refused_from(), None, "{what} was left");
        });
        let cuts = story.manifest().cuts;
        let cut = cuts.iter().find(|cut| cut.salt == torn.header.stamp.salt).expect("the file was cut");
        assert_eq!(cut.lsn, torn.header.stamp.previous_lsn, "{what} was left");
        assert!(cut.next_lsn > cut.lsn);
    }
}

#[test]
fn appends_go_to_another_file_with_numbers_above_every_one_seen() {
    for (what, tear) in TEARS {
        let (story, torn) = torn(2, tear);
        let file_before = story.disk().read(&torn.path);
        story.live(|_, log| async move { append_each(&log, 1, 6..9).await });
        assert_eq!(story.disk().read(&torn.path), file_before, "{what} was left, and the file was written to");
        let behind = |group: &GroupOnDisk| group.lsn() > torn.header.stamp.previous_lsn && group.header != torn.header;
        let fresh: Vec<_> = story.groups().into_iter().filter(behind).collect();
        assert!(fresh.len() >= 3 && fresh.iter().all(|group| group.path != torn.path), "{what} was left");
        // Where the header was seen, its number is used up.
        let header_seen = !matches!(what, "nothing of it" | "all but its header");
        assert!(!header_seen || fresh.iter().all(|group| group.lsn() > torn.lsn()), "{what} was left");
    }
}

/// A device may hold on to a write for long, and a later start may see what an earlier one did not.
#[test]
fn what_surfaces_above_a_cut_later_is_void() {
    for (what, tear) in TEARS {
        for appends in [0, 3] {
            let (story, torn) = torn(3, tear);
            story.live(move |_, log| async move { append_each(&log, 1, 6..6 + appends).await });
            torn.put_back(&story.disk());
            for life in 0..2 {
                story.live(move |_, log| async move {
                    let expected: Vec<_> = (0..6 + appends).collect();
                    assert_eq!(values(&log, 1).await, expected, "{what} was left, life {life} after it came back");
                    assert_eq!(durable(&log, 1).refused_from(), None);
                });
            }
            story.live(move |_, log| async move {
                assert_eq!(append_acked(&log, &durable(&log, 1), &[7]).await, 6 + appends);
            });
        }
    }
}

#[test]
fn recovery_cut_short_at_any_step_is_begun_anew() {
    for crash in [Crash::PowerCut, Crash::Kill] {
        for ahead in 1.. {
            let (story, _) = torn(4, TEARS[3].1);
            story.disk().crash_at_step(story.disk().steps() + ahead, crash);
            let opened = story.simulation.block_on(story.node, |rt| async move {
                let log = Log::open(rt, DIR.as_ref(), roomy()).await;
                log.map(drop)
            });
            let completed = opened.is_ok();
            story.simulation.crash(story.node, crash);
            story.live(move |_, log| async move {
                assert_eq!(values(&log, 1).await, [0, 1, 2, 3, 4, 5], "{crash:?} after {ahead} steps");
                assert_eq!(durable(&log, 1).refused_from(), None);
                assert_eq!(append_acked(&log, &durable(&log, 1), &[6]).await, 6);
            });
            story.live(|_, log| async move { assert_eq!(values(&log, 1).await, [0, 1, 2, 3, 4, 5, 6]) });
            if completed {
                assert!(ahead > 10, "recovery takes steps");
                break;
            }
        }
    }
}

/// A write that was under way when the process died may be whole, and still not be on stable storage.
#[test]
fn what_one_start_serves_a_power_cut_cannot_take() {
    let mut whole = 0;
    for seed in seeds(200) {
        let story = Story::new(seed);
        story.live(|_, _| async {});
        let killed = story.simulation.block_on(story.node, move |rt| async move {
            let log = Log::open(rt.clone(), DIR.as_ref(), roomy()).await.unwrap();
            let bytes = batch(&[7], Producer::NONE);
            let appended = durable(&log, 1).append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap();
            rt.sleep(Duration::from_nanos(rt.random_u64() % 10_000)).await;
            log.synced_now().lsn() >= appended.lsn()
        });
        story.simulation.crash(story.node, Crash::Kill);
        let served = story.live(|_, log| async move { values(&log, 1).await });
        whole += u64::from(!killed.unwrap() && !served.is_empty());
        story.live(move |_, log| async move { assert_eq!(values(&log, 1).await, served, "seed {seed}") });
    }
    assert!(whole > 10, "{whole} of 200 writes became whole after the process died");
}

/// A group torn by the power cut itself.
#[test]
fn a_power_cut_during_a_write_loses_nothing_acknowledged() {
    let mut torn = 0;
    for seed in seeds(100) {
        let story = Story::new(seed);
        let acked = story.live(|rt, log| async move {
            append_each(&log, 1, 0..3).await;
            let bytes = batch(&(50..90).collect::<Vec<_>>(), Producer::NONE);
            let batch = Batch::parse_one(&bytes).unwrap();
            let appended = durable(&log, 1).append(&batch, 1).unwrap();
            let delay = Duration::from_nanos(rt.random_u64() % 20_000);
            rt.sleep(delay).await;
            if log.synced_now().lsn() >= appended.lsn() { appended.next_offset() } else { 3 }
        });
        let found = story.live(|_, log| async move {
            let found = values(&log, 1).await.len() as u64;
            assert_eq!(append_acked(&log, &durable(&log, 1), &[7]).await, found);
            found
        });
        assert!(found == 3 || found == 43, "seed {seed}: a batch is there or not, found {found}");
        assert!(found >= acked, "seed {seed}: {acked} offsets were synced, {found} are there");
        torn += u64::from(found == 3);
    }
    assert!((10..90).contains(&torn), "{torn} of 100 writes were torn");
}
