//! The log's own promises, one test each, on the simulated disk.

use std::time::Duration;

use runtime::{
    Runtime,
    sim::{Crash, SimRuntime, seeds},
};
use storage::{AppendError, Durability, Log, LogOptions, PartitionId, ReadError, TruncateError};
use wire::record::{Batch, BatchBuilder, Codec, Producer};

use crate::support::{append_acked, batch, durable, open, read_all, simulation};

#[test]
fn what_was_appended_is_read_back() {
    runtime::sim::block_on(1, move |rt: SimRuntime| async move {
        let log = open(&rt).await.unwrap();
        let partition = durable(&log, 1);
        assert_eq!(append_acked(&log, &partition, &[10, 11, 12]).await, 0);
        assert_eq!(append_acked(&log, &partition, &[13]).await, 3);
        let (records, lost) = read_all(&partition, 0).await;
        assert_eq!(records, [(0, 10), (1, 11), (2, 12), (3, 13)]);
        assert!(lost.is_empty());
        assert_eq!(partition.offsets().high_watermark, 4);
    });
}

#[test]
fn everything_is_there_after_a_clean_stop_and_the_wal_is_not_read() {
    for seed in seeds(20) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let written = simulation.block_on(node, write_much).unwrap();
        let before = simulation.disk(node).ops(runtime::sim::disk::OpKind::Read);
        let read = simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                let mut read = Vec::new();
                for id in 1..=3 {
                    let partition = durable(&log, id);
                    assert_eq!(partition.offsets().log_end, partition.offsets().high_watermark);
                    read.push(read_all(&partition, 0).await.0);
                }
                assert_eq!(append_acked(&log, &durable(&log, 1), &[7]).await, read[0].len() as u64);
                read
            })
            .unwrap();
        assert_eq!(read, written, "seed {seed}");
        assert!(simulation.disk(node).ops(runtime::sim::disk::OpKind::Read) > before, "segments were read");
    }
}

/// Appends to three partitions until memtables were flushed and segments merged, then stops cleanly.
async fn write_much(rt: SimRuntime) -> Vec<Vec<(u64, u64)>> {
    let log = open(&rt).await.unwrap();
    let mut written = vec![Vec::new(); 3];
    for value in 0..600u64 {
        let id = if value % 5 < 3 { 1 } else { 1 + value % 3 };
        log.admit().await;
        let offset = append_acked(&log, &durable(&log, id), &[value, value + 1_000_000]).await;
        written[id as usize - 1].extend([(offset, value), (offset + 1, value + 1_000_000)]);
    }
    let stats = log.stats();
    assert!(stats.flushes > 4 && stats.merges > 0, "{stats:?}");
    log.close().await.unwrap();
    written
}

#[test]
fn memory_and_wal_stay_bounded_for_ever() {
    let simulation = simulation(3);
    let node = simulation.add_node();
    let wal_bytes = |rt: SimRuntime| async move {
        rt.list_dir("log/wal".as_ref()).await.unwrap().iter().map(|file| file.len).sum::<u64>()
    };
    simulation
        .block_on(node, move |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            let partition = durable(&log, 1);
            for value in 0..3000u64 {
                log.admit().await;
                append_acked(&log, &partition, &[value]).await;
                assert!(log.stats().memtable_bytes <= 2 * (64 << 10), "{:?}", log.stats());
            }
            assert!(wal_bytes(rt).await <= 64 << 10);
        })
        .unwrap();
}

#[test]
fn a_duplicate_gets_the_offset_of_the_first_across_flush_and_restart() {
    for crash in [None, Some(Crash::PowerCut)] {
        let simulation = simulation(4);
        let node = simulation.add_node();
        let numbered = |sequence: i32| {
            let producer = Producer { id: 9, epoch: 0, base_sequence: sequence };
            batch(&[sequence as u64, sequence as u64 + 1], producer)
        };
        simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                let partition = durable(&log, 1);
                for sequence in [0, 2, 4] {
                    let bytes = numbered(sequence);
                    let appended = partition.append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap();
                    assert!(!appended.is_duplicate());
                    let synced = log.synced(appended.lsn()).await.unwrap();
                    let _ = appended.acknowledge(synced);
                }
                if crash.is_none() {
                    log.close().await.unwrap();
                }
            })
            .unwrap();
        if let Some(crash) = crash {
            simulation.crash(node, crash);
        }
        simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                let partition = durable(&log, 1);
                let again = numbered(2);
                let appended = partition.append(&Batch::parse_one(&again).unwrap(), 2).unwrap();
                assert!(appended.is_duplicate());
                assert_eq!((appended.base_offset(), appended.next_offset()), (2, 4));
                let synced = log.synced(appended.lsn()).await.unwrap();
                assert_eq!(appended.acknowledge(synced).base_offset(), 2);
                let skipped = numbered(8);
                let refused = partition.append(&Batch::parse_one(&skipped).unwrap(), 2);
                assert!(matches!(refused, Err(AppendError::Sequence(_))), "{refused:?}");
                assert_eq!(partition.offsets().log_end, 6);
            })
            .unwrap();
    }
}

