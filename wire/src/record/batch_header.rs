//! The 61 bytes in front of a batch's records, and the two fields of them that a broker overwrites.
//!
//! ```text
//!  0 base offset     i64   not covered by the CRC: the broker's
//!  8 length          i32   bytes after this field
//! 12 leader epoch    i32   not covered by the CRC: the broker's
//! 16 magic           i8    2
//! 17 crc             u32   CRC-32C of all that follows
//! 21 attributes      i16   codec 0-2, log append time 3, transactional 4, control 5, delete horizon 6
//! 23 last offset delta i32
//! 27 base timestamp  i64   milliseconds since 1970
//! 35 max timestamp   i64
//! 43 producer id     i64   -1: not idempotent
//! 51 producer epoch  i16
//! 53 base sequence   i32
//! 57 record count    i32
//! 61 records
//! ```
//!
//! All big-endian; the layout is Kafka's (KIP-98), which has not changed since 2017. The hard idea: because the CRC starts
//! behind the leader epoch, a batch is placed in a partition by overwriting twelve bytes in place, and stays the producer's.

/// Bytes of a batch before its first record.
pub const HEADER_BYTES: usize = 61;

/// The leader epoch of a batch that no leader has placed yet.
pub const NO_LEADER_EPOCH: i32 = -1;

/// Where each field of the header lies.
pub mod position {
    /// Base offset, i64.
    pub const BASE_OFFSET: usize = 0;
    /// Bytes after this field, i32.
    pub const LENGTH: usize = 8;
    /// Leader epoch, i32.
    pub const LEADER_EPOCH: usize = 12;
    /// Version of the layout, i8.
    pub const MAGIC: usize = 16;
    /// CRC-32C of everything from [`ATTRIBUTES`] on, u32.
    pub const CRC: usize = 17;
    /// Attribute bits, i16: the first field under the CRC.
    pub const ATTRIBUTES: usize = 21;
    /// Last offset minus base offset, i32.
    pub const LAST_OFFSET_DELTA: usize = 23;
    /// Timestamp of the first record, i64.
    pub const BASE_TIMESTAMP: usize = 27;
    /// Largest timestamp, i64.
    pub const MAX_TIMESTAMP: usize = 35;
    /// Producer id, i64.
    pub const PRODUCER_ID: usize = 43;
    /// Producer epoch, i16.
    pub const PRODUCER_EPOCH: usize = 51;
    /// Sequence number of the first record, i32.
    pub const BASE_SEQUENCE: usize = 53;
    /// Number of records, i32.
    pub const RECORD_COUNT: usize = 57;
}

const _: () = assert!(position::RECORD_COUNT + 4 == HEADER_BYTES);

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    None = 0,
    /// Gzip.
    Gzip = 1,
    /// Snappy: raw, or in the chunks of the Java library.
    Snappy = 2,
    /// LZ4 frames.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

/// The attribute bits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    const CODEC_MASK: i16 = 0b111;
    const LOG_APPEND_TIME: i16 = 1 << 3;
    pub(super) const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const DELETE_HORIZON: i16 = 1 << 6;

    /// The codec; `None` for the numbers that were never given out.
    #[inline]
    pub fn codec(self) -> Option<Codec> {
        match self.codec_number() {
            0 => Some(Codec::None),
            1 => Some(Codec::Gzip),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            4 => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// The three bits that name the codec.
    #[inline]
    pub(super) fn codec_number(self) -> u8 {
        (self.0 & Self::CODEC_MASK) as u8
    }

    /// The same flags with another codec.
    #[inline]
    #[must_use]
    pub fn with_codec(self, codec: Codec) -> Self {
        Self(self.0 & !Self::CODEC_MASK | codec as i16)
    }

    /// Whether the base timestamp is the time until which the batch's tombstones stay.
    #[inline]
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    /// The same flags with a delete horizon, or without.
    #[inline]
    #[must_use]
    pub fn with_delete_horizon(self, has: bool) -> Self {
        Self(if has { self.0 | Self::DELETE_HORIZON } else { self.0 & !Self::DELETE_HORIZON })
    }

    /// Whether the broker set the timestamps: then every record has the batch's max timestamp.
    #[inline]
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }

    /// Whether the batch is part of a transaction.
    #[inline]
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch is a marker written by a broker, which consumers skip.
    #[inline]
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }
}

