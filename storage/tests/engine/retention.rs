//! What is deleted stays deleted, what is not stays readable, and the disk gets its space back: by age, by size, by hand and
//! with the partition, with a crash after any I/O.

use std::{cell::RefCell, collections::BTreeMap, path::Path, rc::Rc, time::Duration};

use runtime::{
    Runtime,
    sim::{Crash, NodeId, RunError, SimRuntime, Simulation, seeds},
};
use storage::{Log, LogOptions, Partition, PartitionId, PartitionSettings, ReadError, TrimError, segment::PlanLimits};

use crate::support::{DIR, append_acked, durable, read_all, simulation, small};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// Looks often, and makes a segment of its own of next to nothing.
fn options() -> LogOptions {
    LogOptions { retention_check_every: Duration::from_millis(3), ..small() }
}

async fn open(rt: &SimRuntime, options: LogOptions) -> Log<SimRuntime> {
    rt.create_dir_all(Path::new(DIR)).await.expect("the directory can be made");
    Log::open(rt.clone(), Path::new(DIR), options).await.expect("what is there can be opened")
}

/// Appends batches of one record, whose values, and so timestamps, go on from `first`.
async fn fill(log: &Log<SimRuntime>, partition: &Partition<SimRuntime>, values: std::ops::Range<u64>) {
    for value in values {
        log.admit().await;
        append_acked(log, partition, &[value]).await;
    }
}

/// Waits until the partition starts beyond `before`, or panics.
async fn until_starts_beyond(rt: &SimRuntime, partition: &Partition<SimRuntime>, before: u64) -> u64 {
    for _ in 0..1000 {
        let log_start = partition.offsets().log_start;
        if log_start > before {
            return log_start;
        }
        rt.sleep(Duration::from_millis(500)).await;
    }
    panic!("nothing was deleted");
}

async fn check_reads(partition: &Partition<SimRuntime>, log_start: u64, values: std::ops::Range<u64>) {
    let offsets = partition.offsets();
    assert_eq!(offsets.log_start, log_start);
    let (records, lost) = read_all(partition, log_start).await;
    // A batch that begins before the log start is served whole; here each has one record.
    assert_eq!(records, values.map(|value| (value, value)).collect::<Vec<_>>());
    assert!(lost.is_empty());
    if log_start > 0 {
        let Err(refused) = partition.read(log_start - 1, 1000).await else { panic!("what was deleted is read") };
        let ReadError::OutOfRange { log_start: told, high_watermark } = refused else { panic!("{refused}") };
        assert_eq!((told, high_watermark), (offsets.log_start, offsets.high_watermark));
    }
}

#[test]
fn by_size_the_oldest_segments_go_and_what_is_left_is_as_much_as_was_asked_for() {
    for seed in seeds(10) {
        runtime::sim::block_on(seed, async |rt| {
            let log = open(&rt, options()).await;
            let keep = 8 << 10;
            let settings = PartitionSettings { retention_bytes: Some(keep), ..PartitionSettings::default() };
            let (limited, free) = (log.adopt(PartitionId(1), settings), durable(&log, 2));
            fill(&log, &limited, 0..600).await;
            fill(&log, &free, 0..600).await;
            let log_start = until_starts_beyond(&rt, &limited, 0).await;
            assert!(log_start < 600);
            rt.sleep(Duration::from_secs(1)).await;
            let log_start = limited.offsets().log_start;
            check_reads(&limited, log_start, log_start..600).await;
            check_reads(&free, 0, 0..600).await;
            let batches = limited.read(log_start, 1 << 20).await.expect("it is there");
            assert!(batches.bytes > 0);
            let kept: usize = (log_start..600).map(|value| 61 + 8 + 8 + (value % 97) as usize).sum();
            assert!(kept >= keep as usize, "{kept} bytes are kept");
            log.close().await.expect("the disk works");
        });
    }
}

