//! A partition copied from one log into another, batch by batch: the copy is the partition, whatever is done to it.

use std::{collections::BTreeMap, ops::Range, path::Path, time::Duration};

use runtime::{
    Runtime,
    sim::{Crash, SimRuntime, seeds},
};
use storage::{
    AppendError, BeginError, Durability, EndError, LeaveError, Log, Partition, PartitionId, ReplicateError, TrimError,
    producer_state::SequenceError,
};
use wire::record::{Batch, Batches, Codec, Producer};

use crate::{
    keyed,
    support::{batch, read_all, records, simulation, small},
};

const P: PartitionId = PartitionId(7);

type Records = Vec<(u64, u64)>;

pub(crate) async fn open(rt: &SimRuntime, dir: &str) -> Log<SimRuntime> {
    rt.create_dir_all(Path::new(dir)).await.expect("the directory can be made");
    Log::open(rt.clone(), Path::new(dir), small()).await.expect("no damage")
}

fn numbered(base_sequence: i32) -> Producer {
    Producer { id: 0, epoch: 0, base_sequence }
}

/// Appends batches of one to five records by an idempotent producer of their own, in two leader epochs, and waits for the
/// last one.
async fn fill(log: &Log<SimRuntime>, partition: &Partition<SimRuntime>, batches: u64) -> i32 {
    let (mut sequence, mut lsn) = (0, 0);
    let id = partition.offsets().log_end as i64;
    for number in 0..batches {
        let values: Vec<u64> = (0..1 + number % 5).map(|place| number * 10 + place).collect();
        let bytes = batch(&values, Producer { id, ..numbered(sequence) });
        log.admit().await;
        let epoch = 1 + (number * 2 / batches) as i32;
        lsn = partition.append(&Batch::parse_one(&bytes).expect("whole"), epoch).expect("it is taken").lsn();
        sequence += values.len() as i32;
    }
    log.synced(lsn).await.expect("the disk works");
    sequence
}

/// Copies what `source` holds from where `target` ends, a few batches at a time.
async fn copy(source: &Partition<SimRuntime>, log: &Log<SimRuntime>, target: &Partition<SimRuntime>) {
    loop {
        target.skip_lost();
        let next = target.offsets().log_end;
        if next == source.offsets().high_watermark {
            return;
        }
        let read = source.read(next, 1000).await.expect("it can be read");
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let mut lsn = 0;
        log.admit().await;
        for batch in Batches::new(&bytes) {
            let batch = batch.expect("whole batches");
            target.skip_compacted(&batch).expect("there is room");
            lsn = target.replicate(&batch).expect("it goes on").lsn();
        }
        log.synced(lsn).await.expect("the disk works");
    }
}

/// Copies the rest of `source`, which takes nothing any more.
pub(crate) async fn finish(source: &Partition<SimRuntime>, log: &Log<SimRuntime>, target: &Partition<SimRuntime>) {
    source.leave().await.expect("it is whole");
    copy(source, log, target).await;
    target.end(&source.ending()).await.expect("nothing is missing");
}

/// Everything a reader sees of a partition, batches as they are.
async fn bytes(partition: &Partition<SimRuntime>) -> Vec<u8> {
    let (mut all, mut next) = (Vec::new(), partition.offsets().log_start);
    while next < partition.offsets().high_watermark {
        let read = partition.read(next, 4000).await.expect("it can be read");
        read.slices.iter().for_each(|slice| all.extend_from_slice(slice));
        next = read.next_offset;
    }
    all
}

/// The beginning of a copy.
pub(crate) async fn begun(source: &Partition<SimRuntime>, log: &Log<SimRuntime>) -> Partition<SimRuntime> {
    let target = log.adopt(source.id(), source.settings());
    target.begin(&source.origin().await.expect("it can be read")).await.expect("the log has nothing of it");
    target
}

