//! Producer, consumer and admin against the fake broker, one promise a test, faults by script.

mod support;

use std::time::Duration;

use bytes::Bytes;
use streambus::{Client, Delivered, Durability, Error, ErrorKind, Gaps, Header, NewTopic, OffsetAt, OutOfRange};
use streambus::{ProducerRecord, Record, RecordBatch, SeekTo, State};
use support::{Fake, Fault};
use tokio_stream::StreamExt;
use wire::ErrorCode;

const SECOND: Duration = Duration::from_secs(1);

/// Every test ends, whatever it waits for.
async fn bounded(test: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test ends");
}

fn value(record: &Record) -> &[u8] {
    record.value.as_deref().unwrap()
}

#[tokio::test]
async fn what_is_sent_is_received() {
    bounded(async {
        let fake = Fake::with_topic(1).await;
        let client = fake.client().await;
        let producer = client.producer().topic("t").build().await.unwrap();
        let headers = [Header { key: b"trace", value: Some(b"1f") }];
        let record = ProducerRecord::value("v").key("k").headers(&headers).timestamp_ms(5);
        let delivered = producer.send_and_confirm(record).await.unwrap();
        let Delivered { partition, offset, durability, synced, .. } = delivered;
        assert_eq!((partition, offset, durability, synced), (0, 0, Durability::Durable, true));
        producer.send_and_confirm(ProducerRecord::tombstone("k")).await.unwrap();

        let mut consumer = client.consumer().topic("t").build().await.unwrap();
        let first = consumer.recv().await.unwrap();
        assert_eq!((&*first.topic, first.partition, first.offset, first.timestamp_ms), ("t", 0, 0, 5));
        assert_eq!((first.key.as_deref(), first.value.as_deref()), (Some(&b"k"[..]), Some(&b"v"[..])));
        assert_eq!(first.headers, [(Bytes::from_static(b"trace"), Some(Bytes::from_static(b"1f")))]);
        assert_eq!(consumer.recv().await.unwrap().value, None);
    })
    .await;
}
