//! The Nth operation on the disk fails, for N = 1, 2, … until the workload meets no fault: opening, appending, rolling,
//! flushing, merging, truncating, dropping, reading, closing, and all that over again.
//!
//! Whatever fails, it is told: the log does not open, or ends, or a read is refused; nothing is acknowledged or written
//! afterwards, and the next life has everything that was acknowledged before.
//!
//! `STREAMBUS_FAULTS=400 cargo test -p storage --test engine nth_operation -- --nocapture` goes up to N = 400 for each kind
//! of operation; a plain run takes a few of each. `STREAMBUS_SEED` moves where the disk is slow and what of a write arrives.

use std::{cell::RefCell, path::Path, rc::Rc, time::Duration};

use runtime::{
    Runtime,
    sim::{
        Crash, NodeId, SimRuntime, Simulation,
        disk::{Effect, Fault, OpKind, Reached},
    },
};
use storage::{AppendError, Log, LogFailed, ReadError, TruncateError};
use wire::record::{Batch, Producer};

use crate::support::{DIR, batch, durable, records, simulation, small};

const KINDS: [OpKind; 11] = [
    OpKind::Open,
    OpKind::Read,
    OpKind::Write,
    OpKind::Sync,
    OpKind::Allocate,
    OpKind::Length,
    OpKind::List,
    OpKind::CreateDir,
    OpKind::Rename,
    OpKind::Remove,
    OpKind::SyncDir,
];
const REACHED: [Reached; 3] = [Reached::Nothing, Reached::Part, Reached::All];
/// Appends of one pass of the workload: enough to roll, flush and merge.
const APPENDS: u64 = 150;
/// What a plain run skips between two faults, so that it takes seconds.
const STRIDE: usize = 17;

/// What is known of a partition whatever happens; its values are its offsets.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acked: u64,
    /// It was, or may have been, truncated to this length.
    cut: Option<u64>,
    /// It was, or may have been, dropped.
    dropped: bool,
}

type Model = Rc<RefCell<[Known; 5]>>;

/// How a life with a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The log did not open, and said why.
    Unopened,
    /// It failed, and said so.
    Failed,
    /// It went to its end; reads may have been refused, merges given up.
    Completed,
}

/// What stops a workload.
enum Stop {
    Unopened,
    Failed(Log<SimRuntime>),
}

/// One pass, from open to close. `dropped` is the partition that it makes and drops: its number is used once.
async fn pass(rt: &SimRuntime, model: &Model, dropped: u64) -> Result<(), Stop> {
    let log = Log::open(rt.clone(), Path::new(DIR), small()).await.map_err(|_| Stop::Unopened)?;
    work(rt, &log, model, dropped).await.map_err(|_| Stop::Failed(log.clone()))?;
    log.clone().close().await.map_err(|_| Stop::Failed(log))
}

async fn work(rt: &SimRuntime, log: &Log<SimRuntime>, model: &Model, dropped: u64) -> Result<(), LogFailed> {
    for turn in 0..APPENDS {
        let id = turn % 3;
        log.admit().await;
        append(log, id, model).await?;
        if turn % 30 == 29 {
            rt.sleep(Duration::from_millis(60)).await;
            read(log, id).await;
        }
    }
    let partition = durable(log, 1);
    let cut = model.borrow()[1].acked / 2;
    if partition.refused_from().is_none() && cut > partition.offsets().log_start {
        model.borrow_mut()[1].cut = Some(cut);
        match partition.truncate(cut, 1).await {
            Ok(()) => model.borrow_mut()[1] = Known { acked: cut, ..Known::default() },
            Err(TruncateError::Failed(failed)) => return Err(failed),
            // Where the batch begins could not be read: nothing was done, and the partition goes on as it was.
            Err(TruncateError::Segment(_)) => model.borrow_mut()[1].cut = None,
            Err(error) => panic!("{error}"),
        }
    }
    append(log, dropped, model).await?;
    model.borrow_mut()[dropped as usize].dropped = true;
    durable(log, dropped).drop_partition().await?;
    model.borrow_mut()[dropped as usize] = Known::default();
    Ok(())
}

/// Appends the next record of a partition, unless damage keeps it closed.
async fn append(log: &Log<SimRuntime>, id: u64, model: &Model) -> Result<(), LogFailed> {
    let partition = durable(log, id);
    let value = partition.offsets().log_end;
    let bytes = batch(&[value], Producer::NONE);
    let appended = match partition.append(&Batch::parse_one(&bytes).expect("just built"), 1) {
        Ok(appended) => appended,
        Err(AppendError::Failed(failed)) => return Err(failed),
        Err(AppendError::Refused { .. }) => return Ok(()),
        Err(error) => panic!("{error}"),
    };
    let synced = log.synced(appended.lsn()).await?;
    let _ = appended.acknowledge(synced);
    model.borrow_mut()[id as usize].acked = value + 1;
    Ok(())
}

