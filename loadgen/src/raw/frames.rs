//! Produce requests encoded beforehand, in a row, and what differs from one sending to the next.
//!
//! Before a frame is sent again its head is written anew, each record is stamped with its new value (16 bytes of a small
//! record), and the batch's CRC is computed. Without verification the batches never change.

use history::{Payload, Value};
use wire::{
    PartitionId,
    api::produce::{BatchRow, RequestHead},
    frame,
    record::{AppendError, Batch, BatchBuilder, Producer, position},
};

use crate::scenario::{KEY_BYTES, key};

/// Frames lie in one buffer of about this size: it stays in the cache, and one write sends all that are due.
const ARENA_BYTES: usize = 256 * 1024;

/// What all batches of a run have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'a> {
    /// What fills the records; zeros if there is none.
    pub(super) payload: Option<&'a Payload>,
    /// Bytes of a record's value.
    pub(super) record_size: usize,
    pub(super) batch_records: usize,
    /// Whether records have keys.
    pub(super) is_keyed: bool,
    /// What the broker takes.
    pub(super) batch_bytes_max: usize,
    pub(super) frame_bytes_max: usize,
}

/// Frames of one size in a row.
#[derive(Debug)]
pub(super) struct Frames {
    arena: Vec<u8>,
    head_bytes: usize,
    frame_bytes: usize,
    /// Where values and keys begin in a batch.
    values: Vec<usize>,
    keys: Vec<usize>,
    record_size: usize,
    frame_bytes_max: usize,
    head: Vec<u8>,
}

/// What differs from one sending to the next.
#[derive(Debug)]
pub(super) struct Stamp<'a> {
    pub(super) correlation: u32,
    pub(super) partition: PartitionId,
    /// The first record's value, and how to write it; nothing where nothing is verified.
    pub(super) values: Option<(&'a Payload, Value)>,
    /// Milliseconds since 1970.
    pub(super) timestamp_ms: i64,
}

impl Frames {
    /// As many frames as fit the cache, at most `count_max`.
    ///
    /// # Errors
    /// When a batch is larger than the broker takes.
    pub(super) fn new(shape: &Shape<'_>, count_max: usize) -> Result<Self, AppendError> {
        let Shape { record_size, frame_bytes_max, .. } = *shape;
        let batch = encode_batch(shape)?;
        let (values, keys) = positions(&batch);
        let mut head = Vec::new();
        encode_head(&mut head, 0, PartitionId(0), batch.len(), frame_bytes_max);
        let (head_bytes, frame_bytes) = (head.len(), head.len() + batch.len());
        let count = (ARENA_BYTES / frame_bytes).clamp(1, count_max);
        let arena = [head.as_slice(), &batch].concat().repeat(count);
        Ok(Self { arena, head_bytes, frame_bytes, values, keys, record_size, frame_bytes_max, head })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.arena.len() / self.frame_bytes
    }

    /// Makes frame `index` ready to be sent; where records have keys, `key_number` draws each.
    pub(super) fn stamp(&mut self, index: usize, stamp: &Stamp<'_>, mut key_number: impl FnMut() -> u32) {
        let frame = &mut self.arena[index * self.frame_bytes..][..self.frame_bytes];
        let (head, batch) = frame.split_at_mut(self.head_bytes);
        encode_head(&mut self.head, stamp.correlation, stamp.partition, batch.len(), self.frame_bytes_max);
        head.copy_from_slice(&self.head);
        for &start in &self.keys {
            batch[start..start + KEY_BYTES].copy_from_slice(&key(key_number()));
        }
        if let Some((payload, first)) = stamp.values {
            for (&start, index) in self.values.iter().zip(0..) {
                payload.stamp(first.plus(index), &mut batch[start..start + self.record_size]);
            }
            for field in [position::BASE_TIMESTAMP, position::MAX_TIMESTAMP] {
                batch[field..field + 8].copy_from_slice(&stamp.timestamp_ms.to_be_bytes());
            }
        }
        if stamp.values.is_some() || !self.keys.is_empty() {
            let crc = crc32c::crc32c(&batch[position::ATTRIBUTES..]);
            batch[position::CRC..position::ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
        }
    }

    /// The first frames, as they go out.
    pub(super) fn bytes(&self, count: usize) -> &[u8] {
        &self.arena[..count * self.frame_bytes]
    }
}

fn encode_batch(shape: &Shape<'_>) -> Result<Vec<u8>, AppendError> {
    let mut value = vec![0; shape.record_size];
    if let Some(payload) = shape.payload {
        payload.write(Value::from_u64(0), &mut value);
    }
    let key = shape.is_keyed.then(|| key(0));
    let mut builder = BatchBuilder::new(shape.batch_bytes_max);
    for _ in 0..shape.batch_records {
        builder.append(0, key.as_ref().map(|key| &key[..]), Some(&value), &[])?;
    }
    Ok(builder.build(Producer::NONE).to_vec())
}

/// Where values and keys begin.
fn positions(batch: &[u8]) -> (Vec<usize>, Vec<usize>) {
    let start = batch.as_ptr().addr();
    let within = |bytes: &[u8]| bytes.as_ptr().addr() - start;
    let records = || {
        let records = Batch::parse_one(batch).and_then(|batch| batch.records()).expect("just built");
        records.map(|record| record.expect("just built"))
    };
    let values = records().filter_map(|record| record.value.map(within)).collect();
    let keys = records().filter_map(|record| record.key.map(within)).collect();
    (values, keys)
}

fn encode_head(
    out: &mut Vec<u8>,
    correlation: u32,
    partition: PartitionId,
    batch_bytes: usize,
    frame_bytes_max: usize,
) {
    let rows = [BatchRow { partition, batch_bytes: batch_bytes as u32 }];
    let head = RequestHead { timeout_ms: 0, batches: (&rows).into() };
    out.clear();
    frame::encode(out, correlation, 0, &head, frame_bytes_max).expect("a batch the broker takes fits its frames");
}

#[cfg(test)]
mod tests {
    use history::WriterId;
    use wire::{
        api::{Message, produce::Request},
        frame::{Decoded, Frame},
        header::RequestHeader,
    };

