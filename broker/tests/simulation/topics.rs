//! Topics deleted and created anew under the same name, with a crash after each I/O of that: whatever is read was written to
//! the topic that it is read from, partitions are never given out twice, and in the end the disk is empty.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    rc::Rc,
    time::Duration,
};

use runtime::{
    Runtime,
    sim::{Crash, SimRuntime, seeds},
};
use wire::{
    ErrorCode, PartitionId, TopicId,
    api::{Message, fetch, produce, topic_create, topic_delete, topic_describe},
    codec::List,
    frame::{Frame, ResponseError},
    record::{BatchBuilder, Batches, Producer},
};

use crate::{
    SHARDS,
    client::{Client, Response},
    node::{World, connect},
};

const NAME: &str = "orders";
const PARTITIONS: u32 = 3;
const BATCHES: usize = 12;

/// What the owner of the topic knows, which no crash takes.
#[derive(Default)]
struct Ledger {
    /// The topic that each partition ever seen belongs to.
    owners: RefCell<BTreeMap<PartitionId, TopicId>>,
    /// Records acknowledged, of the topic that is there now.
    acked: RefCell<BTreeMap<PartitionId, u64>>,
    /// Topics deleted, as acknowledged.
    deleted: Cell<u64>,
    records_read: Cell<u64>,
    /// The owner stops when this is set.
    is_ending: Cell<bool>,
}

#[test]
fn a_new_topic_never_shows_a_record_of_an_old_one_and_what_is_deleted_frees_the_disk() {
    let (mut crashes, mut deleted, mut read) = (0, 0, 0);
    for seed in seeds(4) {
        for step in 1..=60 {
            let world = World::start(seed, SHARDS);
            let ledger = Rc::new(Ledger::default());
            let owner = world.outside().spawn(own(Rc::clone(&world), Rc::clone(&ledger)));
            let simulation = &world.simulation;
            let disk = simulation.disk(world.node);
            // Life one ends in the middle of the second topic's end or the third one's beginning.
            simulation.run_until(|| ledger.deleted.get() == 1 && ledger.acked.borrow().len() == 3).unwrap();
            for crash in [Crash::PowerCut, Crash::Kill] {
                let so_far = ledger.deleted.get();
                disk.crash_at_step(disk.steps() + step * 2 - u64::from(crash == Crash::Kill), crash);
                simulation.run_until(|| !simulation.is_up(world.node) || ledger.deleted.get() > so_far + 3).unwrap();
                if !simulation.is_up(world.node) {
                    crashes += 1;
                    simulation.restart(world.node, SHARDS);
                }
            }
            let so_far = ledger.deleted.get();
            simulation.run_until(|| ledger.deleted.get() > so_far + 1).unwrap();
            ledger.is_ending.set(true);
            simulation.run(&owner).unwrap();
            deleted += ledger.deleted.get();
            read += ledger.records_read.get();
        }
    }
    println!("{crashes} crashes, {deleted} topics deleted, {read} records read");
    assert!(crashes > 400 && deleted > 600 && read > 10_000, "{crashes} crashes, {deleted} deleted, {read} read");
}

#[test]
fn when_all_topics_are_gone_so_are_all_segments() {
    for seed in seeds(10) {
        let world = World::start(seed, SHARDS);
        let ledger = Rc::new(Ledger::default());
        let deleting = Rc::clone(&ledger);
        let filled = world.outside().spawn({
            let world = Rc::clone(&world);
            async move {
                let mut client = connect(&world.outside(), world.address(), None).await;
                for _ in 0..3 {
                    let (topic, partitions) = create(&mut client).await.expect("nothing crashes");
                    for _ in 0..20 {
                        fill(&mut client, topic, &partitions, &deleting).await.expect("nothing crashes");
                    }
                    // Long enough for what is full to be flushed, as the log is quiet.
                    world.outside().sleep(Duration::from_secs(5)).await;
                    delete(&mut client).await.expect("nothing crashes");
                }
            }
        });
        world.simulation.run(&filled).unwrap();
        let segments = || {
            let files = world.simulation.disk(world.node).files();
            files.into_iter().filter(|file| file.ends_with(".seg")).collect::<Vec<_>>()
        };
        // Those that several partitions shared go when the next look finds them dead.
        world.simulation.run_for(Duration::from_secs(6 * 60)).unwrap();
        assert_eq!(segments(), Vec::<String>::new(), "seed {seed}");
    }
}

/// Creates the topic, fills it, reads it and deletes it, again and again.
async fn own(world: Rc<World>, ledger: Rc<Ledger>) {
    let rt = world.outside();
    while !ledger.is_ending.get() {
        let mut client = connect(&rt, world.address(), None).await;
        // Where a connection breaks, all that is unknown is found out by the next one.
        let _broken = work(&rt, &mut client, &ledger).await;
        rt.sleep(Duration::from_micros(200)).await;
    }
}