#[test]
fn by_age_goes_what_was_flushed_and_what_a_jump_of_the_clock_made_old_stays_for_an_hour() {
    let simulation = simulation(1);
    let node = simulation.add_node();
    let settings = PartitionSettings { retention_ms: Some(24 * HOUR_MS), ..PartitionSettings::default() };
    let ended = simulation.block_on(node, move |rt| async move {
        let log = open(&rt, LogOptions { retention_check_every: Duration::from_secs(60), ..options() }).await;
        let partition = log.adopt(PartitionId(1), settings);
        let now_ms = rt.wall_clock_ms() as u64;
        for number in 0..400 {
            log.admit().await;
            append_acked(&log, &partition, &[now_ms + number]).await;
        }
        rt.sleep(Duration::from_secs(600)).await;
        assert_eq!(partition.offsets().log_start, 0);
        (log, partition)
    });
    let (log, partition) = ended.expect("nothing crashes");
    simulation.jump_wall_clock(node, 48 * HOUR_MS as i64);
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    simulation.run_for(minutes(59)).expect("nothing crashes");
    assert_eq!(partition.offsets().log_start, 0, "the clock is doubted");
    simulation.run_for(minutes(5)).expect("nothing crashes");
    assert!(partition.offsets().log_start > 0, "the clock is believed");
    drop(log);
}

#[test]
fn what_is_not_in_segments_stays_however_old_it_is() {
    let settings = PartitionSettings { retention_ms: Some(24 * HOUR_MS), ..PartitionSettings::default() };
    let options = LogOptions { memtable_bytes: 4 << 20, retention_check_every: Duration::from_secs(60), ..options() };
    runtime::sim::block_on(1, move |rt: SimRuntime| async move {
        let log = open(&rt, options.clone()).await;
        let partition = log.adopt(PartitionId(1), settings);
        append_acked(&log, &partition, &[0]).await;
        rt.sleep(Duration::from_secs(3 * 3600)).await;
        assert_eq!(log.stats().flushes, 0);
        check_reads(&partition, 0, 0..1).await;
        log.close().await.expect("the disk works");
        // It is in a segment now, whose time the clock is far ahead of: that is doubted for an hour.
        let log = open(&rt, options).await;
        let partition = log.adopt(PartitionId(1), settings);
        rt.sleep(Duration::from_secs(3500)).await;
        check_reads(&partition, 0, 0..1).await;
        assert_eq!(until_starts_beyond(&rt, &partition, 0).await, 1);
    });
}

#[test]
fn a_shared_segment_is_rewritten_when_half_of_it_is_dead() {
    for seed in seeds(10) {
        runtime::sim::block_on(seed, async |rt| {
            // Everything is small enough to be shared, and nothing is merged for its number.
            let mut options = options();
            options.compaction.limits = PlanLimits { own_bytes_min: 1 << 20, shared_bytes_max: 1 << 20 };
            options.compaction.merge_inputs = 1000;
            options.memtable_bytes = 256 << 10;
            let log = open(&rt, options).await;
            let (first, second) = (durable(&log, 1), durable(&log, 2));
            // Two thirds of each segment are the first one's.
            for value in 0..300 {
                fill(&log, &first, value * 2..value * 2 + 2).await;
                fill(&log, &second, value..value + 1).await;
            }
            rt.sleep(Duration::from_secs(3)).await;
            let before = log.stats();
            assert!(before.segments > 10, "{before:?}");
            assert_eq!(before.merges, 0, "nothing is dead");
            first.delete_before(None).await.expect("consumers see all of it");
            rt.sleep(Duration::from_secs(3)).await;
            let after = log.stats();
            assert!(after.merges > 0 && after.segment_bytes < before.segment_bytes / 2, "{before:?} {after:?}");
            check_reads(&first, 600, 600..600).await;
            check_reads(&second, 0, 0..300).await;
            second.drop_partition().await.expect("the disk works");
            rt.sleep(Duration::from_secs(3)).await;
            assert_eq!(log.stats().segments, 0, "of a dropped partition nothing is left");
            log.close().await.expect("the disk works");
        });
    }
}

/// Recovery meets the first deletion when the manifest knows of the second: what was appended between them is no damage.
#[test]
fn two_deletions_and_a_crash_before_any_flush_leave_what_lies_behind() {
    let simulation = simulation(1);
    let node = simulation.add_node();
    let lived = simulation.block_on(node, |rt| async move {
        let log = open(&rt, LogOptions { memtable_bytes: 1 << 20, ..options() }).await;
        let partition = durable(&log, 1);
        fill(&log, &partition, 0..4).await;
        partition.delete_before(Some(2)).await.expect("consumers see it");
        fill(&log, &partition, 4..8).await;
        partition.delete_before(Some(6)).await.expect("consumers see it");
        assert_eq!(log.stats().flushes, 0);
    });
    lived.expect("nothing crashes");
    simulation.crash(node, Crash::Kill);
    let lived = simulation.block_on(node, |rt| async move {
        let partition = durable(&open(&rt, options()).await, 1);
        check_reads(&partition, 6, 6..8).await;
    });
    lived.expect("nothing crashes");
}

