//! Producer, consumer and admin against the fake broker: one promise a test, faults by script.

mod support;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use streambus::{
    Client, Compression, Consumer, Delivered, Durability, Error, ErrorKind, Gaps, Header, NewTopic, OffsetAt,
    OutOfRange, Producer, ProducerRecord, Record, SeekTo, State, TopicChange,
};
use support::{Fake, Fault};
use tokio::{io::AsyncWriteExt, net::TcpListener};
use tokio_stream::StreamExt;
use wire::{ErrorCode, api::fetch::Lost};

/// Every test ends, whatever it waits for.
async fn bounded(test: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test ends");
}

async fn producer(client: &Client) -> Producer {
    client.producer().topic("t").build().await.unwrap()
}

async fn consumer(client: &Client) -> Consumer {
    client.consumer().topic("t").build().await.unwrap()
}

/// Sends `0`, `1`, … one batch each, to partition 0.
async fn send(producer: &Producer, count: usize) {
    for number in 0..count {
        let value = number.to_string();
        producer.send_and_confirm(ProducerRecord::value(&value).partition(0)).await.unwrap();
    }
}

async fn receive(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut received = Vec::new();
    while received.len() < count {
        received.push(text(&consumer.recv().await.unwrap()));
    }
    received
}

fn text(record: &Record) -> String {
    String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()
}

fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn what_is_sent_is_received() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let producer = producer(&client).await;
        let headers = [Header { key: b"trace", value: Some(b"1f") }];
        let record = ProducerRecord::value("v").key("k").headers(&headers).timestamp_ms(5);
        let delivered = producer.send_and_confirm(record).await.unwrap();
        let Delivered { partition, offset, durability, synced, .. } = delivered;
        assert_eq!((partition, offset, durability, synced), (0, 0, Durability::Durable, true));
        producer.send_and_confirm(ProducerRecord::tombstone("k")).await.unwrap();

        let mut consumer = consumer(&client).await;
        let first = consumer.recv().await.unwrap();
        assert_eq!((&*first.topic, first.partition, first.offset, first.timestamp_ms), ("t", 0, 0, 5));
        assert_eq!((first.key.as_deref(), first.value.as_deref()), (Some(&b"k"[..]), Some(&b"v"[..])));
        assert_eq!(first.headers, [(Bytes::from_static(b"trace"), Some(Bytes::from_static(b"1f")))]);
        assert_eq!(consumer.recv().await.unwrap().value, None);
    })
    .await;
}

#[tokio::test]
async fn deliveries_of_a_batch_have_the_offsets_of_their_records() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let producer = client.producer().topic("t").linger(Duration::from_secs(1)).build().await.unwrap();
        let mut deliveries = Vec::new();
        for number in 0..100 {
            deliveries.push(producer.send(&format!("{number}")).await.unwrap());
        }
        assert_eq!(producer.unacknowledged(), 100);
        producer.flush().await.unwrap();
        for (offset, delivery) in (0..).zip(deliveries) {
            assert_eq!(delivery.await.unwrap().offset, offset);
        }
        assert_eq!((fake.log(0, |log| log.batches.len()), producer.unacknowledged()), (1, 0));
        assert_eq!(receive(&mut consumer(&client).await, 100).await, texts(0..100));
    })
    .await;
}

