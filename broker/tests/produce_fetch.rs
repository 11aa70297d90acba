//! What clients of a broker may rely on, one promise a test, on the real runtime over loopback.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "clients are real threads with real sockets")]

mod peer;

use std::{
    io::{Read, Write},
    net::SocketAddr,
    thread,
    time::Duration,
};

use broker::meta::SETTINGS;
use peer::{Peer, batch, batch_of, outcomes, start, try_start};
use tempfile::tempdir;
use wire::{
    Durability, ErrorCode, PartitionId,
    api::{
        Setting, get, health, list_offsets, list_offsets::At, produce, topic_alter, topic_create, topic_delete,
        topic_describe, topic_list,
    },
    codec::List,
    frame::ResponseError,
    record::Producer,
};

#[test]
fn records_come_back_as_they_were_sent() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    for (topic, durability) in [("durable", Durability::Durable), ("memory", Durability::Memory)] {
        let partitions = peer.create_topic(topic, 4, durability);
        for &(partition, _) in &partitions {
            assert_eq!(peer.produce_one(partition, &batch(&[b"a", b"b"])), Ok(0));
            assert_eq!(peer.produce_one(partition, &batch(&[b"c"])), Ok(2));
            let records = peer.read_to_end(partition, 0);
            let values: Vec<_> = records.iter().map(|record| record.value.as_deref().unwrap()).collect();
            assert_eq!(values, [b"a", b"b", b"c"]);
            assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1, 2]);
            assert_eq!(records[1].key.as_deref(), Some(&b"key"[..]));
            assert_eq!(records[1].timestamp_ms, 1_001);
            assert_eq!(peer.read_to_end(partition, 1).len(), 2);
        }
    }
    assert!(broker.stop().is_clean);
}

#[test]
fn the_last_record_of_a_key_is_got_from_whichever_shard_has_it() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let settings = [Setting { key: "cleanup.policy", value: "compact" }];
    let request = topic_create::Request { name: "keys", partition_count: 4, settings: List::from(&settings) };
    let created = peer.call(&request);
    let partitions: Vec<_> = created.message::<topic_create::Response<'_>>().unwrap().partitions.iter().collect();
    let plain = peer.create_topic("plain", 1, Durability::Durable)[0].0;
    let ask = |peer: &mut Peer, partition, key: &[u8]| {
        let answer = peer.call(&get::Request { partition, key });
        let found = answer
            .message::<get::Response<'_>>()
            .map(|got| got.found.map(|found| (found.offset, found.value.to_vec())));
        found.map_err(|error| match error {
            ResponseError::Refused { error, .. } => error,
            malformed => panic!("{malformed}"),
        })
    };
    for placed in &partitions {
        let partition = placed.partition;
        assert_eq!(peer.produce_one(partition, &batch(&[b"a", b"b"])), Ok(0));
        assert_eq!(ask(&mut peer, partition, b"key"), Ok(Some((1, b"b".to_vec()))));
        assert_eq!(peer.produce_one(partition, &batch(&[b"c"])), Ok(2));
        assert_eq!(ask(&mut peer, partition, b"key"), Ok(Some((2, b"c".to_vec()))));
        assert_eq!(ask(&mut peer, partition, b"other"), Ok(None));
    }
    assert_eq!(ask(&mut peer, plain, b"key"), Err(ErrorCode::NotCompacted));
    assert_eq!(ask(&mut peer, PartitionId(999), b"key"), Err(ErrorCode::UnknownPartition));
    assert!(broker.stop().is_clean);
}

#[test]
fn one_request_reaches_partitions_of_every_shard_and_each_batch_has_its_own_fate() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let partitions = peer.create_topic("orders", 4, Durability::Durable);
    let (one, mut torn) = (batch(&[b"x"]), batch(&[b"y"]));
    torn[61] ^= 1;
    let unknown = PartitionId(999);
    let all: Vec<(PartitionId, &[u8])> = partitions
        .iter()
        .flat_map(|&(partition, _)| [(partition, &one[..]), (partition, &torn[..]), (partition, &one[..])])
        .chain([(unknown, &one[..])])
        .collect();
    let mut expected = [Ok(0), Err(ErrorCode::CorruptBatch), Ok(1)].repeat(4);
    expected.push(Err(ErrorCode::UnknownPartition));
    assert_eq!(peer.produce(&all), expected);

    let positions: Vec<_> = partitions.iter().map(|&(partition, _)| (partition, 0)).chain([(unknown, 0)]).collect();
    let fetched = peer.fetch_all(&positions, 0, 1 << 20);
    assert_eq!(fetched.iter().map(|row| row.records.len()).collect::<Vec<_>>(), [2, 2, 2, 2, 0]);
    assert_eq!(fetched[4].error, ErrorCode::UnknownPartition);
}