#[test]
fn records_are_deleted_up_to_where_consumers_see() {
    runtime::sim::block_on(1, async |rt| {
        let log = open(&rt, options()).await;
        let partition = durable(&log, 1);
        fill(&log, &partition, 0..10).await;
        append_acked(&log, &partition, &[10, 11, 12]).await;
        assert_eq!(partition.delete_before(Some(4)).await.expect("it is there"), 4);
        check_reads(&partition, 4, 4..13).await;
        assert_eq!(partition.delete_before(Some(2)).await.expect("it is gone already"), 4);
        let refused = partition.delete_before(Some(14)).await;
        assert!(matches!(refused, Err(TrimError::OutOfRange { log_start: 4, high_watermark: 13 })), "{refused:?}");
        // Inside of a batch: the batch is served whole, as it was sent.
        assert_eq!(partition.delete_before(Some(11)).await.expect("it is there"), 11);
        let (records, _) = read_all(&partition, 11).await;
        assert_eq!(records, [(10, 10), (11, 11), (12, 12)]);
        assert_eq!(partition.offset_at(0).await.expect("it can be read"), Some((11, 11)));
        assert_eq!(partition.delete_before(None).await.expect("it is there"), 13);
        assert!(read_all(&partition, 13).await.0.is_empty());
        assert_eq!(append_acked(&log, &partition, &[13]).await, 13);
        check_reads(&partition, 13, 13..14).await;
        partition.drop_partition().await.expect("the disk works");
        assert!(matches!(partition.delete_before(None).await, Err(TrimError::Gone)));
        log.close().await.expect("the disk works");
    });
}

/// What was answered about a partition, which no crash takes.
#[derive(Default)]
struct Partitions {
    by_id: BTreeMap<u64, Told>,
    /// Partitions whose deletion was asked for.
    dropped: BTreeMap<u64, bool>,
    deleted: u64,
}

#[derive(Default)]
struct Told {
    /// Values acknowledged, by offset.
    acked: BTreeMap<u64, u64>,
    /// The highest log start that anyone was told.
    log_start: u64,
    next_value: u64,
}

/// Checks the log against what was told, then works on it: appends, deletions by hand, by size and of partitions.
async fn work(rt: SimRuntime, ledger: Rc<RefCell<Partitions>>, operations: usize) {
    let log = open(&rt, options()).await;
    settle(&log, &ledger).await;
    for _ in 0..operations {
        let id = 1 + rt.random_u64() % 3 + ledger.borrow().dropped.len() as u64;
        let limit = id.is_multiple_of(3).then_some(6 << 10);
        let settings = PartitionSettings { retention_bytes: limit, ..PartitionSettings::default() };
        let partition = log.adopt(PartitionId(id), settings);
        match rt.random_u64() % 16 {
            0 | 1 => {
                let high_watermark = partition.offsets().high_watermark;
                let log_start = partition.offsets().log_start;
                let offset = log_start + rt.random_u64() % (high_watermark - log_start + 1);
                let log_start = partition.delete_before(Some(offset)).await.expect("consumers see it");
                told(&ledger, id).log_start = log_start;
                ledger.borrow_mut().deleted += 1;
            }
            2 if rt.random_u64().is_multiple_of(4) => {
                let oldest = 1 + ledger.borrow().dropped.len() as u64;
                ledger.borrow_mut().dropped.insert(oldest, false);
                let dropped = log.adopt(PartitionId(oldest), PartitionSettings::default());
                dropped.drop_partition().await.expect("no fault");
                ledger.borrow_mut().dropped.insert(oldest, true);
            }
            _ => {
                let values: Vec<u64> = {
                    let mut told = told(&ledger, id);
                    let first = told.next_value;
                    told.next_value += 1 + rt.random_u64() % 12;
                    (first..told.next_value).collect()
                };
                log.admit().await;
                let offset = append_acked(&log, &partition, &values).await;
                told(&ledger, id).acked.extend((offset..).zip(values));
            }
        }
        let mut told = told(&ledger, id);
        told.log_start = told.log_start.max(partition.offsets().log_start);
    }
    log.close().await.expect("no fault");
}