#[tokio::test]
async fn batches_travel_and_are_stored_compressed() {
    bounded(async {
        let codecs = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
        for (number, compression) in (1u8..).zip(codecs) {
            let fake = Fake::with_topic(1).await;
            let client = fake.client().await;
            let builder = client.producer().topic("t").compression(compression).linger(Duration::from_secs(60));
            let producer = builder.build().await.unwrap();
            for number in 0..500 {
                producer.send(&format!("{number}")).await.unwrap();
            }
            producer.flush().await.unwrap();
            producer.send("x").await.unwrap();
            producer.flush().await.unwrap();

            let codecs = |log: &support::Log| log.batches.iter().map(|batch| batch.bytes[22] & 7).collect::<Vec<_>>();
            assert_eq!(fake.log(0, |log| codecs(log)), [number, 0], "a batch that would grow is sent as it is");
            assert!(fake.log(0, |log| log.batches[0].bytes.len()) < 500 * 10, "{compression:?}");
            let mut consumer = consumer(&client).await;
            assert_eq!(receive(&mut consumer, 500).await, texts(0..500));
            assert_eq!(text(&consumer.recv().await.unwrap()), "x");
            consumer.seek("t", 0, SeekTo::Offset(250)).await.unwrap();
            assert_eq!(receive(&mut consumer, 250).await, texts(250..500));
        }
    })
    .await;
}

#[tokio::test]
async fn a_batch_that_is_too_large_decompressed_stops_its_partition() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let producer = client.producer().topic("t").compression(Compression::Zstd).build().await.unwrap();
        producer.send_and_confirm(ProducerRecord::value(&[0; 100_000])).await.unwrap();
        producer.send_and_confirm("small").await.unwrap();

        let mut consumer = client.consumer().topic("t").decompressed_bytes_max(99_999).build().await.unwrap();
        let refused = consumer.recv().await.unwrap_err();
        assert!(matches!(refused, Error::UnreadableBatch { offset: 0, .. }), "{refused:?}");
        consumer.seek("t", 0, SeekTo::Offset(1)).await.unwrap();
        assert_eq!(text(&consumer.recv().await.unwrap()), "small");
    })
    .await;
}

#[tokio::test]
async fn the_last_value_of_a_key_is_got() {
    bounded(async {
        let fake = Fake::with_topic(3).await;
        let client = fake.client().await;
        let compacted = NewTopic::new("k").partitions(3).setting("cleanup.policy", "compact");
        client.admin().create_topic(compacted).await.unwrap();
        let producer = client.producer().topic("k").build().await.unwrap();
        let headers = [Header { key: b"h", value: Some(b"1") }, Header { key: b"", value: None }];
        for number in 0..50 {
            let (key, value) = (format!("key-{}", number % 10), format!("value {number}"));
            let record = ProducerRecord::value(&value).key(&key).timestamp_ms(number).headers(&headers);
            producer.send_and_confirm(record).await.unwrap();
        }
        producer.send_and_confirm(ProducerRecord::tombstone("key-3")).await.unwrap();

        let found = client.get("k", "key-7").await.unwrap().unwrap();
        assert_eq!(
            (text(&found), found.timestamp_ms, found.key.as_deref()),
            ("value 47".into(), 47, Some(&b"key-7"[..]))
        );
        let expected = [(Bytes::from_static(b"h"), Some(Bytes::from_static(b"1"))), (Bytes::new(), None)];
        assert_eq!(found.headers, expected);
        let mut consumer = client.consumer().partitions("k", [found.partition]).build().await.unwrap();
        consumer.seek("k", found.partition, SeekTo::Offset(found.offset)).await.unwrap();
        assert_eq!(consumer.recv().await.unwrap(), found, "it is the record that a consumer reads there");
        assert_eq!(client.get("k", "key-3").await.unwrap(), None, "deleted");
        assert_eq!(client.get("k", "nobody").await.unwrap(), None);

        let refused = client.get("t", "key-7").await.unwrap_err();
        assert!(matches!(refused, Error::Refused { code: ErrorCode::NotCompacted, .. }), "{refused:?}");
        assert_eq!(refused.kind(), ErrorKind::InvalidRequest);
        assert!(matches!(client.get("nope", "k").await.unwrap_err(), Error::UnknownTopic { .. }));

        // Made anew, its partitions have other ids: what was known of it is asked for again.
        client.admin().delete_topic("k").await.unwrap();
        client.admin().create_topic(NewTopic::new("k").setting("cleanup.policy", "compact")).await.unwrap();
        assert_eq!(client.get("k", "key-7").await.unwrap(), None);
    })
    .await;
}

