//! The disk is full: by the log itself, which stops at its reserve, or by a neighbour, who does not.

use std::{cell::Cell, future::poll_fn, path::Path, pin::pin, rc::Rc, task::Poll, time::Duration};

use runtime::{
    Runtime,
    sim::{
        Crash, NodeId, SimRuntime, Simulation,
        disk::{self, Disk},
        seeds,
    },
};
use storage::{AppendError, Appended, Log, LogOptions, OpenError};
use wire::record::{Batch, Producer};

use crate::support::{DIR, append_acked, batch, durable, read_all, simulation, small};

/// What the log under test may use.
const CAPACITY_BYTES: u64 = 768 << 10;
/// Longer than a log takes to see that something changed.
const A_WHILE: Duration = Duration::from_secs(3);
const PARTITIONS: u64 = 3;
/// Ids of partitions that there ever are: one that was dropped comes back under another.
const IDS: usize = 6;

/// A node with little room, and how many records of each partition were acknowledged; their values count from 0.
struct Node {
    simulation: Simulation,
    id: NodeId,
    acked: Rc<Cell<[u64; IDS]>>,
}

impl Node {
    fn new(seed: u64) -> Self {
        let simulation = simulation(seed);
        let id = simulation.add_node();
        let node = Self { simulation, id, acked: Rc::default() };
        set_capacity(&node.disk(), CAPACITY_BYTES);
        node
    }

    fn disk(&self) -> Rc<Disk> {
        self.simulation.disk(self.id)
    }

    fn live<T: 'static, F: Future<Output = T> + 'static>(&self, life: impl FnOnce(Life) -> F + 'static) -> T {
        let (disk, acked) = (self.disk(), self.acked.clone());
        let lived = self.simulation.block_on(self.id, |rt: SimRuntime| life(Life { rt, disk, acked }));
        lived.unwrap_or_else(|error| panic!("{error}"))
    }
}

/// What a life of the node has at hand.
#[derive(Clone)]
struct Life {
    rt: SimRuntime,
    disk: Rc<Disk>,
    acked: Rc<Cell<[u64; IDS]>>,
}

impl Life {
    async fn open(&self) -> Result<Log<SimRuntime>, OpenError> {
        self.rt.create_dir_all(Path::new(DIR)).await.expect("the directory can be made");
        // Own segments, so that what a deletion frees comes back at once.
        let mut options = LogOptions { flush_age_max: Duration::from_millis(50), ..small() };
        options.compaction.limits.own_bytes_min = 1 << 10;
        Log::open(self.rt.clone(), Path::new(DIR), options).await
    }

    /// Appends to one of these partitions after the other until the disk is full.
    async fn fill(&self, log: &Log<SimRuntime>, ids: [u64; 3]) {
        for id in ids.into_iter().cycle().take(60_000) {
            if !self.append(log, id).await {
                return;
            }
        }
        panic!("it never was full");
    }

    /// Appends the next record of a partition and waits for its ack; false if the disk is full.
    async fn append(&self, log: &Log<SimRuntime>, id: u64) -> bool {
        let Some(appended) = self.begin(log, id).await else { return false };
        self.finish(log, id, appended).await;
        true
    }

    /// Appends the next record of a partition; `None` if the disk is full.
    async fn begin(&self, log: &Log<SimRuntime>, id: u64) -> Option<Appended> {
        log.admit().await;
        let bytes = batch(&[self.acked.get()[id as usize]], Producer::NONE);
        match durable(log, id).append(&Batch::parse_one(&bytes).unwrap(), 1) {
            Ok(appended) => Some(appended),
            Err(AppendError::DiskFull { free_bytes, wanted_bytes }) => {
                assert!(free_bytes < wanted_bytes);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for the ack of what was appended.
    async fn finish(&self, log: &Log<SimRuntime>, id: u64, appended: Appended) {
        let synced = log.synced(appended.lsn()).await.expect("what was taken is written");
        let _ = appended.acknowledge(synced);
        let mut acked = self.acked.get();
        acked[id as usize] += 1;
        self.acked.set(acked);
    }

    /// Appends to a partition until the disk is full: nobody has looked, so some are still taken. The last of them may have
    /// to wait for a WAL file, and is answered then.
    async fn append_until_refused(&self, log: &Log<SimRuntime>, id: u64) -> Option<Appended> {
        while let Some(appended) = self.begin(log, id).await {
            if within(&self.rt, A_WHILE, log.synced(appended.lsn())).await.is_none() {
                return Some(appended);
            }
            self.finish(log, id, appended).await;
        }
        None
    }

    /// Everything that was acknowledged is there, and nothing else.
    async fn check(&self, log: &Log<SimRuntime>, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            let (records, lost) = read_all(&durable(log, id), 0).await;
            let expected: Vec<_> = (0..self.acked.get()[id as usize]).map(|value| (value, value)).collect();
            assert_eq!(records, expected, "partition {id}");
            assert!(lost.is_empty());
        }
    }

    async fn free_bytes(&self) -> u64 {
        self.rt.space(Path::new(DIR)).await.expect("the disk is there").free_bytes
    }

    /// A neighbour takes all but `left_bytes` of what is free.
    async fn take_all_but(&self, left_bytes: u64) {
        let space = self.rt.space(Path::new(DIR)).await.expect("the disk is there");
        set_capacity(&self.disk, space.total_bytes - space.free_bytes + left_bytes);
    }
}

/// What a future comes to, unless that takes longer.
async fn within<T>(rt: &SimRuntime, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut limit = pin!(rt.sleep(limit));
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(found) => Poll::Ready(Some(found)),
        Poll::Pending => limit.as_mut().poll(context).map(|()| None),
    })
    .await
}

