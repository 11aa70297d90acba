//! What survives a stop, and which starts are refused.

#![allow(clippy::disallowed_methods, reason = "clients are threads of their own, with a clock")]

mod peer;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use broker::StopReport;
use peer::{Fetched, Peer, batch, batch_of, outcomes, start, try_start};
use tempfile::tempdir;
use wire::{Durability, ErrorCode, PartitionId, api::topic_delete, record::Producer};

#[test]
fn a_stopped_broker_goes_on_where_it_was() {
    let dir = tempdir().unwrap();
    let mut partitions = Vec::new();
    let (mut id, mut epoch) = (0, 0);
    for life in 0..3 {
        let broker = start(dir.path());
        let mut peer = Peer::connect(broker.address());
        assert!(peer.node_epoch > epoch, "each start takes an epoch");
        epoch = peer.node_epoch;
        if life == 0 {
            partitions = peer.create_topic("orders", 3, Durability::Durable);
            partitions.extend(peer.create_topic("clicks", 2, Durability::Memory));
            id = peer.producer_id();
        }
        assert_ne!(peer.producer_id(), id, "no id is given out twice");
        for &(partition, _) in &partitions {
            let sequence = Producer { id, epoch: 0, base_sequence: life * 2 };
            let batch = batch_of(sequence, &[format!("life {life}").as_bytes(), b"and more"]);
            assert_eq!(peer.produce_one(partition, &batch), Ok(life as u64 * 2));
            assert_eq!(peer.produce_one(partition, &batch), Ok(life as u64 * 2), "the repetition is known");
            assert_eq!(peer.read_to_end(partition, 0).len(), life as usize * 2 + 2);
        }
        assert_eq!(broker.stop(), StopReport { is_clean: true, connections_cut: 0 });
    }
}

#[test]
fn what_is_in_flight_when_the_broker_stops_is_answered() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let address = broker.address();
    let partitions = Peer::connect(address).create_topic("orders", 2, Durability::Durable);
    let producers: Vec<_> = partitions
        .iter()
        .map(|&(partition, _)| {
            thread::spawn(move || {
                let mut peer = Peer::connect(address);
                let mut acked = 0;
                // Four requests ahead of their answers, until the broker says that it stops or closes.
                let mut in_flight = 0;
                loop {
                    while in_flight < 4 && peer.send_produce(&[(partition, &batch(&[b"x"]))]).is_ok() {
                        in_flight += 1;
                    }
                    let Ok(response) = peer.receive() else { return acked };
                    in_flight -= 1;
                    match response.header.error {
                        ErrorCode::None => {
                            assert_eq!(outcomes(&response), [Ok(acked)], "in order");
                            acked += 1;
                        }
                        error => assert_eq!(error, ErrorCode::ShuttingDown),
                    }
                }
            })
        })
        .collect();
    // A long poll must not hold up the stop: nothing is ever written to this one.
    let (quiet, _) = Peer::connect(address).create_topic("quiet", 1, Durability::Durable)[0];
    let waiting = thread::spawn(move || Peer::connect(address).fetch(quiet, 0, 15_000).error);
    thread::sleep(Duration::from_millis(300));
    assert!(broker.stop().is_clean);
    assert_eq!(waiting.join().unwrap(), ErrorCode::None);
    let acked: Vec<u64> = producers.into_iter().map(|producer| producer.join().unwrap()).collect();
    assert!(acked.iter().all(|&acked| acked > 0));

    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    for ((partition, _), acked) in partitions.into_iter().zip(acked) {
        assert!(peer.read_to_end(partition, 0).len() as u64 >= acked);
    }
}

#[test]
fn a_deleted_topic_stays_deleted() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let partitions = peer.create_topic("orders", 2, Durability::Durable);
    for &(partition, _) in &partitions {
        peer.produce_one(partition, &batch(&[b"x"])).unwrap();
    }
    peer.call(&topic_delete::Request { name: "orders" }).message::<topic_delete::Response>().unwrap();
    drop(peer);
    broker.stop();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    for (partition, _) in partitions {
        assert_eq!(peer.fetch(partition, 0, 0).error, ErrorCode::UnknownPartition);
    }
    assert_eq!(peer.create_topic("orders", 1, Durability::Durable).len(), 1);
}

#[test]
fn one_directory_is_held_by_one_broker() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let refused = try_start(dir.path(), &[]).err().expect("the directory is held").to_string();
    assert!(refused.contains("another broker") && refused.contains(dir.path().to_str().unwrap()), "{refused}");
    broker.stop();
    start(dir.path()).stop();
}

#[test]
fn a_directory_of_another_node_is_refused_untouched() {
    let dir = tempdir().unwrap();
    start(dir.path()).stop();
    let refused = try_start(dir.path(), &[("node.id", "2")]).err().expect("it is node 1's").to_string();
    assert!(refused.contains("node_id") || refused.contains("node.id"), "{refused}");
    start(dir.path()).stop();
}

