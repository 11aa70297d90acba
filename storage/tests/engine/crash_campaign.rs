//! Crashes at random I/O steps, recovery, and the history checker over everything any client was told.
//!
//! Each seed is a life story: writers and readers work on a small log, the disk stops at some step (power cut or kill),
//! the log recovers, sometimes crashing again while it does, and work goes on. Writers of `durable` partitions are
//! idempotent and repeat what was under way, so a record that appears twice is a violation as much as one that is gone.
//!
//! `cargo test` runs 800 crashes. The campaign: `STREAMBUS_CRASHES=20000 cargo test --release -p storage --test engine
//! crash_campaign -- --nocapture`; one seed: `STREAMBUS_SEED=42`.

use std::{cell::RefCell, rc::Rc};

use history::{Faults, Level, Moment, Observations, Reader, Report, Verdict, Writer, WriterId};
use runtime::{
    Runtime,
    sim::{Crash, RunError, SimRuntime, Simulation},
};
use storage::{Durability, Log, PartitionId};
use wire::record::{Batch, Producer};

use crate::support::{open, records, simulation};

/// Crashes in one life story.
const CRASHES_PER_SEED: u64 = 4;
/// What `cargo test` does.
const CRASHES_DEFAULT: u64 = 800;
/// Partitions 1 to 3 are `durable`, partition 4 is `memory`.
const PARTITIONS: u64 = 4;
const MEMORY_PARTITION: u64 = 4;

#[test]
fn nothing_acknowledged_is_lost_and_nothing_appears_twice() {
    let crashes = std::env::var("STREAMBUS_CRASHES").map_or(CRASHES_DEFAULT, |text| text.parse().expect("a number"));
    let mut total: Option<Report> = None;
    let mut fired = 0;
    for seed in runtime::sim::seeds(crashes.div_ceil(CRASHES_PER_SEED)) {
        let (report, crashes) = live(seed);
        fired += crashes;
        assert!(!is_violated(&report), "seed {seed}:\n{report}");
        match &mut total {
            Some(total) => total.absorb(report),
            None => total = Some(report),
        }
    }
    let total = total.expect("there is at least one seed");
    println!("{fired} crashes\n{total}");
    if std::env::var("STREAMBUS_SEED").is_err() {
        assert_eq!(total.verdict(), Verdict::Pass, "{total}");
    }
}

fn is_violated(report: &Report) -> bool {
    report.verdict() == Verdict::Violated
}

/// One life story. Returns its report and how many crashes there were.
fn live(seed: u64) -> (Report, u64) {
    let simulation = simulation(seed);
    let node = simulation.add_node();
    let cast = Rc::new(Cast::new());
    let mut faults = Faults::new();
    let mut crashes = 0;
    while crashes < CRASHES_PER_SEED {
        let crash = if simulation.rng().one_in(3) { Crash::Kill } else { Crash::PowerCut };
        let disk = simulation.disk(node);
        // Some of these are so near that recovery itself is cut short.
        let ahead =
            if simulation.rng().one_in(4) { 1 + simulation.rng().below(40) } else { simulation.rng().within(20..900) };
        disk.crash_at_step(disk.steps() + ahead, crash);
        let kind = match crash {
            Crash::Kill => "kill",
            Crash::PowerCut => "power cut",
        };
        faults.schedule(kind);
        let ended = simulation.block_on(node, {
            let cast = cast.clone();
            move |rt| async move { cast.work(rt, u64::MAX).await }
        });
        match ended {
            Err(RunError::Crashed { .. }) => faults.fire(kind, Moment(simulation.now().as_nanos())),
            Err(error) => panic!("seed {seed}: {error}"),
            Ok(_) => panic!("seed {seed}: writers without end have ended"),
        }
        crashes += 1;
    }
    settle(&simulation, node, &cast);
    (cast.judge(faults), crashes)
}

/// The last life has no crash: some more work, then everything is read from the start.
fn settle(simulation: &Simulation, node: runtime::sim::NodeId, cast: &Rc<Cast>) {
    let cast = cast.clone();
    let ended = simulation.block_on(node, move |rt| async move {
        let log = cast.clone().work(rt.clone(), 60).await;
        for id in 1..=PARTITIONS {
            let reader = RefCell::new(Reader::new(id, 0));
            cast.read_to_end(&rt, &log, id, &reader).await;
            cast.final_readers.borrow_mut().push(reader.into_inner());
        }
        log.close().await.expect("the disk works");
    });
    ended.expect("nothing crashes any more");
}

/// Everyone who talks to the log, and what they remember across its crashes.
struct Cast {
    writers: Vec<RefCell<Actor>>,
    readers: Vec<RefCell<Reader>>,
    final_readers: RefCell<Vec<Reader>>,
}

/// A writer and the batch it has no answer for yet.
struct Actor {
    notes: Writer,
    sequence: i32,
    under_way: Option<UnderWay>,
}

#[derive(Clone, Copy)]
struct UnderWay {
    first: history::Value,
    count: u64,
    sequence: i32,
}

