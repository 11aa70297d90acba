//! The producer's side of a batch: records go in one by one, a finished batch comes out.
//!
//! The hard idea: records are encoded straight behind room kept for the header, so that finishing a batch writes 61 bytes
//! and one CRC and copies nothing; and the buffer is used again once the batch handed out has been dropped.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::batch_header::{Attributes, BatchHeader, Codec, HEADER_BYTES, NO_LEADER_EPOCH, Producer, finish};
use super::{compression::compress_records, record::Header};
use crate::varint;

/// Why a record was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The batch has no room for it: build the batch, then append again.
    #[error("a record of {record_bytes} bytes does not fit: the batch has {batch_bytes} of {batch_bytes_max} bytes")]
    Full {
        /// Bytes the record takes in a batch.
        record_bytes: usize,
        /// Bytes of the batch so far.
        batch_bytes: usize,
        /// The builder's limit.
        batch_bytes_max: usize,
    },
    /// It fits no batch of this size, however empty.
    #[error("a record of {record_bytes} bytes makes a batch larger than {batch_bytes_max} bytes")]
    TooLarge {
        /// Bytes the record takes in a batch.
        record_bytes: usize,
        /// The builder's limit.
        batch_bytes_max: usize,
    },
}

/// Makes batches, one after the other.
///
/// ```
/// use wire::record::{Batch, BatchBuilder, Producer};
///
/// let mut builder = BatchBuilder::new(64 * 1024);
/// builder.append(1_700_000_000_000, Some(b"user-7"), Some(b"signed in"), &[])?;
/// let bytes = builder.build(Producer::NONE);
///
/// let batch = Batch::parse_one(&bytes)?;
/// batch.verify_for_produce()?;
/// assert_eq!(batch.records()?.next().unwrap()?.value, Some(&b"signed in"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    buffer: BytesMut,
    batch_bytes_max: usize,
    record_count: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl BatchBuilder {
    /// A builder of batches of at most `batch_bytes_max` bytes, header included. Takes memory as records come.
    ///
    /// # Panics
    /// When `batch_bytes_max` is above `i32::MAX`, the layout's limit.
    pub fn new(batch_bytes_max: usize) -> Self {
        assert!(i32::try_from(batch_bytes_max).is_ok(), "a batch of {batch_bytes_max} bytes has no length field");
        Self { buffer: BytesMut::new(), batch_bytes_max, record_count: 0, base_timestamp_ms: 0, max_timestamp_ms: 0 }
    }

    /// Adds a record; nothing is kept of it on error.
    pub fn append(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<(), AppendError> {
        if self.record_count == 0 {
            self.base_timestamp_ms = timestamp_ms;
            self.max_timestamp_ms = timestamp_ms;
        }
        // Wraps, and so does the reader's addition: any two timestamps come back as they went in.
        let timestamp_delta = timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        let body_bytes = body_bytes(timestamp_delta, self.record_count, key, value, headers);
        let start = self.buffer.len().max(HEADER_BYTES);
        let end = start + self.check_room(body_bytes)?;
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);

        self.buffer.resize(end, 0);
        let mut out = &mut self.buffer[start..];
        varint::write(&mut out, body_bytes as i64);
        out.put_u8(0);
        varint::write(&mut out, timestamp_delta);
        varint::write(&mut out, i64::from(self.record_count));
        put_nullable(&mut out, key);
        put_nullable(&mut out, value);
        varint::write(&mut out, headers.len() as i64);
        for header in headers {
            put_nullable(&mut out, Some(header.key));
            put_nullable(&mut out, header.value);
        }
        assert!(out.is_empty(), "a record takes the bytes that were counted for it");
        self.record_count += 1;
        Ok(())
    }

    /// Ends the batch and starts the next. Base offset 0 and no leader epoch: both are the broker's to say.
    ///
    /// # Panics
    /// When no record was appended: there is no empty batch.
    pub fn build(&mut self, producer: Producer) -> Bytes {
        let header = self.end(producer);
        finish(&mut self.buffer, header);
        self.buffer.split().freeze()
    }

    /// Like [`build`](Self::build), with the records compressed where that makes the batch smaller, though not so much
    /// smaller that [`decompress`](super::compression::decompress) would refuse it.
    ///
    /// # Panics
    /// When no record was appended, or the crate was built without the codec.
    pub fn build_compressed(&mut self, producer: Producer, codec: Codec) -> Bytes {
        let Some(mut compressed) = compress_records(codec, &self.buffer[HEADER_BYTES..]) else {
            return self.build(producer);
        };
        let header = self.end(producer);
        finish(&mut compressed, BatchHeader { attributes: header.attributes.with_codec(codec), ..header });
        self.buffer.clear();
        compressed.into()
    }

    /// The header of what was appended, but for length and CRC; the next batch begins.
    fn end(&mut self, producer: Producer) -> BatchHeader {
        assert!(self.record_count > 0, "a batch has at least one record");
        let record_count = std::mem::take(&mut self.record_count);
        BatchHeader {
            base_offset: 0,
            length: 0,
            leader_epoch: NO_LEADER_EPOCH,
            magic: 2,
            crc: 0,
            attributes: Attributes::default(),
            last_offset_delta: record_count - 1,
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            producer,
            record_count,
        }
    }

    /// Records appended since the last batch.
    #[inline]
    pub fn record_count(&self) -> usize {
        self.record_count as usize
    }

    /// Whether nothing was appended since the last batch.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes the batch would have if it were built now; 0 when empty.
    #[inline]
    pub fn batch_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The limit the builder was made with.
    #[inline]
    pub fn batch_bytes_max(&self) -> usize {
        self.batch_bytes_max
    }

    /// Bytes of the record with its length, if the batch has room for them.
    fn check_room(&self, body_bytes: usize) -> Result<usize, AppendError> {
        let record_bytes = body_bytes.saturating_add(varint::encoded_bytes(body_bytes as i64));
        let (batch_bytes, batch_bytes_max) = (self.buffer.len(), self.batch_bytes_max);
        if record_bytes.saturating_add(batch_bytes.max(HEADER_BYTES)) <= batch_bytes_max {
            Ok(record_bytes)
        } else if record_bytes.saturating_add(HEADER_BYTES) > batch_bytes_max {
            Err(AppendError::TooLarge { record_bytes, batch_bytes_max })
        } else {
            Err(AppendError::Full { record_bytes, batch_bytes, batch_bytes_max })
        }
    }
}