#[test]
fn a_copy_is_byte_for_byte_the_partition_and_stays_so() {
    for seed in seeds(10) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let batches = 20 + seed % 7 * 40;
        let (written, next_sequence) = simulation
            .block_on(node, async move |rt: SimRuntime| {
                let (from, to) = (open(&rt, "from").await, open(&rt, "to").await);
                let source = from.adopt(P, Durability::Durable);
                let next_sequence = fill(&from, &source, batches).await;
                let target = begun(&source, &to).await;
                finish(&source, &to, &target).await;
                assert_eq!(bytes(&target).await, bytes(&source).await, "offsets, epochs and all");
                assert_eq!(target.offsets(), source.offsets());
                (read_all(&target, 0).await.0, next_sequence)
            })
            .unwrap();
        simulation.crash(node, if seed % 2 == 0 { Crash::PowerCut } else { Crash::Kill });
        simulation
            .block_on(node, async move |rt: SimRuntime| {
                let to = open(&rt, "to").await;
                let target = to.adopt(P, Durability::Durable);
                assert_eq!(read_all(&target, 0).await.0, written, "seed {seed}");
                // Its producer is known: the last batch is a duplicate, a gap is refused, the next one goes on.
                let (last, count) = (batches - 1, 1 + (batches - 1) % 5);
                let values: Vec<u64> = (0..count).map(|place| last * 10 + place).collect();
                let again = batch(&values, numbered(next_sequence - count as i32));
                let appended = target.append(&Batch::parse_one(&again).unwrap(), 3).unwrap();
                assert!(appended.is_duplicate());
                assert_eq!(appended.base_offset(), written.len() as u64 - count);
                let skipped = batch(&[1], numbered(next_sequence + 1));
                let refused = target.append(&Batch::parse_one(&skipped).unwrap(), 3).unwrap_err();
                assert!(matches!(refused, AppendError::Sequence(SequenceError::OutOfOrder { .. })), "{refused}");
                let next = batch(&[1], numbered(next_sequence));
                assert_eq!(
                    target.append(&Batch::parse_one(&next).unwrap(), 3).unwrap().base_offset(),
                    written.len() as u64
                );
            })
            .unwrap();
    }
}

#[test]
fn what_a_crash_took_from_a_memory_partition_is_lost_in_its_copy_too() {
    for seed in seeds(10) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        simulation
            .block_on(node, async |rt: SimRuntime| {
                let from = open(&rt, "from").await;
                fill(&from, &from.adopt(P, Durability::Memory), 30).await;
            })
            .unwrap();
        simulation.crash(node, Crash::PowerCut);
        let (before, lost, log_end): (Records, Vec<Range<u64>>, u64) = simulation
            .block_on(node, async move |rt: SimRuntime| {
                let (from, to) = (open(&rt, "from").await, open(&rt, "to").await);
                let source = from.adopt(P, Durability::Memory);
                // Half of the seeds end in the lost range.
                if seed % 2 == 0 {
                    fill(&from, &source, 3).await;
                }
                let target = begun(&source, &to).await;
                copy(&source, &to, &target).await;
                let (records, lost) = read_all(&source, 0).await;
                assert_eq!(read_all(&target, 0).await, (records.clone(), lost.clone()), "seed {seed}");
                assert_eq!(lost.len(), 1, "the reservation was open");
                assert_eq!(target.offsets().log_end, source.offsets().log_end);
                (records, lost, target.offsets().log_end)
            })
            .unwrap();
        simulation.crash(node, Crash::PowerCut);
        simulation
            .block_on(node, async move |rt: SimRuntime| {
                let target = open(&rt, "to").await.adopt(P, Durability::Memory);
                let (records, lost_now) = read_all(&target, 0).await;
                assert_eq!(records, before, "seed {seed}");
                assert_eq!(lost_now[0].start, lost[0].start, "seed {seed}");
                assert!(target.offsets().log_end >= log_end, "no offset is given out twice");
            })
            .unwrap();
    }
}