#[test]
fn pipelined_requests_keep_their_order_in_each_partition() {
    const REQUESTS: u64 = 3_000;
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let partitions = peer.create_topic("orders", 3, Durability::Durable);
    let mut sent = Vec::new();
    for number in 0..REQUESTS {
        let (partition, _) = partitions[number as usize % 3];
        let correlation = peer.send_produce(&[(partition, &batch(&[&number.to_le_bytes()]))]).unwrap();
        sent.push((correlation, number / 3));
    }
    for (correlation, offset) in sent {
        let response = peer.receive().unwrap();
        assert_eq!(response.header.correlation, correlation, "answers come in the order of the requests");
        assert_eq!(outcomes(&response), [Ok(offset)]);
    }
    for (place, &(partition, _)) in partitions.iter().enumerate() {
        let records = peer.read_to_end(partition, 0);
        let numbers =
            records.iter().map(|record| u64::from_le_bytes(record.value.as_deref().unwrap().try_into().unwrap()));
        assert!(numbers.eq((0..REQUESTS).filter(|number| number % 3 == place as u64)));
    }
}

#[test]
fn batches_that_may_not_be_stored_are_refused_by_name() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let (partition, _) = peer.create_topic("orders", 1, Durability::Durable)[0];
    let mut refused = |bytes: &[u8], error| assert_eq!(peer.produce_one(partition, bytes), Err(error));
    refused(b"", ErrorCode::CorruptBatch);
    refused(&[0; 200], ErrorCode::InvalidRecord);
    let two = [batch(&[b"a"]), batch(&[b"b"])].concat();
    refused(&two, ErrorCode::CorruptBatch);
    refused(&batch(&[&vec![7; 2 << 20]]), ErrorCode::TooLarge);
    let mut control = batch(&[b"a"]);
    control[22] |= 1 << 5;
    refused(&control, ErrorCode::InvalidRecord);
    assert_eq!(peer.produce_one(partition, &batch(&[b"good"])), Ok(0));
}

#[test]
fn large_batches_go_through() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let partitions = peer.create_topic("orders", 2, Durability::Durable);
    let values: Vec<Vec<u8>> = (0..1000).map(|value: u32| value.to_le_bytes().repeat(250)).collect();
    let large = batch(&values.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert!(large.len() > 1_000_000 && large.len() <= peer.batch_bytes_max);
    for round in 0..5 {
        for &(partition, _) in &partitions {
            assert_eq!(peer.produce_one(partition, &large), Ok(round * 1000));
        }
    }
    for (partition, _) in partitions {
        let records = peer.read_to_end(partition, 0);
        assert_eq!(records.len(), 5000);
        assert!(records.iter().zip(values.iter().cycle()).all(|(record, value)| record.value.as_ref() == Some(value)));
    }
}

#[test]
fn a_repeated_batch_is_answered_with_its_first_offset() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let partitions = peer.create_topic("orders", 2, Durability::Durable);
    let id = peer.producer_id();
    assert_ne!(peer.producer_id(), id);
    for (partition, _) in partitions {
        let sequence = |base_sequence, epoch| batch_of(Producer { id, epoch, base_sequence }, &[b"a", b"b"]);
        assert_eq!(peer.produce_one(partition, &sequence(0, 0)), Ok(0));
        assert_eq!(peer.produce_one(partition, &sequence(2, 0)), Ok(2));
        assert_eq!(peer.produce_one(partition, &sequence(0, 0)), Ok(0));
        assert_eq!(peer.produce_one(partition, &sequence(6, 0)), Err(ErrorCode::OutOfOrderSequence));
        assert_eq!(peer.produce_one(partition, &sequence(0, 1)), Ok(4));
        assert_eq!(peer.produce_one(partition, &sequence(4, 0)), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(peer.read_to_end(partition, 0).len(), 6);
    }
}

