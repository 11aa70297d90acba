//! Compression of what came uncompressed, where its topic asks for it: a merge reads and writes every batch anyway.
//!
//! The one hard idea: a batch is compressed once, as it lies, or never. The codec gets its records as they are, and its
//! header stays but for codec, length and CRC, so nothing changes that a consumer, a producer that repeats itself or another
//! merge goes by. One that is compressed already stays so, whatever the codec: its producer chose that, no merge has to
//! decompress what came from outside, and no later merge does the same work again.

use std::{cell::Cell, time::Duration};

use runtime::Runtime;
use wire::record::{Batch, Codec};

use crate::{
    PartitionId,
    index::time_index::DECOMPRESSED_BYTES_MAX,
    segment::{SegmentWriter, WriteError},
};

/// Shorter batches stay as they are. Of JSON lines in 320 bytes LZ4 saves a fifth and zstd a quarter, in 600 bytes twice as
/// much; and each reader pays some microseconds a batch to get them back.
const BATCH_BYTES_MIN: usize = 512;

/// So many bytes are compressed, or one batch, before others get a turn: about half a millisecond of zstd.
const BYTES_PER_TURN: usize = 64 << 10;

/// To begin with a batch costs as much as so many bytes, however short it is.
const BATCH_COST_BYTES: usize = 4 << 10;

/// The batch compressed; `None` leaves it as it is, because it is compressed or a control batch, would gain nothing, would
/// be too long for lookups to look into, or is not what its producer sent: nobody should be told that it is.
pub fn compressed(batch: &Batch<'_>, codec: Codec) -> Option<Vec<u8>> {
    let is_worth_it = batch.codec() == Codec::None
        && !batch.attributes().is_control()
        && batch.bytes().len() >= BATCH_BYTES_MIN
        && batch.record_bytes().len() <= DECOMPRESSED_BYTES_MAX;
    if !is_worth_it || batch.verify_crc().is_err() {
        return None;
    }
    batch.compressed(codec)
}

/// Compresses what one merge writes.
#[derive(Default)]
pub(super) struct Compressor {
    bytes_since_turn: Cell<usize>,
    saved_bytes: Cell<u64>,
}

impl Compressor {
    /// Adds whole batches of a partition to a segment, each compressed if that helps.
    pub(super) async fn push<R: Runtime>(
        &self,
        rt: &R,
        writer: &mut SegmentWriter<R>,
        partition: PartitionId,
        codec: Codec,
        batches: &[u8],
    ) -> Result<(), WriteError> {
        let mut rest = batches;
        while !rest.is_empty() {
            let Ok(batch) = Batch::parse(rest) else {
                // The writer says what is wrong with it.
                let passed = batches.len() - rest.len();
                return writer.push(partition, rest).await.map_err(|error| error.behind(passed));
            };
            rest = &rest[batch.bytes().len()..];
            match compressed(&batch, codec) {
                Some(bytes) => {
                    let saved_bytes = (batch.bytes().len() - bytes.len()) as u64;
                    self.saved_bytes.set(self.saved_bytes.get() + saved_bytes);
                    writer.push(partition, &bytes).await?;
                }
                None => writer.push(partition, batch.bytes()).await?,
            }
            self.take_turn(rt, batch.bytes().len()).await;
        }
        Ok(())
    }

    /// Bytes that batches have become smaller by.
    pub(super) fn saved_bytes(&self) -> u64 {
        self.saved_bytes.get()
    }

