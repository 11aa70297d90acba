//! Golden vectors: bytes written out by hand, as annotated hex, that every version of this crate must read and write alike.
//!
//! A vector is never changed: it is what some client out there sends. Each is checked both ways, so a field that moves, in the
//! reader and the writer alike, still shows.

mod vectors;

use vectors::{VECTORS, bytes_of};
use wire::{
    Api, Durability, ErrorCode, PartitionId, TopicId,
    api::{
        Failure, Message, Setting, delete_records, fetch, get, health, hello, hold, init_producer, list_offsets,
        loss_accept, produce, stats, topic_alter, topic_create, topic_delete, topic_describe, topic_list,
    },
    frame::{self, Decoded, Frame, ResponseError},
    header::{HEADER_BYTES, RequestHeader, ResponseHeader},
    protocol::{self, PREFACE_BYTES, PROTOCOL_VERSION, Protocol},
    record::{Batch, BatchBuilder, Batches, Header, Producer, patch_base_offset, patch_leader_epoch},
};

const FRAME_BYTES_MAX: usize = 1 << 20;
const BATCH_BYTES_MAX: usize = 4096;
const TOPIC: TopicId = TopicId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
const NOW_MS: i64 = 1_700_000_000_000;

/// The vector is this message, and this message is the vector.
#[track_caller]
fn check<'a, M: Message<'a> + PartialEq + std::fmt::Debug>(bytes: &'a [u8], correlation: u32, message: M) {
    let body = match M::KIND {
        wire::api::Kind::Request => {
            let Ok(Decoded::Frame(frame)) = Frame::<RequestHeader>::decode(bytes, FRAME_BYTES_MAX) else {
                panic!("not a request: {bytes:02x?}");
            };
            let expected = RequestHeader { correlation, api: M::API.key(), version: 0 };
            assert_eq!(frame.header, expected);
            frame.body
        }
        wire::api::Kind::Response => {
            let Ok(Decoded::Frame(frame)) = Frame::<ResponseHeader>::decode(bytes, FRAME_BYTES_MAX) else {
                panic!("not a response: {bytes:02x?}");
            };
            let expected = ResponseHeader { correlation, api: M::API.key(), version: 0, error: ErrorCode::None };
            assert_eq!(frame.header, expected);
            frame.body
        }
    };
    assert_eq!(body.len() + HEADER_BYTES, bytes.len());
    assert_eq!(M::decode(0, body).as_ref(), Ok(&message));
    let mut out = Vec::new();
    frame::encode(&mut out, correlation, 0, &message, FRAME_BYTES_MAX).unwrap();
    assert_eq!(out, bytes);
}

fn sent_batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new(BATCH_BYTES_MAX);
    builder.append(NOW_MS, Some(b"user-7"), Some(b"signed in"), &[]).unwrap();
    builder.append(NOW_MS + 5, Some(b"user-7"), Some(b"signed out"), &[]).unwrap();
    builder.build(Producer { id: 1000, epoch: 0, base_sequence: 0 }).to_vec()
}

fn one_record_batch(value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BATCH_BYTES_MAX);
    builder.append(NOW_MS, None, Some(value), &[]).unwrap();
    builder.build(Producer::NONE).to_vec()
}

fn placed(mut batch: Vec<u8>, base_offset: u64, leader_epoch: i32) -> Vec<u8> {
    patch_base_offset(&mut batch, base_offset);
    patch_leader_epoch(&mut batch, leader_epoch);
    batch
}

#[test]
fn preface() {
    let bytes = bytes_of("preface");
    assert_eq!(bytes, protocol::preface());
    assert_eq!(bytes.len(), PREFACE_BYTES);
    assert_eq!(protocol::detect(&bytes), Protocol::Native { version: PROTOCOL_VERSION });
}