/// Who made a batch, and which it is of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// Given out by InitProducer; -1 where the producer is not idempotent.
    pub id: i64,
    /// Raised each time the producer starts anew under the same id.
    pub epoch: i16,
    /// Sequence number of the batch's first record in its partition; after `i32::MAX` comes 0.
    pub base_sequence: i32,
}

impl Producer {
    /// A producer that is not idempotent.
    pub const NONE: Self = Self { id: -1, epoch: -1, base_sequence: -1 };

    /// Whether repeats of the batch can be told from new ones.
    #[inline]
    pub fn is_idempotent(self) -> bool {
        self.id >= 0
    }

    /// The sequence number `delta` records after the first.
    #[inline]
    pub fn sequence_after(self, delta: i32) -> i32 {
        const NUMBERS: i64 = 1 << 31;
        ((i64::from(self.base_sequence) + i64::from(delta)) % NUMBERS) as i32
    }
}

/// Every field of a batch's header, as it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record. Producers send 0; whatever they send is overwritten.
    pub base_offset: u64,
    /// Bytes of the batch behind the length field: all but twelve.
    pub length: i32,
    /// Epoch of the leader that placed the batch; [`NO_LEADER_EPOCH`] before.
    pub leader_epoch: i32,
    /// Version of the layout: 2.
    pub magic: i8,
    /// CRC-32C over everything from the attributes on.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: Attributes,
    /// Last offset minus base offset.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, milliseconds since 1970.
    pub base_timestamp_ms: i64,
    /// Largest timestamp of the batch, milliseconds since 1970.
    pub max_timestamp_ms: i64,
    /// Producer id, epoch and base sequence.
    pub producer: Producer,
    /// Number of records: fewer than there are offsets once keys were compacted.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the fields without judging any.
    #[inline]
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        Self {
            base_offset: u64::from_be_bytes(field(bytes, position::BASE_OFFSET)),
            length: i32::from_be_bytes(field(bytes, position::LENGTH)),
            leader_epoch: i32::from_be_bytes(field(bytes, position::LEADER_EPOCH)),
            magic: i8::from_be_bytes(field(bytes, position::MAGIC)),
            crc: u32::from_be_bytes(field(bytes, position::CRC)),
            attributes: Attributes(i16::from_be_bytes(field(bytes, position::ATTRIBUTES))),
            last_offset_delta: i32::from_be_bytes(field(bytes, position::LAST_OFFSET_DELTA)),
            base_timestamp_ms: i64::from_be_bytes(field(bytes, position::BASE_TIMESTAMP)),
            max_timestamp_ms: i64::from_be_bytes(field(bytes, position::MAX_TIMESTAMP)),
            producer: Producer {
                id: i64::from_be_bytes(field(bytes, position::PRODUCER_ID)),
                epoch: i16::from_be_bytes(field(bytes, position::PRODUCER_EPOCH)),
                base_sequence: i32::from_be_bytes(field(bytes, position::BASE_SEQUENCE)),
            },
            record_count: i32::from_be_bytes(field(bytes, position::RECORD_COUNT)),
        }
    }

    /// The bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, position::BASE_OFFSET, self.base_offset.to_be_bytes());
        put(&mut bytes, position::LENGTH, self.length.to_be_bytes());
        put(&mut bytes, position::LEADER_EPOCH, self.leader_epoch.to_be_bytes());
        put(&mut bytes, position::MAGIC, self.magic.to_be_bytes());
        put(&mut bytes, position::CRC, self.crc.to_be_bytes());
        put(&mut bytes, position::ATTRIBUTES, self.attributes.0.to_be_bytes());
        put(&mut bytes, position::LAST_OFFSET_DELTA, self.last_offset_delta.to_be_bytes());
        put(&mut bytes, position::BASE_TIMESTAMP, self.base_timestamp_ms.to_be_bytes());
        put(&mut bytes, position::MAX_TIMESTAMP, self.max_timestamp_ms.to_be_bytes());
        put(&mut bytes, position::PRODUCER_ID, self.producer.id.to_be_bytes());
        put(&mut bytes, position::PRODUCER_EPOCH, self.producer.epoch.to_be_bytes());
        put(&mut bytes, position::BASE_SEQUENCE, self.producer.base_sequence.to_be_bytes());
        put(&mut bytes, position::RECORD_COUNT, self.record_count.to_be_bytes());
        bytes
    }
}