    async fn take_turn<R: Runtime>(&self, rt: &R, bytes: usize) {
        let bytes = self.bytes_since_turn.get() + bytes.max(BATCH_COST_BYTES);
        let is_over = bytes >= BYTES_PER_TURN;
        self.bytes_since_turn.set(if is_over { 0 } else { bytes });
        if is_over {
            rt.sleep(Duration::ZERO).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::record::{BatchBuilder, BatchHeader, Header, Producer, patch_base_offset, patch_leader_epoch, position};

    use super::*;

    const CODECS: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn builder(records: u8, value_bytes: usize) -> BatchBuilder {
        let mut builder = BatchBuilder::new(32 << 20);
        for number in 0..records {
            let headers = [Header { key: b"number", value: Some(&[number]) }, Header { key: b"nothing", value: None }];
            let value = vec![number; value_bytes];
            let value = (number % 5 != 4).then_some(&value[..]);
            builder.append(9_000 - i64::from(number), Some(&[b'k', number]), value, &headers).unwrap();
        }
        builder
    }

    fn placed(mut bytes: Vec<u8>) -> Vec<u8> {
        patch_base_offset(&mut bytes, 700);
        patch_leader_epoch(&mut bytes, 3);
        bytes
    }

    fn batch(records: u8, value_bytes: usize) -> Vec<u8> {
        placed(builder(records, value_bytes).build(Producer { id: 7, epoch: 2, base_sequence: 30 }).to_vec())
    }

    /// Changes the attributes and makes the CRC fit again.
    fn with_attributes(mut bytes: Vec<u8>, bits: i16) -> Vec<u8> {
        bytes[position::ATTRIBUTES..][..2].copy_from_slice(&bits.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[position::ATTRIBUTES..]);
        bytes[position::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Numbers without a pattern (splitmix64).
    fn splitmix(number: u64) -> u64 {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn check_left(bytes: &[u8], why: &str) {
        for codec in CODECS {
            assert_eq!(compressed(&Batch::parse_one(bytes).unwrap(), codec), None, "{why}, {codec:?}");
        }
    }

    #[test]
    fn records_and_place_are_what_they_were() {
        /// Log append time, transactional, and a delete horizon.
        const FLAGS: i16 = 1 << 3 | 1 << 4 | 1 << 6;
        for codec in CODECS {
            for bytes in [batch(20, 60), batch(1, 4_000), with_attributes(batch(20, 60), FLAGS)] {
                let original = Batch::parse_one(&bytes).unwrap();
                let made = compressed(&original, codec).expect("it gets smaller");
                assert!(made.len() < bytes.len());
                let made = Batch::parse_one(&made).unwrap();
                made.verify_stored().unwrap();
                let expected = BatchHeader {
                    attributes: original.attributes().with_codec(codec),
                    length: made.header().length,
                    crc: made.crc(),
                    ..*original.header()
                };
                assert_eq!(*made.header(), expected, "nothing else of the header changes");
                let mut buffer = Vec::new();
                let found = made.records_decompressed(1 << 20, &mut buffer).unwrap().map(Result::unwrap);
                let records = original.records().unwrap().map(Result::unwrap);
                assert!(found.eq(records), "{codec:?}");
                assert_eq!(buffer, original.record_bytes());
                assert_eq!(compressed(&made, codec), None, "not a second time");
            }
        }
    }

    #[test]
    fn what_would_gain_nothing_or_is_not_ours_to_change_is_left() {
        check_left(&batch(1, 100), "too short");
        let noise: Vec<u8> = (0..4_000u64).map(|number| (splitmix(number) >> 32) as u8).collect();
        let mut builder_of_noise = BatchBuilder::new(1 << 20);
        builder_of_noise.append(0, None, Some(&noise), &[]).unwrap();
        check_left(&placed(builder_of_noise.build(Producer::NONE).to_vec()), "nothing to gain");
        for codec in CODECS {
            let by_producer = builder(20, 60).build_compressed(Producer::NONE, codec);
            assert_eq!(Batch::parse_one(&by_producer).unwrap().codec(), codec);
            check_left(&by_producer, "compressed by its producer");
        }
        check_left(&with_attributes(batch(20, 60), 1 << 5), "a control batch");
        check_left(&batch(1, DECOMPRESSED_BYTES_MAX), "too long for lookups");
        let mut damaged = batch(20, 60);
        *damaged.last_mut().unwrap() ^= 1;
        check_left(&damaged, "not what its producer sent");
    }

    #[test]
    fn others_get_a_turn_now_and_then() {
        use std::{path::Path, rc::Rc};

        use runtime::sim::{SimRuntime, block_on};

        use crate::segment::SegmentId;

        block_on(1, async |rt: SimRuntime| {
            rt.create_dir_all(Path::new("segments")).await.unwrap();
            let mut writer = SegmentWriter::create(&rt, Path::new("segments"), SegmentId(1), 1, 1).await.unwrap();
            // Stays within one block of the disk, so that nothing but a turn lets anybody else run.
            let batches: Vec<u8> = (0..64)
                .flat_map(|number| {
                    let mut bytes = batch(40, 200);
                    patch_base_offset(&mut bytes, number * 40);
                    bytes
                })
                .collect();
            let turns = Rc::new(Cell::new(0));
            let counted = Rc::clone(&turns);
            let clock = rt.clone();
            let other = rt.spawn(async move {
                loop {
                    counted.set(counted.get() + 1);
                    clock.sleep(Duration::ZERO).await;
                }
            });
            let compressor = Compressor::default();
            compressor.push(&rt, &mut writer, PartitionId(1), Codec::Lz4, &batches).await.unwrap();
            assert_eq!(compressor.saved_bytes(), batches.len() as u64 - writer.batch_bytes());
            assert!(writer.batch_bytes() < batches.len() as u64 / 4);
            drop(other);
            let expected = batches.len() / BYTES_PER_TURN;
            assert!(expected > 2 && turns.get() >= expected, "{} turns in {} bytes", turns.get(), batches.len());
        });
    }
}