#[test]
fn a_fetch_waits_for_records_and_no_longer_than_asked() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let address = broker.address();
    let mut peer = Peer::connect(address);
    let partitions = peer.create_topic("orders", 2, Durability::Durable);
    assert!(peer.fetch(partitions[0].0, 0, 50).records.is_empty());
    // With two shards one of the partitions is never where the connection is.
    for (nth, &(partition, _)) in partitions.iter().enumerate() {
        // The first time both are asked for.
        let positions: Vec<_> = partitions[nth..].iter().map(|&(partition, _)| (partition, 0)).collect();
        let waiting = thread::spawn(move || Peer::connect(address).fetch_all(&positions, 15_000, 1 << 20));
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished(), "there is nothing to answer yet");
        assert_eq!(peer.produce_one(partition, &batch(&[b"x"])), Ok(0));
        let fetched = waiting.join().unwrap();
        assert_eq!(fetched.iter().map(|row| row.records.len()).sum::<usize>(), 1);
    }
}

#[test]
fn a_fetch_stays_within_its_limits_but_always_brings_a_batch() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let partitions = peer.create_topic("orders", 3, Durability::Durable);
    let batch = batch(&[&[7; 30_000]]);
    let positions: Vec<_> = partitions.iter().map(|&(partition, _)| (partition, 0)).collect();
    for &(partition, _) in &partitions {
        for _ in 0..3 {
            peer.produce_one(partition, &batch).unwrap();
        }
    }
    let mut fetched =
        |bytes_max| -> usize { peer.fetch_all(&positions, 0, bytes_max).iter().map(|row| row.records.len()).sum() };
    assert_eq!(fetched(1), 1);
    assert_eq!(fetched(batch.len() as u32), 1);
    assert_eq!(fetched(batch.len() as u32 * 4), 4);
    assert_eq!(fetched(1 << 20), 9);
}

#[test]
fn offsets_out_of_range_are_told_with_the_range() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    for (partition, _) in peer.create_topic("orders", 2, Durability::Durable) {
        peer.produce_one(partition, &batch(&[b"a", b"b", b"c"])).unwrap();
        let fetched = peer.fetch(partition, 4, 60_000);
        assert_eq!(
            (fetched.error, fetched.log_start_offset, fetched.high_watermark),
            (ErrorCode::OffsetOutOfRange, 0, 3)
        );
    }
}

#[test]
fn offsets_are_found_by_place_and_time() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let partitions = peer.create_topic("orders", 2, Durability::Durable);
    let mut queries = Vec::new();
    for &(partition, _) in &partitions {
        // Timestamps from 1,000 on.
        peer.produce_one(partition, &batch(&[b"a", b"b", b"c"])).unwrap();
        for at in [At::Earliest, At::Latest, At::Timestamp(0), At::Timestamp(1_001), At::Timestamp(1_003)] {
            queries.push(list_offsets::Query { partition, at });
        }
    }
    queries.push(list_offsets::Query { partition: PartitionId(999), at: At::Latest });
    let response = peer.call(&list_offsets::Request { partitions: List::from(&queries) });
    let response: list_offsets::Response<'_> = response.message().unwrap();
    let found: Vec<_> = response.partitions.iter().map(|row| (row.error, row.offset, row.timestamp_ms)).collect();
    let ok = |offset, timestamp_ms| (ErrorCode::None, offset, timestamp_ms);
    let mut expected = [ok(0, -1), ok(3, -1), ok(0, 1_000), ok(1, 1_001), ok(3, -1)].repeat(2);
    expected.push((ErrorCode::UnknownPartition, 0, -1));
    assert_eq!(found, expected);
}

