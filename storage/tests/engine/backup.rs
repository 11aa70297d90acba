//! Backups of a log at work and at rest: what was acknowledged when one began is in it, whatever flushes, merges and
//! truncations do meanwhile; the next one copies what is new; and a copy that is not what was copied is refused.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use runtime::{
    Runtime,
    sim::{Crash, SimRuntime, seeds},
};
use storage::{
    Log, PartitionId,
    backup::{BackupError, CopiedFile, LogCopy, Source, Store, restore_file, verify_file},
    inspect::verify_log,
};
use wire::record::{Batch, Producer};

use super::support::{self, DIR, append_acked, batch, durable, open, read_all, simulation};

const STORE: &str = "store";
/// Longer than any copy takes.
const HOLD: Duration = Duration::from_secs(60);

/// A backup of a log at work.
async fn back_up(rt: &SimRuntime, log: &Log<SimRuntime>, store: &mut Store<SimRuntime>) -> Result<(), BackupError> {
    log.hold_segments(HOLD);
    let flushed = log.flush().await.expect("there is room");
    let source = Source::Held { log_id: log.id(), flushed };
    back_up_from(rt, source, store).await
}

async fn back_up_from(rt: &SimRuntime, source: Source, store: &mut Store<SimRuntime>) -> Result<(), BackupError> {
    let copy = LogCopy::read(rt, DIR.as_ref(), source).await?;
    copy.copy(rt, "shard-000", store).await
}

/// Names of the segments on the disk.
async fn segments(rt: &SimRuntime) -> Vec<String> {
    let mut names: Vec<_> =
        rt.list_dir(&Path::new(DIR).join("segments")).await.unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

#[test]
fn what_was_acknowledged_when_it_began_is_in_it() {
    let (mut backups, mut reused, mut under_load) = (0, 0, 0);
    for seed in seeds(20) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let counts = simulation.block_on(node, work).unwrap();
        backups += counts[0];
        reused += counts[1];
        under_load += counts[2];
    }
    assert!(reused > 0, "an incremental backup copies only what is new");
    assert!(under_load > backups / 2, "{under_load} of {backups} backups met appends");
}

/// A log at work, four backups of it, and each of them restored. Returns how many backups there were, how many files of
/// earlier ones they took over, and during how many something was acknowledged.
async fn work(rt: SimRuntime) -> [u64; 3] {
    let log = open(&rt).await.unwrap();
    let acked = Rc::new(Cell::new(0));
    let (stop, pause) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let writing = rt.spawn(write(rt.clone(), log.clone(), acked.clone(), stop.clone(), pause.clone()));
    let (mut earlier, mut reused, mut under_load) = (Vec::<CopiedFile>::new(), 0, 0);
    for generation in 1..=4 {
        rt.sleep(Duration::from_millis(rt.random_u64() % 60)).await;
        let began_with = acked.get();
        pause.set(false);
        let mut store = Store::new(&rt, STORE.into(), generation, earlier.clone());
        back_up(&rt, &log, &mut store).await.unwrap();
        store.sync().await.unwrap();
        under_load += u64::from(acked.get() > began_with);
        // What is appended while the copy is checked would only take time.
        pause.set(true);
        earlier = store.files().cloned().collect();
        reused += earlier.iter().filter(|file| file.generation < generation).count() as u64;
        let dir = restore(&rt, &earlier, &format!("restored-{generation}")).await.unwrap();
        check(&rt, &dir, began_with).await;
    }
    stop.set(true);
    writing.await;
    [4, reused, under_load]
}

/// Appends to three partitions, the first of which counts, and truncates the last now and then.
async fn write(
    rt: SimRuntime,
    log: Log<SimRuntime>,
    acked: Rc<Cell<u64>>,
    stop: Rc<Cell<bool>>,
    pause: Rc<Cell<bool>>,
) {
    let others: Vec<_> = (0..2u64)
        .map(|other| {
            let (rt, log, stop, pause) = (rt.clone(), log.clone(), stop.clone(), pause.clone());
            rt.clone().spawn(async move {
                let partition = durable(&log, 2 + other);
                for value in 0.. {
                    if stop.get() {
                        return;
                    }
                    rest(&rt, &pause).await;
                    log.admit().await;
                    append_acked(&log, &partition, &[value, value]).await;
                    if other == 1 && value % 40 == 39 {
                        let end = partition.offsets().log_end;
                        partition.truncate(end - 10, 1).await.unwrap();
                    }
                }
            })
        })
        .collect();
    let partition = durable(&log, 1);
    while !stop.get() {
        rest(&rt, &pause).await;
        log.admit().await;
        append_acked(&log, &partition, &[acked.get()]).await;
        acked.set(acked.get() + 1);
    }
    for other in others {
        other.await;
    }
}

