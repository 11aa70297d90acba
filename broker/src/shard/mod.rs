//! What one core runs: its logs, the partitions it leads, its connections, and the tasks that serve them.
//!
//! Everything in a `Shard` belongs to one thread, so plain cells do. Other shards are reached through the `mesh` only,
//! and what they ask is answered in the `mailroom`.

mod balance;
pub(crate) mod copying;
mod logs;
pub(crate) mod mailroom;
mod memory;
pub(crate) mod mesh;
pub(crate) mod metadata;
mod mover;
mod pauses;
pub(crate) mod placement;
pub mod start;

use std::{
    cell::{Cell, Ref, RefCell, RefMut},
    rc::Rc,
};

use futures_lite::future;
use runtime::{Notify, Runtime, mesh::Sender};
use rustc_hash::FxHashMap;
use storage::{Log, LogFailed, journal::WriteError};
use wire::PartitionId;

pub(crate) use self::logs::Logs;
use self::{balance::moves_left, mesh::Message, mover::Moving, pauses::Pauses, placement::Placement};
use crate::{
    handler::init_producer::ProducerIds,
    meta::{LogNumber, MetaLog},
    metrics::{Metric, Metrics, Named, Reading},
    partition::Partition,
    refused::Refused,
    server::{
        connection::{self, Arrival},
        deadlines::Registry,
        limits::{Budget, Limits},
        shown::Sampler,
    },
};

/// What every shard of a node knows of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    /// The cluster it belongs to.
    pub(crate) cluster_id: u128,
    /// Its number there.
    pub(crate) node_id: u32,
    /// The leader epoch it took when it started.
    pub(crate) epoch: i32,
}

/// So many damaged partitions of a shard are named one by one, in the log and as metrics.
const REFUSED_NAMED_MAX: usize = 100;

/// One shard.
pub(crate) struct Shard<R: Runtime> {
    pub(crate) rt: R,
    /// Its number.
    pub(crate) index: u16,
    /// Its own log, where nearly all appends go.
    pub(crate) log: Log<R>,
    /// Its own, and spare ones.
    pub(crate) logs: Logs<R>,
    pub(crate) metrics: Metrics,
    /// Partitions that take no appends for a moment.
    pub(crate) pauses: Pauses,
    /// The partition that is being moved; on shard 0.
    pub(crate) moving: Moving,
    /// What its connections may hold together.
    pub(crate) budget: Budget,
    pub(crate) connections: Registry<R>,
    /// Lets a few lines a second about strangers into the log.
    pub(crate) strangers: Sampler,
    pub(crate) producer_ids: ProducerIds,
    node: Node,
    limits: Limits,
    mesh: Rc<[Sender<Message<R>>]>,
    partitions: RefCell<FxHashMap<PartitionId, Partition<R>>>,
    placement: RefCell<Rc<Placement>>,
    /// Where metadata is changed; on shard 0.
    meta_log: Option<MetaLog>,
    stage: Cell<Stage>,
    stop: Notify,
    failure: RefCell<Option<Failure>>,
    failing: Notify,
}