/// A copy that was dropped leaves its batches in shared segments and in the WAL. A new one has nothing of them, through
/// flushes, merges and crashes.
#[test]
fn a_copy_that_was_dropped_begins_again() {
    for seed in seeds(20) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let crash = if seed % 2 == 0 { Crash::PowerCut } else { Crash::Kill };
        let fill_others = async |log: &Log<SimRuntime>, rounds: u64| {
            for id in [1, 20] {
                fill(log, &log.adopt(PartitionId(id), Durability::Durable), rounds).await;
            }
        };
        simulation
            .block_on(node, async move |rt: SimRuntime| {
                let (from, to) = (open(&rt, "from").await, open(&rt, "to").await);
                let source = from.adopt(P, Durability::Durable);
                fill(&from, &source, 40).await;
                // What it was when it was copied for the first time has nothing to do with what it is, and is small enough
                // for a segment that it shares.
                let other = open(&rt, "other").await;
                let earlier = other.adopt(P, Durability::Durable);
                fill(&other, &earlier, 1).await;
                fill(&other, &earlier, 20).await;
                let target = begun(&earlier, &to).await;
                copy(&earlier, &to, &target).await;
                fill_others(&to, seed % 4 * 10).await;
                to.flush().await.unwrap();
                target.drop_partition().await.unwrap();
                let refused = target.begin(&source.origin().await.unwrap()).await.unwrap_err();
                assert!(matches!(refused, BeginError::Gone), "{refused}");
                if seed % 3 == 0 {
                    let target = begun(&source, &to).await;
                    copy(&source, &to, &target).await;
                }
            })
            .unwrap();
        simulation.crash(node, crash);
        let whole = simulation
            .block_on(node, async move |rt: SimRuntime| {
                let (from, to) = (open(&rt, "from").await, open(&rt, "to").await);
                let source = from.adopt(P, Durability::Durable);
                if seed % 3 == 0 {
                    to.adopt(P, Durability::Durable).drop_partition().await.unwrap();
                }
                let target = begun(&source, &to).await;
                copy(&source, &to, &target).await;
                fill_others(&to, seed % 5 * 40).await;
                let whole = bytes(&source).await;
                assert!(bytes(&target).await == whole, "seed {seed}");
                whole
            })
            .unwrap();
        simulation.crash(node, crash);
        simulation
            .block_on(node, async move |rt: SimRuntime| {
                let to = open(&rt, "to").await;
                let target = to.adopt(P, Durability::Durable);
                assert_eq!(target.refused_from(), None, "seed {seed}");
                assert!(bytes(&target).await == whole, "seed {seed}");
                fill_others(&to, 200).await;
                assert!(bytes(&target).await == whole, "seed {seed}, after flushes and merges");
                // What it was before would overlap with what it is.
                assert_eq!(to.stats().segments_unreadable, 0, "seed {seed}");
                to.close().await.unwrap();
            })
            .unwrap();
    }
}

#[test]
fn batches_that_do_not_go_on_are_refused() {
    runtime::sim::block_on(1, async |rt: SimRuntime| {
        let (from, to) = (open(&rt, "from").await, open(&rt, "to").await);
        let source = from.adopt(P, Durability::Durable);
        fill(&from, &source, 10).await;
        let whole = bytes(&source).await;
        let batches: Vec<_> = Batches::new(&whole).map(|batch| batch.expect("whole batches")).collect();
        let target = begun(&source, &to).await;
        let gap = target.replicate(&batches[1]).unwrap_err();
        assert!(matches!(gap, ReplicateError::Gap { expected: 0, found: 1 }), "{gap}");
        let lsn = target.replicate(&batches[0]).unwrap().lsn();
        to.synced(lsn).await.unwrap();
        let twice = target.replicate(&batches[0]).unwrap_err();
        assert!(matches!(twice, ReplicateError::Gap { expected: 1, found: 0 }), "{twice}");
        let again = target.begin(&source.origin().await.unwrap()).await.unwrap_err();
        assert!(matches!(again, BeginError::NotEmpty { log_end: 1 }), "{again}");
        target.retire();
        let gone = target.replicate(&batches[1]).unwrap_err();
        assert!(matches!(gone, ReplicateError::Append(AppendError::Gone)), "{gone}");
        assert_eq!(records(&whole).len(), source.offsets().log_end as usize);
    });
}

