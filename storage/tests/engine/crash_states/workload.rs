//! Short workloads, and every moment of them at which a crash would find the disk changed.

use std::{
    cell::{Cell, RefCell},
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
    time::Duration,
};

use runtime::{
    Runtime,
    sim::{Rng, SimRuntime, disk::Image},
};
use storage::{Appended, Durability, Log, LogOptions, PartitionId};
use wire::record::{Batch, Producer};

use crate::{
    reference::{Record, Reference, encode},
    support,
};

/// What a workload is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// To a `durable` partition, without waiting.
    Append,
    /// To a `memory` partition, acknowledged as soon as it may be.
    AppendMemory,
    /// In a block of its own, awaited.
    AppendLarge,
    /// Waits until all of this is synced.
    Sync,
    /// Fills the WAL file.
    Roll,
    /// Fills memtables until one is flushed.
    Flush,
    /// Flushes until segments are merged.
    Merge,
    /// Cuts a `durable` partition in the middle.
    Truncate,
    /// Deletes the older half of its records.
    Delete,
    /// Deletes it, and creates another.
    Drop,
    /// Stops cleanly and starts again.
    Reopen,
}

const OPS: [Op; 11] = [
    Op::Append,
    Op::AppendMemory,
    Op::AppendLarge,
    Op::Sync,
    Op::Roll,
    Op::Flush,
    Op::Merge,
    Op::Truncate,
    Op::Delete,
    Op::Drop,
    Op::Reopen,
];

/// What fills WAL files.
const FILLER: u64 = 1;
const MEMORY: u64 = 2;
/// The first of those that are cut and deleted.
const DURABLE: u64 = 3;
/// Far more than a flush or a merge takes.
const FILLS_MAX: usize = 50;
/// Long enough for a marker, a flush by age, and a merge.
const PAUSE: Duration = Duration::from_millis(120);

/// The disk in the middle of a workload, and what has been promised by then.
pub(crate) struct Moment {
    pub(crate) image: Image,
    pub(crate) expected: Reference,
}

impl Moment {
    /// A hash of what is expected.
    pub(crate) fn expectation(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.expected.hash(&mut hasher);
        hasher.finish()
    }
}

/// Every workload of one to three operations, in an order that the seed chooses.
pub(crate) fn workloads(seed: u64) -> Vec<Vec<Op>> {
    let mut all: Vec<Vec<Op>> = Vec::new();
    let mut longest = vec![Vec::new()];
    for _ in 0..3 {
        longest = longest.iter().flat_map(|head| OPS.map(|op| [&head[..], &[op]].concat())).collect();
        all.extend(longest.iter().cloned());
    }
    let rng = Rng::new(seed);
    for index in (1..all.len()).rev() {
        all.swap(index, rng.below(index as u64 + 1) as usize);
    }
    all
}

/// Two flushes make a merge here.
pub(crate) fn options() -> LogOptions {
    let small = support::small();
    LogOptions { compaction: storage::compaction::Options { merge_inputs: 2, ..small.compaction }, ..small }
}

pub(crate) async fn open(rt: &SimRuntime) -> Result<Log<SimRuntime>, storage::OpenError> {
    rt.create_dir_all(support::DIR.as_ref()).await.expect("the directory can be made");
    Log::open(rt.clone(), support::DIR.as_ref(), options()).await
}

/// Runs a workload. Returns every moment of its last operation, and of a pause behind it.
pub(crate) fn run(seed: u64, workload: &[Op]) -> Vec<Moment> {
    let simulation = support::simulation(seed);
    let node = simulation.add_node();
    let moments: Rc<RefCell<Vec<Moment>>> = Rc::default();
    let expected: Rc<RefCell<Reference>> = Rc::default();
    let records = Rc::new(Cell::new(false));
    simulation.disk(node).on_step({
        let (moments, expected, records) = (moments.clone(), expected.clone(), records.clone());
        move |_, image| {
            if records.get() {
                moments.borrow_mut().push(Moment { image: image.clone(), expected: expected.borrow().clone() });
            }
        }
    });
    let workload = workload.to_vec();
    let ended = simulation.block_on(node, move |rt| async move {
        let mut life = Life::begin(rt, expected).await;
        let last = workload.len() - 1;
        for (number, op) in workload.into_iter().enumerate() {
            records.set(number == last);
            life.act(op).await;
        }
        life.rt.sleep(PAUSE).await;
    });
    ended.expect("nothing crashes here");
    drop(simulation);
    Rc::into_inner(moments).expect("the simulation has ended").into_inner()
}

struct Life {
    rt: SimRuntime,
    log: Log<SimRuntime>,
    expected: Rc<RefCell<Reference>>,
    /// Appended, and not acknowledged.
    pending: Vec<(u64, Appended)>,
    durable: u64,
    value: u64,
}

impl Life {
    /// A log with three partitions, and something in each.
    async fn begin(rt: SimRuntime, expected: Rc<RefCell<Reference>>) -> Self {
        for (id, durability) in
            [(FILLER, Durability::Durable), (MEMORY, Durability::Memory), (DURABLE, Durability::Durable)]
        {
            expected.borrow_mut().create(id, durability);
        }
        let log = open(&rt).await.expect("an empty directory makes a log");
        let mut life = Self { rt, log, expected, pending: Vec::new(), durable: DURABLE, value: 0 };
        for id in [FILLER, MEMORY, DURABLE] {
            life.append(id, 2, 200);
            life.append(id, 1, 900);
            life.sync().await;
        }
        life
    }

