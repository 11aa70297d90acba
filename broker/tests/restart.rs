//! What survives a stop, and which starts are refused.

#![allow(clippy::disallowed_methods, reason = "clients are threads of their own")]

mod peer;

use std::{thread, time::Duration};

use broker::StopReport;
use peer::{Peer, batch, batch_of, outcomes, start, try_start};
use tempfile::tempdir;
use wire::{Durability, ErrorCode, api::topic_delete, record::Producer};

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
fn a_directory_of_another_node_or_of_more_cores_is_refused_untouched() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let shards = Peer::connect(broker.address()).shard_count;
    broker.stop();
    let refused = try_start(dir.path(), &[("node.id", "2")]).err().expect("it is node 1's").to_string();
    assert!(refused.contains("node_id") || refused.contains("node.id"), "{refused}");
    if shards > 1 {
        let cores = runtime_glommio::allowed_cores().unwrap();
        let one = cores[0].to_string();
        let refused = try_start(dir.path(), &[("cores", &one)]).err().expect("there are more logs").to_string();
        assert!(refused.contains("2 logs") && refused.contains("cores"), "{refused}");
    }
    start(dir.path()).stop();
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let refused = try_start("/proc/streambus".as_ref(), &[]).err().expect("nobody writes there").to_string();
    assert!(refused.contains("/proc/streambus"), "{refused}");
}
