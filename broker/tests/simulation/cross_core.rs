//! What crosses cores: requests for partitions of other shards, sockets that move, connections that go away while their
//! requests are under way, inboxes so small that they are full.
//!
//! Each seed is one schedule: every shard's tasks in a random order, random delays, random clients. Every request has to be
//! answered, all but fetches in their order; what was acknowledged is where it was said to be; batches of one connection keep their order;
//! and nobody reads what nobody wrote.
//!
//! `cargo test` runs 300 schedules. The campaign: `STREAMBUS_SCHEDULES=10000 cargo test --release -p broker --test simulation
//! cross_core -- --nocapture`.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use runtime::{
    Runtime,
    sim::{Task, seeds},
};
use wire::{
    Durability, ErrorCode, PartitionId,
    api::{Setting, fetch, list_offsets, produce, topic_create},
    codec::List,
    record::{BatchBuilder, Batches, Producer},
};

use crate::{
    client::{Client, Response},
    node::{World, connect},
};

/// What `cargo test` does.
const SCHEDULES_DEFAULT: u64 = 300;
const SHARDS: usize = 3;
const PARTITIONS: u32 = 6;
const CLIENTS: u64 = 3;
/// Connections that each client makes, one after the other.
const CONNECTIONS: u64 = 3;
const REQUESTS: u64 = 8;

#[test]
fn whatever_crosses_cores_is_answered_in_order() {
    let schedules =
        std::env::var("STREAMBUS_SCHEDULES").map_or(SCHEDULES_DEFAULT, |text| text.parse().expect("a number"));
    let mut total = Counts::default();
    for seed in seeds(schedules) {
        total.add(&schedule(seed));
    }
    println!("{} schedules, 0 races\n{total:?}", total.schedules);
    if std::env::var("STREAMBUS_SEED").is_err() {
        let Counts { schedules, answered, acked, crossed, busy, given_up, moved } = total;
        let rare = [answered, acked, crossed, given_up, moved].iter().any(|&count| count < schedules / 10);
        assert!(!rare && busy >= schedules / 30, "something hardly ever happened: {total:?}");
    }
}

/// What happened, over all schedules.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    schedules: u64,
    answered: u64,
    acked: u64,
    /// Requests for a partition of another shard.
    crossed: u64,
    /// Refused because something was full.
    busy: u64,
    /// Connections dropped with requests under way.
    given_up: u64,
    /// Connections that asked for a shard.
    moved: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.schedules += 1;
        self.answered += other.answered;
        self.acked += other.acked;
        self.crossed += other.crossed;
        self.busy += other.busy;
        self.given_up += other.given_up;
        self.moved += other.moved;
    }
}

/// One schedule's world and notes.
struct Run {
    world: Rc<World>,
    /// Partitions and their shards.
    placed: RefCell<Vec<(PartitionId, u16)>>,
    /// Acknowledged values, by partition and offset.
    acked: RefCell<BTreeMap<(PartitionId, u64), u64>>,
    /// Every value, in the order in which its connection sent it.
    sent: Cell<u64>,
    counts: RefCell<Counts>,
}

fn schedule(seed: u64) -> Counts {
    let inboxes = [1, 2, 4, 1024][(seed % 4) as usize];
    let world = World::start_with(seed, SHARDS, inboxes);
    let run = Rc::new(Run {
        world: Rc::clone(&world),
        placed: RefCell::default(),
        acked: RefCell::default(),
        sent: Cell::new(0),
        counts: RefCell::default(),
    });
    finish(&world, create_topic(Rc::clone(&run)));
    let clients: Vec<Task<()>> = (0..CLIENTS).map(|_| world.outside().spawn(work(Rc::clone(&run)))).collect();
    for client in clients {
        world.simulation.run(&client).expect("every request is answered");
    }
    finish(&world, read_everything(Rc::clone(&run)));
    run.counts.take()
}

fn finish(world: &World, task: impl Future<Output = ()> + 'static) {
    world.simulation.run(&world.outside().spawn(task)).expect("every request is answered");
}

