//! A batch as a whole: a view of someone's bytes, and everything that is checked about it.
//!
//! The hard idea: checks come in three depths, each paid for where it is needed. Parsing looks at the header only, which is
//! enough to step over a batch; a stored one is verified by its CRC; a producer's byte by byte, before it is anyone's problem.

use thiserror::Error;

use super::{
    batch_header::{Attributes, BatchHeader, Codec, HEADER_BYTES, Producer, finish, position},
    compression::{self, DecompressError},
    record::{RecordError, Records},
};

/// Bytes up to and including the length field, which does not count them.
const LENGTH_END: usize = 12;

/// The smallest value of the length field: a header and no records.
const LENGTH_MIN: usize = HEADER_BYTES - LENGTH_END;

/// The only record layout there is; 0 and 1 ended with Kafka 0.11.
const MAGIC: i8 = 2;

const _: () = assert!(position::LENGTH + 4 == LENGTH_END);

/// Why bytes are not a batch, or not one that may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("batch cut short: {bytes_needed} bytes needed, {bytes_found} found")]
    Truncated {
        /// Bytes the header or the whole batch takes, as far as is known.
        bytes_needed: usize,
        /// Bytes there are.
        bytes_found: usize,
    },
    /// More follows where exactly one batch is allowed.
    #[error("one batch of {batch_bytes} bytes expected, {bytes_found} bytes found")]
    Trailing {
        /// Bytes of the first batch.
        batch_bytes: usize,
        /// Bytes there are.
        bytes_found: usize,
    },
    /// The length field cannot be right.
    #[error("batch length is {found}, at least {LENGTH_MIN} expected")]
    Length {
        /// The field's value.
        found: i32,
    },
    /// Another record layout.
    #[error("batch magic is {found}, {MAGIC} expected")]
    Magic {
        /// The field's value.
        found: i8,
    },
    /// The bytes are not those the producer sent.
    #[error("batch CRC-32C is {found:#010x}, {expected:#010x} expected")]
    Crc {
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
    /// A codec number that was never given out.
    #[error("batch codec is {found}, 0 to 4 expected")]
    UnknownCodec {
        /// The low three attribute bits.
        found: u8,
    },
    /// The records are compressed, so they cannot be walked as they lie.
    #[error("batch is compressed with {codec:?}")]
    Compressed {
        /// What it is compressed with.
        codec: Codec,
    },
    /// The records are compressed, and do not come out.
    #[error("records of the batch: {source}")]
    Decompress {
        /// Why not.
        source: DecompressError,
    },
    /// Record count and last offset delta contradict each other.
    #[error("batch has {record_count} records and last offset delta {last_offset_delta}")]
    RecordCount {
        /// The field's value.
        record_count: i32,
        /// The field's value.
        last_offset_delta: i32,
    },
    /// Base offset negative, or an offset past what 63 bits hold.
    #[error("batch base offset is {found}")]
    BaseOffset {
        /// The field's value.
        found: i64,
    },
    /// A control batch, which only brokers write.
    #[error("batch is a control batch, which a producer may not send")]
    Control,
    /// Producer id, epoch and sequence do not go together.
    #[error(
        "batch has producer id {}, epoch {}, base sequence {}, transactional {transactional}",
        producer.id, producer.epoch, producer.base_sequence
    )]
    Producer {
        /// The three fields.
        producer: Producer,
        /// Whether the batch claims to be part of a transaction.
        transactional: bool,
    },
    /// A record inside does not parse.
    #[error("record {index} of the batch: {source}")]
    Record {
        /// Which record, from 0.
        index: i32,
        /// What is wrong with it.
        source: RecordError,
    },
}