/// Whatever happens to the first attempts, the log has each record once, in order.
#[tokio::test]
async fn each_fault_is_retried_to_exactly_one_copy() {
    bounded(async {
        for fault in Fault::PRODUCE {
            let fake = Fake::with_topic(1).await;
            let client = fake.client().await;
            let producer = producer(&client).await;
            fake.script([Fault::None, fault, fault, Fault::None, fault]);
            let mut deliveries = Vec::new();
            for number in 0..20 {
                deliveries.push(producer.send(&format!("{number}")).await.unwrap());
                tokio::task::yield_now().await;
            }
            producer.close().await.unwrap();
            for (offset, delivery) in (0..).zip(deliveries) {
                assert_eq!(delivery.await.unwrap().offset, offset, "{}", fault.name());
            }
            assert!(fake.fired(fault) > 1, "{} came {} times", fault.name(), fake.fired(fault));
            assert_eq!(fake.log(0, |log| log.next), 20, "{}", fault.name());
            assert_eq!(receive(&mut consumer(&client).await, 20).await, texts(0..20), "{}", fault.name());
        }
    })
    .await;
}

#[tokio::test]
async fn without_idempotence_an_unanswered_record_is_unknown_and_not_sent_again() {
    bounded(async {
        for (fault, stored) in [(Fault::CutBefore, 0), (Fault::CutAfter, 1), (Fault::TimedOut, 1)] {
            let fake = Fake::with_topic(1).await;
            let client = fake.client().await;
            let producer = client.producer().topic("t").idempotent(false).build().await.unwrap();
            fake.script([fault]);
            let error = producer.send_and_confirm("v").await.unwrap_err();
            assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
            assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
            assert_eq!(fake.log(0, |log| log.next), stored);
        }
    })
    .await;
}

#[tokio::test]
async fn a_record_that_never_left_in_time_is_certainly_not_written() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let timeout = Duration::from_millis(300);
        let producer = client.producer().topic("t").delivery_timeout(timeout).build().await.unwrap();
        producer.send_and_confirm("before").await.unwrap();
        fake.set_down(true);
        // The first of these may still find a connection that is about to end.
        let mut certain = 0;
        for _ in 0..3 {
            match producer.send_and_confirm("v").await.unwrap_err() {
                Error::DeliveryTimeout { reason, .. } => {
                    assert!(reason.contains(&fake.address), "{reason}");
                    certain += 1;
                }
                error => assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}"),
            }
        }
        assert!(certain >= 2);
        fake.set_down(false);
        let after = loop {
            if let Ok(delivered) = producer.send_and_confirm("after").await {
                break delivered;
            }
        };
        assert_eq!(after.offset + 1, fake.log(0, |log| log.next));
    })
    .await;
}

#[tokio::test]
async fn a_restart_of_the_broker_is_waited_for() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let (producer, mut consumer) = (producer(&client).await, consumer(&client).await);
        send(&producer, 1).await;
        assert_eq!(receive(&mut consumer, 1).await, ["0"]);
        fake.set_down(true);
        let delivery = producer.send("while it is down").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        fake.set_down(false);
        assert_eq!(delivery.await.unwrap().offset, 1);
        assert_eq!(receive(&mut consumer, 1).await, ["while it is down"]);
    })
    .await;
}

#[tokio::test]
async fn a_full_buffer_holds_senders_back_until_there_is_room() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let builder = client.producer().topic("t").batch_bytes_max(4096).buffer_bytes_max(4096);
        let producer = Arc::new(builder.build().await.unwrap());
        fake.set_down(true);
        let value = vec![0; 1000];
        (0..4).for_each(|_| drop(producer.try_send(&value).unwrap()));
        assert!(matches!(producer.try_send(&value), Err(Error::BufferFull)));
        let waiting = tokio::spawn({
            let (producer, value) = (producer.clone(), value.clone());
            async move { producer.send_and_confirm(&value).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        fake.set_down(false);
        assert_eq!(waiting.await.unwrap().unwrap().offset, 4);
    })
    .await;
}