fn told<'a>(ledger: &'a Rc<RefCell<Partitions>>, id: u64) -> std::cell::RefMut<'a, Told> {
    std::cell::RefMut::map(ledger.borrow_mut(), |ledger| ledger.by_id.entry(id).or_default())
}

/// All that was acknowledged and not deleted is there, nothing that was deleted is.
async fn settle(log: &Log<SimRuntime>, ledger: &Rc<RefCell<Partitions>>) {
    let dropped: Vec<_> = ledger.borrow().dropped.iter().map(|(&id, &done)| (id, done)).collect();
    for (id, done) in dropped {
        if done {
            assert!(!log.quarantined().contains(&PartitionId(id)), "partition {id} was dropped");
        }
        let partition = durable(log, id);
        if done {
            assert_eq!(partition.offsets().log_end, 0, "partition {id} was dropped");
        }
        // As metadata does for every tombstone.
        partition.drop_partition().await.expect("no fault");
        ledger.borrow_mut().dropped.insert(id, true);
        ledger.borrow_mut().by_id.remove(&id);
    }
    let ids: Vec<_> = ledger.borrow().by_id.keys().copied().collect();
    for id in ids {
        let partition = durable(log, id);
        let offsets = partition.offsets();
        assert!(offsets.log_start >= told(ledger, id).log_start, "{id}: {offsets:?}, {}", told(ledger, id).log_start);
        let (records, lost) = read_all(&partition, offsets.log_start).await;
        assert!(lost.is_empty());
        let records: BTreeMap<u64, u64> = records.into_iter().collect();
        let mut told = told(ledger, id);
        told.log_start = offsets.log_start;
        for (offset, value) in told.acked.range(offsets.log_start..) {
            assert_eq!(records.get(offset), Some(value), "{id}: offset {offset}");
        }
        // What was on its way when the crash came may be there as well.
        told.acked.extend(records);
        told.next_value = told.acked.values().max().map_or(0, |last| last + 1).max(told.next_value);
    }
}

fn run(
    simulation: &Simulation,
    node: NodeId,
    ledger: &Rc<RefCell<Partitions>>,
    operations: usize,
) -> Result<(), RunError> {
    let ledger = Rc::clone(ledger);
    simulation.block_on(node, move |rt| work(rt, ledger, operations))
}

#[test]
fn what_is_deleted_stays_deleted_and_nothing_else_goes_with_a_crash_after_any_step() {
    const OPERATIONS: usize = 60;
    let mut deleted = 0;
    let mut moved_by_size = 0;
    for seed in seeds(2) {
        let steps = {
            let simulation = simulation(seed);
            let node = simulation.add_node();
            run(&simulation, node, &Rc::default(), OPERATIONS).expect("no crash");
            simulation.disk(node).steps()
        };
        for step in 1..=steps {
            let crash = [Crash::PowerCut, Crash::Kill][(step % 2) as usize];
            let simulation = simulation(seed);
            let node = simulation.add_node();
            let ledger: Rc<RefCell<Partitions>> = Rc::default();
            let disk = simulation.disk(node);
            disk.crash_at_step(step, crash);
            assert!(run(&simulation, node, &ledger, OPERATIONS).is_err(), "no crash at step {step} of seed {seed}");
            // The next one may hit recovery.
            disk.crash_at_step(disk.steps() + 1 + step * 7 % 60, Crash::PowerCut);
            let _may_crash = run(&simulation, node, &ledger, 20);
            simulation.crash(node, Crash::PowerCut);
            run(&simulation, node, &ledger, 20).expect("no crash any more");
            run(&simulation, node, &ledger, 0).expect("a clean stop");
            deleted += ledger.borrow().deleted;
            moved_by_size +=
                u64::from(ledger.borrow().by_id.iter().any(|(id, told)| id % 3 == 0 && told.log_start > 0));
        }
        println!("seed {seed}: a crash at each of {steps} steps");
    }
    assert!(deleted > 1000 && moved_by_size > 100, "{deleted} deletions, {moved_by_size} runs with retention by size");
}