#[test]
fn topics_are_created_listed_described_and_deleted() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let orders = peer.create_topic("orders", 3, Durability::Durable);
    peer.create_topic("clicks", 1, Durability::Memory);
    peer.produce_one(orders[1].0, &batch(&[b"a", b"b"])).unwrap();

    let response = peer.call(&topic_list::Request);
    let list: topic_list::Response<'_> = response.message().unwrap();
    let lines: Vec<_> = list.topics.iter().map(|topic| (topic.name, topic.partition_count, topic.durability)).collect();
    assert_eq!(lines, [("clicks", 1, Durability::Memory), ("orders", 3, Durability::Durable)]);

    let response = peer.call(&topic_describe::Request { names: List::from(&["orders", "nothing"]) });
    let described: topic_describe::Response<'_> = response.message().unwrap();
    let topics: Vec<_> = described.topics.iter().collect();
    assert_eq!((topics[0].name, topics[0].error, topics[0].partitions.len()), ("orders", ErrorCode::None, 3));
    assert_eq!((topics[1].name, topics[1].error), ("nothing", ErrorCode::UnknownTopic));
    let partition = topics[0].partitions.iter().nth(1).unwrap();
    assert_eq!((partition.partition, partition.shard), orders[1]);
    assert_eq!((partition.error, partition.log_start_offset, partition.high_watermark), (ErrorCode::None, 0, 2));

    // Open until now, and told once the topic is gone.
    let address = broker.address();
    let held = orders[1].0;
    let waiting = thread::spawn(move || Peer::connect(address).fetch(held, 2, 15_000));
    thread::sleep(Duration::from_millis(50));
    peer.call(&topic_delete::Request { name: "orders" }).message::<topic_delete::Response>().unwrap();
    assert_eq!(waiting.join().unwrap().error, ErrorCode::UnknownPartition);
    for (partition, _) in orders {
        assert_eq!(peer.produce_one(partition, &batch(&[b"a"])), Err(ErrorCode::UnknownPartition));
        assert_eq!(peer.fetch(partition, 0, 0).error, ErrorCode::UnknownPartition);
    }
    let anew = peer.create_topic("orders", 3, Durability::Durable);
    assert!(anew.iter().all(|&(partition, _)| peer.read_to_end(partition, 0).is_empty()));
}

#[test]
fn settings_change_for_partitions_on_every_shard_and_survive_a_restart() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let partitions = peer.create_topic("orders", 4, Durability::Durable);
    let (small, large) = (batch(&[b"x"]), batch(&[&[7; 2000]]));
    let limit = [Setting { key: "max.message.bytes", value: "1000" }];
    let limited = topic_alter::Request { name: "orders", set: List::from(&limit), unset: List::default() };
    peer.call(&limited).message::<topic_alter::Response>().expect("it is a setting");
    let check = |peer: &mut Peer, limit: &str, expected: Result<(), ErrorCode>| {
        for &(partition, _) in &partitions {
            assert!(peer.produce_one(partition, &small).is_ok());
            assert_eq!(peer.produce_one(partition, &large).map(drop), expected);
        }
        let described = peer.call(&topic_describe::Request { names: List::from(&["orders"]) });
        let described: topic_describe::Response<'_> = described.message().expect("it is there");
        let settings = described.topics.iter().next().expect("the one asked for").settings;
        let found = settings.iter().find(|setting| setting.key == "max.message.bytes").map(|setting| setting.value);
        assert_eq!(found, Some(limit));
        assert_eq!(settings.len(), SETTINGS.len());
    };
    check(&mut peer, "1000", Err(ErrorCode::TooLarge));
    drop(peer);
    assert!(broker.stop().is_clean);
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    check(&mut peer, "1000", Err(ErrorCode::TooLarge));
    let unset =
        topic_alter::Request { name: "orders", set: List::default(), unset: List::from(&["max.message.bytes"]) };
    peer.call(&unset).message::<topic_alter::Response>().expect("it is a setting");
    check(&mut peer, "1048588", Ok(()));
    let wrong = [Setting { key: Durability::SETTING, value: "memory" }];
    let wrong = topic_alter::Request { name: "orders", set: List::from(&wrong), unset: List::default() };
    assert!(matches!(
        peer.call(&wrong).message::<topic_alter::Response>(),
        Err(ResponseError::Refused { error: ErrorCode::InvalidConfig, .. })
    ));
}

