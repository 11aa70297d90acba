//! How a record is told to programs: one JSON object.

use std::fmt::Write;

use serde::{Serialize, Serializer, ser::SerializeMap};
use streambus::{Record, RecordBatch, RecordRef};

/// What is printed of a record. Keys and values that are not UTF-8 are given in hexadecimal, under another name.
#[derive(Serialize)]
pub(crate) struct Told<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    timestamp_ms: i64,
    #[serde(flatten)]
    key: Bytes<'a>,
    #[serde(flatten)]
    value: Bytes<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<ToldHeader<'a>>,
}

#[derive(Serialize)]
struct ToldHeader<'a> {
    #[serde(flatten)]
    key: Bytes<'a>,
    #[serde(flatten)]
    value: Bytes<'a>,
}

/// Bytes, and the names under which they are told: as text, and in hexadecimal.
struct Bytes<'a> {
    bytes: Option<&'a [u8]>,
    names: [&'static str; 2],
}

impl<'a> Bytes<'a> {
    fn key(bytes: Option<&'a [u8]>) -> Self {
        Self { bytes, names: ["key", "key_hex"] }
    }

    fn value(bytes: Option<&'a [u8]>) -> Self {
        Self { bytes, names: ["value", "value_hex"] }
    }
}

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [text, hex] = self.names;
        let mut map = serializer.serialize_map(Some(1))?;
        match self.bytes.map(|bytes| str::from_utf8(bytes).map_err(|_| hexadecimal(bytes))) {
            None => map.serialize_entry(text, &None::<&str>)?,
            Some(Ok(utf8)) => map.serialize_entry(text, utf8)?,
            Some(Err(digits)) => map.serialize_entry(hex, &digits)?,
        }
        map.end()
    }
}

impl<'a> Told<'a> {
    /// A record of a batch.
    pub(crate) fn new(batch: &'a RecordBatch, record: &RecordRef<'a>) -> Self {
        let header = |header: streambus::Header<'a>| ToldHeader {
            key: Bytes::key(Some(header.key)),
            value: Bytes::value(header.value),
        };
        Self {
            topic: batch.topic(),
            partition: batch.partition(),
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: Bytes::key(record.key),
            value: Bytes::value(record.value),
            headers: record.headers.map(header).collect(),
        }
    }

    /// A record by itself.
    pub(crate) fn alone(record: &'a Record) -> Self {
        let headers = record
            .headers
            .iter()
            .map(|(key, value)| ToldHeader { key: Bytes::key(Some(key)), value: Bytes::value(value.as_deref()) });
        Self {
            topic: &record.topic,
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: Bytes::key(record.key.as_deref()),
            value: Bytes::value(record.value.as_deref()),
            headers: headers.collect(),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::to_json;

    #[test]
    fn bytes_that_are_no_text_are_hexadecimal() {
        let json = |bytes| to_json(&Bytes::value(bytes));
        assert_eq!(json(Some(b"a")), r#"{"value":"a"}"#);
        assert_eq!(json(Some(b"\xff\x00")), r#"{"value_hex":"ff00"}"#);
        assert_eq!(json(None), r#"{"value":null}"#);
    }
}