#[test]
fn record_batches() {
    assert_eq!(bytes_of("record-batch-one-record"), one_record_batch(b"x"));
    assert_eq!(bytes_of("record-batch-idempotent"), sent_batch());
    assert_eq!(bytes_of("record-batch-placed"), placed(sent_batch(), 4096, 3));

    let headers = [Header { key: b"trace", value: Some(b"1f") }, Header { key: b"", value: None }];
    let mut builder = BatchBuilder::new(BATCH_BYTES_MAX);
    builder.append(NOW_MS, Some(b"k"), Some(b"v"), &headers).unwrap();
    builder.append(NOW_MS - 300, None, None, &[]).unwrap();
    builder.append(NOW_MS, Some(b""), Some(b""), &[]).unwrap();
    assert_eq!(bytes_of("record-batch-headers-and-nulls"), builder.build(Producer::NONE));

    for (name, _) in VECTORS.iter().filter(|(name, _)| name.starts_with("record-batch")) {
        let bytes = bytes_of(name);
        let batch = Batch::parse_one(&bytes).unwrap();
        assert_eq!(batch.verify_stored(), Ok(()), "{name}");
        assert_eq!(batch.verify_for_produce(), Ok(()), "{name}");
    }
}

#[test]
fn time_set_by_the_broker() {
    let bytes = bytes_of("record-batch-log-append-time");
    let batch = Batch::parse_one(&bytes).unwrap();
    assert!(batch.attributes().is_log_append_time());
    let records: Vec<_> = batch.records().unwrap().map(Result::unwrap).collect();
    let seen: Vec<_> = records.iter().map(|record| (record.offset, record.timestamp_ms)).collect();
    assert_eq!(seen, [(12, NOW_MS + 777), (13, NOW_MS + 777)]);
}

#[test]
fn hello() {
    let request = hello::Request {
        client_name: "example",
        client_version: "1.0",
        protocol_min: 1,
        protocol_max: 1,
        shard: None,
        auth: b"",
    };
    check(&bytes_of("hello-v0-request"), 1, request);
    let request = hello::Request { protocol_max: 2, shard: Some(3), auth: b"token", ..request };
    check(&bytes_of("hello-v0-request-shard-and-auth"), 1, request);
    // Those of the first version: a vector is never changed.
    let apis: Vec<_> = hello::ApiVersions::all().take(11).collect();
    let response = hello::Response {
        protocol: 1,
        cluster_id: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
        node_id: 1,
        node_epoch: 3,
        shard_count: 2,
        shard: 0,
        frame_bytes_max: 16 << 20,
        batch_bytes_max: 1 << 20,
        in_flight_max: 64,
        server_name: "streambus",
        server_version: "0.1.0",
        apis: (&apis).into(),
    };
    check(&bytes_of("hello-v0-response"), 1, response);
}

#[test]
fn init_producer() {
    check(&bytes_of("init-producer-v0-request"), 2, init_producer::Request);
    let response = init_producer::Response { producer_id: 1000, producer_epoch: 0 };
    check(&bytes_of("init-producer-v0-response"), 2, response);
}

#[test]
fn produce_requests() {
    let check = |name, batches: &[(u64, Vec<u8>)]| {
        let bytes = bytes_of(name);
        let body = &bytes[HEADER_BYTES..];
        let request = produce::Request::decode(0, body).unwrap();
        assert_eq!(request.timeout_ms(), 30_000);
        let expected = batches.iter().map(|(partition, batch)| (PartitionId(*partition), &batch[..]));
        assert!(request.batches().eq(expected), "{name}");
        check(&bytes, 4, request);

        let rows: Vec<_> = batches
            .iter()
            .map(|(partition, batch)| produce::BatchRow {
                partition: PartitionId(*partition),
                batch_bytes: batch.len() as u32,
            })
            .collect();
        let head = produce::RequestHead { timeout_ms: 30_000, batches: (&rows).into() };
        let mut out = Vec::new();
        frame::encode(&mut out, 4, 0, &head, FRAME_BYTES_MAX).unwrap();
        batches.iter().for_each(|(_, batch)| out.extend_from_slice(batch));
        assert_eq!(out, bytes);
    };
    check("produce-v0-request", &[(7, sent_batch())]);
    check("produce-v0-request-empty", &[]);
    check("produce-v0-request-two-partitions", &[(7, sent_batch()), (8, one_record_batch(b"x"))]);
}