#[test]
fn what_is_deleted_while_it_is_copied_stays_deleted() {
    for seed in seeds(10) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let batches = 60;
        let (expected, log_start) = simulation
            .block_on(node, async move |rt: SimRuntime| {
                let (from, to) = (open(&rt, "from").await, open(&rt, "to").await);
                let source = from.adopt(P, Durability::Durable);
                fill(&from, &source, batches).await;
                let target = begun(&source, &to).await;
                copy(&source, &to, &target).await;
                // Inside of a batch, for some of the seeds.
                let log_start = source.delete_before(Some(40 + seed)).await.unwrap();
                finish(&source, &to, &target).await;
                assert_eq!(target.offsets(), source.offsets(), "seed {seed}");
                assert_eq!(target.offsets().log_start, log_start);
                (read_all(&source, log_start).await.0, log_start)
            })
            .unwrap();
        simulation.crash(node, if seed % 2 == 0 { Crash::PowerCut } else { Crash::Kill });
        simulation
            .block_on(node, async move |rt: SimRuntime| {
                let target = open(&rt, "to").await.adopt(P, Durability::Durable);
                assert_eq!(target.offsets().log_start, log_start, "seed {seed}");
                assert_eq!(read_all(&target, log_start).await.0, expected, "seed {seed}");
            })
            .unwrap();
    }
}

#[test]
fn a_partition_that_leaves_does_not_change_until_it_stays() {
    runtime::sim::block_on(2, async |rt: SimRuntime| {
        let (from, to) = (open(&rt, "from").await, open(&rt, "to").await);
        let source = from.adopt(P, Durability::Durable);
        fill(&from, &source, 10).await;
        source.leave().await.unwrap();
        let before = (source.offsets(), bytes(&source).await);
        let one = batch(&[1], Producer::NONE);
        let one = Batch::parse_one(&one).unwrap();
        let refused = source.append(&one, 1).unwrap_err();
        assert!(matches!(refused, AppendError::Leaving), "{refused}");
        let refused = source.delete_before(Some(3)).await.unwrap_err();
        assert!(matches!(refused, TrimError::Leaving), "{refused}");
        assert_eq!((source.offsets(), bytes(&source).await), before);

        let target = begun(&source, &to).await;
        let short = target.end(&source.ending()).await.unwrap_err();
        let log_end = source.offsets().log_end;
        assert!(matches!(short, EndError::Short { synced: 0, expected } if expected == log_end), "{short}");
        source.stay();
        let _placed = source.append(&one, 1).unwrap();
        assert_eq!(source.delete_before(Some(3)).await.unwrap(), 3);
        source.drop_partition().await.unwrap();
        let gone = source.leave().await.unwrap_err();
        assert!(matches!(gone, LeaveError::Gone), "{gone}");
    });
}

type Keyed = BTreeMap<u64, keyed::Record>;

/// What lookups by key and by time find.
async fn lookups(partition: &Partition<SimRuntime>) -> (Vec<Option<u64>>, Vec<Option<(u64, i64)>>) {
    let (mut by_key, mut by_time) = (Vec::new(), Vec::new());
    for key in 0..12 {
        by_key.push(partition.get(&keyed::key_bytes(key)).await.unwrap().map(|found| found.offset));
    }
    for timestamp_ms in 0..130 {
        by_time.push(partition.offset_at(10 * timestamp_ms).await.unwrap());
    }
    (by_key, by_time)
}

/// The last offset of each key.
fn last_offsets(records: &Keyed) -> BTreeMap<u8, u64> {
    records.iter().map(|(&offset, &(key, _))| (key, offset)).collect()
}