#[tokio::test]
async fn a_failure_that_nobody_awaits_is_told_by_flush_once() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let producer = client.producer().topic("t").idempotent(false).build().await.unwrap();
        fake.script([Fault::CutBefore]);
        drop(producer.send("v").await.unwrap());
        assert_eq!(producer.flush().await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        producer.flush().await.unwrap();
        producer.send_and_confirm("v").await.unwrap();
        producer.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_dropped_producer_leaves_no_delivery_waiting() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let producer = client.producer().topic("t").linger(Duration::from_secs(60)).build().await.unwrap();
        let delivery = producer.send("v").await.unwrap();
        assert_eq!(producer.unacknowledged(), 1);
        drop(producer);
        assert!(matches!(delivery.await, Err(Error::ProducerClosed { .. })));
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_with_the_reason() {
    bounded(async {
        let fake = Fake::with_topic(2).await;
        fake.state().batch_bytes_max = 2048;
        let client = fake.client().await;
        let unknown = client.producer().topic("nope").build().await.unwrap_err();
        assert!(matches!(&unknown, Error::UnknownTopic { topic } if &**topic == "nope"), "{unknown}");
        let producer = producer(&client).await;
        let error = producer.send(&vec![0; 2048]).await.unwrap_err();
        assert!(matches!(error, Error::RecordTooLarge { batch_bytes_max: 2048, .. }), "the broker's limit: {error}");
        let error = producer.send(ProducerRecord::value("v").partition(2)).await.unwrap_err();
        assert!(matches!(error, Error::UnknownPartition { partition: 2, partition_count: 2, .. }), "{error}");
        let invalid = |error| matches!(error, Error::InvalidSetting { .. });
        assert!(invalid(client.producer().build().await.unwrap_err()));
        assert!(invalid(client.producer().topic("t").in_flight_max(6).build().await.unwrap_err()));
        assert!(invalid(client.consumer().build().await.unwrap_err()));
        let error = client.consumer().partitions("t", [5]).build().await.unwrap_err();
        assert!(matches!(error, Error::UnknownPartition { partition: 5, .. }));
    })
    .await;
}

#[tokio::test]
async fn a_deleted_topic_ends_its_producers_and_consumers() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let (producer, mut consumer) = (producer(&client).await, consumer(&client).await);
        send(&producer, 1).await;
        client.admin().delete_topic("t").await.unwrap();
        client.admin().create_topic(NewTopic::new("t")).await.unwrap();
        let error = producer.send_and_confirm("for the old one").await.unwrap_err();
        assert!(matches!(error, Error::UnknownTopic { .. }), "{error}");
        assert!(matches!(producer.send("again").await, Err(Error::UnknownTopic { .. })));
        let ended = loop {
            if let Err(error) = consumer.recv().await {
                break error;
            }
        };
        assert!(matches!(ended, Error::UnknownTopic { .. }), "{ended}");
        assert!(matches!(consumer.recv().await, Err(Error::AllStopped)));
        assert!(consumer.next().await.is_none());
        assert_eq!(fake.log(0, |log| log.next), 0, "nothing reached the new topic");
    })
    .await;
}

#[tokio::test]
async fn keys_choose_partitions_and_each_shard_has_its_connection() {
    bounded(async {
        let fake = Fake::with_topic(4).await;
        let client = fake.client().await;
        let producer = producer(&client).await;
        let mut used = BTreeSet::new();
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let first = producer.send_and_confirm((key, "v")).await.unwrap().partition;
            assert_eq!(producer.send_and_confirm((key, "w")).await.unwrap().partition, first);
            used.insert(first);
        }
        assert!(used.len() > 2, "{used:?}");
        let over: BTreeSet<_> = fake.state().produced_over.iter().copied().collect();
        assert_eq!(over, BTreeSet::from([Some(0), Some(1)]));
        let mut consumer = consumer(&client).await;
        let received = receive(&mut consumer, 16).await;
        assert_eq!(received.iter().filter(|text| *text == "w").count(), 8);
    })
    .await;
}