/// A little, or for longer.
async fn rest(rt: &SimRuntime, pause: &Cell<bool>) {
    let time = if pause.get() { Duration::from_millis(5) } else { Duration::from_micros(300) };
    rt.sleep(time).await;
}

async fn restore(rt: &SimRuntime, files: &[CopiedFile], to: &str) -> Result<PathBuf, BackupError> {
    for file in files {
        restore_file(rt, STORE.as_ref(), file, to.as_ref()).await?;
    }
    let dir = Path::new(to).join("shard-000");
    for under in ["wal", "segments"] {
        rt.create_dir_all(&dir.join(under)).await.unwrap();
    }
    Ok(dir)
}

async fn check(rt: &SimRuntime, dir: &Path, acked: u64) {
    let verified = verify_log(rt, dir).await.unwrap();
    assert!(verified.is_sound(), "{:?}", verified.findings);
    let log = Log::open(rt.clone(), dir, support::small()).await.unwrap();
    for id in 1..=3 {
        assert_eq!(durable(&log, id).refused_from(), None, "partition {id}");
    }
    let (records, lost) = read_all(&durable(&log, 1), 0).await;
    assert!(records.len() as u64 >= acked, "{} of {acked} records", records.len());
    assert!(lost.is_empty());
    for (index, record) in records.iter().enumerate() {
        assert_eq!(*record, (index as u64, index as u64));
    }
    log.close().await.unwrap();
}

#[test]
fn what_is_held_stays_and_goes_when_the_hold_is_over() {
    let simulation = simulation(1);
    let node = simulation.add_node();
    let (held, kept, left) = simulation
        .block_on(node, |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            fill(&log, 60).await;
            log.hold_segments(Duration::from_secs(5));
            log.flush().await.unwrap();
            let held = segments(&rt).await;
            // Longer than the log waits between two looks, shorter than the hold.
            fill(&log, 300).await;
            rt.sleep(Duration::from_secs(3)).await;
            assert!(log.stats().merges > 0, "something became obsolete");
            let kept = segments(&rt).await;
            rt.sleep(Duration::from_secs(5)).await;
            (held, kept, segments(&rt).await)
        })
        .unwrap();
    assert!(held.iter().all(|name| kept.contains(name)), "{held:?} are still there, among {kept:?}");
    assert!(held.iter().any(|name| !left.contains(name)), "{left:?} are left of {held:?}");
}

#[test]
fn a_hold_ends_with_the_process() {
    let simulation = simulation(2);
    let node = simulation.add_node();
    simulation
        .block_on(node, |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            log.hold_segments(HOLD);
            fill(&log, 300).await;
            rt.sleep(Duration::from_millis(200)).await;
        })
        .unwrap();
    simulation.crash(node, Crash::Kill);
    simulation
        .block_on(node, |rt: SimRuntime| async move {
            let before = segments(&rt).await;
            let log = open(&rt).await.unwrap();
            let after = segments(&rt).await;
            assert!(after.len() < before.len(), "{after:?} are left of {before:?}");
            assert_eq!(read_all(&durable(&log, 1), 0).await.0.len(), 300);
            log.close().await.unwrap();
        })
        .unwrap();
}

#[test]
fn a_log_at_rest_is_copied_with_what_is_not_flushed() {
    let simulation = simulation(3);
    let node = simulation.add_node();
    simulation
        .block_on(node, |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            fill(&log, 41).await;
        })
        .unwrap();
    simulation.crash(node, Crash::Kill);
    simulation
        .block_on(node, |rt: SimRuntime| async move {
            let mut store = Store::new(&rt, STORE.into(), 1, []);
            back_up_from(&rt, Source::AtRest, &mut store).await.unwrap();
            let files: Vec<_> = store.files().cloned().collect();
            assert!(files.iter().any(|file| file.path.contains("/wal/")), "{files:?}");
            let dir = restore(&rt, &files, "restored").await.unwrap();
            check(&rt, &dir, 41).await;
        })
        .unwrap();
}

