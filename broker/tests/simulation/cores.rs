//! Starts with more shards than before or fewer: partitions move between logs under load, and whatever crashes at whatever
//! step, nothing is lost, doubled or reordered, and in the end everything is even and drained.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use history::{Faults, Level, Observations, Report, Verdict};
use runtime::{
    Runtime,
    sim::{Crash, seeds},
};
use wire::{Durability, PartitionId};

use super::{
    Actors,
    actors::{Run, create_topic, delete_topic, hold, shape},
    begin,
    node::World,
    run_to,
};

/// What moves two partitions has long done so, and retention has not looked yet: records here are as old as the world.
const MOVE_MAX: Duration = Duration::from_secs(20);

/// How a life of the broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Stop,
    Crash(Crash),
}

#[test]
fn nothing_is_lost_doubled_or_moved_by_other_numbers_of_shards() {
    let mut campaign = Report::default();
    let moves = Cell::new(0);
    for seed in seeds(150) {
        campaign.absorb(changes(seed, &moves));
    }
    println!("{campaign}, {} moves seen", moves.get());
    assert_eq!(campaign.verdict(), Verdict::Pass, "{campaign}");
    assert!(moves.get() > 150, "the run is vacuous: {} moves", moves.get());
}

/// Lives on 1, 3, 2 and 1 shards, some of them crashed at a random time, half of those with moves under way.
fn changes(seed: u64, moves: &Cell<u64>) -> Report {
    let world = World::start(seed, 1);
    let (rng, run) = (world.simulation.rng(), begin(&world));
    let mut faults = Faults::new();
    ["stop", "kill", "power cut"].iter().for_each(|name| faults.schedule(name));
    let actors = start_actors(&run);
    for life in [1, 3, 3, 2, 2, 1, 1].windows(2) {
        let until = run.acked.get() + rng.within(20..300);
        world.simulation.run_until(|| run.acked.get() >= until).unwrap();
        world.simulation.run_for(Duration::from_micros(rng.below(50_000))).unwrap();
        if let Ok((counters, _)) = run_to(&world, shape(Rc::clone(&run))) {
            moves.set(moves.get() + counters["partitions_moved"]);
        }
        let (ending, name) = match rng.below(3) {
            0 => (Ending::Stop, "stop"),
            1 => (Ending::Crash(Crash::Kill), "kill"),
            _ => (Ending::Crash(Crash::PowerCut), "power cut"),
        };
        end(&world, ending, life[0], life[1]);
        faults.fire(name, run.moment());
    }
    let until = run.acked.get() + 100;
    world.simulation.run_until(|| run.acked.get() >= until).unwrap();
    run.is_ending.set(true);
    let mut observations = Observations::new();
    observations.set_faults(faults);
    finish(&run, actors, &mut observations);
    expect_shape(&world, &run, 1);
    observations.check()
}

/// One partition moves from a spare log into the only shard's own, with a crash at every step of the disk from the start
/// until the spare log is gone.
#[test]
fn a_move_survives_a_crash_at_every_step() {
    let (mut crashes, mut campaign) = (0, Report::default());
    for seed in seeds(3) {
        let world = stopped_with_two_logs(seed).0;
        let before = world.simulation.disk(world.node).steps();
        world.crash(Crash::Kill, 1);
        expect_shape(&world, &begin(&world), 1);
        let steps = world.simulation.disk(world.node).steps() - before;
        assert!(steps > 30, "a move takes {steps} steps");
        for step in 1..=steps {
            for crash in [Crash::Kill, Crash::PowerCut] {
                campaign.absorb(crash_in_a_move(seed, step, crash));
                crashes += 1;
            }
        }
    }
    println!("{crashes} crashes in a move: {campaign}");
    assert_eq!(campaign.verdict(), Verdict::Pass, "{campaign}");
}

fn crash_in_a_move(seed: u64, step: u64, crash: Crash) -> Report {
    let (world, mut observations, partitions) = stopped_with_two_logs(seed);
    let disk = world.simulation.disk(world.node);
    disk.crash_at_step(disk.steps() + step, crash);
    world.crash(Crash::Kill, 1);
    // The last steps come only if the broker is asked for its shape meanwhile: else it rests, and nothing will ever crash it.
    let until = world.now() + MOVE_MAX;
    let _rests = world.simulation.run_until(|| !world.simulation.is_up(world.node) || world.now() >= until);
    let run = begin(&world);
    let mut faults = Faults::new();
    faults.schedule("crash in a move");
    faults.fire("crash in a move", run.moment());
    observations.set_faults(faults);
    world.crash(crash, 1);
    // Others read all of it again, and write on.
    let actors =
        (2..).zip(partitions).map(|(number, partition)| Actors::start(&run, number, partition, Level::Durable, 0));
    let actors: Vec<_> = actors.collect();
    world.simulation.run_until(|| run.acked.get() >= 40).unwrap();
    finish(&run, actors, &mut observations);
    expect_shape(&world, &run, 1);
    observations.check()
}

/// A stopped broker of two shards with a partition on each, and what its clients saw.
fn stopped_with_two_logs(seed: u64) -> (Rc<World>, Observations, Vec<u64>) {
    let world = World::start(seed, 2);
    let run = begin(&world);
    let actors = start_topic(&run, 0, "orders", 2, Level::Durable);
    world.simulation.run_until(|| run.acked.get() >= 100).unwrap();
    let partitions = actors.iter().map(|actors| actors.writer.borrow().partition()).collect();
    let mut observations = Observations::new();
    finish(&run, actors, &mut observations);
    world.stop(2);
    (world, observations, partitions)
}