#[tokio::test]
async fn seeking_goes_to_offsets_times_and_ends() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let producer = producer(&client).await;
        for number in 0..10 {
            let value = number.to_string();
            producer.send_and_confirm(ProducerRecord::value(&value).timestamp_ms(number * 100)).await.unwrap();
        }
        let mut consumer = client.consumer().topic("t").start(SeekTo::Offset(7)).build().await.unwrap();
        assert_eq!(receive(&mut consumer, 2).await, ["7", "8"]);
        consumer.seek("t", 0, SeekTo::Earliest).await.unwrap();
        assert_eq!(receive(&mut consumer, 2).await, ["0", "1"]);
        consumer.seek_all(SeekTo::Timestamp(350)).await.unwrap();
        assert_eq!(receive(&mut consumer, 1).await, ["4"]);
        consumer.seek("t", 0, SeekTo::Latest).await.unwrap();
        producer.send_and_confirm("new").await.unwrap();
        assert_eq!(receive(&mut consumer, 1).await, ["new"]);
        let progress = consumer.progress();
        assert_eq!((progress[0].position, progress[0].high_watermark), (11, Some(11)));
        let error = consumer.seek("t", 1, SeekTo::Earliest).await.unwrap_err();
        assert!(matches!(error, Error::UnknownPartition { partition: 1, partition_count: 1, .. }));
    })
    .await;
}

#[tokio::test]
async fn records_and_batches_can_be_taken_in_turn() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let producer = client.producer().topic("t").linger(Duration::from_secs(60)).build().await.unwrap();
        for number in 0..5 {
            producer.send(&number.to_string()).await.unwrap();
        }
        producer.flush().await.unwrap();
        let mut consumer = consumer(&client).await;
        assert_eq!(receive(&mut consumer, 2).await, ["0", "1"]);
        let batch = consumer.recv_batch().await.unwrap();
        let values: Vec<_> = batch.records().map(|record| record.value.unwrap().to_vec()).collect();
        assert_eq!((batch.record_count(), values), (3, vec![b"2".to_vec(), b"3".to_vec(), b"4".to_vec()]));
        assert_eq!(consumer.progress()[0].position, 5);
        producer.send("5").await.unwrap();
        producer.flush().await.unwrap();
        assert_eq!(text(&consumer.next().await.unwrap().unwrap()), "5");
        consumer.seek("t", 0, SeekTo::Earliest).await.unwrap();
        assert_eq!(receive(&mut consumer, 2).await, ["0", "1"]);
        consumer.seek("t", 0, SeekTo::Offset(3)).await.unwrap();
        assert_eq!(receive(&mut consumer, 2).await, ["3", "4"], "nothing is left of the batch before the seek");
    })
    .await;
}

#[tokio::test]
async fn out_of_range_tells_what_can_be_read() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        send(&producer(&client).await, 10).await;
        fake.log(0, |log| log.start = 4);
        let mut consumer = client.consumer().topic("t").start(SeekTo::Offset(2)).build().await.unwrap();
        let error = consumer.recv().await.unwrap_err();
        assert!(matches!(error, Error::OffsetOutOfRange { offset: 2, earliest: 4, latest: 10, .. }), "{error}");
        consumer.seek("t", 0, SeekTo::Offset(9)).await.unwrap();
        assert_eq!(receive(&mut consumer, 1).await, ["9"]);
        let builder = client.consumer().topic("t").start(SeekTo::Offset(2)).out_of_range(OutOfRange::Earliest);
        assert_eq!(receive(&mut builder.build().await.unwrap(), 1).await, ["4"]);
    })
    .await;
}