#[test]
fn produce_responses() {
    let appended = produce::BatchResult {
        partition: PartitionId(7),
        error: ErrorCode::None,
        reason: "",
        durability: Durability::Durable,
        synced: true,
        base_offset: 0,
        log_start_offset: 0,
    };
    let results = [appended];
    check(&bytes_of("produce-v0-response"), 4, produce::Response { results: (&results).into() });

    let refused = produce::BatchResult {
        partition: PartitionId(8),
        error: ErrorCode::UnknownPartition,
        reason: "no partition 8",
        synced: false,
        ..appended
    };
    let in_memory = produce::BatchResult {
        durability: Durability::Memory,
        synced: false,
        base_offset: 4096,
        log_start_offset: 17,
        ..appended
    };
    let results = [in_memory, refused];
    check(&bytes_of("produce-v0-response-refused"), 4, produce::Response { results: (&results).into() });
}

#[test]
fn fetch_requests() {
    let partitions = [fetch::Position { partition: PartitionId(7), offset: 0, bytes_max: 1 << 20 }];
    let request =
        fetch::Request { wait_ms_max: 500, bytes_min: 1, bytes_max: 1 << 20, partitions: (&partitions).into() };
    check(&bytes_of("fetch-v0-request"), 5, request);
    let nothing = fetch::Request { wait_ms_max: 0, bytes_min: 0, bytes_max: 0, partitions: Default::default() };
    check(&bytes_of("fetch-v0-request-empty"), 5, nothing);
}

