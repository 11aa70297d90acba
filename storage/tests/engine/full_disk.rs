//! The disk is full: by the log itself, which stops at its reserve, or by a neighbour, who does not.

use std::{cell::Cell, path::Path, rc::Rc, time::Duration};

use runtime::{
    Runtime,
    sim::{
        Crash, NodeId, SimRuntime, Simulation,
        disk::{self, Disk},
        seeds,
    },
};
use storage::{AppendError, Log, LogOptions, OpenError};
use wire::record::{Batch, Producer};

use crate::support::{DIR, append_acked, batch, durable, read_all, simulation, small};

/// What the log under test may use.
const CAPACITY_BYTES: u64 = 768 << 10;
/// Longer than a log takes to see that something changed.
const A_WHILE: Duration = Duration::from_secs(3);
const PARTITIONS: u64 = 3;

/// A node with little room, and how many records of each partition were acknowledged; their values count from 0.
struct Node {
    simulation: Simulation,
    id: NodeId,
    acked: Rc<Cell<[u64; PARTITIONS as usize]>>,
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
    acked: Rc<Cell<[u64; PARTITIONS as usize]>>,
}

impl Life {
    async fn open(&self) -> Result<Log<SimRuntime>, OpenError> {
        self.rt.create_dir_all(Path::new(DIR)).await.expect("the directory can be made");
        // Own segments, so that what a deletion frees comes back at once.
        let mut options = LogOptions { flush_age_max: Duration::from_millis(50), ..small() };
        options.compaction.limits.own_bytes_min = 1 << 10;
        Log::open(self.rt.clone(), Path::new(DIR), options).await
    }

    /// Appends to one partition after the other until the disk is full.
    async fn fill(&self, log: &Log<SimRuntime>) {
        for turn in 0..20_000 {
            if !self.append(log, turn % PARTITIONS).await {
                return;
            }
        }
        panic!("it never was full");
    }

