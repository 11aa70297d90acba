//! The write-ahead log of a shard: every partition's appends, in one order, in sync groups.
//!
//! ```text
//!   append ─> open group ─┐            one write in flight
//!   append ─> open group ─┴─ taken ──> seal ──> write_durable ──> Synced ──> acks, high watermarks
//!                                        └──> memtable (visible at once on `memory` partitions)
//! ```
//!
//! What queues up while one group is on its way to the disk is the next group: the batching sets itself by the disk's
//! pace, and one sync serves all partitions.

pub(crate) mod files;
mod queue;
pub(crate) mod replay;
mod writer;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::Waker,
    time::Duration,
};

use runtime::{Instant, Notify, Runtime, sabotage::planted};

pub(crate) use self::files::parse_file_name;
use self::{files::Files, queue::Queue};
use crate::{
    error::LogFailed,
    group::{Entry, EntryKind, Tail},
    memtables::Memtables,
    partition::State,
    synced::{Lsn, Synced},
    writes::Writes,
};

/// The part of a log that appends go through.
pub(crate) struct Wal<R: Runtime> {
    rt: R,
    log_id: u128,
    pub(crate) files: Rc<Files<R>>,
    pub(crate) memtables: RefCell<Memtables<R>>,
    queue: RefCell<Queue<R>>,
    /// Something was queued, or the log is closing.
    pub(crate) queued: Notify,
    /// Groups up to here are on stable storage.
    synced: Cell<Lsn>,
    acks: RefCell<Vec<(Lsn, Waker)>>,
    failed: RefCell<Option<LogFailed>>,
    /// The log failed.
    failure: Notify,
    /// Memory or queue space came back.
    pub(crate) room: Notify,
    /// The log is closing, or failed.
    ending: Notify,
    /// There may be a memtable to flush.
    pub(crate) flushable: Notify,
    closing: Cell<bool>,
    /// The active memtable is to be sealed before the next group.
    sealing: Cell<bool>,
    queue_bytes_max: usize,
    memory_bytes_max: usize,
    /// How long groups took lately.
    sync_time: Cell<Duration>,
    writes: Rc<Writes>,
    pub(crate) counters: Counters,
}

/// What the WAL has done since the log was opened.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) groups: Cell<u64>,
    pub(crate) group_bytes: Cell<u64>,
    pub(crate) batches: Cell<u64>,
    pub(crate) batch_bytes: Cell<u64>,
}

/// Where recovery leaves off.
pub(crate) struct Found {
    /// The number of the next group.
    pub(crate) lsn_next: Lsn,
    /// The last group there is.
    pub(crate) lsn_last: Lsn,
    /// How far that group took its partitions.
    pub(crate) tails: Vec<Tail>,
}

impl<R: Runtime> Wal<R> {
    pub(crate) fn new(
        rt: R,
        log_id: u128,
        files: Rc<Files<R>>,
        memtables: Memtables<R>,
        found: Found,
        memory_bytes_max: usize,
        writes: Rc<Writes>,
    ) -> Self {
        let Found { lsn_next, lsn_last, tails } = found;
        let queue_bytes_max = (8 * rt.block_bytes()).min(memory_bytes_max / 4);
        Self {
            rt,
            log_id,
            files,
            memtables: RefCell::new(memtables),
            queue: RefCell::new(Queue::new(lsn_next, lsn_last, tails)),
            queued: Notify::default(),
            synced: Cell::new(lsn_last),
            acks: RefCell::new(Vec::new()),
            failed: RefCell::new(None),
            failure: Notify::default(),
            room: Notify::default(),
            ending: Notify::default(),
            flushable: Notify::default(),
            closing: Cell::new(false),
            sealing: Cell::new(false),
            queue_bytes_max,
            memory_bytes_max,
            sync_time: Cell::new(Duration::ZERO),
            writes,
            counters: Counters::default(),
        }
    }

    /// Copies an entry into the open group, lets `patch` change it there, and returns the group's LSN.
    ///
    /// `state` is the partition the entry is about; it learns when the group is submitted and synced.
    #[inline]
    pub(crate) fn push(&self, state: &Rc<State>, entry: Entry, payload: &[u8], patch: impl FnOnce(&mut [u8])) -> Lsn {
        let mut queue = self.queue.borrow_mut();
        if entry.kind == EntryKind::Batch {
            self.count_batch(payload.len());
        }
        let lsn = queue.push(&self.rt, state, entry, payload, patch);
        drop(queue);
        self.queued.wake();
        lsn
    }

