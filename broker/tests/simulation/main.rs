//! Whole brokers on the seeded simulator: produce, fetch, crash, recover, on as many shards as before or more or fewer;
//! judged by the history checker.
//!
//! A failing seed is run alone by `STREAMBUS_SEED=<seed> cargo test -p broker --test simulation`.

mod actors;
mod client;
mod cores;
mod cross_core;
mod node;
mod topics;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use history::{Faults, Level, Observations, Payload, Reader, Report, Verdict, Writer, WriterId};
use runtime::{
    Runtime,
    sim::{Crash, Task, seeds},
};

use wire::Durability;

use self::{
    actors::{Run, create_topic, latest, read, write},
    node::World,
};

const CRASHES: u64 = 4;
const SHARDS: usize = 2;

#[test]
fn nothing_acknowledged_is_lost_doubled_or_moved_by_crashes() {
    let mut campaign = Report::default();
    for seed in seeds(1000) {
        campaign.absorb(crashes(seed).0);
    }
    println!("{campaign}");
    assert_eq!(campaign.verdict(), Verdict::Pass, "{campaign}");
}

#[test]
fn a_seed_is_a_run() {
    let hash = |seed| crashes(seed).1;
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}

/// A run with writers and readers on every partition, and crashes at random times; what it came to, and its trace.
fn crashes(seed: u64) -> (Report, u64) {
    let world = World::start(seed, SHARDS);
    let run = begin(&world);
    let mut faults = Faults::new();
    faults.schedule("kill");
    faults.schedule("power cut");

    let durable = run_to(&world, create_topic(Rc::clone(&run), "orders", 3, Durability::Durable));
    let memory = run_to(&world, create_topic(Rc::clone(&run), "clicks", 2, Durability::Memory));
    let mut observations = Observations::new();
    let durable = durable.into_iter().map(|placed| (placed, Level::Durable));
    let memory = memory.into_iter().map(|placed| (placed, Level::Memory));
    let mut actors = Vec::new();
    for (number, ((partition, shard), level)) in (0..).zip(durable.chain(memory)) {
        observations.set_level(partition.0, level);
        actors.push(Actors::start(&run, number, partition.0, level, shard));
    }
    for crash in 0..CRASHES {
        let until = run.acked.get() + world.simulation.rng().within(1..300);
        world.simulation.run_until(|| run.acked.get() >= until).unwrap();
        world.simulation.run_for(Duration::from_micros(world.simulation.rng().below(3000))).unwrap();
        let (kind, name) = if crash % 2 == 0 { (Crash::Kill, "kill") } else { (Crash::PowerCut, "power cut") };
        world.crash(kind, SHARDS);
        faults.fire(name, run.moment());
    }
    let until = run.acked.get() + 200;
    world.simulation.run_until(|| run.acked.get() >= until).unwrap();
    run.is_ending.set(true);

    observations.set_faults(faults);
    for actors in actors {
        actors.finish(&run, &mut observations);
    }
    (observations.check(), world.simulation.trace_hash())
}

fn begin(world: &Rc<World>) -> Rc<Run> {
    let payload = Payload::new(world.simulation.seed(), 100);
    Rc::new(Run { world: Rc::clone(world), payload, is_ending: Cell::new(false), acked: Cell::new(0) })
}

fn run_to<T: 'static>(world: &World, task: impl Future<Output = T> + 'static) -> T {
    world.simulation.run(&world.outside().spawn(task)).unwrap()
}

/// A writer and a reader of one partition.
struct Actors {
    level: Level,
    writer: Rc<RefCell<Writer>>,
    reader: Rc<RefCell<Reader>>,
    end: Rc<Cell<Option<u64>>>,
    writing: Task<()>,
    reading: Task<()>,
}

impl Actors {
    fn start(run: &Rc<Run>, number: u32, partition: u64, level: Level, shard: u16) -> Self {
        let writer = Rc::new(RefCell::new(Writer::new(WriterId::new(number), partition)));
        let reader = Rc::new(RefCell::new(Reader::new(partition, 0)));
        let end = Rc::new(Cell::new(None));
        let rt = run.world.outside();
        // Half of the writers ask for their partition's shard, the others cross the mesh now and then.
        let wanted = number.is_multiple_of(2).then_some(shard);
        let writing = rt.spawn(write(Rc::clone(run), Rc::clone(&writer), level, wanted));
        let reading = rt.spawn(read(Rc::clone(run), Rc::clone(&reader), Rc::clone(&end)));
        Self { level, writer, reader, end, writing, reading }
    }

    /// Lets the writer finish its batch and the reader read to the end.
    fn finish(self, run: &Rc<Run>, observations: &mut Observations) {
        let simulation = &run.world.simulation;
        simulation.run(&self.writing).unwrap();
        self.end.set(Some(run_to(&run.world, latest(Rc::clone(run), self.writer.borrow().partition()))));
        simulation.run(&self.reading).unwrap();
        let notes = "the task has ended";
        observations.add_writer(Rc::into_inner(self.writer).expect(notes).into_inner());
        observations.add_reader(Rc::into_inner(self.reader).expect(notes).into_inner());
    }
}
