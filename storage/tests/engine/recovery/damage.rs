//! Damage inside the synced region: it stops the partitions that it touches, from the last offset proven before it, and
//! no others; nothing is taken for a torn tail that once was on stable storage.

use std::time::Duration;

use runtime::{Runtime, sim::SimRuntime};
use storage::{
    AppendError, Log, LogOptions, PartitionId, ReadError,
    group::{BATCH_PREFIX_BYTES, EntryKind},
    manifest::Evidence,
};
use wire::record::{Batch, BatchBuilder, Producer};

use super::story::{GroupOnDisk, Story, append_each, append_together, memory, reseal, values};
use crate::support::{self, append_acked, batch, durable};

/// What makes a whole group unreadable.
type Damaging = fn(&Story, &GroupOnDisk);

const DAMAGES: [(&str, Damaging); 6] = [
    ("it reads as zeros", |story, group| group.wipe(&story.disk())),
    ("its magic is damaged", |story, group| group.flip(&story.disk(), 0)),
    ("its version is damaged", |story, group| group.flip(&story.disk(), 4)),
    ("its number is damaged", |story, group| group.overwrite(&story.disk(), 32, &[0xff; 8])),
    ("its lists are damaged", |story, group| group.flip(&story.disk(), group.header.length as usize - 1)),
    ("its first sector cannot be read", |story, group| story.disk().damage_sector(&group.path, group.position)),
];

/// Three partitions over six groups, without a marker between them.
pub(crate) async fn write(_: SimRuntime, log: Log<SimRuntime>) {
    append_together(&log, &[(1, 10), (2, 20)]).await;
    append_together(&log, &[(1, 11)]).await;
    append_together(&log, &[(1, 12), (2, 21)]).await;
    append_together(&log, &[(3, 30)]).await;
    append_together(&log, &[(2, 22), (3, 31)]).await;
    append_together(&log, &[(3, 32)]).await;
}

/// The partition cannot be read from `from` on, takes nothing, and says so.
pub(crate) async fn check_refused(log: &Log<SimRuntime>, id: u64, from: u64) {
    let partition = durable(log, id);
    assert_eq!(partition.refused_from(), Some(from), "partition {id}");
    let read = partition.read(from, 1000).await.map(|batches| batches.bytes);
    assert!(matches!(read, Err(ReadError::Refused { from: found }) if found == from), "partition {id}: {read:?}");
    let bytes = batch(&[99], Producer::NONE);
    let appended = partition.append(&Batch::parse_one(&bytes).unwrap(), 1);
    assert!(matches!(appended, Err(AppendError::Refused { from: found }) if found == from), "{appended:?}");
}

/// The partition is whole and takes more.
async fn check_serving(log: &Log<SimRuntime>, id: u64, expected: &[u64]) {
    assert_eq!(values(log, id).await, expected, "partition {id}");
    let offset = append_acked(log, &durable(log, id), &[500]).await;
    assert_eq!(offset, expected.len() as u64, "partition {id}");
}

#[test]
fn one_damaged_group_stops_the_partitions_that_were_in_it_and_no_others() {
    for (what, damage) in DAMAGES {
        let story = Story::new(1);
        story.live(write);
        damage(&story, &story.group_of(2, 1));
        story.live(move |_, log| async move {
            assert_eq!(values(&log, 1).await, [10, 11], "{what}");
            check_refused(&log, 1, 2).await;
            assert_eq!(values(&log, 2).await, [20], "{what}");
            check_refused(&log, 2, 1).await;
            check_serving(&log, 3, &[30, 31, 32]).await;
        });
        let partitions = story.manifest().partitions;
        for (id, from) in [(1, 2), (2, 1)] {
            let refusal = partitions[&PartitionId(id)].refused.expect("it is refused");
            assert_eq!((refusal.from, refusal.evidence), (from, Evidence::Successor), "{what}");
        }
        assert!(partitions.get(&PartitionId(3)).is_none_or(|known| known.refused.is_none()));
    }
}

