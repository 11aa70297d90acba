//! The disk fails: everyone who waits hears of it, nothing is acknowledged or written after it, and the next life finds
//! whatever was acknowledged before.

use std::{cell::Cell, rc::Rc, time::Duration};

use runtime::{
    Runtime,
    sim::{
        Crash, SimRuntime,
        disk::{Disk, Effect, Fault, OpKind, Reached},
    },
};
use storage::{AppendError, Log, LogOptions};
use wire::record::{Batch, Producer};

use super::story::{Story, roomy, values};
use crate::support::{batch, durable, small};

const EFFECTS: [Effect; 4] =
    [Effect::Error(Reached::Nothing), Effect::Error(Reached::Part), Effect::Error(Reached::All), Effect::NoSpace];

/// Appends to two partitions until the log fails or 150 appends are through. Notes what was acknowledged, and answers
/// whether the log failed.
async fn work(log: Log<SimRuntime>, acked: Rc<Cell<[u64; 2]>>) -> bool {
    for value in 0..150 {
        log.admit().await;
        for (place, id) in [1, 2].into_iter().enumerate() {
            let bytes = batch(&[value], Producer::NONE);
            let appended = match durable(&log, id).append(&Batch::parse_one(&bytes).unwrap(), 1) {
                Ok(appended) => appended,
                Err(AppendError::Failed(_)) => return true,
                Err(error) => panic!("{error}"),
            };
            let Ok(synced) = log.synced(appended.lsn()).await else { return true };
            let _ = appended.acknowledge(synced);
            let mut noted = acked.get();
            noted[place] = value + 1;
            acked.set(noted);
        }
    }
    false
}

/// A life with one fault.
struct Failing {
    disk: Rc<Disk>,
    acked: Rc<Cell<[u64; 2]>>,
    end: Cell<End>,
    /// Nothing is flushed or merged beside it.
    wal_only: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The log did not open.
    Unopened,
    /// It failed, and said so.
    Failed,
    /// It went on, and stopped cleanly.
    Clean,
}

/// Lives until the fault has ended it. Nothing may hang: the simulator would call that a deadlock.
fn live_with(story: &Story, fault: Fault, options: LogOptions) -> Rc<Failing> {
    let disk = story.disk();
    let failing = Rc::new(Failing {
        disk: disk.clone(),
        acked: Rc::default(),
        end: Cell::new(End::Unopened),
        wal_only: options.memtable_bytes > 1 << 20,
    });
    disk.inject(fault);
    let lived = story.simulation.block_on(story.node, {
        let failing = failing.clone();
        |rt: SimRuntime| async move { failing.live(rt, options).await }
    });
    lived.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    disk.clear_faults();
    failing
}

impl Failing {
    /// Writes so far, where none but the WAL's are expected.
    fn writes(&self) -> Option<u64> {
        self.wal_only.then(|| self.disk.ops(OpKind::Write))
    }

    async fn live(&self, rt: SimRuntime, options: LogOptions) {
        let Ok(log) = Log::open(rt.clone(), "log".as_ref(), options).await else { return };
        if !work(log.clone(), self.acked.clone()).await {
            // What goes on in the background gets its chance to meet the fault.
            rt.sleep(Duration::from_secs(2)).await;
        }
        let writes = self.writes();
        let synced = log.synced_now();
        let bytes = batch(&[150], Producer::NONE);
        match durable(&log, 1).append(&Batch::parse_one(&bytes).unwrap(), 1) {
            Err(AppendError::Failed(_)) => {}
            appended => {
                log.synced(appended.unwrap().lsn()).await.unwrap();
                log.close().await.unwrap();
                self.end.set(End::Clean);
                return;
            }
        }
        self.end.set(End::Failed);
        log.failed().await;
        assert!(log.synced(synced.lsn() + 1).await.is_err());
        log.admit().await;
        rt.sleep(Duration::from_secs(2)).await;
        assert_eq!(self.writes(), writes, "something was written after the failure");
        assert_eq!(log.synced_now(), synced, "something was synced after the failure");
        assert!(log.close().await.is_err(), "a log that failed does not stop cleanly");
    }
}

/// What was acknowledged is there, in order, and work goes on.
fn check_next_life(story: &Story, fault: Fault, acked: [u64; 2]) {
    let found = story.live(move |_, log| async move {
        let found = [values(&log, 1).await, values(&log, 2).await];
        assert_eq!([1, 2].map(|id| durable(&log, id).refused_from()), [None, None], "{fault:?}");
        super::story::append_together(&log, &[(1, 1000), (2, 1000)]).await;
        found
    });
    for (found, acked) in found.into_iter().zip(acked) {
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "{fault:?}");
        assert!(found.len() as u64 >= acked, "{fault:?}: {} of {acked} are there", found.len());
    }
}

#[test]
fn a_failed_group_write_is_the_logs_last() {
    for effect in EFFECTS {
        for nth in 1..=20 {
            for crash in [Crash::PowerCut, Crash::Kill] {
                // Files so long that zeros are still being written ahead.
                let options = LogOptions { memtable_bytes: 64 << 20, ..roomy() };
                let story = Story::with_options(nth, options.clone());
                story.live(|_, _| async {});
                let fault = Fault { op: Some(OpKind::Write), nth, effect };
                let life = live_with(&story, fault, options);
                assert_ne!(life.end.get(), End::Clean, "{fault:?} was not told");
                story.simulation.crash(story.node, crash);
                check_next_life(&story, fault, life.acked.get());
            }
        }
    }
}

/// Every operation that a log that rolls, flushes and merges asks of the disk fails once, as it opens and as it works.
/// Reads apart: they concern whoever reads.
#[test]
fn any_failed_operation_ends_the_log_and_loses_nothing() {
    let kinds = [
        OpKind::Open,
        OpKind::Write,
        OpKind::Sync,
        OpKind::Allocate,
        OpKind::Rename,
        OpKind::Remove,
        OpKind::SyncDir,
        OpKind::List,
    ];
    let (mut unopened, mut failed, mut went_on) = (0, 0, 0);
    for op in kinds {
        for nth in (1..20).chain((20..200).step_by(23)) {
            let story = Story::with_options(nth, small());
            story.live(|_, log| async move { super::story::append_each(&log, 3, 0..10).await });
            let fault = Fault { op: Some(op), nth, effect: Effect::Error(Reached::Nothing) };
            let fired_before = story.disk().faults_fired();
            let life = live_with(&story, fault, small());
            if story.disk().faults_fired() == fired_before {
                break;
            }
            match life.end.get() {
                End::Unopened => unopened += 1,
                End::Failed => failed += 1,
                // Only a merge is given up, its inputs being as good as its output.
                End::Clean => went_on += 1,
            }
            story.simulation.crash(story.node, Crash::PowerCut);
            check_next_life(&story, fault, life.acked.get());
        }
    }
    println!("{unopened} logs did not open, {failed} failed, {went_on} gave up a merge");
    assert!(unopened > 20 && failed > 50 && went_on < failed / 2);
}