    /// As [`Self::push`], for a batch that already lies in a block, which becomes a group of its own.
    pub(crate) fn push_block(&self, state: &Rc<State>, entry: Entry, block: R::Block, batch_bytes: usize) -> Lsn {
        self.count_batch(batch_bytes);
        let lsn = self.queue.borrow_mut().push_block(&self.rt, state, entry, block, batch_bytes);
        self.queued.wake();
        lsn
    }

    /// Whether another append is welcome: neither memory nor the queue is full.
    pub(crate) fn has_room(&self) -> bool {
        let queued_bytes = self.queue.borrow().bytes();
        queued_bytes < self.queue_bytes_max
            && self.memtables.borrow().unflushed_bytes() + queued_bytes < self.memory_bytes_max
    }

    /// Whether groups wait for those before them.
    pub(crate) fn is_behind(&self) -> bool {
        self.queue.borrow().len() > 1
    }

    /// How long a group takes on its way to the disk, as an average of the last few; zero before the first.
    pub(crate) fn sync_time(&self) -> Duration {
        self.sync_time.get()
    }

    /// How far groups are on stable storage.
    pub(crate) fn synced_now(&self) -> Synced {
        Synced::up_to(self.log_id, self.synced.get())
    }

    /// Waits until group `lsn` is on stable storage.
    pub(crate) async fn synced(&self, lsn: Lsn) -> Result<Synced, LogFailed> {
        if planted("ack from RAM") {
            return Ok(Synced::up_to(self.log_id, lsn));
        }
        std::future::poll_fn(|context| {
            if self.synced.get() >= lsn {
                return std::task::Poll::Ready(Ok(self.synced_now()));
            }
            if let Some(failed) = &*self.failed.borrow() {
                return std::task::Poll::Ready(Err(failed.clone()));
            }
            let mut acks = self.acks.borrow_mut();
            if !acks.iter().any(|(waits_for, waker)| *waits_for == lsn && waker.will_wake(context.waker())) {
                acks.push((lsn, context.waker().clone()));
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Waits for a failure, which may never come.
    pub(crate) async fn failed(&self) -> LogFailed {
        self.failure.until(|| self.failed.borrow().clone()).await
    }

    /// The failure, if there was one.
    pub(crate) fn failure(&self) -> Option<LogFailed> {
        self.failed.borrow().clone()
    }

    /// Ends the log: nothing more is acknowledged or written, and everyone who waits hears of it.
    pub(crate) fn fail(&self, failed: LogFailed) {
        self.failed.borrow_mut().get_or_insert(failed);
        self.files.close();
        for (_, waker) in std::mem::take(&mut *self.acks.borrow_mut()) {
            waker.wake();
        }
        for notify in [&self.failure, &self.ending, &self.queued, &self.room, &self.flushable] {
            notify.wake();
        }
    }

    /// Whether everything that was taken is on stable storage.
    pub(crate) fn is_written(&self) -> bool {
        self.synced.get() >= self.lsn_last()
    }

    /// Whether [`Self::close`] was called.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Lets the writer end once the queue is empty.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.files.stop_waiting();
        self.ending.wake();
        self.queued.wake();
        self.flushable.wake();
    }

    /// Waits until the log is closing, or failed.
    pub(crate) async fn ended(&self) {
        self.ending.until(|| (self.is_closing() || self.failed.borrow().is_some()).then_some(())).await;
    }

    /// The LSN that the next group will have.
    pub(crate) fn lsn_next(&self) -> Lsn {
        self.queue.borrow().lsn_next()
    }

    /// The last group that was handed out an LSN.
    pub(crate) fn lsn_last(&self) -> Lsn {
        self.queue.borrow().lsn_last()
    }

    /// When the oldest sealed memtable was sealed.
    pub(crate) fn oldest_sealed_at(&self) -> Option<Instant> {
        self.memtables.borrow().oldest_sealed().map(|sealed| sealed.sealed_at)
    }

    fn wake_acks(&self) {
        let synced = self.synced.get();
        let mut acks = self.acks.borrow_mut();
        let mut due = Vec::new();
        acks.retain(|(lsn, waker)| {
            let waits = *lsn > synced;
            if !waits {
                due.push(waker.clone());
            }
            waits
        });
        drop(acks);
        due.into_iter().for_each(Waker::wake);
    }

    fn count_batch(&self, bytes: usize) {
        self.counters.batches.set(self.counters.batches.get() + 1);
        self.counters.batch_bytes.set(self.counters.batch_bytes.get() + bytes as u64);
    }
}
