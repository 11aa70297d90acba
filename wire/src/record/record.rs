//! One record, as it lies in an uncompressed batch: key, value and headers borrowed, offset and timestamp made absolute.
//!
//! ```text
//! length varint | attributes i8 | timestamp delta varlong | offset delta varint
//!   | key length varint (-1: none), key | value length varint (-1: none), value
//!   | header count varint | { key length varint, key, value length varint (-1: none), value } ...
//! ```
//!
//! The hard idea: a record is checked to its last header when it is decoded, so whoever holds a [`Record`] iterates its
//! headers without a further error, and a broker that decoded a batch once knows that no consumer will choke on it.

use thiserror::Error;

use super::{batch::BatchError, batch_header::BatchHeader};
use crate::varint;

/// What is wrong with a record's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A variable-length number is cut short or too wide.
    #[error("{field} is not a number")]
    Number {
        /// Which one.
        field: &'static str,
    },
    /// A length or count runs past the end of the record or batch, or is negative where it may not be.
    #[error("{field} is {found}, {bytes_left} bytes are left")]
    Length {
        /// Which one.
        field: &'static str,
        /// Its value.
        found: i32,
        /// Bytes behind it.
        bytes_left: usize,
    },
    /// Offsets that do not rise, or leave the batch.
    #[error("offset delta is {found}, {from} to {to} expected")]
    OffsetDelta {
        /// Its value.
        found: i32,
        /// Smallest it may be here.
        from: i32,
        /// Largest the batch allows.
        to: i32,
    },
    /// Bytes behind the last header, or behind the last record of the batch.
    #[error("{bytes_left} bytes left over")]
    LeftOver {
        /// How many.
        bytes_left: usize,
    },
}

/// A record, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number in the partition.
    pub offset: u64,
    /// Milliseconds since 1970: the producer's clock, or the broker's where the topic says so.
    pub timestamp_ms: i64,
    /// What decides the partition and what compaction keeps one of, if there is one.
    pub key: Option<&'a [u8]>,
    /// The payload; `None` marks the key as deleted.
    pub value: Option<&'a [u8]>,
    /// What travels beside the payload.
    pub headers: Headers<'a>,
}

/// One header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name, UTF-8 by convention; names may repeat.
    pub key: &'a [u8],
    /// Its value, if there is one.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, decoded as they are iterated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl Headers<'_> {
    /// How many are left.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.count = self.count.checked_sub(1)?;
        Some(take_header(&mut self.bytes).expect("headers were walked when the record was decoded"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// The records of an uncompressed batch, in order. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    base_offset: u64,
    /// `None`: the broker set the time, and it is the same for all.
    base_timestamp_ms: Option<i64>,
    max_timestamp_ms: i64,
    count: i32,
    index: i32,
    offset_delta_min: i32,
    offset_delta_max: i32,
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) fn new(header: &BatchHeader, record_bytes: &'a [u8]) -> Self {
        Self {
            base_offset: header.base_offset,
            base_timestamp_ms: (!header.attributes.is_log_append_time()).then_some(header.base_timestamp_ms),
            max_timestamp_ms: header.max_timestamp_ms,
            count: header.record_count,
            index: 0,
            offset_delta_min: 0,
            offset_delta_max: header.last_offset_delta,
            rest: record_bytes,
        }
    }

    /// Inlined, so that a walk that looks at no field makes none.
    #[inline(always)]
    fn take_record(&mut self) -> Result<Record<'a>, RecordError> {
        let mut body = take_length(&mut self.rest, "record length")?;
        // The attributes byte has no bits in use, and unknown ones are for later versions to explain.
        take(&mut body, 1, "attributes")?;
        let timestamp_delta = varint::read_i64(&mut body).ok_or(RecordError::Number { field: "timestamp delta" })?;
        let offset_delta = self.take_offset_delta(&mut body)?;
        let key = take_nullable(&mut body, "key length")?;
        let value = take_nullable(&mut body, "value length")?;
        let headers = take_headers(body)?;
        Ok(Record {
            offset: self.base_offset.wrapping_add(offset_delta as u64),
            timestamp_ms: match self.base_timestamp_ms {
                Some(base) => base.wrapping_add(timestamp_delta),
                None => self.max_timestamp_ms,
            },
            key,
            value,
            headers,
        })
    }

    #[inline]
    fn take_offset_delta(&mut self, body: &mut &[u8]) -> Result<i32, RecordError> {
        let found = take_i32(body, "offset delta")?;
        let (from, to) = (self.offset_delta_min, self.offset_delta_max);
        if found < from || found > to {
            return Err(RecordError::OffsetDelta { found, from, to });
        }
        // Offsets are counted in i32 by the layout; at its end the next delta can only be refused, which this still does.
        self.offset_delta_min = found.saturating_add(1);
        Ok(found)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let record = if self.index < self.count {
            self.take_record()
        } else if self.rest.is_empty() {
            return None;
        } else {
            Err(RecordError::LeftOver { bytes_left: self.rest.len() })
        };
        let index = self.index;
        self.index += 1;
        if record.is_err() {
            (self.index, self.rest) = (self.count, &[]);
        }
        Some(record.map_err(|source| BatchError::Record { index, source }))
    }
}

/// Walks the headers once and hands out a view that can only succeed.
#[inline]
fn take_headers(mut body: &[u8]) -> Result<Headers<'_>, RecordError> {
    let found = take_i32(&mut body, "header count")?;
    let bytes = body;
    // A header takes at least two bytes, so a count is refused by what is left, before it is counted through.
    let count = match usize::try_from(found) {
        Ok(count) if count <= bytes.len() / 2 => count,
        _ => {
            return Err(RecordError::Length { field: "header count", found, bytes_left: bytes.len() });
        }
    };
    for _ in 0..count {
        take_header(&mut body)?;
    }
    if !body.is_empty() {
        return Err(RecordError::LeftOver { bytes_left: body.len() });
    }
    Ok(Headers { count, bytes })
}