#[test]
fn what_was_compacted_away_stays_away_and_the_rest_is_found() {
    runtime::sim::block_on(7, async |rt: SimRuntime| {
        let (_from, source) = compacted(&rt).await;
        let to = open(&rt, "to").await;
        let (records, headers) = keyed::read_all(&source).await;
        let next = |header: &wire::record::BatchHeader| header.base_offset + header.last_offset_delta as u64 + 1;
        assert!(headers[0].base_offset > 0, "there is a gap at the start");
        assert!(headers.is_sorted_by(|a, b| next(a) <= b.base_offset));
        assert!(headers.windows(2).any(|two| next(&two[0]) < two[1].base_offset), "there is a gap between");
        let found = lookups(&source).await;

        let target = begun(&source, &to).await;
        finish(&source, &to, &target).await;
        assert_eq!(target.offsets(), source.offsets());
        assert_eq!(keyed::read_all(&target).await.0, records);
        assert_eq!(lookups(&target).await, found);
        expect_duplicates(&to, &target).await;
        rt.sleep(Duration::from_secs(3)).await;
        let rounds = to.stats().rounds;
        to.close().await.unwrap();

        let to = open(&rt, "to").await;
        let target = to.adopt(P, keyed::compacted());
        rt.sleep(Duration::from_secs(3)).await;
        assert!(rounds + to.stats().rounds > 0, "the copy is compacted like any partition");
        assert_eq!(last_offsets(&keyed::read_all(&target).await.0), last_offsets(&records));
        assert_eq!(lookups(&target).await, found);
        expect_duplicates(&to, &target).await;
        to.close().await.unwrap();
    });
}

#[test]
fn what_only_the_end_of_a_copy_says_of_producers_survives_a_crash() {
    let simulation = simulation(3);
    let node = simulation.add_node();
    let copy = async |rt: SimRuntime| {
        let (_from, source) = compacted(&rt).await;
        let to = open(&rt, "to").await;
        let target = begun(&source, &to).await;
        finish(&source, &to, &target).await;
    };
    simulation.block_on(node, copy).unwrap();
    simulation.crash(node, Crash::PowerCut);
    let look = async |rt: SimRuntime| {
        let to = open(&rt, "to").await;
        expect_duplicates(&to, &to.adopt(P, keyed::compacted())).await;
    };
    simulation.block_on(node, look).unwrap();
}

/// What an idempotent producer of a [`compacted`] partition sent, one record each.
const PRODUCER_BATCHES: i32 = 5;

fn keyed_batch(value: u64, producer: Producer) -> Vec<u8> {
    keyed::batch(10 * value as i64, &[((value % 12) as u8, Some(value))], producer, Codec::None)
}

/// A log and a partition in it that was compacted by key: of the batches of an idempotent producer at its start, one is left.
async fn compacted(rt: &SimRuntime) -> (Log<SimRuntime>, Partition<SimRuntime>) {
    let from = open(rt, "from").await;
    let source = from.adopt(P, Durability::Durable);
    for base_sequence in 0..PRODUCER_BATCHES {
        append(&from, &source, &keyed_batch(0, Producer { id: 70, epoch: 0, base_sequence })).await;
    }
    for value in 0..120 {
        append(&from, &source, &keyed_batch(value, Producer::NONE)).await;
    }
    from.close().await.unwrap();
    let from = open(rt, "from").await;
    let source = from.adopt(P, keyed::compacted());
    rt.sleep(Duration::from_secs(3)).await;
    (from, source)
}

/// Appends a batch durably; whether it was there already.
async fn append(log: &Log<SimRuntime>, partition: &Partition<SimRuntime>, bytes: &[u8]) -> bool {
    log.admit().await;
    let appended = partition.append(&Batch::parse_one(bytes).unwrap(), 1).unwrap();
    log.synced(appended.lsn()).await.unwrap();
    appended.is_duplicate()
}

/// The producer of a [`compacted`] partition is known by more than the one batch that is left.
async fn expect_duplicates(log: &Log<SimRuntime>, partition: &Partition<SimRuntime>) {
    for base_sequence in 0..PRODUCER_BATCHES {
        let again = keyed_batch(0, Producer { id: 70, epoch: 0, base_sequence });
        assert!(append(log, partition, &again).await, "sequence {base_sequence}");
    }
}