/// Half of the partitions are durable, as far as one topic can be: the seed decides.
async fn create_topic(run: Rc<Run>) {
    let rt = run.world.outside();
    let level = if run.world.simulation.seed().is_multiple_of(2) { Durability::Durable } else { Durability::Memory };
    let settings = [Setting { key: Durability::SETTING, value: level.name() }];
    let request =
        topic_create::Request { name: "orders", partition_count: PARTITIONS, settings: List::from(&settings) };
    let mut client = connect(&rt, run.world.address(), Some(0)).await;
    let answer = client.call(&request).await.expect("the connection holds");
    let created = answer.message::<topic_create::Response<'_>>().expect("the name is free");
    run.placed.replace(created.partitions.iter().map(|placed| (placed.partition, placed.shard)).collect());
}

/// A client's life: some connections, one after the other.
async fn work(run: Rc<Run>) {
    let rt = run.world.outside();
    for _ in 0..CONNECTIONS {
        let wanted = (random(&run, 3) > 0).then(|| random(&run, SHARDS as u64) as u16);
        let mut client = connect(&rt, run.world.address(), wanted).await;
        run.counts.borrow_mut().moved += u64::from(wanted.is_some());
        assert!(wanted.is_none_or(|wanted| wanted == client.shard), "it asked for {wanted:?}");
        converse(&run, &mut client).await;
        rt.sleep(Duration::from_micros(random(&run, 500))).await;
    }
}

/// What was asked, by correlation.
enum Asked {
    Produce { partition: PartitionId, first: u64, count: u64 },
    Fetch,
    ListOffsets { partitions: usize },
}

/// Sends a number of requests at once, and takes the answers; or leaves in the middle.
async fn converse(run: &Rc<Run>, client: &mut Client) {
    let (mut line, mut fetches) = (VecDeque::new(), BTreeMap::new());
    let count = 1 + random(run, REQUESTS);
    for _ in 0..count {
        let (partition, shard) = run.placed.borrow()[random(run, u64::from(PARTITIONS)) as usize];
        run.counts.borrow_mut().crossed += u64::from(shard != client.shard);
        match ask(run, client, partition).await {
            (correlation, fetch @ Asked::Fetch) => drop(fetches.insert(correlation, fetch)),
            asked => line.push_back(asked),
        }
    }
    let leaves_after = if random(run, 4) == 0 { random(run, count) } else { count };
    run.counts.borrow_mut().given_up += u64::from(leaves_after < count);
    let mut ends = BTreeMap::new();
    for _ in 0..leaves_after {
        let response = client.receive().await.expect("the connection holds");
        let correlation = response.header.correlation;
        // Fetches stand outside of the line, for they may wait.
        let asked = fetches.remove(&correlation).unwrap_or_else(|| {
            let (next, asked) = line.pop_front().expect("one answer for each request");
            assert_eq!(correlation, next, "answers come in the order of the requests");
            asked
        });
        run.counts.borrow_mut().answered += 1;
        check(run, &asked, &response, &mut ends);
    }
}

async fn ask(run: &Rc<Run>, client: &mut Client, partition: PartitionId) -> (u32, Asked) {
    let (correlation, asked) = match random(run, 4) {
        0 => {
            let rows = [fetch::Position { partition, offset: 0, bytes_max: 4000 }];
            let wait_ms_max = random(run, 3) as u32;
            let request = fetch::Request { wait_ms_max, bytes_min: 1, bytes_max: 8000, partitions: List::from(&rows) };
            (client.send(&request, &[]).await, Asked::Fetch)
        }
        1 => {
            let at = list_offsets::At::Latest;
            let rows: Vec<_> =
                run.placed.borrow().iter().map(|&(partition, _)| list_offsets::Query { partition, at }).collect();
            let request = list_offsets::Request { partitions: List::from(&rows) };
            (client.send(&request, &[]).await, Asked::ListOffsets { partitions: rows.len() })
        }
        _ => {
            let (first, count) = (run.sent.get(), 1 + random(run, 3));
            run.sent.set(first + count);
            let batch = batch(first, count);
            let rows = [produce::BatchRow { partition, batch_bytes: batch.len() as u32 }];
            let head = produce::RequestHead { timeout_ms: 0, batches: List::from(&rows) };
            (client.send(&head, &batch).await, Asked::Produce { partition, first, count })
        }
    };
    (correlation.expect("the connection holds"), asked)
}