/// The refusal outlives the WAL file in which the damage lies.
#[test]
fn a_refusal_outlives_flush_and_restart() {
    let story = Story::new(2);
    story.live(write);
    story.group_of(2, 1).wipe(&story.disk());
    story.live(|_, log| async move { log.close().await.unwrap() });
    for life in 0..2 {
        story.live(move |_, log| async move {
            assert_eq!(values(&log, 1).await, [10, 11], "life {life}");
            check_refused(&log, 1, 2).await;
            assert_eq!(values(&log, 2).await, [20], "life {life}");
            check_refused(&log, 2, 1).await;
            assert_eq!(values(&log, 3).await, [30, 31, 32], "life {life}");
        });
    }
}

/// Every single byte of a group, one after the other.
#[test]
fn no_damaged_byte_of_a_group_stops_a_partition_that_is_not_in_it() {
    let story = Story::new(3);
    story.live(write);
    let group = story.group_of(2, 1);
    let as_written = story.disk().snapshot();
    for at in 0..group.header.length as usize {
        group.flip(&story.disk(), at);
        let refused = story.live(move |_, log| async move {
            assert_eq!(values(&log, 3).await, [30, 31, 32], "byte {at}");
            assert_eq!(durable(&log, 3).refused_from(), None, "byte {at}");
            let (one, two) = (values(&log, 1).await, values(&log, 2).await);
            assert!(one == [10, 11] || one == [10, 11, 12], "byte {at}: {one:?}");
            assert!(two == [20] || two == [20, 21, 22], "byte {at}: {two:?}");
            let refused = [1, 2].map(|id| durable(&log, id).refused_from());
            assert_eq!(refused, [(one.len() < 3).then_some(2), (two.len() < 3).then_some(1)], "byte {at}");
            refused
        });
        assert!(refused.iter().any(Option::is_some), "damage to byte {at} was not found");
        story.disk().restore(as_written.clone());
    }
}

#[test]
fn two_damaged_groups_in_a_row_stop_every_partition_above_what_is_proven() {
    let story = Story::new(4);
    story.live(|rt, log| async move {
        append_together(&log, &[(4, 40)]).await;
        write(rt, log).await;
    });
    story.group_of(2, 1).wipe(&story.disk());
    story.group_of(3, 0).wipe(&story.disk());
    story.live(|_, log| async move {
        for (id, proven) in [(1, &[10, 11][..]), (2, &[20]), (3, &[]), (4, &[40])] {
            assert_eq!(values(&log, id).await, proven);
            check_refused(&log, id, proven.len() as u64).await;
        }
    });
    let known = story.manifest().partitions;
    assert_eq!(known[&PartitionId(4)].refused.map(|refusal| refusal.evidence), Some(Evidence::Nothing));
}

#[test]
fn one_damaged_entry_stops_its_partition_alone() {
    let story = Story::new(5);
    story.live(write);
    let group = story.group_of(2, 1);
    let (_, range) = group.entries.iter().find(|(entry, _)| entry.partition == PartitionId(2)).unwrap().clone();
    // Behind what the entry's own checksum covers: the batch's finds it.
    group.flip(&story.disk(), range.end - 1);
    story.live(|_, log| async move {
        check_serving(&log, 1, &[10, 11, 12]).await;
        assert_eq!(values(&log, 2).await, [20]);
        check_refused(&log, 2, 1).await;
        check_serving(&log, 3, &[30, 31, 32]).await;
    });
    let refusal = story.manifest().partitions[&PartitionId(2)].refused.unwrap();
    assert_eq!((refusal.from, refusal.evidence), (1, Evidence::Directory));
}

