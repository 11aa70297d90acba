//! A batch made anew from some of its records: what compaction by key leaves of it.
//!
//! The hard idea: everything that says where the batch belongs stays, and only what it holds changes. Base offset, last
//! offset delta, leader epoch, producer and codec are those of the batch as it came, so offsets keep their meaning, a repeat
//! is still recognised by its sequence, and a batch may end up without records and still take its offsets.
//!
//! A batch that holds tombstones carries the time until which they stay, its *delete horizon*: an attribute bit says that
//! the base timestamp is that time. Timestamps of records do not change by it.

use bytes::BufMut;

use super::{
    batch_header::{BatchHeader, Codec, HEADER_BYTES, finish},
    compression::compress_records,
    record::Record,
};
use crate::varint;

/// See the module. Records are kept in their order.
#[derive(Debug)]
pub struct BatchRewriter {
    header: BatchHeader,
    delete_horizon_ms: Option<i64>,
    base_timestamp_ms: i64,
    max_timestamp_ms: Option<i64>,
    record_count: i32,
    /// Room for the header, then the records.
    bytes: Vec<u8>,
    body: Vec<u8>,
}

impl BatchRewriter {
    /// Starts a batch in the place of the one with this header. With `delete_horizon_ms`, its tombstones stay until then.
    pub fn new(header: &BatchHeader, delete_horizon_ms: Option<i64>) -> Self {
        Self {
            header: *header,
            delete_horizon_ms,
            base_timestamp_ms: delete_horizon_ms.unwrap_or(header.base_timestamp_ms),
            max_timestamp_ms: None,
            record_count: 0,
            bytes: vec![0; HEADER_BYTES],
            body: Vec::new(),
        }
    }

    /// Adds a record of the batch.
    pub fn keep(&mut self, record: &Record<'_>) {
        if self.record_count == 0 && self.delete_horizon_ms.is_none() {
            self.base_timestamp_ms = record.timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(Some(record.timestamp_ms));
        let body = &mut self.body;
        body.clear();
        body.put_u8(0);
        // Wraps, and so does the reader's addition.
        varint::write(body, record.timestamp_ms.wrapping_sub(self.base_timestamp_ms));
        varint::write(body, record.offset.wrapping_sub(self.header.base_offset) as i64);
        put_nullable(body, record.key);
        put_nullable(body, record.value);
        varint::write(body, record.headers.len() as i64);
        for header in record.headers {
            put_nullable(body, Some(header.key));
            put_nullable(body, header.value);
        }
        varint::write(&mut self.bytes, self.body.len() as i64);
        self.bytes.extend_from_slice(&self.body);
        self.record_count += 1;
    }

    /// The batch, with a CRC of its own. It is compressed as it was, unless that no longer makes it smaller.
    pub fn finish(self) -> Vec<u8> {
        let attributes = self.header.attributes.with_delete_horizon(self.delete_horizon_ms.is_some());
        let (attributes, mut bytes) = match attributes.codec() {
            Some(codec) if codec != Codec::None => match compress_records(codec, &self.bytes[HEADER_BYTES..]) {
                Some(bytes) => (attributes, bytes),
                None => (attributes.with_codec(Codec::None), self.bytes),
            },
            _ => (attributes, self.bytes),
        };
        let max_timestamp_ms = match self.max_timestamp_ms {
            // The broker's time stands in the header for all, and an empty batch keeps what time it had.
            Some(max_timestamp_ms) if !attributes.is_log_append_time() => max_timestamp_ms,
            _ => self.header.max_timestamp_ms,
        };
        let (base_timestamp_ms, record_count) = (self.base_timestamp_ms, self.record_count);
        finish(
            &mut bytes,
            BatchHeader { attributes, base_timestamp_ms, max_timestamp_ms, record_count, ..self.header },
        );
        bytes
    }
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    varint::write(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Batch, BatchBuilder, Header, Producer, patch_base_offset, patch_leader_epoch};

    /// Ten records with keys, headers and jumping times; every third is a tombstone.
    fn batch(codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new(64 << 10);
        for number in 0..10u8 {
            let headers = [Header { key: b"h", value: (number % 2 == 0).then_some(&b"v"[..]) }];
            let value = [number; 100];
            let value = (number % 3 != 0).then_some(&value[..]);
            builder.append(1_000 - i64::from(number), Some(&[number]), value, &headers).unwrap();
        }
        let mut bytes = builder.build_compressed(Producer { id: 7, epoch: 2, base_sequence: 30 }, codec).to_vec();
        patch_base_offset(&mut bytes, 500);
        patch_leader_epoch(&mut bytes, 9);
        bytes
    }

    #[test]
    fn what_is_kept_is_as_it_was_and_so_is_the_place() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            for horizon in [None, Some(123_456_789)] {
                let bytes = batch(codec);
                let original = Batch::parse_one(&bytes).unwrap();
                let mut buffer = Vec::new();
                let records: Vec<_> =
                    original.records_decompressed(1 << 20, &mut buffer).unwrap().map(Result::unwrap).collect();
                let mut rewriter = BatchRewriter::new(original.header(), horizon);
                let kept: Vec<_> = records.iter().filter(|record| record.offset % 4 != 0).collect();
                kept.iter().for_each(|record| rewriter.keep(record));
                let rewritten = rewriter.finish();

                let batch = Batch::parse_one(&rewritten).unwrap();
                batch.verify_stored().unwrap();
                let mut buffer = Vec::new();
                let found: Vec<_> =
                    batch.records_decompressed(1 << 20, &mut buffer).unwrap().map(Result::unwrap).collect();
                assert_eq!(found.iter().collect::<Vec<_>>(), kept, "{codec:?} {horizon:?}");
                assert_eq!(batch.delete_horizon_ms(), horizon);
                assert_eq!((batch.base_offset(), batch.next_offset(), batch.record_count()), (500, 510, 7));
                assert_eq!((batch.producer(), batch.leader_epoch()), (original.producer(), 9));
                assert_eq!((batch.codec(), batch.max_timestamp_ms()), (codec, 999));
            }
        }
    }

    #[test]
    fn an_emptied_batch_still_takes_its_offsets() {
        let bytes = batch(Codec::Zstd);
        let rewritten = BatchRewriter::new(Batch::parse_one(&bytes).unwrap().header(), None).finish();
        let batch = Batch::parse_one(&rewritten).unwrap();
        batch.verify_stored().unwrap();
        assert_eq!((batch.base_offset(), batch.next_offset(), batch.record_count()), (500, 510, 0));
        assert_eq!((batch.last_sequence(), batch.max_timestamp_ms()), (39, 1_000));
        assert_eq!(batch.records().unwrap().count(), 0);
        assert_eq!(rewritten.len(), HEADER_BYTES);
    }

    #[test]
    fn what_would_pass_for_a_bomb_is_not_compressed() {
        let mut builder = BatchBuilder::new(8 << 20);
        builder.append(0, Some(b"k"), Some(&vec![0; 4 << 20]), &[]).unwrap();
        let bytes = builder.build(Producer::NONE);
        let original = Batch::parse_one(&bytes).unwrap();
        let attributes = original.attributes().with_codec(Codec::Zstd);
        let mut rewriter = BatchRewriter::new(&BatchHeader { attributes, ..*original.header() }, None);
        original.records().unwrap().for_each(|record| rewriter.keep(&record.unwrap()));
        let rewritten = rewriter.finish();
        let batch = Batch::parse_one(&rewritten).unwrap();
        assert_eq!(batch.codec(), Codec::None);
        batch.verify_for_produce().unwrap();
    }
}
