//! What a consumer receives: records that own their bytes, or whole batches whose records are borrowed.
//!
//! Both are slices of the bytes that came from the socket, or of the batch that was decompressed: nothing is copied. A batch
//! that is handed out was walked to its last record, so using it needs no errors.

use std::sync::Arc;

use bytes::Bytes;
use wire::record::{Batch, BatchError, Codec, Record as RecordRef};

/// A record, with shares of the bytes that were received: keeping one keeps the whole answer of about 1 MiB it came in, or,
/// where it was compressed, its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: u32,
    /// Its number in the partition.
    pub offset: u64,
    /// Milliseconds since 1970: the producer's clock, or the broker's where the topic says so.
    pub timestamp_ms: i64,
    /// What decided its partition, if there is one.
    pub key: Option<Bytes>,
    /// The payload; `None` marks the key as deleted.
    pub value: Option<Bytes>,
    /// What travelled beside the payload: names and values.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// A batch of records of one partition, at least one, as its producer made it.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    topic: Arc<str>,
    partition: u32,
    bytes: Bytes,
    /// The first offset wanted; records before it are left out.
    from: u64,
    next_offset: u64,
    max_timestamp_ms: i64,
    record_count: usize,
}

/// What a batch is asked for before it is handed out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demands {
    /// A CRC that matches.
    pub(crate) verify: bool,
    /// At most so many bytes of records, once decompressed.
    pub(crate) decompressed_bytes_max: usize,
}

impl RecordBatch {
    /// The batch that `bytes` are, from offset `from` on; `None` when it has nothing for a consumer: a marker, or records
    /// before `from` only.
    pub(crate) fn new(
        topic: Arc<str>,
        partition: u32,
        bytes: Bytes,
        from: u64,
        demands: Demands,
    ) -> Result<Option<Self>, BatchError> {
        let batch = Batch::parse_one(&bytes)?;
        if demands.verify {
            batch.verify_stored()?;
        }
        if batch.attributes().is_control() {
            return Ok(None);
        }
        let bytes = match batch.codec() {
            Codec::None => bytes,
            _ => batch.decompressed(demands.decompressed_bytes_max)?.into(),
        };
        let batch = Batch::parse_one(&bytes)?;
        let mut record_count = 0;
        for record in batch.records()? {
            record_count += usize::from(record?.offset >= from);
        }
        let (next_offset, max_timestamp_ms) = (batch.next_offset(), batch.max_timestamp_ms());
        let batch = Self { topic, partition, bytes, from, next_offset, max_timestamp_ms, record_count };
        Ok((record_count > 0).then_some(batch))
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// How many records [`Self::records`] gives.
    pub fn record_count(&self) -> usize {
        self.record_count
    }

    /// The offset behind the last record: where reading goes on.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// The largest timestamp of the batch, milliseconds since 1970.
    pub fn max_timestamp_ms(&self) -> i64 {
        self.max_timestamp_ms
    }

    /// The records in order, borrowed: no allocation, no reference counts.
    #[inline]
    pub fn records(&self) -> impl Iterator<Item = RecordRef<'_>> {
        let batch = Batch::parse_one(&self.bytes).expect("parsed when the batch was made");
        let records = batch.records().expect("decompressed when the batch was made");
        let from = self.from;
        records
            .map(|record| record.expect("walked when the batch was made"))
            .skip_while(move |record| record.offset < from)
    }

    /// The records in order, each with its own share of the bytes.
    pub fn into_records(self) -> impl Iterator<Item = Record> {
        let records: Vec<_> = self.records().map(|record| self.share(&record)).collect();
        records.into_iter()
    }

    /// The batch from a later offset on.
    pub(crate) fn starting_at(mut self, offset: u64) -> Self {
        self.record_count -= self.records().take_while(|record| record.offset < offset).count();
        self.from = offset;
        self
    }

    pub(crate) fn share(&self, record: &RecordRef<'_>) -> Record {
        let share = |slice: &[u8]| self.bytes.slice_ref(slice);
        Record {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(share),
            value: record.value.map(share),
            headers: record.headers.map(|header| (share(header.key), header.value.map(share))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::record::{BatchBuilder, Header, Producer, compression::DecompressError, patch_base_offset};

    use super::*;

    fn bytes(base_offset: u64) -> Vec<u8> {
        let headers = [Header { key: b"h", value: None }];
        let mut builder = BatchBuilder::new(1024);
        builder.append(5, Some(b"k"), Some(b"a"), &headers).unwrap();
        builder.append(6, None, None, &[]).unwrap();
        builder.append(7, None, Some(b"c"), &[]).unwrap();
        let mut bytes = builder.build(Producer::NONE).to_vec();
        patch_base_offset(&mut bytes, base_offset);
        bytes
    }

    const DEMANDS: Demands = Demands { verify: true, decompressed_bytes_max: 4096 };

    fn batch(from: u64) -> Option<RecordBatch> {
        RecordBatch::new("t".into(), 3, bytes(10).into(), from, DEMANDS).unwrap()
    }

    #[test]
    fn owned_records_are_slices_of_what_was_received() {
        let received: Bytes = bytes(10).into();
        let range = received.as_ptr_range();
        let batch = RecordBatch::new("t".into(), 3, received, 0, DEMANDS).unwrap().unwrap();
        assert_eq!((batch.record_count(), batch.next_offset(), batch.max_timestamp_ms()), (3, 13, 7));
        let records: Vec<_> = batch.into_records().collect();
        assert!(range.contains(&records[0].value.as_ref().unwrap().as_ptr()));
        assert_eq!(records[0].headers, [(Bytes::from_static(b"h"), None)]);
        assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [10, 11, 12]);
        assert_eq!((records[1].key.clone(), records[1].value.clone()), (None, None));
    }

    #[test]
    fn records_before_the_offset_wanted_are_left_out() {
        let batch = batch(11).unwrap();
        assert_eq!(batch.record_count(), 2);
        assert_eq!(batch.records().map(|record| record.offset).collect::<Vec<_>>(), [11, 12]);
        let batch = batch.starting_at(12);
        assert_eq!((batch.record_count(), batch.records().count()), (1, 1));
    }

    #[test]
    fn a_batch_with_nothing_to_give_is_none() {
        assert!(batch(13).is_none());
    }

    #[test]
    fn damage_shows_when_it_is_looked_for() {
        let mut damaged = bytes(10);
        *damaged.last_mut().unwrap() ^= 1;
        let found = |verify| RecordBatch::new("t".into(), 3, damaged.clone().into(), 0, Demands { verify, ..DEMANDS });
        assert!(matches!(found(true), Err(BatchError::Crc { .. })));
        assert!(matches!(found(false), Err(BatchError::Record { .. })));
    }

    #[test]
    fn a_compressed_batch_is_handed_out_uncompressed() {
        let mut builder = BatchBuilder::new(1 << 20);
        (0..100).for_each(|number| builder.append(number, None, Some(&[7; 100]), &[]).unwrap());
        let compressed = builder.build_compressed(Producer::NONE, Codec::Zstd);
        let found = |decompressed_bytes_max| {
            let demands = Demands { decompressed_bytes_max, ..DEMANDS };
            RecordBatch::new("t".into(), 3, compressed.clone(), 90, demands)
        };
        let batch = found(20_000).unwrap().unwrap();
        assert_eq!((batch.record_count(), batch.next_offset(), batch.max_timestamp_ms()), (10, 100, 99));
        assert!(batch.into_records().all(|record| record.value.unwrap() == [7; 100][..]));
        assert!(matches!(found(10_000), Err(BatchError::Decompress { source: DecompressError::TooLarge { .. } })));
    }
}