/// Reads a partition from its start: what comes is right, and what does not come is refused in so many words.
async fn read(log: &Log<SimRuntime>, id: u64) {
    let partition = durable(log, id);
    let mut next = partition.offsets().log_start;
    while next < partition.offsets().high_watermark {
        match partition.read(next, 3000).await {
            Ok(batches) => {
                let bytes: Vec<u8> = batches.slices.iter().flat_map(|slice| slice.to_vec()).collect();
                let found = records(&bytes);
                assert!(found.iter().all(|(offset, value)| offset == value), "partition {id}: {found:?}");
                assert_eq!(
                    found.first().map(|(offset, _)| *offset),
                    Some(next),
                    "partition {id}: something was skipped"
                );
                next = batches.next_offset;
            }
            Err(ReadError::Refused { .. } | ReadError::Segment(_)) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The log failed: it takes nothing, acknowledges nothing, and leaves the disk alone.
async fn check_failed(rt: &SimRuntime, log: Log<SimRuntime>, disk: &runtime::sim::disk::Disk) {
    log.failed().await;
    // What was under way comes to its end.
    rt.sleep(Duration::from_secs(2)).await;
    let writes = || [OpKind::Write, OpKind::Allocate, OpKind::Rename, OpKind::Remove].map(|kind| disk.ops(kind));
    let (synced, written) = (log.synced_now(), writes());
    let bytes = batch(&[0], Producer::NONE);
    for id in 0..4 {
        let appended = durable(&log, id).append(&Batch::parse_one(&bytes).expect("just built"), 1);
        assert!(appended.is_err(), "partition {id} took a record after the failure");
    }
    log.admit().await;
    assert!(log.synced(synced.lsn() + 1).await.is_err());
    assert!(log.clone().close().await.is_err(), "a log that failed does not stop cleanly");
    rt.sleep(Duration::from_secs(2)).await;
    assert_eq!(log.synced_now(), synced, "something was synced after the failure");
    assert_eq!(writes(), written, "something was written after the failure");
}

/// A life in which the Nth operation of a kind fails; `None` if it had less than N of them.
fn live(simulation: &Simulation, node: NodeId, fault: Fault, model: &Model) -> Option<End> {
    let disk = simulation.disk(node);
    let fired = disk.faults_fired();
    disk.inject(fault);
    let lived = simulation.block_on(node, {
        let (disk, model) = (disk.clone(), model.clone());
        |rt: SimRuntime| async move {
            if rt.create_dir_all(Path::new(DIR)).await.is_err() {
                return End::Unopened;
            }
            for dropped in [3, 4] {
                match pass(&rt, &model, dropped).await {
                    Ok(()) => {}
                    Err(Stop::Unopened) => return End::Unopened,
                    Err(Stop::Failed(log)) => {
                        check_failed(&rt, log, &disk).await;
                        return End::Failed;
                    }
                }
            }
            End::Completed
        }
    });
    let end = lived.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    disk.clear_faults();
    (disk.faults_fired() > fired).then_some(end)
}

/// Everything acknowledged is there, or named as damaged.
fn check_next_life(simulation: &Simulation, node: NodeId, fault: Fault, model: &Model) {
    let model = *model.borrow();
    let checked = simulation.block_on(node, move |rt: SimRuntime| async move {
        rt.create_dir_all(Path::new(DIR)).await.expect("nothing fails any more");
        let log = Log::open(rt, Path::new(DIR), small()).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        for (id, known) in (0..).zip(model) {
            let partition = durable(&log, id);
            let end = partition.offsets().log_end;
            if known.dropped && end == 0 {
                continue;
            }
            let least = known.cut.unwrap_or(known.acked).min(known.acked);
            assert!(end >= least, "{fault:?}: partition {id} ends at {end}, {known:?}");
            let mut next = 0;
            while next < end {
                match partition.read(next, 3000).await {
                    Ok(batches) => {
                        let bytes: Vec<u8> = batches.slices.iter().flat_map(|slice| slice.to_vec()).collect();
                        let found = records(&bytes);
                        let expected: Vec<_> = (next..batches.next_offset).map(|offset| (offset, offset)).collect();
                        assert_eq!(found, expected, "{fault:?}: partition {id}");
                        next = batches.next_offset;
                    }
                    // A sector that could not be read once: what lay there is refused, not made up.
                    Err(ReadError::Refused { from }) if fault.op == Some(OpKind::Read) => {
                        assert_eq!(partition.refused_from(), Some(from));
                        break;
                    }
                    Err(error) => panic!("{fault:?}: partition {id} at {next} of {end}: {error}"),
                }
            }
        }
    });
    checked.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
}

#[test]
fn every_failed_operation_is_told_and_costs_nothing_acknowledged() {
    let all: Option<u64> = std::env::var("STREAMBUS_FAULTS").ok().map(|count| count.parse().expect("a number"));
    let seed: u64 = std::env::var("STREAMBUS_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut writes_reached = 0;
    let mut ends = [0; 3];
    for kind in KINDS {
        let mut reached = 0;
        let stride = if all.is_some() { 1 } else { STRIDE };
        for nth in (1..=all.unwrap_or(120)).step_by(stride) {
            let simulation = simulation(seed.wrapping_mul(1000) + nth);
            let node = simulation.add_node();
            let model = Model::default();
            let fault = Fault { op: Some(kind), nth, effect: Effect::Error(REACHED[nth as usize % 3]) };
            let Some(end) = live(&simulation, node, fault, &model) else { break };
            reached = nth;
            ends[end as usize] += 1;
            simulation.crash(node, Crash::PowerCut);
            check_next_life(&simulation, node, fault, &model);
        }
        println!("{kind:?}: N reached {reached}");
        if kind == OpKind::Write {
            writes_reached = reached;
        }
    }
    let [unopened, failed, completed] = ends;
    let faults: i32 = ends.iter().sum();
    println!("{faults} faults: {unopened} logs did not open, {failed} failed, {completed} went on");
    assert!(unopened > 0 && failed > 0 && completed > 0);
    assert!(writes_reached >= all.unwrap_or(100).min(400), "N reached {writes_reached}");
}