#[tokio::test]
async fn lost_ranges_and_gaps_are_told() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let producer = producer(&client).await;
        send(&producer, 6).await;
        fake.log(0, |log| log.lose(4, 100));
        producer.send_and_confirm("after the loss").await.unwrap();
        let mut reading = consumer(&client).await;
        assert_eq!(receive(&mut reading, 4).await, texts(0..4));
        let error = reading.recv().await.unwrap_err();
        assert!(matches!(error, Error::Lost { from: 4, to: 100, .. }), "{error}");
        assert_eq!(receive(&mut reading, 1).await, ["after the loss"]);

        fake.log(0, |log| {
            log.lost = None::<Lost>;
            log.batches.remove(1);
        });
        let mut reading = consumer(&client).await;
        assert_eq!(receive(&mut reading, 1).await, ["0"]);
        assert!(matches!(reading.recv().await, Err(Error::Gap { from: 1, to: 2, .. })));
        assert_eq!(receive(&mut reading, 1).await, ["2"]);
        let mut easy = client.consumer().topic("t").gaps(Gaps::Accept).build().await.unwrap();
        assert_eq!(receive(&mut easy, 4).await, ["0", "2", "3", "after the loss"]);
    })
    .await;
}

#[tokio::test]
async fn damage_is_found_unless_nobody_looks() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        send(&producer(&client).await, 3).await;
        fake.log(0, |log| {
            let mut damaged = log.batches[1].bytes.to_vec();
            let value = damaged.len() - 2;
            damaged[value] = b'X';
            log.batches[1].bytes = damaged.into();
        });
        let mut careful = consumer(&client).await;
        assert_eq!(receive(&mut careful, 1).await, ["0"]);
        let error = careful.recv().await.unwrap_err();
        assert!(matches!(error, Error::UnreadableBatch { offset: 1, .. }), "{error}");
        assert!(matches!(careful.recv().await, Err(Error::AllStopped)));
        careful.seek("t", 0, SeekTo::Offset(2)).await.unwrap();
        assert_eq!(receive(&mut careful, 1).await, ["2"]);
        let mut careless = client.consumer().topic("t").verify(false).build().await.unwrap();
        assert_eq!(receive(&mut careless, 3).await, ["0", "X", "2"]);
    })
    .await;
}

