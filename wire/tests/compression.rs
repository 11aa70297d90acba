//! Compressed batches from friend and foe: what other implementations wrote, and streams made to cost more than they say.

mod vectors;

use proptest::{collection::vec, prelude::*, sample::Index};
use vectors::bytes_of;
use wire::record::{
    Batch, BatchBuilder, BatchError, Codec, Producer,
    compression::{DecompressError, RATIO_EXEMPT_BYTES, RATIO_MAX, compress, decompress},
};

const CODECS: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const BYTES_MAX: usize = 1 << 20;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

fn compressed(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress(codec, bytes, &mut out);
    out
}

fn decompressed(codec: Codec, bytes: &[u8]) -> Result<Vec<u8>, DecompressError> {
    let mut out = b"before".to_vec();
    let result = decompress(codec, bytes, BYTES_MAX, &mut out);
    assert!(out.starts_with(b"before"), "what was there stays");
    assert!(result.is_ok() || out.len() == 6, "nothing is left of a failure");
    assert!(out.len() <= BYTES_MAX + 6 && out.capacity() <= 2 * BYTES_MAX + 64, "{} bytes taken", out.capacity());
    result.map(|()| out.split_off(6))
}

#[track_caller]
fn check_malformed(codec: Codec, bytes: &[u8]) {
    assert_eq!(decompressed(codec, bytes), Err(DecompressError::Malformed { codec }));
}

#[track_caller]
fn check_too_large(codec: Codec, bytes: &[u8]) {
    let found = decompressed(codec, bytes);
    let expected = DecompressError::TooLarge { compressed_bytes: bytes.len(), bytes_max: BYTES_MAX };
    assert_eq!(found, Err(expected), "{codec:?}, {} bytes", bytes.len());
}

/// Text that compresses as records do.
fn sample() -> Vec<u8> {
    (0..100u8).flat_map(|number| [b"a line, number ".to_vec(), vec![number, b'\n']].concat()).collect()
}

// --- what others wrote ------------------------------------------------------------------------------------------------

/// The vectors were written by Python's Kafka client with the reference libraries, so all of a record is compared.
#[test]
fn batches_of_other_implementations() {
    for name in ["gzip", "lz4", "lz4-linked", "snappy-chunks", "snappy-raw", "zstd", "zstd-stream"] {
        let bytes = bytes_of(&format!("record-batch-{name}"));
        let batch = Batch::parse_one(&bytes).unwrap();
        assert_eq!(batch.verify_for_produce(), Ok(()), "{name}");
        let (codec, mut buffer) = (batch.codec(), b"of an earlier batch".to_vec());
        assert_eq!(batch.records().unwrap_err(), BatchError::Compressed { codec });
        let records: Vec<_> = batch.records_decompressed(4 * KIB, &mut buffer).unwrap().map(Result::unwrap).collect();
        assert_eq!(records.len(), 12, "{name}");
        for (number, record) in (0..).zip(records) {
            assert_eq!((record.offset, record.timestamp_ms), (number, 1_700_000_000_000 + number as i64), "{name}");
            assert_eq!(record.key, Some(format!("user-{}", number % 4).as_bytes()), "{name}");
            assert_eq!(record.value, Some(format!("signed in from 192.0.2.{number}").as_bytes()), "{name}");
            let headers: Vec<_> = record.headers.map(|header| (header.key, header.value.unwrap().to_vec())).collect();
            assert_eq!(headers, [(&b"trace"[..], format!("{number:04x}").into_bytes())], "{name}");
        }
    }
}

/// Every stream is one whole stream: a byte fewer or more is none.
#[test]
fn vectors_cut_or_continued() {
    for name in ["gzip", "lz4", "lz4-linked", "snappy-chunks", "snappy-raw", "zstd", "zstd-stream"] {
        let bytes = bytes_of(&format!("record-batch-{name}"));
        let batch = Batch::parse_one(&bytes).unwrap();
        let (codec, stream) = (batch.codec(), batch.record_bytes());
        for cut in 0..stream.len() {
            let found = decompressed(codec, &stream[..cut]);
            // Chunks may end at any of them, and behind their header there are none.
            let no_chunks = name == "snappy-chunks" && cut == 16 && found == Ok(Vec::new());
            assert!(no_chunks || found == Err(DecompressError::Malformed { codec }), "{name} cut to {cut} bytes");
        }
        for more in [&[0][..], b"more", &[0xff; 40]] {
            check_malformed(codec, &[stream, more].concat());
        }
    }
}