#[test]
fn fetch_responses() {
    let check = |name, partitions: &[(fetch::PartitionRow<'_>, Vec<u8>)]| {
        let bytes = bytes_of(name);
        let response = fetch::Response::decode(0, &bytes[HEADER_BYTES..]).unwrap();
        assert!(response.partitions().eq(partitions.iter().map(|(row, batches)| (*row, &batches[..]))), "{name}");
        check(&bytes, 5, response);

        let rows: Vec<_> = partitions.iter().map(|(row, _)| *row).collect();
        let mut out = Vec::new();
        let head = fetch::ResponseHead { partitions: (&rows).into() };
        frame::encode(&mut out, 5, 0, &head, FRAME_BYTES_MAX).unwrap();
        partitions.iter().for_each(|(_, batches)| out.extend_from_slice(batches));
        assert_eq!(out, bytes);
    };
    let nothing_new = fetch::PartitionRow {
        partition: PartitionId(7),
        error: ErrorCode::None,
        reason: "",
        log_start_offset: 0,
        high_watermark: 2,
        log_end_offset: 2,
        lost: None,
        batch_bytes: 0,
    };
    check("fetch-v0-response-nothing-new", &[(nothing_new, vec![])]);
    let batch = placed(sent_batch(), 0, 3);
    let row = fetch::PartitionRow { batch_bytes: batch.len() as u32, ..nothing_new };
    check("fetch-v0-response", &[(row, batch)]);

    let batches = [placed(one_record_batch(b"x"), 4096, 4), placed(one_record_batch(b"y"), 4097, 4)].concat();
    assert_eq!(Batches::new(&batches).map(|batch| batch.unwrap().base_offset()).collect::<Vec<_>>(), [4096, 4097]);
    let after_loss = fetch::PartitionRow {
        high_watermark: 4098,
        log_end_offset: 4098,
        lost: Some(fetch::Lost { from: 2, to: 4096 }),
        batch_bytes: batches.len() as u32,
        ..nothing_new
    };
    let out_of_range = fetch::PartitionRow {
        partition: PartitionId(8),
        error: ErrorCode::OffsetOutOfRange,
        reason: "offset 9 is below log start offset 10",
        log_start_offset: 10,
        high_watermark: 20,
        log_end_offset: 20,
        ..nothing_new
    };
    check("fetch-v0-response-lost-and-out-of-range", &[(after_loss, batches), (out_of_range, vec![])]);
}

#[test]
fn list_offsets() {
    let query = |at| list_offsets::Query { partition: PartitionId(7), at };
    let queries = [
        query(list_offsets::At::Earliest),
        query(list_offsets::At::Latest),
        query(list_offsets::At::Timestamp(NOW_MS + 1)),
    ];
    let request = list_offsets::Request { partitions: (&queries).into() };
    check(&bytes_of("list-offsets-v0-request"), 6, request);
    let found = |offset, timestamp_ms| list_offsets::Found {
        partition: PartitionId(7),
        error: ErrorCode::None,
        reason: "",
        offset,
        timestamp_ms,
    };
    let found = [found(0, -1), found(2, -1), found(1, NOW_MS + 5)];
    let response = list_offsets::Response { partitions: (&found).into() };
    check(&bytes_of("list-offsets-v0-response"), 6, response);
}

#[test]
fn delete_records() {
    let before = [
        delete_records::Before { partition: PartitionId(7), offset: Some(1) },
        delete_records::Before { partition: PartitionId(8), offset: None },
    ];
    check(&bytes_of("delete-records-v0-request"), 13, delete_records::Request { partitions: (&before).into() });
    let deleted = |partition, error, reason, log_start_offset| delete_records::Deleted {
        partition: PartitionId(partition),
        error,
        reason,
        log_start_offset,
    };
    let deleted =
        [deleted(7, ErrorCode::None, "", 1), deleted(8, ErrorCode::UnknownPartition, "no such partition.", 0)];
    check(&bytes_of("delete-records-v0-response"), 13, delete_records::Response { partitions: (&deleted).into() });
}

#[test]
fn topic_create() {
    let settings = [Setting { key: Durability::SETTING, value: Durability::Durable.name() }];
    let request = topic_create::Request { name: "orders", partition_count: 1, settings: (&settings).into() };
    check(&bytes_of("topic-create-v0-request"), 3, request);
    let partitions = [topic_create::Placement { index: 0, partition: PartitionId(7), leader_node: 1, shard: 1 }];
    let response = topic_create::Response { topic: TOPIC, partitions: (&partitions).into() };
    check(&bytes_of("topic-create-v0-response"), 3, response);
}

#[test]
fn topic_delete() {
    check(&bytes_of("topic-delete-v0-request"), 7, topic_delete::Request { name: "orders" });
    check(&bytes_of("topic-delete-v0-response"), 7, topic_delete::Response { topic: TOPIC });
}

#[test]
fn topic_alter() {
    let (set, unset) = ([Setting { key: "retention.ms", value: "-1" }], ["retention.bytes"]);
    let request = topic_alter::Request { name: "orders", set: (&set).into(), unset: (&unset).into() };
    check(&bytes_of("topic-alter-v0-request"), 12, request);
    check(&bytes_of("topic-alter-v0-response"), 12, topic_alter::Response { topic: TOPIC });
}

#[test]
fn hold() {
    check(&bytes_of("hold-v0-request"), 15, hold::Request { hold_ms: 30_000, flush: true });
    let logs = [hold::Log { log_id: 13, flushed_lsn: 999 }, hold::Log { log_id: 1 << 64, flushed_lsn: 0 }];
    check(&bytes_of("hold-v0-response"), 15, hold::Response { logs: (&logs).into() });
}

#[test]
fn loss_accept() {
    let request = loss_accept::Request { partition: PartitionId(7), from_offset: 1, dry_run: true };
    check(&bytes_of("loss-accept-v0-request"), 16, request);
    let lost = [loss_accept::Lost { from: 2, to: 5 }];
    let segments = [loss_accept::Segment { number: 3 }, loss_accept::Segment { number: 4 }];
    let response = loss_accept::Response { lost: (&lost).into(), segments: (&segments).into(), next_offset: 9 };
    check(&bytes_of("loss-accept-v0-response"), 16, response);
}

#[test]
fn topic_list() {
    check(&bytes_of("topic-list-v0-request"), 8, topic_list::Request);
    let topics = [
        topic_list::Topic { name: "metrics", topic: TopicId(2), partition_count: 16, durability: Durability::Memory },
        topic_list::Topic { name: "orders", topic: TOPIC, partition_count: 1, durability: Durability::Durable },
    ];
    check(&bytes_of("topic-list-v0-response"), 8, topic_list::Response { topics: (&topics).into() });
}

#[test]
fn topic_describe() {
    let names = ["orders", "nothing"];
    check(&bytes_of("topic-describe-v0-request"), 9, topic_describe::Request { names: (&names).into() });
    let all = topic_describe::Request { names: Default::default() };
    check(&bytes_of("topic-describe-v0-request-all"), 9, all);

    let settings = [Setting { key: Durability::SETTING, value: Durability::Durable.name() }];
    let partitions = [topic_describe::Partition {
        index: 0,
        partition: PartitionId(7),
        error: ErrorCode::None,
        leader_node: 1,
        leader_epoch: 3,
        shard: 1,
        log_start_offset: 0,
        high_watermark: 2,
        log_end_offset: 2,
        refused_from: 0,
        damaged_from: topic_describe::Partition::SOUND,
    }];
    let topics = [
        topic_describe::Topic {
            name: "orders",
            error: ErrorCode::None,
            topic: TOPIC,
            durability: Durability::Durable,
            settings: (&settings).into(),
            partitions: (&partitions).into(),
        },
        topic_describe::Topic {
            name: "nothing",
            error: ErrorCode::UnknownTopic,
            topic: TopicId(0),
            durability: Durability::Durable,
            settings: Default::default(),
            partitions: Default::default(),
        },
    ];
    let response = topic_describe::Response { topics: (&topics).into() };
    check(&bytes_of("topic-describe-v0-response"), 9, response);
}

#[test]
fn stats() {
    check(&bytes_of("stats-v0-request"), 10, stats::Request);
    let counters =
        [stats::Counter { name: "records_in", value: 2 }, stats::Counter { name: "uptime_ms", value: 61_000 }];
    check(&bytes_of("stats-v0-response"), 10, stats::Response { counters: (&counters).into() });
}

#[test]
fn health() {
    check(&bytes_of("health-v0-request"), 11, health::Request);
    let shards = [
        health::Shard { shard: 0, state: health::State::Serving, reason: "" },
        health::Shard { shard: 1, state: health::State::Degraded, reason: "partition 7 is refused" },
    ];
    let response = health::Response { state: health::State::Degraded, shards: (&shards).into() };
    check(&bytes_of("health-v0-response"), 11, response);
}

#[test]
fn get() {
    let request = get::Request { partition: PartitionId(7), key: b"user-7" };
    check(&bytes_of("get-v0-request"), 14, request);
    let headers = [get::Header { key: b"trace", value: Some(b"1f") }, get::Header { key: b"", value: None }];
    let (offset, timestamp_ms) = (4097, NOW_MS + 5);
    let found = get::Found { offset, timestamp_ms, value: b"signed out", headers: (&headers).into() };
    check(&bytes_of("get-v0-response"), 14, get::Response { found: Some(found) });
    check(&bytes_of("get-v0-response-nothing"), 14, get::Response { found: None });
}

#[test]
fn refusals() {
    let check = |name, correlation, api: Api, expected: ErrorCode, expected_reason: &str| {
        let bytes = bytes_of(name);
        let Ok(Decoded::Frame(frame)) = Frame::<ResponseHeader>::decode(&bytes, FRAME_BYTES_MAX) else {
            panic!("{name} is not a response");
        };
        assert_eq!(Failure::decode(frame.body), Ok(Failure { reason: expected_reason }));
        let refused = frame.message::<topic_delete::Response>().unwrap_err();
        let reason = expected_reason.to_owned();
        assert_eq!(refused, ResponseError::Refused { error: expected, reason });
        let mut out = Vec::new();
        let request = RequestHeader { correlation, api: api.key(), version: 0 };
        frame::encode_failure(&mut out, request, expected, expected_reason);
        assert_eq!(out, bytes);
    };
    let spoken = "protocol versions 1 to 1 are spoken here";
    check("failure-unsupported-version", 0, Api::Hello, ErrorCode::UnsupportedVersion, spoken);
    check("failure-unknown-topic", 7, Api::TopicDelete, ErrorCode::UnknownTopic, "no topic \"orders\"");
}

#[test]
fn every_api_has_vectors_of_every_version() {
    for api in Api::ALL {
        for version in api.versions() {
            for kind in ["request", "response"] {
                let name = format!("{}-v{version}-{kind}", kebab(api.name()));
                assert!(VECTORS.iter().any(|(vector, _)| *vector == name), "no vector {name}.hex");
            }
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file that nobody lists is only seen in its folder")]
fn every_vector_file_is_listed() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors");
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<_> = names.filter_map(|name| Some(name.strip_suffix(".hex")?.to_owned())).collect();
    found.sort();
    assert_eq!(found, VECTORS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

fn kebab(name: &str) -> String {
    let dashed = name.char_indices().flat_map(|(index, letter)| {
        let dash = (index > 0 && letter.is_ascii_uppercase()).then_some('-');
        dash.into_iter().chain([letter.to_ascii_lowercase()])
    });
    dashed.collect()
}