#[tokio::test]
async fn admin_calls() {
    bounded(async {
        let fake = Fake::start().await;
        let client = fake.client().await;
        let admin = client.admin();
        let topic = NewTopic::new("orders").partitions(3).durability(Durability::Memory).setting("retention.ms", "1");
        let id = admin.create_topic(topic.clone()).await.unwrap();
        let error = admin.create_topic(topic).await.unwrap_err();
        assert_eq!((error.code(), error.kind()), (Some(ErrorCode::TopicExists), ErrorKind::InvalidRequest));
        let listed = admin.list_topics().await.unwrap();
        assert_eq!((listed[0].name.as_str(), listed[0].partition_count, listed[0].id), ("orders", 3, id));
        let described = admin.describe_topic("orders").await.unwrap();
        assert_eq!((described.durability, described.partitions.len()), (Durability::Memory, 3));
        assert_eq!(described.settings["retention.ms"], "1");
        let change = TopicChange::new().set("retention.ms", "2").set("a", "b").unset(Durability::SETTING);
        admin.alter_topic("orders", change.clone()).await.unwrap();
        let altered = admin.describe_topic("orders").await.unwrap().settings;
        assert_eq!(altered, [("a", "b"), ("retention.ms", "2")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert!(matches!(admin.alter_topic("nothing", change).await, Err(Error::UnknownTopic { .. })));
        client.producer().topic("orders").build().await.unwrap().send_and_confirm(("k", "v")).await.unwrap();
        let mut ends = admin.list_offsets("orders", OffsetAt::Latest).await.unwrap();
        ends.sort();
        assert_eq!(ends, [0, 0, 1]);
        assert_eq!(admin.delete_records("orders", &[(1, Some(0)), (2, None)]).await.unwrap().len(), 2);
        let starts: u64 =
            admin.delete_records("orders", &[(0, None), (1, None), (2, None)]).await.unwrap().iter().sum();
        assert_eq!(starts, 1);
        let beyond = admin.delete_records("orders", &[(0, Some(0)), (1, Some(7))]).await.unwrap_err();
        assert_eq!((beyond.code(), beyond.kind()), (Some(ErrorCode::OffsetOutOfRange), ErrorKind::InvalidRequest));
        assert!(beyond.to_string().contains("orders/1"), "{beyond}");
        let unknown = admin.delete_records("orders", &[(3, None)]).await.unwrap_err();
        assert!(matches!(unknown, Error::UnknownPartition { partition: 3, .. }));
        assert_eq!(admin.health().await.unwrap().state, State::Serving);
        assert_eq!(admin.stats().await.unwrap()["records_in"], 7);
        assert_eq!(admin.delete_topic("orders").await.unwrap(), id);
        assert!(matches!(admin.delete_topic("orders").await, Err(Error::UnknownTopic { .. })));
        assert!(matches!(admin.describe_topic("orders").await, Err(Error::UnknownTopic { .. })));
    })
    .await;
}

#[tokio::test]
async fn addresses_are_tried_in_turn_and_failures_name_them() {
    bounded(async {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let error = Client::connect(&nobody).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }) && error.to_string().contains(&nobody), "{error}");
        let fake = Fake::with_topic(1).await;
        let client = Client::connect(format!("{nobody}, {}", fake.address)).await.unwrap();
        send(&producer(&client).await, 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_server_of_another_kind_is_told_apart() {
    bounded(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let web = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
            }
        };
        let error = tokio::select! {
            error = Client::connect(&address) => error.unwrap_err(),
            () = web => unreachable!("it never ends"),
        };
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Fatal);
    })
    .await;
}

#[tokio::test]
async fn another_cluster_at_the_same_address_is_refused() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let producer = client.producer().topic("t").delivery_timeout(Duration::from_millis(500)).build().await.unwrap();
        producer.send_and_confirm("v").await.unwrap();
        fake.state().cluster_id += 1;
        fake.cut_all();
        // The first of these may still have found the connection that was about to end.
        let error = loop {
            if let Err(error @ Error::DeliveryTimeout { .. }) = producer.send_and_confirm("v").await {
                break error;
            }
        };
        assert!(error.to_string().contains("is cluster"), "{error}");
        assert_eq!(fake.log(0, |log| log.next), 1, "nothing reached the other cluster");
        assert!(matches!(client.admin().list_topics().await, Err(Error::OtherCluster { .. })));
    })
    .await;
}

#[tokio::test]
async fn a_silent_broker_is_asked_for_its_health() {
    bounded(async {
        let fake = Fake::start().await;
        let client = Client::builder().addresses(&fake.address).ping_after(Duration::from_millis(20)).connect().await;
        while fake.state().requests.get("Health").is_none_or(|&pings| pings < 3) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client.unwrap().admin().list_topics().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_change_without_an_answer_is_unknown() {
    bounded(async {
        let fake = Fake::start().await;
        let client = Client::builder().addresses(&fake.address).request_timeout(Duration::from_millis(300)).connect();
        let client = client.await.unwrap();
        fake.state().cut_after_create = true;
        let error = client.admin().create_topic(NewTopic::new("t")).await.unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
        assert_eq!(fake.state().requests["TopicCreate"], 1, "not asked for again");
        fake.state().silent = true;
        let error = client.admin().create_topic(NewTopic::new("u")).await.unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
        let error = client.admin().list_topics().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retriable, "a question may be asked again: {error}");
    })
    .await;
}