#[test]
fn truncation_holds_across_flush_and_power_cut() {
    for seed in seeds(30) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let expected = simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                let partition = durable(&log, 1);
                for value in 0..200 + seed % 50 {
                    log.admit().await;
                    append_acked(&log, &partition, &[value, value]).await;
                }
                // In the middle of a batch: the whole batch goes.
                partition.truncate(151, 2).await.unwrap();
                assert_eq!(partition.offsets().log_end, 150);
                for value in 900..940 {
                    append_acked(&log, &partition, &[value]).await;
                }
                read_all(&partition, 0).await.0
            })
            .unwrap();
        assert_eq!(expected.len(), 190);
        assert_eq!(expected[150], (150, 900));
        simulation.crash(node, Crash::PowerCut);
        let found = simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                read_all(&durable(&log, 1), 0).await.0
            })
            .unwrap();
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[test]
fn a_truncation_forgets_the_batches_of_producers_though_its_flush_holds_none() {
    let simulation = simulation(4);
    let node = simulation.add_node();
    let numbered = |sequence: i32| batch(&[sequence as u64], Producer { id: 9, epoch: 0, base_sequence: sequence });
    let life = move |rt: SimRuntime, number: u64| async move {
        let log = open(&rt).await.unwrap();
        let (cut, other) = (durable(&log, 1), durable(&log, 2));
        match number {
            0 => {
                for sequence in 0..2 {
                    let bytes = numbered(sequence);
                    let appended = cut.append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap();
                    log.synced(appended.lsn()).await.unwrap();
                }
            }
            1 => {
                cut.truncate(1, 2).await.unwrap();
                append_acked(&log, &other, &[7]).await;
            }
            _ => {
                let again = numbered(1);
                let appended = cut.append(&Batch::parse_one(&again).unwrap(), 2).unwrap();
                assert!(!appended.is_duplicate(), "the first one was cut off");
                assert_eq!(appended.base_offset(), 1);
            }
        }
        log.close().await.unwrap();
    };
    for number in 0..3 {
        simulation.block_on(node, move |rt| life(rt, number)).unwrap();
    }
}

#[test]
fn a_truncation_that_cannot_read_where_to_cut_leaves_the_partition_as_it_was() {
    let simulation = simulation(4);
    let node = simulation.add_node();
    simulation
        .block_on(node, |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            for value in 0..20 {
                append_acked(&log, &durable(&log, 1), &[value, value, value]).await;
            }
            log.close().await.unwrap();
        })
        .unwrap();
    let disk = simulation.disk(node);
    let segments: Vec<_> = disk.files().into_iter().filter(|path| path.ends_with(".seg")).collect();
    assert!(!segments.is_empty());
    segments.iter().for_each(|path| disk.flip_byte(path, 200));
    simulation
        .block_on(node, |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            let partition = durable(&log, 1);
            let refused = partition.truncate(1, 2).await;
            assert!(matches!(refused, Err(TruncateError::Segment(_))), "{refused:?}");
            assert_eq!(append_acked(&log, &partition, &[7]).await, 60);
        })
        .unwrap();
}

#[test]
fn a_truncation_forgets_what_was_lost_behind_it() {
    for crash in [None, Some(Crash::PowerCut)] {
        let simulation = simulation(4);
        let node = simulation.add_node();
        let memory = |log: &Log<SimRuntime>| log.adopt(PartitionId(1), Durability::Memory);
        simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                append_acked(&log, &memory(&log), &[0]).await;
            })
            .unwrap();
        simulation.crash(node, Crash::PowerCut);
        simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                let partition = memory(&log);
                assert!(partition.offsets().log_end > 1000, "a reservation was lost: {:?}", partition.offsets());
                partition.truncate(0, 2).await.unwrap();
                for value in 1..=2 {
                    append_acked(&log, &partition, &[value]).await;
                }
                rt.sleep(Duration::from_millis(20)).await;
                if crash.is_none() {
                    log.close().await.unwrap();
                }
            })
            .unwrap();
        if let Some(crash) = crash {
            simulation.crash(node, crash);
        }
        simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                let (records, lost) = read_all(&memory(&log), 0).await;
                assert_eq!(records, [(0, 1), (1, 2)], "{crash:?}");
                assert!(lost.iter().all(|lost| lost.start == 2), "{crash:?}: {lost:?}");
                assert_eq!(lost.is_empty(), crash.is_none(), "a clean stop loses nothing more");
            })
            .unwrap();
    }
}

