//! The fields that messages are made of: little-endian numbers, strings, lists.
//!
//! The hard idea: a [`List`] is checked to its last item when it is read and then decoded again, item by item, as it is
//! iterated. So reading a message allocates nothing at all, whatever counts a peer announces, and using it needs no errors.

use std::{fmt, str};

use thiserror::Error;

// Lengths are u32 on the wire, and sums of them are taken in usize.
const _: () = assert!(usize::BITS >= 64);

/// Why a message could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{field} at byte {position} {problem}")]
pub struct DecodeError {
    /// The field, as the protocol's specification names it.
    pub field: &'static str,
    /// Where the message stopped making sense, from the start of its body.
    pub position: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Problem {
    /// The body ends first.
    #[error("is cut short: {bytes_needed} bytes needed, {bytes_found} found")]
    CutShort {
        /// Bytes the field takes.
        bytes_needed: usize,
        /// Bytes there are.
        bytes_found: usize,
    },
    /// More items than the rest of the body could hold.
    #[error("counts {found} items, {bytes_left} bytes are left")]
    Count {
        /// The count.
        found: u32,
        /// Bytes behind it.
        bytes_left: usize,
    },
    /// A string that is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// A number that this version gives no meaning.
    #[error("is {found}, which has no meaning here")]
    Meaningless {
        /// The number, sign-extended.
        found: i64,
    },
    /// Lengths that do not add up.
    #[error("adds up to {expected} bytes, {found} found")]
    Sum {
        /// What the lengths say.
        expected: u64,
        /// Bytes there are.
        found: usize,
    },
    /// Bytes behind the last field.
    #[error("is followed by {bytes_left} bytes too many")]
    LeftOver {
        /// How many.
        bytes_left: usize,
    },
}

/// Why a message could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A string longer than its length field can say.
    #[error("{field} has {bytes} bytes, at most {} allowed", u16::MAX)]
    StringTooLong {
        /// The field, as the protocol's specification names it.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A frame larger than the peer takes: send less at once.
    #[error("frame of {frame_bytes} bytes is larger than the {frame_bytes_max} that the peer takes")]
    FrameTooLarge {
        /// Bytes of the frame, with its header and what follows the encoded part.
        frame_bytes: usize,
        /// The limit.
        frame_bytes_max: usize,
    },
}

/// Takes fields off the front of a message's body.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    bytes_total: usize,
}

macro_rules! numbers {
    ($($name:ident)*) => {$(
        #[doc = concat!("Takes a little-endian ", stringify!($name), ".")]
        #[inline]
        pub fn $name(&mut self, field: &'static str) -> Result<$name, DecodeError> {
            self.array(field).map($name::from_le_bytes)
        }
    )*};
}

impl<'a> Reader<'a> {
    /// Starts at the front of `body`.
    #[inline]
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body, bytes_total: body.len() }
    }

    numbers!(u8 u16 u32 u64 u128 i16 i32 i64);

    /// Takes a byte that is 0 or 1.
    #[inline]
    pub fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.meaningless(field, other.into())),
        }
    }

    /// Takes bytes behind a u32 that counts them.
    #[inline]
    pub fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.u32(field)?;
        self.take(length as usize, field)
    }

    /// Takes UTF-8 behind a u16 that counts its bytes.
    #[inline]
    pub fn string(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let length = self.u16(field)?;
        let bytes = self.take(length.into(), field)?;
        str::from_utf8(bytes).map_err(|_| self.error(field, Problem::NotUtf8))
    }

    /// Takes a list: a u32 that counts the items, and the items.
    #[inline]
    pub fn list<T: Item<'a>>(&mut self, field: &'static str) -> Result<List<'a, T>, DecodeError> {
        let count = self.u32(field)?;
        let bytes = self.rest;
        if count as usize > bytes.len() / T::BYTES_MIN {
            return Err(self.error(field, Problem::Count { found: count, bytes_left: bytes.len() }));
        }
        for _ in 0..count {
            T::decode(self)?;
        }
        let bytes = &bytes[..bytes.len() - self.rest.len()];
        Ok(List(Source::Body { count: count as usize, bytes }))
    }

    /// Takes an item of a list again.
    #[inline]
    fn decoded_before<T: Item<'a>>(&mut self) -> T {
        T::decode(self).expect("every item was decoded once when the list was read")
    }

    /// Takes all that is left.
    #[inline]
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Bytes taken so far.
    #[inline]
    pub fn position(&self) -> usize {
        self.bytes_total - self.rest.len()
    }

    /// Ends the message: nothing may be left behind its last field.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes_left => Err(self.error("the last field", Problem::LeftOver { bytes_left })),
        }
    }

    /// The error of a number just taken that means nothing.
    #[cold]
    pub fn meaningless(&self, field: &'static str, found: i64) -> DecodeError {
        self.error(field, Problem::Meaningless { found })
    }

    /// An error at this place.
    #[cold]
    pub fn error(&self, field: &'static str, problem: Problem) -> DecodeError {
        DecodeError { field, position: self.position(), problem }
    }

    #[inline]
    fn take(&mut self, bytes_needed: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(bytes_needed) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.clone().cut_short(field, bytes_needed)),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk() {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(*taken)
            }
            None => Err(self.clone().cut_short(field, N)),
        }
    }

    /// Takes a copy: a reader that is lent to a call has to be kept in memory, and each field taken would be written there.
    #[cold]
    fn cut_short(self, field: &'static str, bytes_needed: usize) -> DecodeError {
        self.error(field, Problem::CutShort { bytes_needed, bytes_found: self.rest.len() })
    }
}