/// One whole batch in someone's bytes. Its header was checked; its CRC and records are checked by the `verify_*` methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The first batch of `bytes`; what lies behind it is left alone.
    ///
    /// Checks bounds, length, magic, counts and codec. The base offset is read as it stands: of a producer's batch it means
    /// nothing, of a stored one [`verify_stored`](Self::verify_stored) checks it.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let bytes_found = bytes.len();
        let Some(head) = bytes.first_chunk() else {
            return Err(BatchError::Truncated { bytes_needed: HEADER_BYTES, bytes_found });
        };
        let (header, bytes_needed) = Batch::parse_header(head)?;
        match bytes.get(..bytes_needed) {
            Some(bytes) => Ok(Self { header, bytes }),
            None => Err(BatchError::Truncated { bytes_needed, bytes_found }),
        }
    }

    /// The header of a batch that does not lie in one piece, and how many bytes the batch has, header and all. Checks what
    /// [`parse`](Self::parse) does, but the bounds.
    #[inline]
    pub fn parse_header(head: &[u8; HEADER_BYTES]) -> Result<(BatchHeader, usize), BatchError> {
        let header = BatchHeader::decode(head);
        // The magic lies where it always lay, so a batch of another layout is called that, not a bad length.
        check_header(&header)?;
        let bytes = batch_bytes(&header)?;
        Ok((header, bytes))
    }

    /// The one batch that `bytes` are: like [`parse`](Self::parse), and nothing may follow.
    #[inline]
    pub fn parse_one(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let batch = Self::parse(bytes)?;
        if batch.bytes.len() < bytes.len() {
            return Err(BatchError::Trailing { batch_bytes: batch.bytes.len(), bytes_found: bytes.len() });
        }
        Ok(batch)
    }

    /// All a broker asks of a producer's batch, whatever protocol carried it: a matching CRC, one record for each offset, no
    /// control bit, a producer whose fields go together, and, where they are not compressed, records that every consumer
    /// will be able to read. How large a batch may be and what its sequence number must be is the caller's to check.
    pub fn verify_for_produce(&self) -> Result<(), BatchError> {
        let header = &self.header;
        // Neither is negative, so this also refuses a batch without records.
        if header.record_count - 1 != header.last_offset_delta {
            return Err(record_count_error(header));
        }
        if header.attributes.is_control() {
            return Err(BatchError::Control);
        }
        let (producer, transactional) = (header.producer, header.attributes.is_transactional());
        let numbered = producer.is_idempotent() && producer.epoch >= 0 && producer.base_sequence >= 0;
        if !numbered && (producer.is_idempotent() || transactional) {
            return Err(BatchError::Producer { producer, transactional });
        }
        self.verify_crc()?;
        self.verify_records()
    }

    /// What holds for every batch that a broker has placed: offsets within 63 bits, and a matching CRC.
    pub fn verify_stored(&self) -> Result<(), BatchError> {
        let found = self.header.base_offset as i64;
        if found.checked_add(i64::from(self.header.last_offset_delta) + 1).is_none_or(|next| found < 0 || next < 0) {
            return Err(BatchError::BaseOffset { found });
        }
        self.verify_crc()
    }

    /// Whether the bytes are those the producer computed the CRC of.
    #[inline]
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let (expected, found) = (self.header.crc, crc32c::crc32c(&self.bytes[position::ATTRIBUTES..]));
        if expected == found { Ok(()) } else { Err(BatchError::Crc { expected, found }) }
    }

    /// Walks the records once, without allocating: each one's lengths add up, its offset is in order and inside the batch,
    /// and nothing is left over. Compressed records are taken on trust, for a broker does not decompress.
    pub fn verify_records(&self) -> Result<(), BatchError> {
        match self.records() {
            Ok(mut records) => records.try_for_each(|record| record.map(|_| ())),
            Err(BatchError::Compressed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The records in order, borrowed from the batch. Fails with [`BatchError::Compressed`] where they are compressed.
    pub fn records(&self) -> Result<Records<'a>, BatchError> {
        match self.codec() {
            Codec::None => Ok(Records::new(&self.header, self.record_bytes())),
            codec => Err(BatchError::Compressed { codec }),
        }
    }

    /// The records in order, whether they are compressed or not: borrowed from the batch, or from `buffer`, whose content
    /// they replace. More than `bytes_max` uncompressed bytes are refused.
    pub fn records_decompressed<'b>(&self, bytes_max: usize, buffer: &'b mut Vec<u8>) -> Result<Records<'b>, BatchError>
    where
        'a: 'b,
    {
        if self.codec() == Codec::None {
            return Ok(Records::new(&self.header, self.record_bytes()));
        }
        buffer.clear();
        self.decompress_into(bytes_max, buffer)?;
        Ok(Records::new(&self.header, buffer))
    }

    /// The same batch uncompressed, with length and CRC to match. More than `bytes_max` bytes of records are refused.
    pub fn decompressed(&self, bytes_max: usize) -> Result<Vec<u8>, BatchError> {
        let mut bytes = vec![0; HEADER_BYTES];
        self.decompress_into(bytes_max, &mut bytes)?;
        let attributes = self.header.attributes.with_codec(Codec::None);
        finish(&mut bytes, BatchHeader { attributes, ..self.header });
        Ok(bytes)
    }

    /// The same batch, its records compressed as they lie, with length and CRC to match. `None` if it is compressed already;
    /// if that does not make it smaller; or if it makes it so much smaller that
    /// [`decompress`](super::compression::decompress) would refuse it. Whoever gives it away in the place of this one
    /// verifies the CRC of this one before.
    ///
    /// # Panics
    /// When the crate was built without the codec.
    pub fn compressed(&self, codec: Codec) -> Option<Vec<u8>> {
        if self.codec() != Codec::None {
            return None;
        }
        let mut bytes = compression::compress_records(codec, self.record_bytes())?;
        let attributes = self.header.attributes.with_codec(codec);
        finish(&mut bytes, BatchHeader { attributes, ..self.header });
        Some(bytes)
    }

    fn decompress_into(&self, bytes_max: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
        compression::decompress(self.codec(), self.record_bytes(), bytes_max, out)
            .map_err(|source| BatchError::Decompress { source })
    }

    /// Every field of the header.
    #[inline]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch: header and records.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The records as they lie, compressed or not.
    #[inline]
    pub fn record_bytes(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// Offset of the first record.
    #[inline]
    pub fn base_offset(&self) -> u64 {
        self.header.base_offset
    }

    /// Offset of the last record.
    #[inline]
    pub fn last_offset(&self) -> u64 {
        // Wraps only in what a producer sent as base offset, which is overwritten; `verify_stored` rules it out elsewhere.
        self.header.base_offset.wrapping_add(self.header.last_offset_delta as u64)
    }

    /// The offset that the next batch starts with.
    #[inline]
    pub fn next_offset(&self) -> u64 {
        self.last_offset().wrapping_add(1)
    }

    /// Offsets the batch takes up, at least 1.
    #[inline]
    pub fn offset_count(&self) -> u64 {
        self.header.last_offset_delta as u64 + 1
    }

    /// Number of records.
    #[inline]
    pub fn record_count(&self) -> u32 {
        self.header.record_count as u32
    }

    /// Epoch of the leader that placed the batch.
    #[inline]
    pub fn leader_epoch(&self) -> i32 {
        self.header.leader_epoch
    }

    /// CRC-32C as the producer computed it.
    #[inline]
    pub fn crc(&self) -> u32 {
        self.header.crc
    }

    /// Codec and flags.
    #[inline]
    pub fn attributes(&self) -> Attributes {
        self.header.attributes
    }

    /// How the records are compressed.
    #[inline]
    pub fn codec(&self) -> Codec {
        self.header.attributes.codec().expect("parse refused unknown codecs")
    }

    /// Until when the tombstones in it stay, milliseconds since 1970; `None` while compaction has not met them.
    #[inline]
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        self.header.attributes.has_delete_horizon().then_some(self.header.base_timestamp_ms)
    }

    /// Timestamp of the first record, milliseconds since 1970; the delete horizon instead, where there is one.
    #[inline]
    pub fn base_timestamp_ms(&self) -> i64 {
        self.header.base_timestamp_ms
    }

    /// Largest timestamp, milliseconds since 1970.
    #[inline]
    pub fn max_timestamp_ms(&self) -> i64 {
        self.header.max_timestamp_ms
    }

    /// Producer id, epoch and base sequence.
    #[inline]
    pub fn producer(&self) -> Producer {
        self.header.producer
    }

    /// Sequence number of the last record, where the producer is idempotent.
    #[inline]
    pub fn last_sequence(&self) -> i32 {
        self.header.producer.sequence_after(self.header.last_offset_delta)
    }
}