#[test]
fn a_dropped_partition_stays_gone_and_the_others_stay() {
    for seed in seeds(30) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let kept = simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                let (gone, kept) = (durable(&log, 1), durable(&log, 2));
                for value in 0..150 + seed % 20 {
                    log.admit().await;
                    append_acked(&log, &gone, &[value, value]).await;
                    append_acked(&log, &kept, &[value]).await;
                }
                gone.drop_partition().await.unwrap();
                assert!(matches!(gone.read(0, 100).await, Err(ReadError::Gone)));
                read_all(&kept, 0).await.0
            })
            .unwrap();
        simulation.crash(node, Crash::PowerCut);
        simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                assert_eq!(log.quarantined(), [PartitionId(2)]);
                assert_eq!(durable(&log, 1).offsets().log_end, 0);
                let found = read_all(&durable(&log, 2), 0).await.0;
                assert_eq!(found, kept);
            })
            .unwrap();
    }
}

#[test]
fn the_memory_level_acks_early_and_never_gives_an_offset_out_twice() {
    let (mut acked_early, mut lost_some) = (0, 0);
    for seed in seeds(60) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let seen = simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                let partition = log.adopt(PartitionId(1), Durability::Memory);
                append_acked(&log, &partition, &[0]).await;
                let mut early = 0;
                for value in 1..40 {
                    let bytes = batch(&[value], Producer::NONE);
                    let appended = partition.append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap();
                    early += u64::from(!appended.needs_sync());
                    let _ = appended.acknowledge_unsynced();
                    rt.sleep(Duration::from_micros(seed)).await;
                }
                (early, partition.offsets().high_watermark)
            })
            .unwrap();
        acked_early += seen.0;
        simulation.crash(node, Crash::PowerCut);
        lost_some += simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let log = open(&rt).await.unwrap();
                let partition = log.adopt(PartitionId(1), Durability::Memory);
                let offset = append_acked(&log, &partition, &[99]).await;
                assert!(offset >= seen.1, "seed {seed}: offset {offset} was visible before, up to {}", seen.1);
                let (records, lost) = read_all(&partition, 0).await;
                assert_eq!(records.last(), Some(&(offset, 99)));
                assert_eq!(lost.len(), 1, "seed {seed}");
                assert_eq!(lost[0].end, offset);
                u64::from(records.len() < 41)
            })
            .unwrap();
    }
    assert!(acked_early > 1000, "{acked_early}");
    assert!(lost_some > 0);
}

#[test]
fn a_record_is_found_by_its_time_wherever_it_lies() {
    runtime::sim::block_on(5, move |rt: SimRuntime| async move {
        let log = open(&rt).await.unwrap();
        let partition = durable(&log, 1);
        for value in 0..500u64 {
            log.admit().await;
            append_acked(&log, &partition, &[value * 10, value * 10 + 5]).await;
        }
        assert!(log.stats().flushes > 2, "{:?}", log.stats());
        for (time, expected) in [(0, 0), (1, 1), (5, 1), (6, 2), (2500, 500), (4990, 998), (4995, 999)] {
            assert_eq!(partition.offset_at(time).await.unwrap().map(|found| found.0), Some(expected), "time {time}");
        }
        assert_eq!(partition.offset_at(4996).await.unwrap(), None);
    });
}

#[test]
fn a_record_is_found_by_its_time_inside_compressed_batches() {
    runtime::sim::block_on(5, move |rt: SimRuntime| async move {
        let log = open(&rt).await.unwrap();
        let partition = durable(&log, 1);
        let mut builder = BatchBuilder::new(1 << 20);
        for value in 0..2_000i64 {
            log.admit().await;
            for record in 0..3 {
                builder.append(value * 10 + record, None, Some(&[7; 50]), &[]).unwrap();
            }
            let bytes = builder.build_compressed(Producer::NONE, Codec::Zstd);
            let batch = Batch::parse_one(&bytes).unwrap();
            assert_eq!(batch.codec(), Codec::Zstd);
            let appended = partition.append(&batch, 1).unwrap();
            let synced = log.synced(appended.lsn()).await.unwrap();
            appended.acknowledge(synced);
        }
        assert!(log.stats().flushes > 2, "{:?}", log.stats());
        for (time, expected) in [(0, 0), (1, 1), (2, 2), (3, 3), (10_001, 3_001), (19_991, 5_998), (19_992, 5_999)] {
            let found = partition.offset_at(time).await.unwrap();
            assert_eq!(found.map(|found| found.0), Some(expected), "time {time}");
            assert!(found.is_some_and(|found| found.1 >= time), "time {time}");
        }
        assert_eq!(partition.offset_at(19_993).await.unwrap(), None);
    });
}