    async fn act(&mut self, op: Op) {
        match op {
            Op::Append => self.append(self.durable, 3, 400),
            Op::AppendMemory => self.append_memory(),
            Op::AppendLarge => {
                self.append_large();
                self.sync().await;
            }
            Op::Sync => self.sync().await,
            Op::Roll => self.fill(2).await,
            Op::Flush => self.fill_until(|life| life.log.stats().flushes).await,
            Op::Merge => self.fill_until(|life| life.log.stats().merges).await,
            Op::Truncate => self.truncate().await,
            Op::Delete => self.delete().await,
            Op::Drop => self.replace().await,
            Op::Reopen => self.reopen().await,
        }
    }

    fn records(&mut self, count: usize) -> Vec<Record> {
        let values = self.value..self.value + count as u64;
        self.value = values.end;
        values.map(|value| Record { value, timestamp_ms: value as i64 }).collect()
    }

    fn append(&mut self, id: u64, count: usize, record_bytes: usize) {
        let records = self.records(count);
        let bytes = encode(&records, record_bytes, Producer::NONE);
        let partition = self.partition(id);
        let appended = partition.append(&Batch::parse_one(&bytes).expect("just built"), 1).expect("it is taken");
        self.note(id, appended, records);
    }

    fn append_large(&mut self) {
        let id = self.durable;
        let records = self.records(2);
        let bytes = encode(&records, 1800, Producer::NONE);
        let mut block = self.log.batch_block(bytes.len());
        block[storage::group::HEADER_BYTES..][..bytes.len()].copy_from_slice(&bytes);
        let appended = self.partition(id).append_block(block, bytes.len(), 1).expect("it is taken");
        self.note(id, appended, records);
    }

    fn append_memory(&mut self) {
        self.append(MEMORY, 2, 300);
        let (id, appended) = self.pending.pop().expect("just appended");
        let end = appended.next_offset();
        match appended.acknowledge_unsynced() {
            Ok(_) => self.expected.borrow_mut().partition_mut(id).told_to(end),
            Err(appended) => self.pending.push((id, appended)),
        }
    }

    fn note(&mut self, id: u64, appended: Appended, records: Vec<Record>) {
        self.expected.borrow_mut().partition_mut(id).appended(appended.base_offset(), records);
        self.pending.push((id, appended));
    }

    /// Waits for every acknowledgement.
    async fn sync(&mut self) {
        for (id, appended) in std::mem::take(&mut self.pending) {
            let synced = self.log.synced(appended.lsn()).await.expect("the disk works");
            let end = appended.next_offset();
            let _acked = appended.acknowledge(synced);
            self.expected.borrow_mut().partition_mut(id).synced_to(end);
        }
        self.note_visible();
    }

    /// Someone may have read all that may be read.
    fn note_visible(&self) {
        let ids: Vec<u64> =
            self.expected.borrow().partitions().filter(|(_, p)| p.is_serving()).map(|(id, _)| id).collect();
        for id in ids {
            let visible = self.partition(id).offsets().high_watermark;
            self.expected.borrow_mut().partition_mut(id).told_to(visible);
        }
    }

    /// So many groups of two pages: two fill a WAL file.
    async fn fill(&mut self, groups: usize) {
        for _ in 0..groups {
            self.log.admit().await;
            self.append(FILLER, 1, 3900);
            self.sync().await;
        }
    }

    async fn fill_until(&mut self, counter: impl Fn(&Self) -> u64) {
        let before = counter(self);
        for _ in 0..FILLS_MAX {
            if counter(self) > before {
                return self.note_visible();
            }
            self.fill(2).await;
            self.rt.sleep(PAUSE).await;
        }
        panic!("neither flushed nor merged after {FILLS_MAX} files");
    }

    async fn truncate(&mut self) {
        let id = self.durable;
        let offsets = self.partition(id).offsets();
        let to = offsets.log_start.midpoint(offsets.log_end);
        self.expected.borrow_mut().partition_mut(id).truncating(to);
        self.partition(id).truncate(to, 1).await.expect("the disk works");
        self.pending.retain(|(pending, _)| *pending != id);
        self.expected.borrow_mut().partition_mut(id).truncated();
    }

    async fn delete(&mut self) {
        let id = self.durable;
        let offsets = self.partition(id).offsets();
        let before = offsets.log_start.midpoint(offsets.high_watermark + 1);
        self.expected.borrow_mut().partition_mut(id).deleting(before);
        self.partition(id).delete_before(Some(before)).await.expect("the disk works");
        self.expected.borrow_mut().partition_mut(id).deleted();
    }

    async fn replace(&mut self) {
        let id = self.durable;
        self.expected.borrow_mut().partition_mut(id).dropping();
        self.partition(id).drop_partition().await.expect("the disk works");
        self.pending.retain(|(pending, _)| *pending != id);
        self.durable += 1;
        let mut expected = self.expected.borrow_mut();
        expected.partition_mut(id).dropped();
        expected.create(self.durable, Durability::Durable);
        drop(expected);
        self.append(self.durable, 2, 100);
    }

    async fn reopen(&mut self) {
        self.log.clone().close().await.expect("the disk works");
        self.sync().await;
        self.log = open(&self.rt).await.expect("a clean stop can be opened");
    }

    fn partition(&self, id: u64) -> storage::Partition<SimRuntime> {
        let durability = self.expected.borrow().partition(id).durability();
        self.log.adopt(PartitionId(id), durability)
    }
}