fn set_capacity(disk: &Disk, capacity_bytes: u64) {
    disk.set_options(disk::Options { capacity_bytes, ..disk::Options::default() });
}

#[test]
fn a_log_that_fills_its_disk_stops_at_the_reserve_and_goes_on_when_there_is_space() {
    for seed in seeds(20) {
        let node = Node::new(seed);
        node.live(|life| async move {
            let log = life.open().await.unwrap();
            for round in 0..3 {
                let ids = [0, 1, 2 + round];
                life.fill(&log, ids).await;
                let stats = log.stats();
                assert!(stats.disk_is_full && stats.disk_free_bytes < stats.disk_reserve_bytes * 17 / 16);
                life.rt.sleep(A_WHILE).await;
                // Everything in memory had room in segments, and so has the next WAL file.
                assert!(life.free_bytes().await >= 16 << 10, "the reserve was used up");
                life.check(&log, ids).await;
                // What makes room goes on: one partition is cut short, another one deleted.
                durable(&log, 1).truncate(1, 1).await.unwrap();
                durable(&log, 2 + round).drop_partition().await.unwrap();
                let mut acked = life.acked.get();
                acked[1] = 1;
                life.acked.set(acked);
                life.rt.sleep(A_WHILE).await;
                let stats = log.stats();
                assert!(!stats.disk_is_full, "it was not seen that there is space again: {stats:?}");
            }
            assert!(life.append(&log, 5).await);
            life.check(&log, [0, 1, 5]).await;
            log.close().await.unwrap();
        });
        node.live(|life| async move { life.check(&life.open().await.unwrap(), [0, 1, 5]).await });
    }
}

/// The reserve is also for the start after a crash: it replays a full WAL, and needs a file beside it.
#[test]
fn a_crash_on_a_full_disk_is_recovered_within_the_reserve() {
    for seed in seeds(30) {
        let node = Node::new(seed);
        for crash in [Crash::Kill, Crash::PowerCut] {
            node.live(|life| async move { life.fill(&life.open().await.unwrap(), [0, 1, 2]).await });
            node.simulation.crash(node.id, crash);
            node.live(|life| async move {
                let log = life.open().await.unwrap();
                life.check(&log, 0..PARTITIONS).await;
                // Merges may have made some room.
                life.fill(&log, [0, 1, 2]).await;
            });
            node.simulation.crash(node.id, crash);
        }
    }
}

#[test]
fn a_neighbour_that_takes_everything_stops_appends_and_flushes_and_nothing_else() {
    let mut put_off = 0;
    for seed in seeds(30) {
        let node = Node::new(seed);
        put_off += node.live(|life| async move {
            let log = life.open().await.unwrap();
            let mut put_off = 0;
            for left_bytes in [0, 4 << 10, 12 << 10] {
                for turn in 0..40 {
                    assert!(life.append(&log, turn % PARTITIONS).await);
                }
                // Flushes and merges are under way that were begun while there was room.
                life.take_all_but(left_bytes).await;
                let waiting = life.append_until_refused(&log, 0).await;
                life.rt.sleep(A_WHILE).await;
                // A merge that still came to its end has made some.
                life.take_all_but(left_bytes).await;
                let flushes = log.stats().flushes;
                life.rt.sleep(A_WHILE).await;
                assert_eq!(log.stats().flushes, flushes, "a flush found room with {left_bytes} bytes left");
                assert!(life.begin(&log, 1).await.is_none(), "records are taken");
                life.check(&log, 0..PARTITIONS).await;
                set_capacity(&life.disk, CAPACITY_BYTES);
                life.rt.sleep(A_WHILE).await;
                put_off += log.stats().flushes - flushes;
                if let Some(appended) = waiting {
                    life.finish(&log, 0, appended).await;
                }
                assert!(life.append(&log, 1).await, "records are taken again");
            }
            log.close().await.unwrap();
            put_off
        });
        node.live(|life| async move { life.check(&life.open().await.unwrap(), 0..PARTITIONS).await });
    }
    println!("{put_off} flushes were put off and done");
    assert!(put_off > 0);
}