/// A topic is deleted while its partitions move: both copies of each are gone from the disk, whatever crashes meanwhile.
#[test]
fn a_topic_deleted_while_it_moves_leaves_nothing() {
    let mut moved = 0;
    for seed in seeds(60) {
        let world = World::start(seed, 2);
        let (rng, run) = (world.simulation.rng(), begin(&world));
        run_to(&world, create_topic(Rc::clone(&run), "stays", 2, Durability::Durable));
        run_to(&world, create_topic(Rc::clone(&run), "goes", 6, Durability::Durable));
        world.crash(Crash::Kill, 1);
        world.simulation.run_for(Duration::from_micros(rng.below(40_000))).unwrap();
        run_to(&world, delete_topic(Rc::clone(&run), "goes"));
        moved += run_to(&world, shape(Rc::clone(&run))).expect("nothing crashes").0["partitions_moved"];
        if seed % 2 == 0 {
            world.crash(Crash::PowerCut, 1);
        }
        expect_shape(&world, &run, 1);
        world.crash(Crash::Kill, 1);
        let (counters, led) = run_to(&world, shape(Rc::clone(&run))).expect("nothing crashes");
        assert_eq!((counters["partitions_quarantined"], led), (0, [(0, 2)].into()), "seed {seed}");
    }
    println!("{moved} moves were done when the topic was gone");
    assert!(moved > 60);
}

/// Whoever copies the logs one after the other has to find every partition in one of them.
#[test]
fn nothing_moves_while_a_backup_holds_the_logs() {
    let (mut moved_before, mut held_back) = (0, 0);
    for seed in seeds(40) {
        let world = World::start(seed, 2);
        let (rng, run) = (world.simulation.rng(), begin(&world));
        run_to(&world, create_topic(Rc::clone(&run), "orders", 12, Durability::Durable));
        world.crash(Crash::Kill, 1);
        world.simulation.run_for(Duration::from_micros(rng.below(60_000))).unwrap();
        let look = || run_to(&world, shape(Rc::clone(&run))).expect("nothing crashes").0;
        let logs = run_to(&world, hold(Rc::clone(&run), 30_000));
        let before = look();
        assert_eq!(logs.len() as u64, 1 + before["logs_spare"], "seed {seed}: every log is held");
        world.simulation.run_for(Duration::from_secs(20)).unwrap();
        let after = look();
        for what in ["partitions_moved", "partitions_to_move", "logs_spare"] {
            assert_eq!(before[what], after[what], "seed {seed}: {what}");
        }
        moved_before += before["partitions_moved"];
        held_back += before["partitions_to_move"];
        expect_shape(&world, &run, 1);
    }
    println!("{moved_before} partitions moved before the logs were held, {held_back} afterwards");
    assert!(moved_before > 20 && held_back > 20, "the run is vacuous");
}

fn start_actors(run: &Rc<Run>) -> Vec<Actors> {
    let mut actors = start_topic(run, 0, "orders", 4, Level::Durable);
    actors.extend(start_topic(run, 4, "clicks", 3, Level::Memory));
    actors
}

fn start_topic(run: &Rc<Run>, first: u32, name: &'static str, partitions: u32, level: Level) -> Vec<Actors> {
    let durability = if level == Level::Durable { Durability::Durable } else { Durability::Memory };
    let placed = run_to(&run.world, create_topic(Rc::clone(run), name, partitions, durability));
    let start =
        |(number, (partition, shard)): (u32, (PartitionId, u16))| Actors::start(run, number, partition.0, level, shard);
    (first..).zip(placed).map(start).collect()
}

fn finish(run: &Rc<Run>, actors: Vec<Actors>, observations: &mut Observations) {
    run.is_ending.set(true);
    for actors in actors {
        observations.set_level(actors.writer.borrow().partition(), actors.level);
        actors.finish(run, observations);
    }
}

fn end(world: &World, ending: Ending, shards: usize, shards_next: usize) {
    match ending {
        Ending::Stop => {
            world.stop(shards);
            world.crash(Crash::Kill, shards_next);
        }
        Ending::Crash(crash) => world.crash(crash, shards_next),
    }
}

/// Waits until no partition is to move and no log is spare; then each shard leads as many partitions as any other, give or
/// take one, and the disk holds nothing of other logs.
fn expect_shape(world: &World, run: &Rc<Run>, shards: usize) {
    let led = run_to(world, wait_for_shape(Rc::clone(run)));
    let (most, fewest) =
        (led.values().max(), (0..shards as u16).map(|shard| led.get(&shard).copied().unwrap_or(0)).min());
    assert!(*most.expect("there are partitions") <= fewest.expect("there are shards") + 1, "{led:?}");
    world.simulation.run_until(|| log_directories(world).len() == shards).unwrap();
}

async fn wait_for_shape(run: Rc<Run>) -> BTreeMap<u16, usize> {
    loop {
        if let Ok((counters, led)) = shape(Rc::clone(&run)).await
            && counters["partitions_to_move"] == 0
            && counters["logs_spare"] == 0
        {
            return led;
        }
        run.world.outside().sleep(Duration::from_millis(20)).await;
    }
}

/// The directories of logs that hold any file.
fn log_directories(world: &World) -> BTreeSet<String> {
    let files = world.simulation.disk(world.node).files();
    let logs = files.iter().filter_map(|file| file.strip_prefix("data/")?.split_once('/'));
    logs.filter(|(directory, _)| directory.starts_with("shard-")).map(|(directory, _)| directory.to_owned()).collect()
}