/// The batches of a run of whole batches, in order, as a fetch answer or a segment holds them. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    /// The batches that `bytes` are made of.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = Batch::parse(self.rest);
        self.rest = match &batch {
            Ok(batch) => &self.rest[batch.bytes.len()..],
            Err(_) => &[],
        };
        Some(batch)
    }
}

/// What holds for every batch, whoever wrote it.
#[inline]
fn check_header(header: &BatchHeader) -> Result<(), BatchError> {
    if header.magic != MAGIC {
        return Err(BatchError::Magic { found: header.magic });
    }
    let offsets = i64::from(header.last_offset_delta) + 1;
    if header.last_offset_delta < 0 || header.record_count < 0 || i64::from(header.record_count) > offsets {
        return Err(record_count_error(header));
    }
    match header.attributes.codec() {
        Some(_) => Ok(()),
        None => Err(BatchError::UnknownCodec { found: header.attributes.codec_number() }),
    }
}

#[cold]
fn record_count_error(header: &BatchHeader) -> BatchError {
    BatchError::RecordCount { record_count: header.record_count, last_offset_delta: header.last_offset_delta }
}

/// Bytes of the whole batch, as far as its length field can be believed.
#[inline]
fn batch_bytes(header: &BatchHeader) -> Result<usize, BatchError> {
    match usize::try_from(header.length) {
        Ok(length) if length >= LENGTH_MIN => Ok(LENGTH_END + length),
        _ => Err(BatchError::Length { found: header.length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, batch_header::overwrite, patch_base_offset, patch_leader_epoch};

    const PRODUCER: Producer = Producer { id: 7, epoch: 1, base_sequence: 40 };

    fn batch_of(values: &[&str], producer: Producer) -> Vec<u8> {
        let mut builder = BatchBuilder::new(4096);
        for value in values {
            builder.append(1_000, None, Some(value.as_bytes()), &[]).unwrap();
        }
        builder.build(producer).to_vec()
    }

    /// Changes a field and makes the CRC fit again, as a producer with that bug would.
    fn with<const N: usize>(mut batch: Vec<u8>, position: usize, value: [u8; N]) -> Vec<u8> {
        overwrite(&mut batch, position, value);
        let crc = crc32c::crc32c(&batch[position::ATTRIBUTES..]);
        overwrite(&mut batch, position::CRC, crc.to_be_bytes());
        batch
    }

    fn check_refused(batch: &[u8], expected: BatchError) {
        let refused = Batch::parse_one(batch).and_then(|batch| batch.verify_for_produce());
        assert_eq!(refused, Err(expected));
    }

    #[test]
    fn header_round_trip() {
        let batch = batch_of(&["a", "b"], PRODUCER);
        let header = BatchHeader::decode(batch.first_chunk().unwrap());
        assert_eq!(header.encode(), batch[..HEADER_BYTES]);
        assert_eq!(header.producer, PRODUCER);
        assert_eq!((header.record_count, header.last_offset_delta), (2, 1));
        assert_eq!(Batch::parse_one(&batch).unwrap().verify_for_produce(), Ok(()));
    }

    #[test]
    fn placing_a_batch_leaves_its_crc_valid() {
        let mut bytes = batch_of(&["a", "b", "c"], Producer::NONE);
        patch_base_offset(&mut bytes, 500);
        patch_leader_epoch(&mut bytes, 9);
        let batch = Batch::parse(&bytes).unwrap();
        assert_eq!(batch.verify_stored(), Ok(()));
        assert_eq!((batch.base_offset(), batch.last_offset(), batch.next_offset()), (500, 502, 503));
        assert_eq!(batch.leader_epoch(), 9);
    }

    #[test]
    fn stored_offsets_must_fit_63_bits() {
        let mut bytes = batch_of(&["a", "b"], Producer::NONE);
        patch_base_offset(&mut bytes, i64::MAX as u64 - 2);
        assert_eq!(Batch::parse(&bytes).unwrap().verify_stored(), Ok(()));
        for found in [i64::MAX - 1, i64::MAX, -1, i64::MIN] {
            overwrite(&mut bytes, position::BASE_OFFSET, found.to_be_bytes());
            let batch = Batch::parse(&bytes).unwrap();
            assert_eq!(batch.verify_stored(), Err(BatchError::BaseOffset { found }));
            batch.next_offset();
        }
    }

    #[test]
    fn every_flipped_bit_under_the_crc_shows() {
        let batch = batch_of(&["payload"], PRODUCER);
        for position in position::ATTRIBUTES..batch.len() {
            for bit in 0..8 {
                let mut damaged = batch.clone();
                damaged[position] ^= 1 << bit;
                let verified = Batch::parse_one(&damaged).and_then(|batch| batch.verify_crc());
                assert!(verified.is_err(), "bit {bit} of byte {position}");
            }
        }
    }

    #[test]
    fn cut_short_at_every_length() {
        let batch = batch_of(&["payload"], PRODUCER);
        for bytes_found in 0..batch.len() {
            let bytes_needed = if bytes_found < HEADER_BYTES { HEADER_BYTES } else { batch.len() };
            assert_eq!(Batch::parse(&batch[..bytes_found]), Err(BatchError::Truncated { bytes_needed, bytes_found }));
        }
    }

    #[test]
    fn refused_by_header() {
        let good = || batch_of(&["a", "b"], PRODUCER);
        let bytes = good().len();
        check_refused(&[good(), vec![0]].concat(), BatchError::Trailing { batch_bytes: bytes, bytes_found: bytes + 1 });
        check_refused(&with(good(), position::MAGIC, [1]), BatchError::Magic { found: 1 });
        for found in [48, -1, i32::MIN] {
            check_refused(&with(good(), position::LENGTH, found.to_be_bytes()), BatchError::Length { found });
        }
        check_refused(
            &with(good(), position::LENGTH, i32::MAX.to_be_bytes()),
            BatchError::Truncated { bytes_needed: 12 + i32::MAX as usize, bytes_found: bytes },
        );
        check_refused(&with(good(), position::ATTRIBUTES, 5i16.to_be_bytes()), BatchError::UnknownCodec { found: 5 });
        check_refused(&with(good(), position::ATTRIBUTES, 0x20i16.to_be_bytes()), BatchError::Control);
        for (record_count, last_offset_delta) in [(2, 0), (1, 1), (0, 0), (-1, -2), (0, -1), (i32::MIN, i32::MAX)] {
            let batch = with(good(), position::RECORD_COUNT, record_count.to_be_bytes());
            let batch = with(batch, position::LAST_OFFSET_DELTA, last_offset_delta.to_be_bytes());
            check_refused(&batch, BatchError::RecordCount { record_count, last_offset_delta });
        }
    }

    #[test]
    fn compaction_leaves_fewer_records_than_offsets_and_never_more() {
        let check = |record_count: i32, last_offset_delta: i32, allowed: bool| {
            let batch = with(batch_of(&["a"], PRODUCER), position::RECORD_COUNT, record_count.to_be_bytes());
            let batch = with(batch, position::LAST_OFFSET_DELTA, last_offset_delta.to_be_bytes());
            assert_eq!(Batch::parse(&batch).is_ok(), allowed, "{record_count} records, {last_offset_delta}");
        };
        check(1, 4, true);
        check(0, 4, true);
        check(5, 4, true);
        check(6, 4, false);
        check(-1, 4, false);
        check(0, -1, false);
        check(i32::MAX, i32::MAX, true);
    }

    #[test]
    fn refused_by_producer_fields() {
        let check = |id, epoch, base_sequence, transactional| {
            let producer = Producer { id, epoch, base_sequence };
            let attributes = if transactional { Attributes::TRANSACTIONAL } else { 0 };
            let batch = with(batch_of(&["a"], producer), position::ATTRIBUTES, attributes.to_be_bytes());
            check_refused(&batch, BatchError::Producer { producer, transactional });
        };
        check(7, 0, -1, false);
        check(7, -1, 0, false);
        check(-1, -1, -1, true);
    }

    #[test]
    fn refused_by_a_record() {
        let good = batch_of(&["a", "b"], PRODUCER);
        // Each record is length, attributes, timestamp delta, offset delta, key, value, headers: eight bytes for these.
        let length_of_second = HEADER_BYTES + 8;
        let batch = with(good.clone(), position::BASE_OFFSET, [0; 8]);
        assert_eq!(batch[length_of_second], 7 << 1);
        for damage in [0, 6 << 1, 8 << 1, 1] {
            let mut batch = batch.clone();
            batch[length_of_second] = damage;
            let batch = with(batch, position::BASE_OFFSET, [0; 8]);
            let refused = Batch::parse_one(&batch).unwrap().verify_for_produce();
            assert!(matches!(refused, Err(BatchError::Record { index: 1, .. })), "{refused:?}");
        }
    }

    #[test]
    fn compressed_records_are_taken_on_trust_but_not_walked() {
        let batch = with(batch_of(&["a"], PRODUCER), position::ATTRIBUTES, 4i16.to_be_bytes());
        let batch = Batch::parse_one(&batch).unwrap();
        assert_eq!(batch.verify_for_produce(), Ok(()));
        assert_eq!(batch.records().err(), Some(BatchError::Compressed { codec: Codec::Zstd }));
    }

    #[test]
    fn a_run_of_batches_ends_at_the_first_bad_one() {
        let mut run = [batch_of(&["a"], PRODUCER), batch_of(&["b", "c"], PRODUCER)].concat();
        assert_eq!(Batches::new(&run).map(|batch| batch.unwrap().record_count()).collect::<Vec<_>>(), [1, 2]);
        run.truncate(run.len() - 1);
        let mut batches = Batches::new(&run);
        assert!(matches!(batches.next(), Some(Ok(_))));
        assert!(matches!(batches.next(), Some(Err(BatchError::Truncated { .. }))));
        assert_eq!(batches.next(), None);
    }
}