#[test]
fn a_batch_that_is_not_where_its_entry_says_is_damage() {
    let story = Story::new(6);
    story.live(write);
    let group = story.group_of(1, 1);
    let mut bytes = group.bytes.clone();
    let (_, range) = group.entries[0].clone();
    // The batch's own base offset, which its CRC does not cover; every checksum holds again.
    bytes[range.start + 7] += 1;
    let entry_crc_at = group.header.directory_position as usize + 36;
    let entry_crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[24..32]), &bytes[range][..BATCH_PREFIX_BYTES]);
    bytes[entry_crc_at..entry_crc_at + 4].copy_from_slice(&entry_crc.to_le_bytes());
    reseal(&mut bytes);
    group.overwrite(&story.disk(), 0, &bytes);
    story.live(|_, log| async move {
        assert_eq!(values(&log, 1).await, [10]);
        check_refused(&log, 1, 1).await;
        check_serving(&log, 2, &[20, 21, 22]).await;
    });
}

/// Without a group behind it, the last one cannot be told from a torn tail; so a marker follows when the log falls silent.
#[test]
fn a_pause_gives_the_last_group_a_witness() {
    for paused in [false, true] {
        let story = Story::new(7);
        story.live(move |rt, log| async move {
            append_each(&log, 1, 0..3).await;
            append_each(&log, 2, 0..1).await;
            if paused {
                rt.sleep(Duration::from_millis(20)).await;
            }
        });
        let groups = story.groups();
        let markers = groups.iter().filter(|group| group.entries[0].0.kind == EntryKind::Marker).count();
        assert_eq!(markers, usize::from(paused), "one marker, and none behind it");
        story.group_of(2, 0).wipe(&story.disk());
        story.live(move |_, log| async move {
            assert_eq!(values(&log, 1).await, [0, 1, 2]);
            assert_eq!(durable(&log, 2).refused_from(), paused.then_some(0), "paused: {paused}");
        });
    }
}

/// What the last life wrote last is named by what this one writes first.
#[test]
fn the_last_group_before_a_crash_has_a_witness_after_it() {
    for pause in [Duration::ZERO, Duration::from_millis(20)] {
        let story = Story::new(8);
        story.live(|_, log| async move { append_together(&log, &[(1, 10), (2, 20)]).await });
        let last = story.groups().pop().unwrap();
        story.live(move |rt, log| async move {
            match pause {
                Duration::ZERO => append_each(&log, 3, 0..1).await,
                _ => rt.sleep(pause).await,
            }
        });
        last.wipe(&story.disk());
        story.live(|_, log| async move {
            check_refused(&log, 1, 0).await;
            check_refused(&log, 2, 0).await;
            assert_eq!(durable(&log, 3).refused_from(), None);
        });
    }
}

/// A reservation that nobody knows of any more would let offsets be given out twice.
#[test]
fn a_damaged_reservation_stops_its_partition() {
    let story = Story::new(9);
    story.live(|_, log| async move {
        // Two batches that leave no room in their group for the reservation that the second one asks for.
        let bytes = batch_of_bytes(4010);
        let parsed = Batch::parse_one(&bytes).unwrap();
        let appended = durable(&log, 1).append(&parsed, 1).unwrap();
        let early = memory(&log, 2).append(&parsed, 1).unwrap();
        assert_eq!(early.lsn(), appended.lsn());
        log.synced(early.lsn() + 1).await.unwrap();
        append_each(&log, 1, 0..2).await;
    });
    let groups = story.groups();
    let reservation = groups.iter().find(|group| group.entries[0].0.kind == EntryKind::Reserve);
    let reservation = reservation.expect("the reservation has a group of its own");
    assert_eq!(reservation.entries.len(), 1);
    reservation.wipe(&story.disk());
    story.live(|_, log| async move {
        assert_eq!(memory(&log, 2).refused_from(), Some(1));
        assert_eq!(durable(&log, 1).refused_from(), None);
    });
}

/// A batch of one record that is this long.
fn batch_of_bytes(bytes: usize) -> Vec<u8> {
    let build = |value_bytes: usize| {
        let mut builder = BatchBuilder::new(1 << 20);
        builder.append(0, None, Some(&vec![7; value_bytes]), &[]).unwrap();
        builder.build(Producer::NONE).to_vec()
    };
    let around = build(bytes - 100).len() - (bytes - 100);
    let batch = build(bytes - around);
    assert_eq!(batch.len(), bytes);
    batch
}

