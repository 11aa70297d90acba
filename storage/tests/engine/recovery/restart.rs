//! Stops and starts without damage: what a start reads, how many files it makes, and which offsets it gives out.

use std::time::Duration;

use runtime::{
    Runtime,
    sim::{Crash, seeds},
};
use storage::{LogOptions, OpenError};
use wire::record::{Batch, Producer};

use super::story::{Story, append_each, memory, reseal, roomy, salt_of, values};
use crate::support::{append_acked, batch, durable, read_all, small};

/// Puts a group that only a later program understands at the front of every WAL file: whoever reads one says so.
fn set_traps(story: &Story, model: &[u8]) {
    for path in story.wal_files() {
        let mut trap = model.to_vec();
        trap[4] = 2;
        trap[24..32].copy_from_slice(&salt_of(&path).to_le_bytes());
        reseal(&mut trap);
        // One that was about to be made has no room yet, and nothing in it.
        if story.disk().read(&path).is_some_and(|bytes| bytes.len() >= trap.len()) {
            story.disk().damage(&path, 0, &trap);
        }
    }
}

#[test]
fn a_start_after_a_clean_stop_reads_no_byte_of_the_wal() {
    for clean in [true, false] {
        let story = Story::new(1);
        story.live(|_, log| async move { append_each(&log, 1, 0..3).await });
        let model = story.groups().remove(0).bytes;
        story.live(move |_, log| async move {
            append_each(&log, 1, 3..6).await;
            if clean {
                log.close().await.unwrap();
            }
        });
        set_traps(&story, &model);
        let opened = story.try_live(|_, log| async move {
            assert_eq!(values(&log, 1).await, [0, 1, 2, 3, 4, 5]);
            append_each(&log, 1, 6..7).await;
        });
        match opened {
            Ok(()) => assert!(clean, "the traps catch whoever reads the WAL"),
            Err(OpenError::UnknownFormat { .. }) => assert!(!clean, "the WAL was read after a clean stop"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// From the first append on, a stop is unclean again.
#[test]
fn a_clean_stop_counts_once() {
    let story = Story::new(2);
    for life in 0..6u64 {
        story.live(move |_, log| async move {
            assert_eq!(values(&log, 1).await, (0..life).collect::<Vec<_>>());
            append_each(&log, 1, life..life + 1).await;
            if life % 2 == 0 {
                log.close().await.unwrap();
            }
        });
    }
}

#[test]
fn a_start_short_of_wal_files_makes_another_and_removes_it_later() {
    let mut short = 0;
    for seed in seeds(40) {
        let story = Story::with_options(seed, small());
        // Stops when every file holds groups that are not flushed: sooner or later a flush is late.
        story.disk().crash_at_step(200 + seed * 7, Crash::PowerCut);
        let ended = story.simulation.block_on(story.node, {
            let options = small();
            move |rt: runtime::sim::SimRuntime| async move {
                rt.create_dir_all("log".as_ref()).await.unwrap();
                let log = storage::Log::open(rt, "log".as_ref(), options).await.unwrap();
                // Two of them fill a group, four a file.
                let bytes = batch(&(0..55).collect::<Vec<_>>(), Producer::NONE);
                loop {
                    log.admit().await;
                    let _ = durable(&log, 1).append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap().lsn();
                }
            }
        });
        assert!(ended.is_err(), "the writer never ends: {ended:?}");
        let before = story.wal_files().len();
        let files = story.live(move |rt, log| async move {
            let at_start = rt.list_dir("log/wal".as_ref()).await.unwrap().len();
            let partition = durable(&log, 1);
            let found = partition.offsets().log_end;
            assert_eq!(read_all(&partition, 0).await.0.len() as u64, found, "seed {seed}");
            for value in 0..200 {
                log.admit().await;
                append_acked(&log, &partition, &[value]).await;
            }
            let later = rt.list_dir("log/wal".as_ref()).await.unwrap();
            assert!(later.len() <= 4, "seed {seed}: {later:?}");
            at_start
        });
        assert!(files <= 5, "seed {seed}: {files} files");
        short += u64::from(before == 4 && files == 5);
    }
    assert!(short > 0, "no start was short of files");
}

/// Files of another size come from a start with other options: they are used up, not used again.
#[test]
fn wal_files_of_another_size_are_replaced() {
    let story = Story::with_options(3, LogOptions { memtable_bytes: 256 << 10, ..roomy() });
    story.live(|_, log| async move { append_each(&log, 1, 0..40).await });
    let options = small();
    let lens = story.simulation.block_on(story.node, |rt: runtime::sim::SimRuntime| async move {
        let log = storage::Log::open(rt.clone(), "log".as_ref(), options).await.unwrap();
        assert_eq!(values(&log, 1).await, (0..40).collect::<Vec<_>>());
        for value in 40..140 {
            log.admit().await;
            append_each(&log, 1, value..value + 1).await;
        }
        rt.sleep(Duration::from_secs(1)).await;
        let mut lens: Vec<_> = rt.list_dir("log/wal".as_ref()).await.unwrap().iter().map(|file| file.len).collect();
        lens.dedup();
        lens
    });
    assert_eq!(lens.unwrap(), [16 << 10]);
}

/// Acknowledged before it is synced, lost, and yet its offset is never given to anything else.
#[test]
fn a_reservation_holds_across_two_crashes() {
    for seed in seeds(30) {
        for work_between in [false, true] {
            let story = Story::new(seed);
            let mut seen = story.live(move |rt, log| async move {
                let partition = memory(&log, 1);
                append_acked(&log, &partition, &[0]).await;
                for value in 1..20 {
                    let bytes = batch(&[value], Producer::NONE);
                    let _ = partition.append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap().acknowledge_unsynced();
                    rt.sleep(Duration::from_micros(seed)).await;
                }
                partition.offsets().log_end
            });
            for life in 0..3 {
                seen = story.live(move |_, log| async move {
                    let partition = memory(&log, 1);
                    assert!(partition.offsets().log_end >= seen, "seed {seed}, life {life}");
                    if life == 2 || work_between {
                        let offset = append_acked(&log, &partition, &[100 + life]).await;
                        assert!(offset >= seen, "seed {seed}, life {life}: offset {offset} was given out before");
                        let (records, lost) = read_all(&partition, 0).await;
                        assert_eq!(records.last(), Some(&(offset, 100 + life)), "seed {seed}, life {life}");
                        assert!(!lost.is_empty(), "seed {seed}, life {life}: nobody was told of what is lost");
                    }
                    partition.offsets().log_end
                });
            }
        }
    }
}

/// Producers of a `memory` partition go on behind what was lost, or repeat it: either is taken, after two crashes too.
#[test]
fn producers_go_on_behind_what_was_lost() {
    for lives_between in 0..3 {
        for sequence in [1, 20] {
            let story = Story::new(4);
            let numbered = |sequence: i32| {
                let producer = Producer { id: 7, epoch: 0, base_sequence: sequence };
                batch(&[sequence as u64], producer)
            };
            story.live(move |_, log| async move {
                let partition = memory(&log, 1);
                for sequence in 0..10 {
                    let bytes = numbered(sequence);
                    let appended = partition.append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap();
                    if sequence == 0 {
                        log.synced(appended.lsn()).await.unwrap();
                    }
                }
            });
            for _ in 0..lives_between {
                story.live(|_, _| async {});
            }
            story.live(move |_, log| async move {
                let bytes = numbered(sequence);
                let appended = memory(&log, 1).append(&Batch::parse_one(&bytes).unwrap(), 1);
                let appended = appended.unwrap_or_else(|error| panic!("{lives_between} lives between: {error}"));
                assert!(!appended.is_duplicate());
            });
        }
    }
}
