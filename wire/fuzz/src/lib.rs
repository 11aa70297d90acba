//! What must hold for any bytes at all, one function for each family of decoders.
//!
//! The fuzz targets and the property tests of the crate run the same functions, so what a fuzzer once found stays covered on a
//! stable toolchain. Each panics when its property does not hold.

use wire::{
    api::{
        Failure, Message, Request, delete_records, fetch, get, health, hello, hold, init_producer, list_offsets,
        loss_accept, produce, stats, topic_alter, topic_create, topic_delete, topic_describe, topic_list,
    },
    codec::Writer,
    frame::{Decoded, Frame},
    header::{HEADER_BYTES, Header, RequestHeader, ResponseHeader},
    protocol::{self, PREFACE_BYTES, Protocol},
    record::{
        Batch, BatchBuilder, BatchError, Batches, Codec, HEADER_BYTES as BATCH_HEADER_BYTES,
        compression::{compress, decompress},
    },
};

const FRAME_BYTES_MAX: usize = 1 << 20;
const DECOMPRESSED_BYTES_MAX: usize = 1 << 16;

/// A connection's first bytes are told apart by eight, and what they were told to be stays.
pub fn protocol_detected(bytes: &[u8]) {
    let detected = protocol::detect(bytes);
    assert!(detected != Protocol::NeedMore || bytes.len() < PREFACE_BYTES);
    for cut in 0..bytes.len().min(PREFACE_BYTES) {
        let earlier = protocol::detect(&bytes[..cut]);
        assert!(earlier == Protocol::NeedMore || earlier == detected);
    }
}

/// Bytes arriving in pieces of any size give the same frames as all at once, and a frame encodes to its bytes.
pub fn frames_taken_apart(bytes: &[u8]) {
    frames_of::<RequestHeader>(bytes);
    frames_of::<ResponseHeader>(bytes);
}

fn frames_of<H: Header>(mut bytes: &[u8]) {
    while let Ok(decoded) = Frame::<H>::decode(bytes, FRAME_BYTES_MAX) {
        let frame = match decoded {
            Decoded::Frame(frame) => frame,
            Decoded::NeedMore { bytes: missing } => {
                assert!(missing > 0 && missing <= FRAME_BYTES_MAX);
                return;
            }
        };
        assert!(frame.frame_bytes() <= FRAME_BYTES_MAX);
        let encoded = frame.header.encode(frame.body.len() as u32);
        assert_eq!([&encoded, frame.body].concat(), bytes[..frame.frame_bytes()]);
        let one_short = Frame::<H>::decode(&bytes[..frame.frame_bytes() - 1], FRAME_BYTES_MAX);
        assert!(matches!(one_short, Ok(Decoded::NeedMore { bytes: 1 })));
        bytes = &bytes[frame.frame_bytes()..];
    }
    // Corrupt: known from the header alone.
    assert!(bytes.len() >= HEADER_BYTES && Frame::<H>::decode(&bytes[..HEADER_BYTES], FRAME_BYTES_MAX).is_err());
}

/// A request body of any API is refused, or encodes to the same bytes again. The first byte chooses the API.
pub fn request_decoded(bytes: &[u8]) {
    let Some((&api, body)) = bytes.split_first() else { return };
    let header = RequestHeader { correlation: 0, api, version: 0 };
    match Request::decode(&header, body) {
        Err(error) => assert!(error.error_code().is_error()),
        Ok(Request::Hello(request)) => encodes_to(&request, body),
        Ok(Request::InitProducer(request)) => encodes_to(&request, body),
        Ok(Request::Produce(request)) => {
            let batches: usize = request.batches().map(|(_, batch)| batch.len()).sum();
            let (_, head_bytes) = produce::RequestHead::decode_prefix(0, body).unwrap();
            assert_eq!(head_bytes + batches, body.len());
            encodes_to(&request, body);
        }
        Ok(Request::Fetch(request)) => encodes_to(&request, body),
        Ok(Request::ListOffsets(request)) => encodes_to(&request, body),
        Ok(Request::TopicCreate(request)) => encodes_to(&request, body),
        Ok(Request::DeleteRecords(request)) => encodes_to(&request, body),
        Ok(Request::TopicAlter(request)) => encodes_to(&request, body),
        Ok(Request::TopicDelete(request)) => encodes_to(&request, body),
        Ok(Request::Hold(request)) => encodes_to(&request, body),
        Ok(Request::LossAccept(request)) => encodes_to(&request, body),
        Ok(Request::TopicList(request)) => encodes_to(&request, body),
        Ok(Request::TopicDescribe(request)) => encodes_to(&request, body),
        Ok(Request::Stats(request)) => encodes_to(&request, body),
        Ok(Request::Health(request)) => encodes_to(&request, body),
        Ok(Request::Get(request)) => encodes_to(&request, body),
    }
}