#[test]
fn reads_outside_the_log_say_what_there_is() {
    runtime::sim::block_on(6, move |rt: SimRuntime| async move {
        let log = open(&rt).await.unwrap();
        let partition = durable(&log, 1);
        append_acked(&log, &partition, &[1, 2]).await;
        let refused = partition.read(3, 100).await.map(|read| read.bytes);
        assert!(matches!(refused, Err(ReadError::OutOfRange { log_start: 0, high_watermark: 2 })), "{refused:?}");
        assert_eq!(partition.read(2, 100).await.unwrap().bytes, 0);
        let large = batch(&(0..200).collect::<Vec<_>>(), Producer::NONE);
        let refused = partition.append(&Batch::parse_one(&large).unwrap(), 1);
        assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{refused:?}");
    });
}

#[test]
fn a_record_is_found_by_its_time_while_flushes_and_merges_move_it() {
    for seed in seeds(20) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let story = move |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            let writing = rt.spawn({
                let (log, partition) = (log.clone(), durable(&log, 1));
                async move {
                    for value in 0..600u64 {
                        log.admit().await;
                        append_acked(&log, &partition, &[value]).await;
                    }
                }
            });
            let looking: Vec<_> = (0..8)
                .map(|_| {
                    let (rt, partition) = (rt.clone(), durable(&log, 1));
                    rt.clone().spawn(async move {
                        while partition.offsets().high_watermark < 600 {
                            rt.sleep(Duration::from_micros(rt.random_u64() % 200)).await;
                            let acked = partition.offsets().high_watermark;
                            // Near the end: about to be flushed.
                            let value = acked.saturating_sub(1 + rt.random_u64() % 24);
                            let found = partition.offset_at(value as i64).await.unwrap().map(|found| found.0);
                            assert!(acked == 0 || found == Some(value), "{found:?} for {value} of {acked}");
                        }
                    })
                })
                .collect();
            for looking in looking {
                looking.await;
            }
            writing.await;
            assert!(log.stats().merges > 0, "{:?}", log.stats());
        };
        simulation.block_on(node, story).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn a_quiet_log_flushes_what_is_sealed() {
    runtime::sim::block_on(7, move |rt: SimRuntime| async move {
        rt.create_dir_all(crate::support::DIR.as_ref()).await.unwrap();
        let flush_age_max = Duration::from_secs(3600);
        let options = LogOptions { memtable_bytes: 1 << 20, flush_age_max, ..crate::support::small() };
        let log = Log::open(rt.clone(), crate::support::DIR.as_ref(), options).await.unwrap();
        let partition = durable(&log, 1);
        for value in 0..100 {
            append_acked(&log, &partition, &[value]).await;
        }
        assert_eq!(log.stats().flushes, 0, "nothing presses yet: {:?}", log.stats());
        rt.sleep(Duration::from_secs(3)).await;
        assert!(log.stats().flushes > 0, "{:?}", log.stats());
    });
}

#[test]
fn a_read_has_no_holes_whatever_its_limit() {
    runtime::sim::block_on(8, move |rt: SimRuntime| async move {
        let log = open(&rt).await.unwrap();
        let partition = durable(&log, 1);
        for value in 0..400u64 {
            log.admit().await;
            append_acked(&log, &partition, &[value * 31]).await;
            for _ in 0..5 {
                // Near the end, where batches lie in several memtables.
                let offset = value - rt.random_u64() % (value + 1).min(16);
                let bytes_max = (rt.random_u64() % 2000) as usize;
                let batches = partition.read(offset, bytes_max).await.unwrap();
                let bytes: Vec<u8> = batches.slices.iter().flat_map(|slice| slice.to_vec()).collect();
                let found: Vec<u64> = crate::support::records(&bytes).iter().map(|(offset, _)| *offset).collect();
                assert!(!found.is_empty());
                assert_eq!(found, (offset..batches.next_offset).collect::<Vec<_>>(), "at most {bytes_max} bytes");
            }
        }
    });
}