#[test]
fn producers_are_known_in_the_copy() {
    let simulation = simulation(4);
    let node = simulation.add_node();
    simulation
        .block_on(node, |rt: SimRuntime| async move {
            let sent = |sequence: i32| batch(&[sequence as u64], Producer { id: 7, epoch: 0, base_sequence: sequence });
            let log = open(&rt).await.unwrap();
            let partition = durable(&log, 1);
            for sequence in 0..3 {
                let appended = partition.append(&Batch::parse_one(&sent(sequence)).unwrap(), 1).unwrap();
                log.synced(appended.lsn()).await.unwrap();
            }
            let mut store = Store::new(&rt, STORE.into(), 1, []);
            back_up(&rt, &log, &mut store).await.unwrap();
            let files: Vec<_> = store.files().cloned().collect();
            let dir = restore(&rt, &files, "restored").await.unwrap();
            let copy = Log::open(rt.clone(), &dir, support::small()).await.unwrap();
            let partition = durable(&copy, 1);
            let again = partition.append(&Batch::parse_one(&sent(2)).unwrap(), 2).unwrap();
            let synced = copy.synced(again.lsn()).await.unwrap();
            assert_eq!(again.acknowledge(synced).base_offset(), 2, "a duplicate is answered as the first was");
            let next = partition.append(&Batch::parse_one(&sent(3)).unwrap(), 2).unwrap();
            let synced = copy.synced(next.lsn()).await.unwrap();
            assert_eq!(next.acknowledge(synced).base_offset(), 3);
            copy.close().await.unwrap();
            log.close().await.unwrap();
        })
        .unwrap();
}

#[test]
fn another_log_and_one_that_was_not_flushed_are_refused() {
    let simulation = simulation(5);
    let node = simulation.add_node();
    simulation
        .block_on(node, |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            fill(&log, 10).await;
            let flushed = log.flush().await.unwrap();
            for (log_id, flushed) in [(log.id() + 1, flushed), (log.id(), flushed + 1000)] {
                let mut store = Store::new(&rt, STORE.into(), 1, []);
                let source = Source::Held { log_id, flushed };
                let refused = back_up_from(&rt, source, &mut store).await;
                assert!(matches!(refused, Err(BackupError::OtherLog { .. })), "{refused:?}");
            }
            log.close().await.unwrap();
        })
        .unwrap();
}

async fn fill(log: &Log<SimRuntime>, records: u64) {
    let partition = durable(log, 1);
    let first = partition.offsets().log_end;
    for value in first..first + records {
        log.admit().await;
        append_acked(log, &partition, &[value]).await;
    }
}

#[test]
fn a_copy_that_changed_is_refused() {
    let simulation = simulation(1);
    let node = simulation.add_node();
    let disk = simulation.disk(node);
    let files = simulation
        .block_on(node, |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            fill(&log, 60).await;
            let mut store = Store::new(&rt, STORE.into(), 1, []);
            back_up(&rt, &log, &mut store).await.unwrap();
            store.files().cloned().collect::<Vec<_>>()
        })
        .unwrap();
    assert!(files.iter().any(|file| file.path.contains("/segments/")), "{files:?}");
    for (number, file) in files.iter().enumerate() {
        let stored = format!("{STORE}/{}", file.stored());
        disk.flip_byte(&stored, file.bytes / 2);
        let one = file.clone();
        let refused = simulation
            .block_on(node, move |rt: SimRuntime| async move {
                let verified = verify_file(&rt, STORE.as_ref(), &one).await;
                [verified, restore(&rt, &[one], &format!("bad-{number}")).await.map(drop)]
            })
            .unwrap();
        for refused in refused {
            assert!(matches!(refused, Err(BackupError::Damaged { .. })), "{refused:?}");
        }
        disk.flip_byte(&stored, file.bytes / 2);
    }
}

#[test]
fn a_damaged_segment_is_not_backed_up_without_a_word() {
    let simulation = simulation(2);
    let node = simulation.add_node();
    let disk = simulation.disk(node);
    simulation
        .block_on(node, |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            fill(&log, 12).await;
            log.close().await.unwrap();
        })
        .unwrap();
    let segment = disk.files().into_iter().find(|path| path.ends_with(".seg")).unwrap();
    disk.flip_byte(&segment, 4096 + 70);
    let refused = simulation
        .block_on(node, |rt: SimRuntime| async move {
            let mut store = Store::new(&rt, STORE.into(), 1, []);
            back_up_from(&rt, Source::AtRest, &mut store).await
        })
        .unwrap();
    assert!(matches!(refused, Err(BackupError::DamagedSegment(_))), "{refused:?}");
}

#[test]
fn partitions_nobody_adopted_are_in_it_too() {
    let simulation = simulation(3);
    let node = simulation.add_node();
    let found = simulation
        .block_on(node, |rt: SimRuntime| async move {
            let log = open(&rt).await.unwrap();
            append_acked(&log, &durable(&log, 9), &[1]).await;
            log.close().await.unwrap();
            let log = open(&rt).await.unwrap();
            let mut store = Store::new(&rt, STORE.into(), 1, []);
            back_up(&rt, &log, &mut store).await.unwrap();
            let files: Vec<_> = store.files().cloned().collect();
            let dir = restore(&rt, &files, "restored").await.unwrap();
            log.close().await.unwrap();
            Log::open(rt.clone(), &dir, support::small()).await.unwrap().quarantined()
        })
        .unwrap();
    assert_eq!(found, [PartitionId(9)]);
}