/// Values in a colour of their own: no byte of one record occurs in another.
fn batch(first: u64, count: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(16 << 10);
    for value in first..first + count {
        builder.append(0, None, Some(&coloured(value)), &[]).expect("small records fit");
    }
    builder.build(Producer::NONE).to_vec()
}

fn coloured(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(20)
}

fn check(run: &Rc<Run>, asked: &Asked, response: &Response, ends: &mut BTreeMap<PartitionId, u64>) {
    match *asked {
        Asked::Produce { partition, first, count } => {
            let answer = response.message::<produce::Response<'_>>().expect("a produce response");
            let result = answer.results.iter().next().expect("one batch, one result");
            assert_eq!(result.partition, partition);
            if result.error != ErrorCode::None {
                assert!(result.error.is_retriable(), "{}: {}", result.error, result.reason);
                run.counts.borrow_mut().busy += 1;
                return;
            }
            run.counts.borrow_mut().acked += 1;
            let before = ends.insert(partition, result.base_offset + count);
            assert!(before.is_none_or(|end| end <= result.base_offset), "batches of one connection keep their order");
            for place in 0..count {
                let told = run.acked.borrow_mut().insert((partition, result.base_offset + place), first + place);
                assert_eq!(told, None, "offset {} was given out before", result.base_offset + place);
            }
        }
        Asked::Fetch => {
            let answer = response.message::<fetch::Response<'_>>().expect("a fetch response");
            let (row, batches) = answer.partitions().next().expect("one partition, one row");
            match row.error {
                ErrorCode::None => check_records(run, row.partition, batches),
                error => assert!(error.is_retriable(), "{error}: {}", row.reason),
            }
        }
        Asked::ListOffsets { partitions } => {
            let answer = response.message::<list_offsets::Response<'_>>().expect("offsets");
            assert_eq!(answer.partitions.iter().count(), partitions);
        }
    }
}

/// What is served was sent, whole, and is what was acknowledged there.
fn check_records(run: &Rc<Run>, partition: PartitionId, batches: &[u8]) {
    for batch in Batches::new(batches) {
        let batch = batch.expect("a whole batch");
        batch.verify_stored().expect("the producer's CRC still holds");
        for record in batch.records().expect("not compressed") {
            let record = record.expect("a whole record");
            let bytes = record.value.expect("every record has a value");
            let value = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            assert!(value < run.sent.get() && *bytes == coloured(value)[..], "foreign bytes at {}", record.offset);
            let acked = run.acked.borrow().get(&(partition, record.offset)).copied();
            assert!(acked.is_none_or(|acked| acked == value), "{value} where {acked:?} was acknowledged");
        }
    }
}

/// Everything that was acknowledged is there in the end, whichever shard is asked.
async fn read_everything(run: Rc<Run>) {
    let rt = run.world.outside();
    let placed = run.placed.borrow().clone();
    for (partition, _) in placed {
        let mut client = connect(&rt, run.world.address(), Some(random(&run, SHARDS as u64) as u16)).await;
        let end = run.acked.borrow().keys().filter(|(id, _)| *id == partition).map(|(_, offset)| offset + 1).max();
        let mut next = 0;
        while next < end.unwrap_or(0) {
            let rows = [fetch::Position { partition, offset: next, bytes_max: 1 << 20 }];
            let request =
                fetch::Request { wait_ms_max: 20, bytes_min: 1, bytes_max: 1 << 20, partitions: List::from(&rows) };
            let answer = client.call(&request).await.expect("the connection holds");
            let answer = answer.message::<fetch::Response<'_>>().expect("a fetch response");
            let (row, batches) = answer.partitions().next().expect("one partition, one row");
            if row.error == ErrorCode::None {
                check_records(&run, partition, batches);
                for batch in Batches::new(batches) {
                    let batch = batch.expect("a whole batch");
                    assert!(batch.base_offset() <= next, "offsets {next} to {} are missing", batch.base_offset());
                    next = batch.next_offset();
                }
            }
        }
    }
}

fn random(run: &Rc<Run>, below: u64) -> u64 {
    run.world.simulation.rng().below(below)
}
