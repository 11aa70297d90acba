//! Every decoder against bytes that nobody wrote, bytes that someone changed, and bytes that end too soon.

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library to the fuzz targets, a module here")]
mod checks;
mod vectors;

use proptest::{collection::vec, prelude::*, sample::Index};
use vectors::{VECTORS, bytes_of};
use wire::{
    Api, PartitionId,
    api::produce,
    frame::{self, Frame},
    header::{HEADER_BYTES, RequestHeader, ResponseHeader},
    record::{Batch, BatchBuilder, Header, Producer, position},
};

/// What the targets in `fuzz/` do with one input, each of them.
fn check_all(bytes: &[u8]) {
    checks::protocol_detected(bytes);
    checks::frames_taken_apart(bytes);
    checks::request_decoded(bytes);
    checks::response_decoded(bytes);
    checks::batches_walked(bytes);
    checks::stream_decompressed(bytes);
}

/// A vector with its frame header and without, and behind every API key.
fn check_vector(bytes: &[u8]) {
    check_all(bytes);
    let Some(body) = bytes.get(HEADER_BYTES..) else { return };
    checks::response_decoded(body);
    for api in Api::ALL {
        checks::request_decoded(&[&[api.key()], body].concat());
    }
}

/// Makes the CRC of a damaged batch fit again, so that the damage gets past it.
fn with_valid_crc(mut batch: Vec<u8>) -> Vec<u8> {
    if let Some(body) = batch.get(position::ATTRIBUTES..) {
        let crc = crc32c::crc32c(body);
        batch[position::CRC..position::ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    }
    batch
}

#[test]
fn vectors_cut_at_every_length() {
    for (name, _) in VECTORS {
        let bytes = bytes_of(name);
        for cut in 0..=bytes.len() {
            check_vector(&bytes[..cut]);
        }
    }
}

#[test]
fn a_cut_body_is_never_a_message() {
    for (name, _) in VECTORS.iter().filter(|(name, _)| name.contains("-v0-") || name.starts_with("failure")) {
        let bytes = bytes_of(name);
        for cut in 0..bytes.len() - HEADER_BYTES {
            // A header that announces what is left: only the body's own lengths can tell.
            let mut bytes = bytes[..HEADER_BYTES + cut].to_vec();
            bytes[..4].copy_from_slice(&(cut as u32).to_le_bytes());
            assert!(!is_message(&bytes), "{name} cut to {cut} bytes of body");
        }
        assert!(is_message(&bytes), "{name}");
    }
}

fn is_message(bytes: &[u8]) -> bool {
    use wire::{api::*, frame::Decoded};

    fn reads_as<'a, M: Message<'a>>(frame: &Frame<'a, ResponseHeader>) -> bool {
        frame.message::<M>().is_ok()
    }
    if let Ok(Decoded::Frame(frame)) = Frame::<RequestHeader>::decode(bytes, 1 << 20) {
        return Request::decode(&frame.header, frame.body).is_ok();
    }
    let Ok(Decoded::Frame(frame)) = Frame::<ResponseHeader>::decode(bytes, 1 << 20) else { panic!("not a frame") };
    if frame.header.error.is_error() {
        return Failure::decode(frame.body).is_ok();
    }
    match Api::from_key(frame.header.api).unwrap() {
        Api::Hello => reads_as::<hello::Response<'_>>(&frame),
        Api::InitProducer => reads_as::<init_producer::Response>(&frame),
        Api::Produce => reads_as::<produce::Response<'_>>(&frame),
        Api::Fetch => reads_as::<fetch::Response<'_>>(&frame),
        Api::ListOffsets => reads_as::<list_offsets::Response<'_>>(&frame),
        Api::Get => reads_as::<get::Response<'_>>(&frame),
        Api::TopicCreate => reads_as::<topic_create::Response<'_>>(&frame),
        Api::TopicDelete => reads_as::<topic_delete::Response>(&frame),
        Api::TopicList => reads_as::<topic_list::Response<'_>>(&frame),
        Api::TopicDescribe => reads_as::<topic_describe::Response<'_>>(&frame),
        Api::Stats => reads_as::<stats::Response<'_>>(&frame),
        Api::Hold => reads_as::<hold::Response<'_>>(&frame),
        Api::LossAccept => reads_as::<loss_accept::Response>(&frame),
        Api::Health => reads_as::<health::Response<'_>>(&frame),
        Api::DeleteRecords => reads_as::<delete_records::Response<'_>>(&frame),
        Api::TopicAlter => reads_as::<topic_alter::Response>(&frame),
        other => panic!("{other:?} has no response here"),
    }
}

#[derive(Debug, Clone)]
struct OwnedRecord {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn records() -> impl Strategy<Value = Vec<OwnedRecord>> {
    let bytes = |most| vec(any::<u8>(), 0..most);
    let timestamp_ms = prop_oneof![any::<i64>(), 0..2_000_000_000_000i64];
    let headers = vec((bytes(20), proptest::option::of(bytes(20))), 0..4);
    let record = (timestamp_ms, proptest::option::of(bytes(40)), proptest::option::of(bytes(300)), headers);
    let record =
        record.prop_map(|(timestamp_ms, key, value, headers)| OwnedRecord { timestamp_ms, key, value, headers });
    vec(record, 1..20)
}

fn build(records: &[OwnedRecord], producer: Producer) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1 << 20);
    for record in records {
        let headers: Vec<_> =
            record.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
        builder.append(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), &headers).unwrap();
    }
    assert_eq!(builder.record_count(), records.len());
    let batch_bytes = builder.batch_bytes();
    let batch = builder.build(producer).to_vec();
    assert_eq!(batch.len(), batch_bytes);
    batch
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..400)) {
        check_all(&bytes);
    }

    #[test]
    fn arbitrary_bodies_of_small_numbers(api in 0..Api::ALL.len() as u8 + 2, body in vec(0u8..4, 0..120)) {
        checks::request_decoded(&[&[api], &body[..]].concat());
        checks::response_decoded(&body);
    }

    #[test]
    fn changed_vectors(
        vector in any::<Index>(),
        changes in vec((any::<Index>(), prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x80)]), 1..5),
        cut in any::<Index>(),
    ) {
        let (name, _) = vector.get(VECTORS);
        let mut bytes = bytes_of(name);
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        check_vector(&bytes);
        check_vector(&bytes[..cut.index(bytes.len())]);
        if name.starts_with("record-batch") {
            checks::batches_walked(&with_valid_crc(bytes));
        }
    }

    #[test]
    fn records_come_back(records in records(), id in -1i64..3, base_sequence in 0..i32::MAX) {
        let producer = if id < 0 { Producer::NONE } else { Producer { id, epoch: 0, base_sequence } };
        let bytes = build(&records, producer);
        let batch = Batch::parse_one(&bytes).unwrap();
        prop_assert_eq!(batch.verify_for_produce(), Ok(()));
        prop_assert_eq!(batch.producer(), producer);
        prop_assert_eq!(batch.max_timestamp_ms(), records.iter().map(|record| record.timestamp_ms).max().unwrap());
        for ((offset, expected), record) in (0..).zip(&records).zip(batch.records().unwrap()) {
            let record = record.unwrap();
            prop_assert_eq!((record.offset, record.timestamp_ms), (offset, expected.timestamp_ms));
            prop_assert_eq!((record.key, record.value), (expected.key.as_deref(), expected.value.as_deref()));
            let headers: Vec<_> =
                record.headers.map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(&headers, &expected.headers);
        }
    }

    #[test]
    fn damaged_records_never_pass_as_others(
        records in records(), position in any::<Index>(), value in any::<u8>(),
    ) {
        let mut bytes = build(&records, Producer::NONE);
        let position = position.index(bytes.len());
        bytes[position] = value;
        checks::batches_walked(&bytes);
        checks::batches_walked(&with_valid_crc(bytes));
    }

    #[test]
    fn produce_requests_come_back(
        timeout_ms in any::<u32>(), correlation in any::<u32>(), batches in vec((any::<u64>(), vec(any::<u8>(), 0..50)), 0..6),
    ) {
        let rows: Vec<_> = batches
            .iter()
            .map(|(partition, batch)| produce::BatchRow {
                partition: PartitionId(*partition),
                batch_bytes: batch.len() as u32,
            })
            .collect();
        let mut out = Vec::new();
        let head = produce::RequestHead { timeout_ms, batches: (&rows).into() };
        frame::encode(&mut out, correlation, 0, &head, 4096).unwrap();
        batches.iter().for_each(|(_, batch)| out.extend_from_slice(batch));
        let Ok(frame::Decoded::Frame(frame)) = Frame::<RequestHeader>::decode(&out, 4096) else { panic!("a frame") };
        prop_assert_eq!(frame.header.correlation, correlation);
        prop_assert_eq!(frame.frame_bytes(), out.len());
        let Ok(wire::api::Request::Produce(request)) = wire::api::Request::decode(&frame.header, frame.body) else {
            panic!("a produce request");
        };
        prop_assert_eq!(request.timeout_ms(), timeout_ms);
        prop_assert!(request.batches().eq(batches.iter().map(|(id, batch)| (PartitionId(*id), &batch[..]))));
    }
}