/// A write that failed: the process has to end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Of a log.
    #[error(transparent)]
    Log(#[from] LogFailed),
    /// Of MetaLog.
    #[error(transparent)]
    Metadata(#[from] WriteError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    Draining,
    Ended,
}

impl<R: Runtime> Shard<R> {
    /// A shard that leads nothing yet.
    pub(crate) fn new(
        rt: R,
        index: u16,
        logs: Logs<R>,
        meta_log: Option<MetaLog>,
        node: Node,
        mut limits: Limits,
        mesh: Rc<[Sender<Message<R>>]>,
    ) -> Rc<Self> {
        // A batch has to fit into a WAL file, whatever is set.
        limits.batch_bytes_max = limits.batch_bytes_max.min(logs.batch_bytes_max());
        Rc::new(Self {
            budget: Budget::new(limits.connection_bytes_max),
            rt,
            index,
            log: logs.own(),
            logs,
            metrics: Metrics::default(),
            pauses: Pauses::default(),
            moving: Moving::default(),
            connections: Registry::default(),
            strangers: Sampler::default(),
            producer_ids: ProducerIds::default(),
            node,
            limits,
            mesh,
            partitions: RefCell::default(),
            placement: RefCell::default(),
            meta_log,
            stage: Cell::new(Stage::Serving),
            stop: Notify::default(),
            failure: RefCell::default(),
            failing: Notify::default(),
        })
    }

    /// The node.
    pub(crate) fn node(&self) -> Node {
        self.node
    }

    /// What connections may cost.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Shards of the node.
    pub(crate) fn shard_count(&self) -> u16 {
        self.mesh.len() as u16
    }

    /// The partitions led here.
    pub(crate) fn partitions(&self) -> Ref<'_, FxHashMap<PartitionId, Partition<R>>> {
        self.partitions.borrow()
    }

    /// The same, to be changed by metadata.
    pub(crate) fn partitions_mut(&self) -> RefMut<'_, FxHashMap<PartitionId, Partition<R>>> {
        self.partitions.borrow_mut()
    }

    /// The metadata in force.
    pub(crate) fn placement(&self) -> Rc<Placement> {
        Rc::clone(&self.placement.borrow())
    }

    /// Puts metadata in force.
    pub(crate) fn place_by(&self, placement: Placement) -> Rc<Placement> {
        let placement = Rc::new(placement);
        self.placement.replace(Rc::clone(&placement));
        placement
    }

    /// A partition led here.
    pub(crate) fn partition(&self, id: PartitionId) -> Option<Partition<R>> {
        self.partitions.borrow().get(&id).cloned()
    }

    /// The shard that leads a partition, if anyone does.
    pub(crate) fn shard_of(&self, id: PartitionId) -> Option<u16> {
        if self.partitions.borrow().contains_key(&id) { Some(self.index) } else { self.placement.borrow().shard_of(id) }
    }

    /// Whether a partition that is not led here is led elsewhere: it moved, or is not known here yet.
    pub(crate) fn is_known(&self, id: PartitionId) -> bool {
        self.placement.borrow().log_of(id).is_some()
    }

    /// The log that a partition lives in, if it is anyone's.
    pub(crate) fn log_of(&self, id: PartitionId) -> Option<LogNumber> {
        match self.partitions.borrow().get(&id) {
            Some(partition) => Some(partition.log()),
            None => self.placement.borrow().log_of(id),
        }
    }

    /// Whether it lives in another log than this shard's own.
    #[inline]
    pub(crate) fn is_elsewhere(&self, id: PartitionId) -> bool {
        self.log_of(id).is_some_and(|log| log != self.logs.own_number())
    }

    /// Sends to another shard, at once or not at all.
    pub(crate) fn send(&self, to: u16, message: Message<R>) -> bool {
        self.metrics.count(Metric::ShardHops);
        let is_sent = self.mesh[usize::from(to)].try_send(message).is_ok();
        if !is_sent {
            self.metrics.count(Metric::ShardHopsRefused);
        }
        is_sent
    }

    /// Every shard's inbox, in order.
    pub(crate) fn mesh(&self) -> &[Sender<Message<R>>] {
        &self.mesh
    }

    /// Starts a task that nobody waits for.
    pub(crate) fn start(&self, task: impl Future<Output = ()> + 'static) {
        drop(self.rt.spawn(task));
    }

    /// Has a shard serve a connection; a busy one closes it.
    pub(crate) fn place(self: &Rc<Self>, to: u16, arrival: Arrival<R>) {
        if to == self.index {
            self.start(connection::serve(Rc::clone(self), arrival));
        } else {
            self.send(to, Message::Connection(arrival));
        }
    }

    /// Whether the shard takes no more requests.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stage.get() >= Stage::Draining
    }

    /// Waits until the shard takes no more requests.
    pub(crate) async fn stopping(&self) {
        self.stop.until(|| self.is_stopping().then_some(())).await;
    }

    /// Takes no more requests.
    pub(crate) fn drain(&self) {
        self.stage.set(Stage::Draining);
        self.stop.wake();
    }

    /// Waits until the shard has ended.
    pub(crate) async fn ended(&self) {
        self.stop.until(|| (self.stage.get() == Stage::Ended).then_some(())).await;
    }

    /// Ends the tasks that would run for ever.
    pub(crate) fn end(&self) {
        self.stage.set(Stage::Ended);
        self.stop.wake();
    }

    /// Has the process end because of this.
    pub(crate) fn fail(&self, failure: Failure) {
        self.failure.borrow_mut().get_or_insert(failure);
        self.failing.wake();
    }

    /// Waits until a write fails, of one of this shard's logs or of MetaLog.
    pub(crate) async fn failed(&self) -> Failure {
        let of_log = async { Failure::Log(self.logs.failed().await) };
        future::or(of_log, self.failing.until(|| self.failure.borrow().clone())).await
    }

    /// How many partitions take and give nothing behind damage.
    pub(crate) fn partitions_refused(&self) -> usize {
        self.count(Partition::refused_from)
    }

    /// How many partitions refuse what damage in a segment took.
    pub(crate) fn partitions_damaged(&self) -> usize {
        self.count(Partition::damaged_from)
    }

    /// The partitions that damage stopped, as many as are named one by one.
    pub(crate) fn refused(&self) -> Vec<Refused> {
        self.name(Partition::refused_from)
    }

    /// Those that refuse what damage in a segment took, as many.
    pub(crate) fn damaged(&self) -> Vec<Refused> {
        self.name(Partition::damaged_from)
    }

    fn count(&self, from: impl Fn(&Partition<R>) -> Option<u64>) -> usize {
        self.partitions.borrow().values().filter(|partition| from(partition).is_some()).count()
    }

    fn name(&self, from: impl Fn(&Partition<R>) -> Option<u64>) -> Vec<Refused> {
        if self.count(&from) == 0 {
            return Vec::new();
        }
        let mut named = Vec::new();
        for topic in self.placement().topics() {
            for (partition, placed) in (0..).zip(&topic.partitions) {
                let from = self.partitions.borrow().get(&placed.partition).and_then(&from);
                named.extend(from.map(|from| Refused { topic: topic.name.clone(), partition, from }));
            }
            if named.len() >= REFUSED_NAMED_MAX {
                break;
            }
        }
        named.truncate(REFUSED_NAMED_MAX);
        named
    }

    /// All counters.
    pub(crate) fn read_metrics(&self) -> Reading {
        let log = self.logs.stats();
        for (metric, value) in [
            (Metric::Connections, self.connections.len() as u64),
            (Metric::ConnectionBytes, self.budget.bytes_taken() as u64),
            (Metric::Logs, self.logs.len() as u64),
            (Metric::LogsSpare, self.logs.len() as u64 - 1),
            (Metric::PartitionsToMove, self.meta_log.as_ref().map_or(0, |metadata| moves_left(&metadata.snapshot()))),
            (Metric::Partitions, self.partitions.borrow().len() as u64),
            (Metric::PartitionsQuarantined, self.logs.quarantined() as u64),
            (Metric::LogSyncs, log.groups),
            (Metric::LogSyncBytes, log.group_bytes),
            (Metric::LogMemtableBytes, log.memtable_bytes),
            (Metric::LogFlushes, log.flushes),
            (Metric::LogMerges, log.merges),
            (Metric::CompressionSaved, log.compression_saved_bytes),
            (Metric::LogSegments, log.segments),
            (Metric::SegmentsUnreadable, log.segments_unreadable),
            (Metric::CacheBytes, log.cache.bytes),
            (Metric::CacheHits, log.cache.hits),
            (Metric::CacheMisses, log.cache.misses),
            (Metric::CacheReadBytes, log.cache.read_bytes),
            (Metric::CacheAheadBytes, log.cache.ahead_bytes),
            (Metric::PartitionsRefused, self.partitions_refused() as u64),
            (Metric::PartitionsDamaged, self.partitions_damaged() as u64),
            (Metric::DiskFree, log.disk_free_bytes),
            (Metric::DiskReserve, log.disk_reserve_bytes),
            (Metric::DiskFull, log.disk_is_full.into()),
        ] {
            self.metrics.set(metric, value);
        }
        self.metrics.read(Named { refused: self.refused(), damaged: self.damaged() })
    }
}