    use super::*;

    const LIMIT: usize = 1 << 20;

    const SHAPE: Shape<'_> = Shape {
        payload: None,
        record_size: 100,
        batch_records: 10,
        is_keyed: false,
        batch_bytes_max: LIMIT,
        frame_bytes_max: LIMIT,
    };

    #[test]
    fn a_stamped_frame_is_a_request_with_the_values_asked_for() {
        let payload = Payload::new(1, 100);
        let mut frames = Frames::new(&Shape { payload: Some(&payload), is_keyed: true, ..SHAPE }, 3).unwrap();
        assert_eq!(frames.len(), 3);
        let first = Value::new(WriterId::new(5), 70);
        let stamp =
            Stamp { correlation: 9, partition: PartitionId(4), values: Some((&payload, first)), timestamp_ms: 1_234 };
        let mut number = 40;
        let count = || {
            number += 1;
            number
        };
        frames.stamp(1, &stamp, count);
        let bytes = &frames.bytes(2)[frames.frame_bytes..];
        let Ok(Decoded::Frame(frame)) = Frame::<RequestHeader>::decode(bytes, LIMIT) else { panic!("a whole frame") };
        assert_eq!((frame.header.correlation, frame.frame_bytes()), (9, bytes.len()));
        let request = Request::decode(0, frame.body).unwrap();
        let (partition, batch) = request.batches().next().unwrap();
        assert_eq!(partition, PartitionId(4));
        let batch = Batch::parse_one(batch).unwrap();
        batch.verify_for_produce().unwrap();
        let records: Vec<_> = batch.records().unwrap().map(Result::unwrap).collect();
        assert_eq!(records.len(), 10);
        for (index, record) in (0..).zip(&records) {
            assert_eq!(payload.read(record.value.unwrap()), Ok(first.plus(index)));
            assert_eq!(record.key, Some(&key(41 + index as u32)[..]));
            assert_eq!(record.timestamp_ms, 1_234);
        }
    }

    #[test]
    fn without_values_only_the_head_changes() {
        let mut frames = Frames::new(&SHAPE, 1).unwrap();
        let before = frames.bytes(1).to_vec();
        frames.stamp(0, &Stamp { correlation: 9, partition: PartitionId(4), values: None, timestamp_ms: 7 }, || 0);
        assert_ne!(frames.bytes(1), before);
        assert_eq!(frames.bytes(1)[frames.head_bytes..], before[frames.head_bytes..]);
    }

    #[test]
    fn a_batch_the_broker_would_refuse_is_not_sent() {
        let frames = Frames::new(&Shape { batch_bytes_max: 1_000, ..SHAPE }, 1);
        assert!(matches!(frames, Err(AppendError::Full { batch_bytes_max: 1_000, .. })));
    }

    #[test]
    fn large_frames_are_few() {
        let frames = Frames::new(&Shape { record_size: 1024, batch_records: 200, ..SHAPE }, 100).unwrap();
        assert_eq!(frames.len(), 1);
    }
}