#[test]
fn topics_that_cannot_be_are_refused_by_name() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let mut refused = |name: &str, partition_count, settings: &[Setting<'_>], expected: ErrorCode| {
        let request = topic_create::Request { name, partition_count, settings: List::from(settings) };
        match peer.call(&request).message::<topic_create::Response<'_>>() {
            Err(ResponseError::Refused { error, reason }) => assert_eq!(error, expected, "{reason}"),
            other => panic!("{name}: {other:?}"),
        }
    };
    let setting = |key, value| Setting { key, value };
    let durable = setting(Durability::SETTING, "durable");
    refused("", 1, &[], ErrorCode::InvalidTopicName);
    refused("../etc", 1, &[], ErrorCode::InvalidTopicName);
    refused("orders", 0, &[], ErrorCode::InvalidPartitions);
    refused("orders", u32::MAX, &[], ErrorCode::InvalidPartitions);
    refused("orders", 1, &[setting("streambus.durabilty", "durable")], ErrorCode::InvalidConfig);
    refused("orders", 1, &[setting(Durability::SETTING, "never")], ErrorCode::InvalidConfig);
    refused("orders", 1, &[durable, durable], ErrorCode::InvalidConfig);
    let delete = peer.call(&topic_delete::Request { name: "orders" });
    assert!(matches!(
        delete.message::<topic_delete::Response>(),
        Err(ResponseError::Refused { error: ErrorCode::UnknownTopic, .. })
    ));
    peer.create_topic("orders", 1, Durability::Durable);
    let again = topic_create::Request { name: "orders", partition_count: 1, settings: List::default() };
    assert!(matches!(
        peer.call(&again).message::<topic_create::Response<'_>>(),
        Err(ResponseError::Refused { error: ErrorCode::TopicExists, .. })
    ));
}

#[test]
fn a_connection_is_served_by_the_shard_it_asks_for() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let address = broker.address();
    let shard_count = Peer::connect(address).shard_count;
    for round in 0..20 {
        let shard = round % shard_count;
        let mut peer = Peer::connect_to(address, Some(shard)).unwrap();
        assert_eq!(peer.shard, shard);
        peer.call(&health::Request).message::<health::Response<'_>>().unwrap();
    }
    assert!(Peer::connect_to(address, Some(shard_count)).unwrap().shard < shard_count);
}

#[test]
fn counters_and_health_are_told_by_protocol_and_by_http() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    let partitions = peer.create_topic("orders", 2, Durability::Durable);
    for &(partition, _) in &partitions {
        peer.produce_one(partition, &batch(&[b"a", b"b", b"c"])).unwrap();
    }
    let counters = ["produce_records", "partitions", "connections"].map(|name| peer.counter(name));
    assert_eq!(counters, [6, 2, 1]);

    let response = peer.call(&health::Request);
    let health: health::Response<'_> = response.message().unwrap();
    assert_eq!(health.state, health::State::Serving);
    assert_eq!(health.shards.len(), usize::from(peer.shard_count));

    let admin = broker.admin_address().unwrap();
    assert!(get(admin, "/livez").starts_with("HTTP/1.1 200"));
    assert!(get(admin, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(get(admin, "/anything").starts_with("HTTP/1.1 404"));
    let metrics = get(admin, "/metrics");
    let records =
        metrics.lines().filter_map(|line| line.strip_prefix("streambus_produce_records_total{")?.split(' ').nth(1));
    assert_eq!(records.map(|count| count.parse::<u64>().unwrap()).sum::<u64>(), 6);
}

#[test]
fn what_the_server_does_not_speak_is_said_and_the_connection_goes_on() {
    let dir = tempdir().unwrap();
    let broker = start(dir.path());
    let mut peer = Peer::connect(broker.address());
    for (api, version, expected) in [(200, 0, ErrorCode::UnknownApi), (3, 9, ErrorCode::UnsupportedVersion)] {
        let header = wire::header::RequestHeader { correlation: 77, api, version };
        peer.send_bytes(&wire::header::Header::encode(&header, 0)).unwrap();
        let response = peer.receive().unwrap();
        assert_eq!((response.header.correlation, response.header.error), (77, expected));
    }
    let empty = produce::RequestHead { timeout_ms: 0, batches: List::default() };
    let response = peer.call(&empty);
    assert!(outcomes(&response).is_empty());
}

#[test]
fn a_port_that_is_taken_is_named() {
    let (dir, other) = (tempdir().unwrap(), tempdir().unwrap());
    let broker = start(dir.path());
    let taken = broker.address().to_string();
    let refused = try_start(other.path(), &[("listen", &taken)]).err().expect("the port is taken").to_string();
    assert!(refused.contains(&taken), "{refused}");
    let admin = broker.admin_address().unwrap().to_string();
    let refused = try_start(other.path(), &[("admin.listen", &admin)]).err().expect("the port is taken").to_string();
    assert!(refused.contains("admin.listen"), "{refused}");
}

fn get(admin: SocketAddr, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(peer::TIMEOUT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