async fn work(rt: &SimRuntime, client: &mut Client, ledger: &Ledger) -> io::Result<()> {
    while !ledger.is_ending.get() {
        let (topic, partitions) = create(client).await?;
        for &partition in &partitions {
            let owner = *ledger.owners.borrow_mut().entry(partition).or_insert(topic);
            assert_eq!(owner, topic, "partition {} is given out twice", partition.0);
        }
        ledger.acked.borrow_mut().retain(|partition, _| partitions.contains(partition));
        check(client, topic, &partitions, ledger).await?;
        fill(client, topic, &partitions, ledger).await?;
        rt.sleep(Duration::from_millis(rt.random_u64() % 20)).await;
        check(client, topic, &partitions, ledger).await?;
        delete(client).await?;
        ledger.deleted.set(ledger.deleted.get() + 1);
        for &partition in &partitions {
            let (error, _) = fetch(client, partition, 0).await?;
            assert_eq!(error, ErrorCode::UnknownPartition);
        }
    }
    Ok(())
}

/// Creates the topic, or finds the one that an answer was lost for.
async fn create(client: &mut Client) -> io::Result<(TopicId, Vec<PartitionId>)> {
    let request = topic_create::Request { name: NAME, partition_count: PARTITIONS, settings: List::default() };
    let response = client.call(&request).await?;
    match refusal::<topic_create::Response<'_>>(&response) {
        Ok(created) => Ok((created.topic, created.partitions.iter().map(|placed| placed.partition).collect())),
        Err(ErrorCode::TopicExists) => {
            let response = client.call(&topic_describe::Request { names: List::from(&[NAME]) }).await?;
            let described = response.message::<topic_describe::Response<'_>>()?;
            let topic = described.topics.iter().next().expect("one name, one topic");
            assert_eq!(topic.error, ErrorCode::None, "it was there a moment ago, and nobody else deletes it");
            Ok((topic.topic, topic.partitions.iter().map(|placed| placed.partition).collect()))
        }
        Err(error) => panic!("{error}"),
    }
}

async fn delete(client: &mut Client) -> io::Result<()> {
    let response = client.call(&topic_delete::Request { name: NAME }).await?;
    match refusal::<topic_delete::Response>(&response) {
        Ok(_) => Ok(()),
        // The process is about to end.
        Err(ErrorCode::TimedOut) => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => panic!("{error}"),
    }
}

/// Sends batches whose records name the topic.
async fn fill(client: &mut Client, topic: TopicId, partitions: &[PartitionId], ledger: &Ledger) -> io::Result<()> {
    for batch in 0..BATCHES {
        let partition = partitions[batch % partitions.len()];
        let mut builder = BatchBuilder::new(16 << 10);
        // Partition by partition of another size, so that some have segments of their own and others share.
        let value = [topic.0.to_le_bytes().repeat(1 + 40 * (batch % partitions.len()))].concat();
        for _ in 0..3 {
            builder.append(0, None, Some(&value), &[]).expect("three records fit");
        }
        let batch = builder.build(Producer::NONE);
        let rows = [produce::BatchRow { partition, batch_bytes: batch.len() as u32 }];
        client.send(&produce::RequestHead { timeout_ms: 0, batches: List::from(&rows) }, &batch).await?;
        let response = client.receive().await?;
        let response = response.message::<produce::Response<'_>>()?;
        let result = response.results.iter().next().expect("one batch, one result");
        match result.error {
            ErrorCode::None => *ledger.acked.borrow_mut().entry(partition).or_default() += 3,
            ErrorCode::TimedOut | ErrorCode::ShuttingDown => return Err(io::ErrorKind::TimedOut.into()),
            error => panic!("{error}: {}", result.reason),
        }
    }
    Ok(())
}

/// Reads every partition from its start: all that was acknowledged is there, and nothing of another topic.
async fn check(client: &mut Client, topic: TopicId, partitions: &[PartitionId], ledger: &Ledger) -> io::Result<()> {
    for &partition in partitions {
        let mut offset = 0;
        loop {
            let (error, batches) = fetch(client, partition, offset).await?;
            assert_eq!(error, ErrorCode::None);
            if batches.is_empty() {
                break;
            }
            for batch in Batches::new(&batches) {
                let batch = batch.expect("whole batches");
                assert_eq!(batch.base_offset(), offset, "no record is missing");
                for record in batch.records().expect("not compressed") {
                    let value = record.expect("a whole record").value.expect("it has one");
                    assert_eq!(value[..16], topic.0.to_le_bytes(), "a record of another topic");
                    ledger.records_read.set(ledger.records_read.get() + 1);
                }
                offset = batch.next_offset();
            }
        }
        let acked = ledger.acked.borrow().get(&partition).copied().unwrap_or(0);
        assert!(offset >= acked, "{acked} records were acknowledged, {offset} are there");
    }
    Ok(())
}

async fn fetch(client: &mut Client, partition: PartitionId, offset: u64) -> io::Result<(ErrorCode, Vec<u8>)> {
    let rows = [fetch::Position { partition, offset, bytes_max: 1 << 20 }];
    let request = fetch::Request { wait_ms_max: 0, bytes_min: 0, bytes_max: 1 << 20, partitions: List::from(&rows) };
    let response = client.call(&request).await?;
    let response = response.message::<fetch::Response<'_>>()?;
    let (row, batches) = response.partitions().next().expect("one partition, one row");
    Ok((row.error, batches.to_vec()))
}

/// The message, or the code of the refusal.
fn refusal<'a, M: Message<'a>>(response: &'a Response) -> Result<M, ErrorCode> {
    match (Frame { header: response.header, body: response.body() }).message() {
        Ok(message) => Ok(message),
        Err(ResponseError::Refused { error, .. }) => Err(error),
        Err(error) => panic!("{error}"),
    }
}