#[test]
fn a_batch_uncompressed_is_the_batch_it_was() {
    for codec in CODECS {
        let mut builder = BatchBuilder::new(64 * KIB);
        for number in 0..50 {
            builder.append(1_000 + number, Some(b"key"), Some(b"the same value"), &[]).unwrap();
        }
        let bytes = builder.build_compressed(Producer { id: 7, epoch: 1, base_sequence: 3 }, codec);
        let batch = Batch::parse_one(&bytes).unwrap();
        assert_eq!((batch.codec(), batch.verify_for_produce()), (codec, Ok(())));
        assert!(builder.is_empty() && bytes.len() < 600, "{codec:?}: {} bytes", bytes.len());

        let uncompressed = batch.decompressed(BYTES_MAX).unwrap();
        let uncompressed = Batch::parse_one(&uncompressed).unwrap();
        assert_eq!((uncompressed.codec(), uncompressed.verify_for_produce()), (Codec::None, Ok(())));
        assert_eq!((uncompressed.producer(), uncompressed.record_count()), (batch.producer(), 50));
        assert_eq!((uncompressed.base_timestamp_ms(), uncompressed.max_timestamp_ms()), (1_000, 1_049));
        assert_eq!(uncompressed.compressed(codec).as_deref(), Some(&bytes[..]), "and back");
        assert_eq!(batch.compressed(codec), None, "not twice");
    }
}

#[test]
fn a_batch_that_does_not_shrink_stays_uncompressed() {
    for codec in CODECS {
        let mut builder = BatchBuilder::new(1024);
        builder.append(0, None, Some(b"short"), &[]).unwrap();
        let bytes = builder.build_compressed(Producer::NONE, codec);
        let batch = Batch::parse_one(&bytes).unwrap();
        assert_eq!((batch.codec(), batch.verify_for_produce()), (Codec::None, Ok(())));
        assert_eq!(batch.compressed(codec), None);
    }
}

/// Of zeros zstd leaves so little that its readers would take it for a bomb, and gzip does not.
#[test]
fn a_batch_that_shrinks_too_much_stays_uncompressed() {
    for (codec, expected) in [(Codec::Gzip, Codec::Gzip), (Codec::Zstd, Codec::None)] {
        let mut builder = BatchBuilder::new(4 * MIB);
        builder.append(0, None, Some(&vec![0; 3 * MIB]), &[]).unwrap();
        let bytes = builder.build_compressed(Producer::NONE, codec);
        let batch = Batch::parse_one(&bytes).unwrap();
        assert_eq!((batch.codec(), batch.verify_for_produce()), (expected, Ok(())));
        assert_eq!(batch.compressed(codec), None);
        assert_eq!(batch.records_decompressed(4 * MIB, &mut Vec::new()).unwrap().filter(Result::is_ok).count(), 1);
    }
}

#[test]
fn members_and_frames_may_follow_each_other_where_java_reads_them() {
    for codec in [Codec::Gzip, Codec::Zstd] {
        let both = [compressed(codec, b"one "), compressed(codec, b"two")].concat();
        assert_eq!(decompressed(codec, &both), Ok(b"one two".to_vec()));
    }
    check_malformed(Codec::Lz4, &[compressed(Codec::Lz4, b"one "), compressed(Codec::Lz4, b"two")].concat());
}

// --- bombs ------------------------------------------------------------------------------------------------------------

/// A stream of `codec` that is `bytes` zeros, made as small as the format allows.
fn bomb(codec: Codec, bytes: usize) -> Vec<u8> {
    match codec {
        Codec::None => vec![0; bytes],
        Codec::Gzip => gzip_bomb(bytes),
        Codec::Snappy => snappy_bomb(bytes),
        Codec::Lz4 => lz4_bomb(bytes),
        Codec::Zstd => zstd_bomb(bytes, None),
    }
}

/// Members of up to 1 MiB.
fn gzip_bomb(bytes: usize) -> Vec<u8> {
    let member = compressed(Codec::Gzip, &vec![0; bytes.min(MIB)]);
    member.repeat(bytes.div_ceil(MIB))
}