    /// Appends the next record of a partition and waits for its ack; false if the disk is full.
    async fn append(&self, log: &Log<SimRuntime>, id: u64) -> bool {
        log.admit().await;
        let mut acked = self.acked.get();
        let value = acked[id as usize];
        let bytes = batch(&[value], Producer::NONE);
        let appended = match durable(log, id).append(&Batch::parse_one(&bytes).unwrap(), 1) {
            Ok(appended) => appended,
            Err(AppendError::DiskFull { free_bytes, wanted_bytes }) => {
                assert!(free_bytes < wanted_bytes);
                return false;
            }
            Err(error) => panic!("{error}"),
        };
        let synced = log.synced(appended.lsn()).await.expect("what was taken is written");
        let _ = appended.acknowledge(synced);
        acked[id as usize] += 1;
        self.acked.set(acked);
        true
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

fn set_capacity(disk: &Disk, capacity_bytes: u64) {
    disk.set_options(disk::Options { capacity_bytes, ..disk::Options::default() });
}

#[test]
fn a_log_that_fills_its_disk_stops_at_the_reserve_and_goes_on_when_there_is_space() {
    for seed in seeds(20) {
        let node = Node::new(seed);
        node.live(|life| async move {
            let log = life.open().await.unwrap();
            for _ in 0..3 {
                life.fill(&log).await;
                let stats = log.stats();
                assert!(stats.disk_is_full && stats.disk_free_bytes < stats.disk_reserve_bytes * 17 / 16);
                life.rt.sleep(A_WHILE).await;
                // Everything in memory had room in segments, and so has the next WAL file.
                assert!(life.free_bytes().await >= 16 << 10, "the reserve was used up");
                life.check(&log, 0..PARTITIONS).await;
                // What makes room goes on: one partition is cut short, another one deleted.
                durable(&log, 1).truncate(1, 1).await.unwrap();
                durable(&log, 2).drop_partition().await.unwrap();
                let [first, ..] = life.acked.get();
                life.acked.set([first, 1, 0]);
                life.rt.sleep(A_WHILE).await;
                assert!(!log.stats().disk_is_full, "it was not seen that there is space again");
            }
            assert!(life.append(&log, 2).await);
            life.check(&log, 0..PARTITIONS).await;
            log.close().await.unwrap();
        });
        node.live(|life| async move { life.check(&life.open().await.unwrap(), 0..PARTITIONS).await });
    }
}

/// The reserve is also for the start after a crash: it replays a full WAL, and needs a file beside it.
#[test]
fn a_crash_on_a_full_disk_is_recovered_within_the_reserve() {
    for seed in seeds(30) {
        let node = Node::new(seed);
        for crash in [Crash::Kill, Crash::PowerCut] {
            node.live(|life| async move { life.fill(&life.open().await.unwrap()).await });
            node.simulation.crash(node.id, crash);
            node.live(|life| async move {
                let log = life.open().await.unwrap();
                life.check(&log, 0..PARTITIONS).await;
                // Merges may have made some room.
                life.fill(&log).await;
            });
            node.simulation.crash(node.id, crash);
        }
    }
}

#[test]
fn a_neighbour_that_takes_everything_stops_appends_and_flushes_and_nothing_else() {
    for seed in seeds(30) {
        let node = Node::new(seed);
        node.live(|life| async move {
            let log = life.open().await.unwrap();
            for turn in 0..100 {
                assert!(life.append(&log, turn % PARTITIONS).await);
            }
            for left_bytes in [0, 4 << 10, 12 << 10] {
                // Nothing is under way that was begun while there was room.
                life.rt.sleep(A_WHILE).await;
                life.take_all_but(left_bytes).await;
                // Some are still taken: nobody has looked.
                while life.append(&log, 0).await {}
                let flushes = log.stats().flushes;
                life.rt.sleep(A_WHILE).await;
                assert_eq!(log.stats().flushes, flushes, "a flush found room with {left_bytes} bytes left");
                life.check(&log, 0..PARTITIONS).await;
                set_capacity(&life.disk, CAPACITY_BYTES);
                life.rt.sleep(A_WHILE).await;
                assert!(log.stats().flushes > flushes, "what was put off was done");
                assert!(life.append(&log, 1).await, "records are taken again");
            }
            log.close().await.unwrap();
        });
        node.live(|life| async move { life.check(&life.open().await.unwrap(), 0..PARTITIONS).await });
    }
}

/// A neighbour takes the room that a flush, a merge, a roll or the manifest was about to use.
#[test]
fn a_neighbour_at_any_moment_costs_nothing_acknowledged() {
    let (mut went_on, mut failed) = (0, 0);
    for seed in seeds(60) {
        let node = Node::new(seed);
        let ends = node.live(move |life| async move {
            let log = life.open().await.unwrap();
            let neighbour = life.rt.spawn({
                let life = life.clone();
                async move {
                    life.rt.sleep(Duration::from_micros(seed % 150 * 400)).await;
                    life.take_all_but(seed % 3 * (4 << 10)).await;
                }
            });
            for turn in 0..250 {
                log.admit().await;
                let bytes = batch(&[life.acked.get()[turn % 3]], Producer::NONE);
                match durable(&log, turn as u64 % 3).append(&Batch::parse_one(&bytes).unwrap(), 1) {
                    Ok(appended) => {
                        let Ok(synced) = log.synced(appended.lsn()).await else { break };
                        let _ = appended.acknowledge(synced);
                        let mut acked = life.acked.get();
                        acked[turn % 3] += 1;
                        life.acked.set(acked);
                    }
                    Err(AppendError::DiskFull { .. }) => life.rt.sleep(Duration::from_millis(50)).await,
                    Err(AppendError::Failed(failed)) => {
                        assert!(failed.is_disk_full() && failed.to_string().contains("free space"), "{failed}");
                        return false;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            neighbour.await;
            true
        });
        if ends {
            went_on += 1
        } else {
            failed += 1
        }
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
            for id in 0..PARTITIONS {
                let (records, _) = read_all(&durable(&log, id), 0).await;
                let acked = life.acked.get()[id as usize];
                assert!(records.len() as u64 >= acked, "{} of {acked} are there", records.len());
                assert_eq!(records, (0..records.len() as u64).map(|value| (value, value)).collect::<Vec<_>>());
            }
            append_acked(&log, &durable(&log, 0), &[1]).await;
        });
    }
    println!("{went_on} logs went on, {failed} failed");
    assert!(went_on > failed, "{went_on} logs went on, {failed} failed");
}
