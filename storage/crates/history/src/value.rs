//! The name of a record: who wrote it, and as his how-many-eth. Names of one writer's consecutive records are
//! consecutive numbers, which is what lets a whole batch be noted at once.

use std::fmt;

const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;
const WRITER_MAX: u32 = (1 << (u64::BITS - SEQUENCE_BITS)) - 1;

/// One writer of a run, which is one producer on one partition: a producer of many partitions is many writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(u32);

impl WriterId {
    /// Names a writer by a number that is unique in its run, below 2^24.
    ///
    /// # Panics
    /// When the number is larger.
    pub fn new(number: u32) -> Self {
        assert!(number <= WRITER_MAX, "writer {number} is above {WRITER_MAX}");
        Self(number)
    }
}

/// The unique value of one record: its writer in the upper 24 bits, its place in the writer's order in the lower 40.
/// This number is what the record carries, see [`crate::Payload`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(u64);

impl Value {
    /// The value of the record that `writer` sent as its `sequence`th, counted from 0.
    ///
    /// # Panics
    /// When `sequence` has more than 40 bits.
    pub fn new(writer: WriterId, sequence: u64) -> Self {
        assert!(sequence <= SEQUENCE_MAX, "sequence {sequence} is above {SEQUENCE_MAX}");
        Self(u64::from(writer.0) << SEQUENCE_BITS | sequence)
    }

    /// The number as a record carries it. Any number is a value; whether someone sent it is for the check to say.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number a record carries.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// Who wrote it.
    pub const fn writer(self) -> WriterId {
        WriterId((self.0 >> SEQUENCE_BITS) as u32)
    }

    /// Its place in the writer's order, from 0.
    pub const fn sequence(self) -> u64 {
        self.0 & SEQUENCE_MAX
    }

    /// The value `count` places further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "w{}", self.0)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}#{}", self.writer(), self.sequence())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}