/// Bytes of a record behind its length.
fn body_bytes(
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header<'_>],
) -> usize {
    let headers_bytes: usize =
        headers.iter().map(|header| nullable_bytes(Some(header.key)) + nullable_bytes(header.value)).sum();
    1 + varint::encoded_bytes(timestamp_delta)
        + varint::encoded_bytes(i64::from(offset_delta))
        + nullable_bytes(key)
        + nullable_bytes(value)
        + varint::encoded_bytes(headers.len() as i64)
        + headers_bytes
}

#[inline]
fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint::encoded_bytes(bytes.len() as i64) + bytes.len())
}

#[inline]
fn put_nullable(out: &mut &mut [u8], bytes: Option<&[u8]>) {
    match bytes {
        None => varint::write(out, -1),
        Some(bytes) => {
            varint::write(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Batch;

    #[test]
    fn what_goes_in_comes_out() {
        let headers = [Header { key: b"trace", value: Some(b"1f") }, Header { key: b"", value: None }];
        let mut builder = BatchBuilder::new(1024);
        builder.append(2_000, Some(b"k"), Some(b"v"), &headers).unwrap();
        builder.append(1_000, None, None, &[]).unwrap();
        builder.append(i64::MIN, Some(b""), Some(b""), &[]).unwrap();
        let bytes = builder.build(Producer::NONE);

        let batch = Batch::parse_one(&bytes).unwrap();
        batch.verify_for_produce().unwrap();
        assert_eq!((batch.base_timestamp_ms(), batch.max_timestamp_ms()), (2_000, 2_000));
        let records: Vec<_> = batch.records().unwrap().map(Result::unwrap).collect();
        assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(records.iter().map(|record| record.timestamp_ms).collect::<Vec<_>>(), [2_000, 1_000, i64::MIN]);
        assert_eq!((records[0].key, records[0].value), (Some(&b"k"[..]), Some(&b"v"[..])));
        assert_eq!((records[1].key, records[1].value), (None, None));
        assert_eq!((records[2].key, records[2].value), (Some(&b""[..]), Some(&b""[..])));
        assert_eq!(records[0].headers.collect::<Vec<_>>(), headers);
        assert!(records[1].headers.is_empty());
    }

    #[test]
    fn a_record_fits_to_the_byte_or_is_refused() {
        let mut builder = BatchBuilder::new(HEADER_BYTES + 2 * 12);
        builder.append(0, None, Some(b"five!"), &[]).unwrap();
        let (batch_bytes, batch_bytes_max) = (HEADER_BYTES + 12, HEADER_BYTES + 24);
        assert_eq!(builder.batch_bytes(), batch_bytes);
        let full = AppendError::Full { record_bytes: 13, batch_bytes, batch_bytes_max };
        assert_eq!(builder.append(0, None, Some(b"seven!"), &[]), Err(full));
        builder.append(0, None, Some(b"five!"), &[]).unwrap();
        assert_eq!(builder.build(Producer::NONE).len(), batch_bytes_max);

        let too_large = AppendError::TooLarge { record_bytes: 25, batch_bytes_max };
        assert_eq!(builder.append(0, None, Some(&[0; 18]), &[]), Err(too_large));
        assert!(builder.is_empty());
        builder.append(0, None, Some(&[0; 17]), &[]).unwrap();
    }

    #[test]
    fn the_buffer_is_used_again_once_the_batch_is_dropped() {
        let mut builder = BatchBuilder::new(64 * 1024);
        let mut fill = || {
            while builder.append(0, None, Some(&[1; 100]), &[]).is_ok() {}
            let bytes = builder.build(Producer::NONE);
            bytes.as_ptr() as usize
        };
        fill();
        let first = fill();
        assert_eq!((0..10).filter(|_| fill() == first).count(), 10);
    }

    #[test]
    fn a_refused_record_leaves_no_trace() {
        let mut builder = BatchBuilder::new(128);
        assert!(builder.append(9_999, None, Some(&[0; 200]), &[]).is_err());
        builder.append(1, None, Some(b"a"), &[]).unwrap();
        assert!(builder.append(9_999, None, Some(&[0; 60]), &[]).is_err());
        let bytes = builder.build(Producer::NONE);
        let batch = Batch::parse_one(&bytes).unwrap();
        batch.verify_for_produce().unwrap();
        assert_eq!((batch.base_timestamp_ms(), batch.max_timestamp_ms(), batch.record_count()), (1, 1, 1));
    }
}