/// One literal, then copies of 64 bytes.
fn snappy_bomb(bytes: usize) -> Vec<u8> {
    let mut raw = varint(bytes as u64);
    raw.extend([0, 0]);
    for copied in (1..bytes).step_by(64) {
        let length = (bytes - copied).min(64);
        raw.extend([(length - 1) as u8 >> 6 | (length as u8 - 1) << 2 | 0b10, 1, 0]);
    }
    raw
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Blocks of up to 4 MiB; the descriptor's checksum is that of these two bytes.
fn lz4_bomb(bytes: usize) -> Vec<u8> {
    let mut frame = [&0x184d_2204u32.to_le_bytes()[..], &[0x60, 0x70, 0x73]].concat();
    for done in (0..bytes).step_by(4 * MIB) {
        let block = lz4_zeros((bytes - done).min(4 * MIB));
        frame.extend((block.len() as u32).to_le_bytes());
        frame.extend(block);
    }
    frame.extend([0; 4]);
    frame
}

/// A literal of one zero, a copy of all but six, and the five literals that a block has to end with.
fn lz4_zeros(bytes: usize) -> Vec<u8> {
    let copied = bytes - 6;
    let mut block = vec![0x1f, 0, 1, 0];
    let rest = copied - 4 - 15;
    block.extend(vec![0xff; rest / 255]);
    block.push((rest % 255) as u8);
    block.extend([0x50, 0, 0, 0, 0, 0]);
    block
}

/// Blocks that say one byte and how often, 128 KiB at most.
fn zstd_bomb(bytes: usize, content_size: Option<u64>) -> Vec<u8> {
    let mut frame = 0xfd2f_b528u32.to_le_bytes().to_vec();
    match content_size {
        // A window of 128 KiB.
        None => frame.extend([0, 7 << 3]),
        Some(size) => {
            frame.extend([3 << 6, 7 << 3]);
            frame.extend(size.to_le_bytes());
        }
    }
    for done in (0..bytes).step_by(128 * KIB) {
        let block = (bytes - done).min(128 * KIB);
        let last = u32::from(done + block == bytes);
        frame.extend(&((block as u32) << 3 | 1 << 1 | last).to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[test]
fn bombs_up_to_what_is_allowed_come_out() {
    for codec in CODECS {
        for bytes in [4 * KIB, 100 * KIB, MIB] {
            assert_eq!(decompressed(codec, &bomb(codec, bytes)).map(|out| out.len()), Ok(bytes), "{codec:?}");
        }
    }
}

#[test]
fn bombs_beyond_what_is_allowed_end_there() {
    for codec in CODECS {
        for bytes in [MIB + 1, 2 * MIB, 64 * MIB, GIB] {
            check_too_large(codec, &bomb(codec, bytes));
        }
    }
    check_too_large(Codec::Zstd, &zstd_bomb(GIB, Some(GIB as u64)));
    let chunk = snappy_bomb(GIB / 16);
    let chunk = [&(chunk.len() as i32).to_be_bytes()[..], &chunk].concat();
    check_too_large(Codec::Snappy, &[&compressed(Codec::Snappy, b"")[..], &chunk.repeat(16)].concat());
}

#[test]
fn chunks_are_bounded_together() {
    let chunk = snappy_bomb(400 * KIB);
    let chunk = [&(chunk.len() as i32).to_be_bytes()[..], &chunk].concat();
    let chunks = |count| [&compressed(Codec::Snappy, b"")[..], &chunk.repeat(count)].concat();
    assert_eq!(decompressed(Codec::Snappy, &chunks(2)).map(|out| out.len()), Ok(800 * KIB));
    check_too_large(Codec::Snappy, &chunks(3));
}

/// The ratio binds where the caller would allow more: only zstd gets that far.
#[test]
fn what_went_in_bounds_what_comes_out() {
    let (bytes, mut out) = (64 * MIB, Vec::new());
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4] {
        out.clear();
        assert_eq!(decompress(codec, &bomb(codec, bytes), GIB, &mut out), Ok(()), "{codec:?}");
        assert_eq!(out.len(), bytes);
    }
    let bomb = zstd_bomb(bytes, None);
    let bytes_max = bomb.len() * RATIO_MAX;
    assert!(bytes_max > RATIO_EXEMPT_BYTES && bytes_max < bytes);
    let refused = DecompressError::TooLarge { compressed_bytes: bomb.len(), bytes_max };
    assert_eq!(decompress(Codec::Zstd, &bomb, GIB, &mut Vec::new()), Err(refused));
}

/// One layer comes off, and what is in it has to be records.
#[test]
fn a_bomb_in_a_stream_stays_what_it_is() {
    for codec in CODECS {
        let inner = bomb(codec, 64 * MIB);
        let inner = &inner[..inner.len().min(100 * KIB)];
        let outer = compressed(codec, inner);
        assert_eq!(decompressed(codec, &outer), Ok(inner.to_vec()));

        let mut builder = BatchBuilder::new(64 * KIB);
        (0..9).for_each(|_| builder.append(0, None, Some(b"some value or other"), &[]).unwrap());
        let batch = builder.build_compressed(Producer::NONE, codec);
        let mut forged = [&batch[..61], &outer].concat();
        let length = forged.len() as i32 - 12;
        forged[8..12].copy_from_slice(&length.to_be_bytes());
        let mut buffer = Vec::new();
        let batch = Batch::parse_one(&forged).unwrap();
        let mut records = batch.records_decompressed(BYTES_MAX, &mut buffer).unwrap();
        assert!(records.any(|record| matches!(record, Err(BatchError::Record { .. }))));
    }
}

// --- what a stream says about itself ----------------------------------------------------------------------------------

#[test]
fn lengths_announced_too_long_or_too_short() {
    for difference in [-1i64, 1, 1 << 20] {
        let mut member = compressed(Codec::Gzip, &sample());
        let position = member.len() - 4;
        let size = i64::from(u32::from_le_bytes(member[position..].try_into().unwrap())) + difference;
        member[position..].copy_from_slice(&(size as u32).to_le_bytes());
        check_malformed(Codec::Gzip, &member);

        let announced = |bytes: usize| (bytes as i64 + difference) as u64;
        let bomb = snappy_bomb(4 * KIB);
        let raw = [&varint(announced(4 * KIB))[..], &bomb[2..]].concat();
        check_malformed(Codec::Snappy, &raw);
        let chunk = |bytes: i64| [&(bytes as i32).to_be_bytes()[..], &bomb].concat();
        let header = compressed(Codec::Snappy, b"");
        check_malformed(Codec::Snappy, &[&header[..], &chunk(bomb.len() as i64 + difference)].concat());

        check_malformed(Codec::Zstd, &zstd_bomb(4 * KIB, Some(announced(4 * KIB))));
    }
    assert_eq!(decompressed(Codec::Zstd, &zstd_bomb(4 * KIB, Some(4096))), Ok(vec![0; 4 * KIB]));
    for bytes in [i32::MIN, -1, i32::MAX] {
        let header = compressed(Codec::Snappy, b"");
        check_malformed(Codec::Snappy, &[&header[..], &bytes.to_be_bytes()].concat());
    }
    check_malformed(Codec::Snappy, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]);
    check_malformed(Codec::Snappy, &[0xff; 12]);
}

/// The vector with its size in front, whose descriptor has a checksum: changed, it is not LZ4 any more; and blocks say more.
#[test]
fn lz4_says_its_size_and_its_blocks() {
    let bytes = bytes_of("record-batch-lz4-linked");
    let stream = Batch::parse_one(&bytes).unwrap().record_bytes();
    for position in 6..stream.len() {
        let mut changed = stream.to_vec();
        changed[position] ^= 1;
        check_malformed(Codec::Lz4, &changed);
    }
    let mut too_long = lz4_bomb(4 * KIB);
    too_long[7] += 1;
    check_malformed(Codec::Lz4, &too_long);
}

/// What a window of gigabytes would take, if a reader believed in it.
#[test]
fn windows_are_not_believed() {
    let mut frame = zstd_bomb(4 * KIB, None);
    for window_log in [27, 31, 41] {
        frame[5] = (window_log - 10) << 3;
        if let Ok(out) = decompressed(Codec::Zstd, &frame) {
            assert_eq!(out.len(), 4 * KIB);
        }
    }
}

#[test]
fn nothing_is_no_stream() {
    for codec in CODECS {
        check_malformed(codec, &[]);
        let empty = compressed(codec, &[]);
        assert_eq!(decompressed(codec, &empty), Ok(Vec::new()));
    }
}

proptest! {
    #[test]
    fn bytes_come_back(bytes in vec(any::<u8>(), 0..100_000), zeros in 0..50_000usize, codec in 0..4usize) {
        let bytes = [bytes, vec![0; zeros]].concat();
        let codec = CODECS[codec];
        let stream = compressed(codec, &bytes);
        prop_assert_eq!(decompressed(codec, &stream), Ok(bytes));
    }

    /// Bits flipped anywhere: refused, or other bytes within the bounds, where a format has no checksum.
    #[test]
    fn damage_is_bounded(
        codec in 0..4usize, changes in vec((any::<Index>(), any::<u8>()), 1..4), cut in any::<Index>(),
    ) {
        let codec = CODECS[codec];
        let mut stream = compressed(codec, &sample());
        for (position, value) in changes {
            let position = position.index(stream.len());
            stream[position] ^= value;
        }
        _ = decompressed(codec, &stream);
        _ = decompressed(codec, &stream[..cut.index(stream.len())]);
    }
}
