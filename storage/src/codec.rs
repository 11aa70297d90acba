//! Little-endian fields of what journals carry: edits, snapshots, metadata commands.
//!
//! The one hard idea: a count is believed only as far as the bytes behind it can hold that many items, so that
//! decoding never allocates more than a small multiple of what it was given.

/// Takes fields off the front of bytes that nobody vouches for.
pub struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes contradict their own format.
    #[error("{field} at byte {position} makes no sense")]
    Malformed {
        /// What was being read.
        field: &'static str,
        /// Where it starts, in bytes.
        position: usize,
    },
    /// Written by a later version: nothing of it may be touched.
    #[error("{field} is {found}, this program knows up to {known}")]
    Unknown {
        /// What was being read.
        field: &'static str,
        /// The number found.
        found: u8,
        /// The largest number with a meaning.
        known: u8,
    },
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, len: bytes.len() }
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] at the end; so do all of these.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// See [`Self::u8`]; also any other value.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed(field, 1)),
        }
    }

    /// A byte that numbers a version or a kind, 1 to `known`. Larger ones come from later versions.
    ///
    /// # Errors
    /// See [`Self::u8`]; [`DecodeError::Unknown`].
    pub fn number(&mut self, field: &'static str, known: u8) -> Result<u8, DecodeError> {
        match self.u8(field)? {
            0 => Err(self.malformed(field, 1)),
            found if found > known => Err(DecodeError::Unknown { field, found, known }),
            found => Ok(found),
        }
    }

    /// The next 16 bits.
    ///
    /// # Errors
    /// See [`Self::u8`].
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_le_bytes)
    }

    /// The next 32 bits.
    ///
    /// # Errors
    /// See [`Self::u8`].
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// The next 32 bits, signed.
    ///
    /// # Errors
    /// See [`Self::u8`].
    pub fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.array(field).map(i32::from_le_bytes)
    }

    /// The next 64 bits.
    ///
    /// # Errors
    /// See [`Self::u8`].
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// The next 64 bits, signed.
    ///
    /// # Errors
    /// See [`Self::u8`].
    pub fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.array(field).map(i64::from_le_bytes)
    }

    /// The next 128 bits.
    ///
    /// # Errors
    /// See [`Self::u8`].
    pub fn u128(&mut self, field: &'static str) -> Result<u128, DecodeError> {
        self.array(field).map(u128::from_le_bytes)
    }

    /// A 32-bit count of items that take at least `item_bytes_min` bytes each.
    ///
    /// # Errors
    /// See [`Self::u8`]; also a count that the bytes left cannot hold.
    ///
    /// # Panics
    /// If `item_bytes_min` is 0.
    pub fn count(&mut self, field: &'static str, item_bytes_min: usize) -> Result<usize, DecodeError> {
        let count = self.u32(field)? as usize;
        if count > self.rest.len() / item_bytes_min { Err(self.malformed(field, 4)) } else { Ok(count) }
    }

    /// A 32-bit length and that many bytes.
    ///
    /// # Errors
    /// See [`Self::u8`].
    pub fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.count(field, 1)?;
        let (bytes, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(bytes)
    }

    /// A 32-bit length and that many bytes of UTF-8.
    ///
    /// # Errors
    /// See [`Self::u8`]; also bytes that are not UTF-8.
    pub fn string(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes(field)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed(field, bytes.len()))
    }

    /// A 32-bit count of items that take at least `item_bytes_min` bytes each, and the items.
    ///
    /// # Errors
    /// See [`Self::count`]; also those of `item`.
    ///
    /// # Panics
    /// If `item_bytes_min` is 0.
    pub fn list<T, C: FromIterator<T>>(
        &mut self,
        field: &'static str,
        item_bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<C, DecodeError> {
        let count = self.count(field, item_bytes_min)?;
        (0..count).map(|_| item(self)).collect()
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] unless everything was read.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("the end", 0)) }
    }

    /// The error for a field whose last `bytes` bytes, just read, make no sense.
    pub fn malformed(&self, field: &'static str, bytes: usize) -> DecodeError {
        DecodeError::Malformed { field, position: self.len - self.rest.len() - bytes }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(|| self.malformed(field, 0))?;
        self.rest = rest;
        Ok(*array)
    }
}

/// Appends a 32-bit count.
///
/// # Panics
/// If it needs more bits: nothing that this program holds in memory does.
pub fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("what is counted fits memory, and so 32 bits");
    out.extend_from_slice(&count.to_le_bytes());
}

/// Appends a 32-bit length and the bytes, the counterpart of [`Reader::bytes`] and [`Reader::string`].
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order() {
        let mut out = vec![7, 1, 2];
        out.extend_from_slice(&300u16.to_le_bytes());
        out.extend_from_slice(&(-5i32).to_le_bytes());
        out.extend_from_slice(&u64::MAX.to_le_bytes());
        out.extend_from_slice(&(1u128 << 100).to_le_bytes());
        put_bytes(&mut out, "name".as_bytes());
        let mut reader = Reader::new(&out);
        assert_eq!(reader.u8("a"), Ok(7));
        assert_eq!(reader.bool("b"), Ok(true));
        assert_eq!(reader.number("c", 2), Ok(2));
        assert_eq!(reader.u16("d"), Ok(300));
        assert_eq!(reader.i32("e"), Ok(-5));
        assert_eq!(reader.u64("f"), Ok(u64::MAX));
        assert_eq!(reader.u128("g"), Ok(1 << 100));
        assert_eq!(reader.string("h"), Ok("name"));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_count_that_cannot_be_true_is_refused() {
        let mut bytes = 3u32.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 8]);
        assert_eq!(Reader::new(&bytes).count("items", 2), Ok(3));
        assert_eq!(Reader::new(&bytes).count("items", 3), Err(DecodeError::Malformed { field: "items", position: 0 }));
        assert_eq!(
            Reader::new(&u32::MAX.to_le_bytes()).bytes("text"),
            Err(DecodeError::Malformed { field: "text", position: 0 })
        );
    }

    #[test]
    fn later_numbers_are_told_from_nonsense() {
        assert_eq!(
            Reader::new(&[3]).number("kind", 2),
            Err(DecodeError::Unknown { field: "kind", found: 3, known: 2 })
        );
        assert_eq!(Reader::new(&[0]).number("kind", 2), Err(DecodeError::Malformed { field: "kind", position: 0 }));
    }

    #[test]
    fn nothing_may_be_left() {
        let mut reader = Reader::new(&[1, 2]);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.finish(), Err(DecodeError::Malformed { field: "the end", position: 1 }));
    }
}