/// Appends the fields of a message's body to a buffer.
///
/// It cannot fail half-way: the first string that is too long is kept as the error that the frame's encoder returns.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    error: Option<EncodeError>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, error: None }
    }

    /// Appends bytes as they are: a number's `to_le_bytes`, several of them joined, or what follows the last field.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends a byte.
    #[inline]
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Appends a little-endian number.
    #[inline]
    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    /// Appends a little-endian number.
    #[inline]
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// Appends a little-endian number.
    #[inline]
    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// Appends a little-endian number.
    #[inline]
    pub fn u128(&mut self, value: u128) {
        self.raw(&value.to_le_bytes());
    }

    /// Appends a little-endian number.
    #[inline]
    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    /// Appends bytes behind a u32 that counts them.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        // Longer than 4 GiB is longer than any frame, which the frame's encoder refuses.
        self.u32(bytes.len() as u32);
        self.raw(bytes);
    }

    /// Appends UTF-8 behind a u16 that counts its bytes.
    #[inline]
    pub fn string(&mut self, field: &'static str, value: &str) {
        match u16::try_from(value.len()) {
            Ok(length) => {
                self.u16(length);
                self.raw(value.as_bytes());
            }
            Err(_) => {
                self.error.get_or_insert(EncodeError::StringTooLong { field, bytes: value.len() });
            }
        }
    }

    /// Appends a list: a u32 that counts the items, and the items.
    #[inline]
    pub fn list<'b, T: Item<'b>>(&mut self, list: &List<'b, T>) {
        self.u32(list.len() as u32);
        match list.0 {
            Source::Slice(items) => items.iter().for_each(|item| item.encode(self)),
            Source::Body { bytes, .. } => self.raw(bytes),
        }
    }

    /// What could not be written, if anything.
    #[inline]
    pub fn finish(self) -> Result<(), EncodeError> {
        self.error.map_or(Ok(()), Err)
    }
}

/// What a [`List`] is made of.
pub trait Item<'a>: Copy {
    /// The fewest bytes an item takes; at least 1, so that a count is bounded by the bytes behind it.
    const BYTES_MIN: usize;

    /// Takes one item.
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;

    /// Appends it.
    fn encode(&self, writer: &mut Writer<'_>);
}

impl<'a> Item<'a> for &'a str {
    const BYTES_MIN: usize = 2;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.string("name")
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.string("name", self);
    }
}

/// Items in order: on the way out someone's slice, on the way in the bytes of a message, checked and not yet decoded.
#[derive(Clone, Copy)]
pub struct List<'a, T>(Source<'a, T>);

#[derive(Clone, Copy)]
enum Source<'a, T> {
    Slice(&'a [T]),
    Body { count: usize, bytes: &'a [u8] },
}

impl<'a, T: Item<'a>> List<'a, T> {
    /// How many items there are.
    #[inline]
    pub fn len(&self) -> usize {
        match self.0 {
            Source::Slice(items) => items.len(),
            Source::Body { count, .. } => count,
        }
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items in order.
    #[inline]
    pub fn iter(&self) -> Items<'a, T> {
        Items(*self)
    }
}

impl<'a, T> From<&'a [T]> for List<'a, T> {
    fn from(items: &'a [T]) -> Self {
        Self(Source::Slice(items))
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for List<'a, T> {
    fn from(items: &'a [T; N]) -> Self {
        Self(Source::Slice(items))
    }
}