/// Writes `header` into the room kept for it in front of the records, with the length and the CRC that `batch` has.
pub(super) fn finish(batch: &mut [u8], header: BatchHeader) {
    let length = (batch.len() - position::LEADER_EPOCH) as i32;
    batch[..HEADER_BYTES].copy_from_slice(&BatchHeader { length, ..header }.encode());
    let crc = crc32c::crc32c(&batch[position::ATTRIBUTES..]);
    overwrite(batch, position::CRC, crc.to_be_bytes());
}

/// Places a batch in its partition: overwrites its base offset, which the CRC does not cover.
///
/// # Panics
/// When `batch` is shorter than a header or `base_offset` is above `i64::MAX`.
#[inline]
pub fn patch_base_offset(batch: &mut [u8], base_offset: u64) {
    assert!(base_offset <= i64::MAX as u64, "base offset {base_offset} does not fit a record batch");
    overwrite(batch, position::BASE_OFFSET, base_offset.to_be_bytes());
}

/// Says which leader placed a batch: overwrites its leader epoch, which the CRC does not cover.
///
/// # Panics
/// When `batch` is shorter than a header.
#[inline]
pub fn patch_leader_epoch(batch: &mut [u8], leader_epoch: i32) {
    overwrite(batch, position::LEADER_EPOCH, leader_epoch.to_be_bytes());
}

pub(super) fn overwrite<const N: usize>(batch: &mut [u8], position: usize, value: [u8; N]) {
    let header = batch.first_chunk_mut().expect("a batch is at least its header");
    put(header, position, value);
}

#[inline]
fn field<const N: usize>(header: &[u8; HEADER_BYTES], position: usize) -> [u8; N] {
    *header[position..].first_chunk().expect("every field lies inside the header")
}

#[inline]
fn put<const N: usize>(header: &mut [u8; HEADER_BYTES], position: usize, value: [u8; N]) {
    header[position..position + N].copy_from_slice(&value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_lies_where_the_picture_says() {
        let bytes: [u8; HEADER_BYTES] = std::array::from_fn(|position| position as u8);
        let header = BatchHeader::decode(&bytes);
        assert_eq!(header.base_offset, 0x0001_0203_0405_0607);
        assert_eq!(header.length, 0x0809_0a0b);
        assert_eq!(header.leader_epoch, 0x0c0d_0e0f);
        assert_eq!((header.magic, header.crc), (0x10, 0x1112_1314));
        assert_eq!(header.attributes, Attributes(0x1516));
        assert_eq!(header.last_offset_delta, 0x1718_191a);
        assert_eq!(header.base_timestamp_ms, 0x1b1c_1d1e_1f20_2122);
        assert_eq!(header.max_timestamp_ms, 0x2324_2526_2728_292a);
        let producer = Producer { id: 0x2b2c_2d2e_2f30_3132, epoch: 0x3334, base_sequence: 0x3536_3738 };
        assert_eq!(header.producer, producer);
        assert_eq!(header.record_count, 0x393a_3b3c);
        assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn sequence_numbers_wrap_to_zero() {
        let producer = Producer { id: 1, epoch: 0, base_sequence: i32::MAX - 1 };
        assert_eq!(producer.sequence_after(1), i32::MAX);
        assert_eq!(producer.sequence_after(2), 0);
        assert_eq!(producer.sequence_after(i32::MAX), i32::MAX - 2);
    }

    #[test]
    fn codecs_have_the_numbers_of_kafka() {
        let codecs: Vec<_> = (0..8).map(|number| Attributes(0x38 | number).codec()).collect();
        let known = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].map(Some);
        assert_eq!(codecs, [&known[..], &[None; 3]].concat());
        let numbers = known.map(|codec| codec.unwrap() as u8);
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
    }

    #[test]
    #[should_panic(expected = "does not fit a record batch")]
    fn an_offset_of_64_bits_is_our_own_bug() {
        patch_base_offset(&mut [0; HEADER_BYTES], 1 << 63);
    }
}