#[test]
fn a_truncation_in_front_of_the_damage_puts_the_partition_back_to_work() {
    let story = Story::new(10);
    story.live(write);
    story.group_of(2, 1).wipe(&story.disk());
    story.live(|_, log| async move {
        let partition = durable(&log, 1);
        partition.truncate(2, 2).await.unwrap();
        check_serving(&log, 1, &[10, 11]).await;
        check_refused(&log, 2, 1).await;
    });
    for life in 0..3 {
        story.live(move |_, log| async move {
            assert_eq!(durable(&log, 1).refused_from(), None);
            assert_eq!(values(&log, 1).await, [10, 11, 500]);
            check_refused(&log, 2, 1).await;
            // The last one finds nothing in the WAL that says so.
            if life == 1 {
                log.close().await.unwrap();
            }
        });
    }
}

#[test]
fn a_truncation_of_a_damaged_partition_cut_short_is_done_or_undone() {
    let (mut refused, mut served) = (0, 0);
    for ahead in 1.. {
        let story = Story::new(11);
        story.live(write);
        story.group_of(2, 1).wipe(&story.disk());
        let (disk, options) = (story.disk(), super::story::roomy());
        let ended = story.simulation.block_on(story.node, move |rt: SimRuntime| async move {
            let log = Log::open(rt, support::DIR.as_ref(), options).await.unwrap();
            disk.crash_at_step(disk.steps() + ahead, runtime::sim::Crash::PowerCut);
            durable(&log, 1).truncate(2, 2).await.unwrap();
        });
        story.simulation.crash(story.node, runtime::sim::Crash::PowerCut);
        let from = story.live(|_, log| async move {
            assert_eq!(values(&log, 1).await, [10, 11]);
            let from = durable(&log, 1).refused_from();
            if from.is_none() {
                check_serving(&log, 1, &[10, 11]).await;
            }
            from
        });
        story.live(move |_, log| async move { assert_eq!(durable(&log, 1).refused_from(), from) });
        match from {
            Some(_) => refused += 1,
            None => served += 1,
        }
        if ended.is_ok() {
            assert!(from.is_none(), "what was truncated stays truncated");
            break;
        }
    }
    assert!(refused > 0 && served > 1, "{refused} undone, {served} done");
}

/// A dropped partition cannot be damaged any more.
#[test]
fn damage_to_what_was_dropped_stops_nobody() {
    let story = Story::new(12);
    story.live(|_, log| async move {
        append_together(&log, &[(1, 10), (2, 20)]).await;
        append_together(&log, &[(1, 11), (2, 21)]).await;
        append_together(&log, &[(1, 12)]).await;
        durable(&log, 2).drop_partition().await.unwrap();
        append_together(&log, &[(3, 30)]).await;
    });
    story.group_of(2, 1).wipe(&story.disk());
    story.live(|_, log| async move {
        assert_eq!(log.quarantined(), [PartitionId(1), PartitionId(3)]);
        check_refused(&log, 1, 1).await;
        check_serving(&log, 3, &[30]).await;
    });
}

/// Files of the WAL that are gone altogether take their groups with them.
#[test]
fn a_lost_wal_file_is_damage() {
    let small_files = LogOptions { memtable_bytes: 256 << 10, ..super::story::roomy() };
    let story = Story::with_options(13, small_files);
    story.live(|_, log| async move {
        append_each(&log, 1, 0..40).await;
        append_each(&log, 2, 0..10).await;
    });
    // What lies in front of it was flushed.
    let flushed_lsn = story.manifest().flushed.lsn;
    let first = story.groups().into_iter().find(|group| group.lsn() > flushed_lsn).unwrap();
    let proven = first.entries[0].0.base_offset;
    assert_eq!(first.entries[0].0.partition, PartitionId(1));
    assert_ne!(story.group_of(2, 0).path, first.path, "the groups are in more than one file");
    story.disk().damage_name(&first.path);
    story.live(move |_, log| async move {
        check_refused(&log, 1, proven).await;
        // It began behind the damage.
        check_serving(&log, 2, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    });
}