/// A response body is refused by each API, or encodes to the same bytes again.
pub fn response_decoded(body: &[u8]) {
    reads_as::<hello::Response<'_>>(body);
    reads_as::<init_producer::Response>(body);
    reads_as::<produce::Response<'_>>(body);
    reads_as::<fetch::Response<'_>>(body);
    reads_as::<list_offsets::Response<'_>>(body);
    reads_as::<topic_create::Response<'_>>(body);
    reads_as::<delete_records::Response<'_>>(body);
    reads_as::<topic_alter::Response>(body);
    reads_as::<topic_delete::Response>(body);
    reads_as::<hold::Response<'_>>(body);
    reads_as::<loss_accept::Response>(body);
    reads_as::<topic_list::Response<'_>>(body);
    reads_as::<topic_describe::Response<'_>>(body);
    reads_as::<stats::Response<'_>>(body);
    reads_as::<health::Response<'_>>(body);
    reads_as::<get::Response<'_>>(body);
    if let Ok(failure) = Failure::decode(body) {
        assert_eq!(failure.reason.len() + 2, body.len());
    }
    if let Ok(response) = fetch::Response::decode(0, body) {
        response.partitions().for_each(|(_, batches)| batches_walked(batches));
    }
}

/// Bytes are refused as batches, or hold what a broker was promised: every record of a verified batch can be read, and
/// building a batch of those records gives the same records.
pub fn batches_walked(bytes: &[u8]) {
    let mut taken = 0;
    for batch in Batches::new(bytes) {
        let Ok(batch) = batch else { return };
        assert!(batch.bytes().len() >= BATCH_HEADER_BYTES);
        assert_eq!(batch.header().encode(), bytes[taken..taken + BATCH_HEADER_BYTES]);
        taken += batch.bytes().len();
        batch.next_offset();
        batch.last_sequence();
        _ = batch.verify_crc();
        let verified = batch.verify_for_produce();
        match batch.records() {
            Err(error) => {
                assert!(matches!(error, BatchError::Compressed { .. }));
                uncompressed(&batch);
            }
            Ok(records) => {
                let all_read = records.clone().all(|record| record.is_ok());
                assert_eq!(batch.verify_records().is_ok(), all_read);
                assert!(all_read || verified.is_err());
                records.flatten().for_each(|record| assert_eq!(record.headers.count(), record.headers.len()));
                if all_read && batch.record_count() > 0 {
                    rebuilt(&batch);
                }
            }
        }
    }
    assert_eq!(taken, bytes.len());
}

/// A compressed batch is refused, or is within the bounds and the same batch with its records as they are.
fn uncompressed(batch: &Batch<'_>) {
    let mut buffer = Vec::new();
    let Ok(records) = batch.records_decompressed(DECOMPRESSED_BYTES_MAX, &mut buffer) else { return };
    let all_read = records.clone().all(|record| record.is_ok());
    let bytes = batch.decompressed(DECOMPRESSED_BYTES_MAX).unwrap();
    assert!(bytes.len() <= BATCH_HEADER_BYTES + DECOMPRESSED_BYTES_MAX);
    let again = Batch::parse_one(&bytes).unwrap();
    assert_eq!((again.codec(), again.verify_crc()), (Codec::None, Ok(())));
    assert!(again.records().unwrap().eq(records));
    if all_read && batch.record_count() > 0 {
        rebuilt(&again);
    }
}

/// A stream is refused or stays within its bounds, and what came out of it comes back from every codec. The first byte
/// chooses the codec.
pub fn stream_decompressed(bytes: &[u8]) {
    const CODECS: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let Some((&codec, stream)) = bytes.split_first() else { return };
    let mut out = Vec::new();
    let result = decompress(CODECS[usize::from(codec) % CODECS.len()], stream, DECOMPRESSED_BYTES_MAX, &mut out);
    assert!(out.len() <= DECOMPRESSED_BYTES_MAX && (result.is_ok() || out.is_empty()));
    for codec in CODECS {
        let (mut compressed, mut again) = (Vec::new(), Vec::new());
        compress(codec, &out, &mut compressed);
        assert_eq!(decompress(codec, &compressed, DECOMPRESSED_BYTES_MAX, &mut again), Ok(()));
        assert_eq!(again, out);
    }
}

fn rebuilt(batch: &Batch<'_>) {
    let mut builder = BatchBuilder::new(batch.bytes().len() + 32 * batch.record_count() as usize);
    let records = || batch.records().unwrap().map(|record| record.unwrap());
    for record in records() {
        let headers: Vec<_> = record.headers.collect();
        builder.append(record.timestamp_ms, record.key, record.value, &headers).unwrap();
    }
    let bytes = builder.build(batch.producer());
    let again = Batch::parse_one(&bytes).unwrap();
    assert_eq!(again.verify_crc(), Ok(()));
    let fields = |batch: &Batch<'_>| -> Vec<_> {
        let records = batch.records().unwrap().map(|record| record.unwrap());
        records
            .map(|record| (record.timestamp_ms, record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec)))
            .collect()
    };
    assert_eq!(fields(&again), fields(batch));
    let headers = again.records().unwrap().flat_map(|record| record.unwrap().headers);
    assert!(headers.eq(records().flat_map(|record| record.headers)));
}

fn reads_as<'a, M: Message<'a>>(body: &'a [u8]) {
    if let Ok(message) = M::decode(0, body) {
        encodes_to(&message, body);
    }
}

fn encodes_to<'a, M: Message<'a>>(message: &M, body: &[u8]) {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    message.encode_fields(0, &mut writer);
    assert_eq!(writer.finish(), Ok(()));
    assert_eq!(out, body);
}