/// A log at rest has a flush to do when its disk is full: it sees by itself that there is space again.
#[test]
fn a_log_at_rest_sees_that_there_is_space_again() {
    for seed in seeds(30) {
        let node = Node::new(seed);
        node.live(|life| async move {
            let log = life.open().await.unwrap();
            for turn in 0..50 {
                assert!(life.append(&log, turn % PARTITIONS).await);
            }
            life.take_all_but(0).await;
            let waiting = life.append_until_refused(&log, 0).await;
            // Nobody asks for anything, for much longer than it takes to look.
            life.rt.sleep(10 * A_WHILE).await;
            assert!(log.stats().disk_is_full);
            set_capacity(&life.disk, CAPACITY_BYTES);
            life.rt.sleep(A_WHILE).await;
            assert!(!log.stats().disk_is_full);
            if let Some(appended) = waiting {
                life.finish(&log, 0, appended).await;
            }
            assert!(life.append(&log, 1).await);
        });
        node.simulation.crash(node.id, Crash::PowerCut);
        node.live(|life| async move { life.check(&life.open().await.unwrap(), 0..PARTITIONS).await });
    }
}

/// A stop on a full disk does not wait for space: it fails in so many words, and costs nothing.
#[test]
fn a_stop_on_a_full_disk_ends() {
    let (mut stopped, mut failed) = (0, 0);
    for seed in seeds(30) {
        let node = Node::new(seed);
        let closed = node.live(move |life| async move {
            let log = life.open().await.unwrap();
            for turn in 0..seed % 60 {
                assert!(life.append(&log, turn % PARTITIONS).await);
            }
            life.take_all_but(seed % 3 * (4 << 10)).await;
            life.append_until_refused(&log, 0).await;
            within(&life.rt, 10 * A_WHILE, log.close()).await.expect("a stop comes to an end")
        });
        match closed {
            Ok(()) => stopped += 1,
            Err(error) => {
                assert!(error.is_disk_full() && error.to_string().contains("free space"), "{error}");
                failed += 1;
            }
        }
        node.simulation.crash(node.id, Crash::PowerCut);
        set_capacity(&node.disk(), CAPACITY_BYTES);
        node.live(|life| async move { check_at_least(&life, &life.open().await.unwrap()).await });
    }
    println!("{stopped} logs stopped cleanly, {failed} failed");
    assert!(failed > 0);
}

/// Everything that was acknowledged is there, and what is there is right.
async fn check_at_least(life: &Life, log: &Log<SimRuntime>) {
    for id in 0..PARTITIONS {
        let (records, _) = read_all(&durable(log, id), 0).await;
        let acked = life.acked.get()[id as usize];
        assert!(records.len() as u64 >= acked, "{} of {acked} are there", records.len());
        assert_eq!(records, (0..records.len() as u64).map(|value| (value, value)).collect::<Vec<_>>());
    }
}

/// A neighbour takes the room that a flush, a merge, a roll or the manifest was about to use.
#[test]
fn a_neighbour_at_any_moment_costs_nothing_acknowledged() {
    let (mut refused, mut waited) = (0, 0);
    for seed in seeds(60) {
        let node = Node::new(seed);
        let met = node.live(move |life| async move {
            let log = life.open().await.unwrap();
            let neighbour = life.rt.spawn({
                let life = life.clone();
                async move {
                    life.rt.sleep(Duration::from_micros(seed % 150 * 400)).await;
                    life.take_all_but(seed % 3 * (4 << 10)).await;
                }
            });
            let (mut refused, mut waits) = (false, false);
            for turn in 0..250 {
                let id = turn % PARTITIONS;
                let Some(appended) = life.begin(&log, id).await else {
                    refused = true;
                    life.rt.sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if within(&life.rt, A_WHILE, log.synced(appended.lsn())).await.is_none() {
                    waits = true;
                    break;
                }
                life.finish(&log, id, appended).await;
            }
            neighbour.await;
            (refused, waits)
        });
        refused += u32::from(met.0);
        waited += u32::from(met.1);
        node.simulation.crash(node.id, Crash::PowerCut);
        node.live(|life| async move {
            if let Err(error) = life.open().await {
                assert!(error.is_disk_full(), "{error}");
            }
        });
        node.simulation.crash(node.id, Crash::PowerCut);
        set_capacity(&node.disk(), CAPACITY_BYTES);
        node.live(|life| async move {
            let log = life.open().await.unwrap();
            check_at_least(&life, &log).await;
            append_acked(&log, &durable(&log, 0), &[1]).await;
        });
    }
    println!("{refused} logs refused records, {waited} had taken one that waits");
    assert!(refused > 0);
}