fn take_header<'a>(body: &mut &'a [u8]) -> Result<Header<'a>, RecordError> {
    let key = take_length(body, "header key length")?;
    let value = take_nullable(body, "header value length")?;
    Ok(Header { key, value })
}

#[inline]
fn take_nullable<'a>(body: &mut &'a [u8], field: &'static str) -> Result<Option<&'a [u8]>, RecordError> {
    match take_i32(body, field)? {
        -1 => Ok(None),
        length => take(body, length, field).map(Some),
    }
}

#[inline]
fn take_length<'a>(body: &mut &'a [u8], field: &'static str) -> Result<&'a [u8], RecordError> {
    let length = take_i32(body, field)?;
    take(body, length, field)
}

#[inline]
fn take_i32(body: &mut &[u8], field: &'static str) -> Result<i32, RecordError> {
    varint::read_i32(body).ok_or(RecordError::Number { field })
}

#[inline]
fn take<'a>(body: &mut &'a [u8], length: i32, field: &'static str) -> Result<&'a [u8], RecordError> {
    match usize::try_from(length).ok().and_then(|length| body.split_at_checked(length)) {
        Some((taken, rest)) => {
            *body = rest;
            Ok(taken)
        }
        None => Err(RecordError::Length { field, found: length, bytes_left: body.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Batch, BatchBuilder, Producer};

    fn header_of(record_count: i32) -> BatchHeader {
        let mut builder = BatchBuilder::new(4096);
        for _ in 0..record_count {
            builder.append(5, None, None, &[]).unwrap();
        }
        *Batch::parse(&builder.build(Producer::NONE)).unwrap().header()
    }

    fn check(record: &[u8], expected: RecordError) {
        let mut records = Records::new(&header_of(1), record);
        assert_eq!(records.next(), Some(Err(BatchError::Record { index: 0, source: expected })));
        assert_eq!(records.next(), None);
    }

    #[test]
    fn lengths_are_checked_against_what_is_left() {
        check(&[], RecordError::Number { field: "record length" });
        check(&[14, 0, 0], RecordError::Length { field: "record length", found: 7, bytes_left: 2 });
        check(&[1, 0, 0], RecordError::Length { field: "record length", found: -1, bytes_left: 2 });
        check(&[0], RecordError::Length { field: "attributes", found: 1, bytes_left: 0 });
        check(&[2, 0], RecordError::Number { field: "timestamp delta" });
        check(&[4, 0, 0], RecordError::Number { field: "offset delta" });
        check(&[8, 0, 0, 0, 2], RecordError::Length { field: "key length", found: 1, bytes_left: 0 });
        check(&[8, 0, 0, 0, 3], RecordError::Length { field: "key length", found: -2, bytes_left: 0 });
        check(&[10, 0, 0, 0, 1, 2], RecordError::Length { field: "value length", found: 1, bytes_left: 0 });
        check(&[10, 0, 0, 0, 1, 1], RecordError::Number { field: "header count" });
        check(&[12, 0, 0, 0, 1, 1, 1], RecordError::Length { field: "header count", found: -1, bytes_left: 0 });
        check(&[16, 0, 0, 0, 1, 1, 4, 0, 1], RecordError::Length { field: "header count", found: 2, bytes_left: 2 });
        check(
            &[16, 0, 0, 0, 1, 1, 2, 1, 1],
            RecordError::Length { field: "header key length", found: -1, bytes_left: 1 },
        );
        check(&[14, 0, 0, 0, 1, 1, 0, 9], RecordError::LeftOver { bytes_left: 1 });
    }

    #[test]
    fn offsets_rise_inside_the_batch() {
        check(&[12, 0, 0, 2, 1, 1, 0], RecordError::OffsetDelta { found: 1, from: 0, to: 0 });
        check(&[12, 0, 0, 1, 1, 1, 0], RecordError::OffsetDelta { found: -1, from: 0, to: 0 });
        let twice = [12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 0, 1, 1, 0];
        let source = RecordError::OffsetDelta { found: 0, from: 1, to: 1 };
        assert_eq!(Records::new(&header_of(2), &twice).nth(1), Some(Err(BatchError::Record { index: 1, source })));
    }

    #[test]
    fn gaps_left_by_compaction_are_read() {
        let header = BatchHeader { record_count: 1, base_offset: 10, ..header_of(5) };
        let records: Vec<_> =
            Records::new(&header, &[12, 0, 0, 6, 1, 1, 0]).map(|record| record.unwrap().offset).collect();
        assert_eq!(records, [13]);
    }

    #[test]
    fn bytes_behind_the_last_record_are_refused() {
        let source = RecordError::LeftOver { bytes_left: 1 };
        let mut records = Records::new(&header_of(1), &[12, 0, 0, 0, 1, 1, 0, 0]);
        assert!(matches!(records.next(), Some(Ok(_))));
        assert_eq!(records.next(), Some(Err(BatchError::Record { index: 1, source })));
        assert_eq!(records.next(), None);
    }

    #[test]
    fn log_append_time_is_one_for_all() {
        let header = header_of(1);
        let attributes = crate::record::Attributes(1 << 3);
        let header = BatchHeader { attributes, max_timestamp_ms: 99, ..header };
        let record = Records::new(&header, &[12, 0, 4, 0, 1, 1, 0]).next().unwrap().unwrap();
        assert_eq!(record.timestamp_ms, 99);
    }
}