/// Two cores, one, two and one again, while every partition is written and read: partitions move, and nobody notices.
#[test]
fn cores_may_change_from_start_to_start_under_load() {
    let cores = runtime_glommio::allowed_cores().unwrap();
    let [first, second] = cores[..] else { return println!("two cores are needed, there are {}", cores.len()) };
    let (one, both) = (first.to_string(), format!("{first},{second}"));
    let dir = tempdir().unwrap();
    let mut streams: Vec<Stream> = Vec::new();
    let mut moved = Vec::new();
    for cores in [&both, &one, &both, &one] {
        let broker = try_start(dir.path(), &[("cores", cores)]).unwrap_or_else(|error| panic!("{error}"));
        let mut peer = Peer::connect(broker.address());
        if streams.is_empty() {
            let partitions = peer.create_topic("orders", 4, Durability::Durable);
            let stream = |(partition, _)| Stream { partition, producer: peer.producer_id(), written: 0, read: 0 };
            streams = partitions.into_iter().map(stream).collect();
        }
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for stream in &mut streams {
                let Stream { partition, producer, written, read } = stream;
                let (address, is_over) = (broker.address(), &is_over);
                let (partition, producer) = (*partition, *producer);
                scope.spawn(move || *written = write(address, partition, producer, *written, is_over));
                scope.spawn(move || *read = follow(address, partition, *read, is_over));
            }
            let until = Instant::now() + peer::TIMEOUT;
            let logs = 1 + cores.matches(',').count() as u64;
            while peer.counter("partitions_to_move") > 0 || peer.counter("logs") != logs {
                assert!(Instant::now() < until, "{} partitions are yet to move", peer.counter("partitions_to_move"));
                thread::sleep(Duration::from_millis(20));
            }
            thread::sleep(Duration::from_millis(200));
            is_over.store(true, Ordering::Relaxed);
        });
        moved.push(peer.counter("partitions_moved"));
        drop(peer);
        assert!(broker.stop().is_clean);
    }
    let logs = std::fs::read_dir(dir.path()).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let logs: Vec<_> = logs.filter(|name| name.starts_with("shard-")).collect();
    println!(
        "moved in each life: {moved:?}; written: {:?}; logs left: {logs:?}",
        streams.iter().map(|it| it.written).collect::<Vec<_>>()
    );
    assert_eq!(moved, [0, 2, 2, 2]);
    assert_eq!(logs, ["shard-000"]);
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    for Stream { partition, written, .. } in streams {
        let values: Vec<u64> = peer.read_to_end(partition, 0).iter().map(number_of).collect();
        assert_eq!(values, (0..written).collect::<Vec<_>>(), "every record once, in order");
        assert!(written > 0);
    }
}

/// One partition, its writer and its reader.
struct Stream {
    partition: PartitionId,
    producer: i64,
    written: u64,
    read: u64,
}

/// Writes numbered records from `next` on, each until it is acknowledged; the number behind the last.
fn write(address: SocketAddr, partition: PartitionId, id: i64, mut next: u64, is_over: &AtomicBool) -> u64 {
    let mut peer = Peer::connect(address);
    while !is_over.load(Ordering::Relaxed) {
        let sequence = Producer { id, epoch: 0, base_sequence: next as i32 };
        match peer.produce_one(partition, &batch_of(sequence, &[&next.to_le_bytes()])) {
            Ok(offset) => {
                assert_eq!(offset, next, "records keep their order");
                next += 1;
            }
            Err(error) => assert!(matches!(error, ErrorCode::NotLeader | ErrorCode::Busy), "{error}"),
        }
    }
    next
}

/// Reads numbered records from `next` on by long polls; the number behind the last.
fn follow(address: SocketAddr, partition: PartitionId, mut next: u64, is_over: &AtomicBool) -> u64 {
    let mut peer = Peer::connect(address);
    let mut high_watermark = 0;
    while !is_over.load(Ordering::Relaxed) {
        let fetched = peer.fetch(partition, next, 100);
        match fetched.error {
            ErrorCode::None => {
                assert!(fetched.high_watermark >= high_watermark, "the high watermark never goes back");
                high_watermark = fetched.high_watermark;
            }
            error => assert_eq!(error, ErrorCode::NotLeader),
        }
        for record in &fetched.records {
            assert_eq!((record.offset, number_of(record)), (next, next));
            next += 1;
        }
    }
    next
}

fn number_of(record: &Fetched) -> u64 {
    let value = record.value.as_deref().and_then(|value| value.try_into().ok());
    u64::from_le_bytes(value.expect("eight bytes of value"))
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let refused = try_start("/proc/streambus".as_ref(), &[]).err().expect("nobody writes there").to_string();
    assert!(refused.contains("/proc/streambus"), "{refused}");
}