impl<'a, T> From<&'a Vec<T>> for List<'a, T> {
    fn from(items: &'a Vec<T>) -> Self {
        Self(Source::Slice(items))
    }
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self(Source::Slice(&[]))
    }
}

impl<'a, T: Item<'a> + fmt::Debug> fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: Item<'a> + PartialEq> PartialEq for List<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, T: Item<'a> + Eq> Eq for List<'a, T> {}

impl<'a, T: Item<'a>> IntoIterator for List<'a, T> {
    type Item = T;
    type IntoIter = Items<'a, T>;

    fn into_iter(self) -> Items<'a, T> {
        Items(self)
    }
}

/// The items of a [`List`], decoded as they are asked for.
#[derive(Clone)]
pub struct Items<'a, T>(List<'a, T>);

impl<'a, T: Item<'a>> Iterator for Items<'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        match &mut self.0.0 {
            Source::Slice(items) => {
                let (&item, rest) = items.split_first()?;
                *items = rest;
                Some(item)
            }
            Source::Body { count, bytes } => {
                *count = count.checked_sub(1)?;
                let mut reader = Reader::new(bytes);
                let item = reader.decoded_before();
                *bytes = reader.rest();
                Some(item)
            }
        }
    }

    /// What `sum` and its like are made of: where the items come from is looked at once, not for each. Inlined always, as
    /// most of what it is called with takes less than a call.
    #[inline(always)]
    fn fold<B, F: FnMut(B, T) -> B>(self, start: B, mut f: F) -> B {
        match self.0.0 {
            Source::Slice(items) => items.iter().copied().fold(start, f),
            Source::Body { count, bytes } => {
                let mut reader = Reader::new(bytes);
                (0..count).fold(start, |so_far, _| f(so_far, reader.decoded_before()))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len(), Some(self.0.len()))
    }
}

impl<'a, T: Item<'a>> ExactSizeIterator for Items<'a, T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_bounded_by_the_bytes_behind_it() {
        let body = [[0xff; 4].as_slice(), &[1, 0, b'a']].concat();
        let error = Reader::new(&body).list::<&str>("names").unwrap_err();
        assert_eq!(error.problem, Problem::Count { found: u32::MAX, bytes_left: 3 });
        let error = Reader::new(&[1, 0, 0, 0, 2, 0, b'a']).list::<&str>("names").unwrap_err();
        assert_eq!(error.problem, Problem::CutShort { bytes_needed: 2, bytes_found: 1 });
        assert_eq!((error.field, error.position), ("name", 6));
    }

    #[test]
    fn a_length_is_bounded_by_the_bytes_behind_it() {
        let error = Reader::new(&[0xff; 9]).bytes("auth").unwrap_err();
        assert_eq!(error.problem, Problem::CutShort { bytes_needed: u32::MAX as usize, bytes_found: 5 });
    }

    #[test]
    fn a_list_is_the_same_from_a_slice_and_from_a_body() {
        let names = ["orders", "", "a"];
        let sent = List::from(&names);
        let mut body = Vec::new();
        let mut writer = Writer::new(&mut body);
        writer.list(&sent);
        writer.finish().unwrap();
        let mut reader = Reader::new(&body);
        let received = reader.list::<&str>("names").unwrap();
        reader.finish().unwrap();
        assert_eq!(received, sent);
        assert_eq!(received.iter().collect::<Vec<_>>(), names);
        assert_eq!(received.iter().len(), 3);
        let mut again = Vec::new();
        Writer::new(&mut again).list(&received);
        assert_eq!(again, body);
        for mut items in [received.iter(), sent.iter()] {
            items.next();
            assert_eq!(items.fold(0, |bytes, name| bytes + name.len()), 1);
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        assert_eq!(Reader::new(&[2]).bool("synced").unwrap_err().problem, Problem::Meaningless { found: 2 });
        assert_eq!(Reader::new(&[1, 0, 0xff]).string("name").unwrap_err().problem, Problem::NotUtf8);
        assert_eq!(Reader::new(&[0]).finish().unwrap_err().problem, Problem::LeftOver { bytes_left: 1 });
    }

    #[test]
    fn a_string_longer_than_its_length_field_is_an_error_of_the_frame() {
        let mut body = Vec::new();
        let mut writer = Writer::new(&mut body);
        writer.string("name", &"x".repeat(65_535));
        writer.string("reason", &"x".repeat(65_536));
        let error = EncodeError::StringTooLong { field: "reason", bytes: 65_536 };
        assert_eq!(writer.finish(), Err(error));
    }
}
