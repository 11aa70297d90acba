//! A record on its way out: borrowed, because sending copies it straight into its batch.

pub use wire::record::Header;

/// What is to be sent. Anything that is bytes converts to one: `"value"`, `b"value"`, `("key", "value")`.
///
/// ```
/// use streambus::{Header, ProducerRecord};
///
/// let trace = [Header { key: b"trace", value: Some(b"1f") }];
/// let record = ProducerRecord::value("signed in").key("user-7").headers(&trace);
/// assert_eq!(record, ProducerRecord::from(("user-7", "signed in")).headers(&trace));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProducerRecord<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [Header<'a>],
    pub(crate) partition: Option<u32>,
    pub(crate) timestamp_ms: Option<i64>,
}

impl<'a> ProducerRecord<'a> {
    /// A record with this value, no key and no headers.
    #[inline]
    pub fn value(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { value: Some(value.as_ref()), ..Self::default() }
    }

    /// A record without a value: in a compacted topic it deletes its key.
    #[inline]
    pub fn tombstone(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { key: Some(key.as_ref()), ..Self::default() }
    }

    /// The key: records of one key go to one partition and keep their order.
    #[inline]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// What travels beside the value.
    #[inline]
    pub fn headers(mut self, headers: &'a [Header<'a>]) -> Self {
        self.headers = headers;
        self
    }

    /// The partition, instead of the one that the key or the partitioner would choose.
    #[inline]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The time of the record in milliseconds since 1970, instead of that of sending.
    #[inline]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// What the record counts for in the producer's buffer: about what it takes in a batch.
    #[inline]
    pub(crate) fn buffer_bytes(&self) -> usize {
        const RECORD_OVERHEAD: usize = 16;
        const HEADER_OVERHEAD: usize = 4;
        let header = |header: &Header<'_>| header.key.len() + header.value.map_or(0, <[u8]>::len) + HEADER_OVERHEAD;
        let headers: usize = self.headers.iter().map(header).sum();
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers + RECORD_OVERHEAD
    }
}

impl<'a, V: AsRef<[u8]> + ?Sized> From<&'a V> for ProducerRecord<'a> {
    #[inline]
    fn from(value: &'a V) -> Self {
        Self::value(value)
    }
}

impl<'a, K: AsRef<[u8]> + ?Sized, V: AsRef<[u8]> + ?Sized> From<(&'a K, &'a V)> for ProducerRecord<'a> {
    #[inline]
    fn from((key, value): (&'a K, &'a V)) -> Self {
        Self::value(value).key(key)
    }
}