impl Cast {
    fn new() -> Self {
        // Two writers a partition: their batches share groups and interleave.
        let writers = (0..PARTITIONS * 2).map(|number| {
            let notes = Writer::new(WriterId::new(number as u32), 1 + number % PARTITIONS);
            RefCell::new(Actor { notes, sequence: 0, under_way: None })
        });
        let readers = (1..=PARTITIONS).map(|id| RefCell::new(Reader::new(id, 0)));
        Self { writers: writers.collect(), readers: readers.collect(), final_readers: RefCell::default() }
    }

    /// Opens the log; every writer sends `batches` batches, every reader follows. Returns when the writers are done.
    async fn work(self: Rc<Self>, rt: SimRuntime, batches: u64) -> Log<SimRuntime> {
        let log = open(&rt).await.expect("what a crash left can be opened");
        for number in 0..self.readers.len() {
            let (cast, rt, log) = (self.clone(), rt.clone(), log.clone());
            drop(rt.clone().spawn(async move { cast.follow(&rt, &log, number).await }));
        }
        let writers: Vec<_> = (0..self.writers.len())
            .map(|number| {
                let (cast, rt, log) = (self.clone(), rt.clone(), log.clone());
                rt.clone().spawn(async move { cast.write(&rt, &log, number, batches).await })
            })
            .collect();
        for writer in writers {
            writer.await;
        }
        log
    }

    async fn write(&self, rt: &SimRuntime, log: &Log<SimRuntime>, number: usize, batches: u64) {
        let actor = &self.writers[number];
        let partition = adopt(log, actor.borrow().notes.partition());
        let durable = partition.durability() == Durability::Durable;
        for _ in 0..batches {
            log.admit().await;
            let under_way = {
                let mut actor = actor.borrow_mut();
                // A writer of the memory level gives up on what a crash took; the others insist.
                let repeated = actor.under_way.filter(|_| durable);
                repeated.unwrap_or_else(|| {
                    let count = 1 + rt.random_u64() % 4;
                    let under_way = UnderWay { first: actor.notes.send(count), count, sequence: actor.sequence };
                    actor.sequence += count as i32;
                    under_way
                })
            };
            actor.borrow_mut().under_way = Some(under_way);
            let producer = match durable {
                true => Producer { id: number as i64, epoch: 0, base_sequence: under_way.sequence },
                false => Producer::NONE,
            };
            let first = under_way.first.to_u64();
            let values: Vec<u64> = (first..first + under_way.count).collect();
            let bytes = crate::support::batch(&values, producer);
            let appended =
                partition.append(&Batch::parse_one(&bytes).expect("just built"), 1).expect("it is in sequence");
            let acked = match appended.acknowledge_unsynced() {
                Ok(acked) => acked,
                Err(appended) => {
                    let synced = log.synced(appended.lsn()).await.expect("the disk works or crashes");
                    appended.acknowledge(synced)
                }
            };
            let mut actor = actor.borrow_mut();
            let now = Moment(rt.now().as_nanos());
            actor.notes.acked(under_way.first, under_way.count, acked.base_offset(), now);
            actor.under_way = None;
        }
    }

    /// Reads a partition as it grows.
    async fn follow(&self, rt: &SimRuntime, log: &Log<SimRuntime>, number: usize) {
        let id = 1 + number as u64;
        let partition = adopt(log, id);
        let notes = &self.readers[number];
        loop {
            self.read_to_end(rt, log, id, notes).await;
            let position = notes.borrow().position();
            partition.visible_beyond(position).await;
        }
    }

    async fn read_to_end(&self, rt: &SimRuntime, log: &Log<SimRuntime>, id: u64, notes: &RefCell<Reader>) {
        let partition = adopt(log, id);
        loop {
            let high_watermark = partition.offsets().high_watermark;
            notes.borrow_mut().high_watermark(high_watermark);
            let position = notes.borrow().position();
            if position >= high_watermark {
                return;
            }
            let batches = partition.read(position, 2000).await.expect("it can be read");
            let mut notes = notes.borrow_mut();
            if let Some(lost) = batches.lost {
                notes.lost(lost);
            }
            let bytes: Vec<u8> = batches.slices.iter().flat_map(|slice| slice.to_vec()).collect();
            for (offset, value) in records(&bytes) {
                // A batch is served whole; what lies before the position is skipped, as every client does.
                if offset >= notes.position() {
                    notes.delivered(offset, history::Value::from_u64(value), 1, Moment(rt.now().as_nanos()));
                }
            }
        }
    }

    fn judge(&self, faults: Faults) -> Report {
        let mut observations = Observations::new();
        observations.set_level(MEMORY_PARTITION, Level::Memory);
        for actor in &self.writers {
            let id = actor.borrow().notes.id();
            let notes = std::mem::replace(&mut actor.borrow_mut().notes, Writer::new(id, 0));
            observations.add_writer(notes);
        }
        for reader in &self.readers {
            observations.add_reader(std::mem::replace(&mut *reader.borrow_mut(), Reader::new(0, 0)));
        }
        for reader in self.final_readers.borrow_mut().drain(..) {
            observations.add_reader(reader);
        }
        observations.set_faults(faults);
        observations.check()
    }
}

fn adopt(log: &Log<SimRuntime>, id: u64) -> storage::Partition<SimRuntime> {
    let level = if id == MEMORY_PARTITION { Durability::Memory } else { Durability::Durable };
    log.adopt(PartitionId(id), level)
}
