//! Everything a server can refuse, as one table.
//!
//! A number is never reused and never changes its meaning: clients of any age may meet it. New ones go at the end.

use std::fmt;

use crate::record::BatchError;

macro_rules! error_codes {
    ($($number:literal $name:ident $retriable:ident $meaning:literal)*) => {
        /// Why a request, or its part about one partition or topic, was refused. Grows with later versions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = $meaning] $name,)*
            /// A number from a server newer than this crate.
            Unrecognized(u16),
        }

        impl ErrorCode {
            /// Every code this crate knows, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The number on the wire.
            #[inline]
            pub const fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Unrecognized(number) => number,
                }
            }

            /// The code of a number on the wire.
            #[inline]
            pub const fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$name,)*
                    _ => Self::Unrecognized(number),
                }
            }

            /// The name in the specification.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    Self::Unrecognized(_) => "Unrecognized",
                }
            }

            /// Whether the same request may succeed later, unchanged.
            pub const fn is_retriable(self) -> bool {
                match self {
                    $(Self::$name => error_codes!(@ $retriable),)*
                    Self::Unrecognized(_) => false,
                }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                    Self::Unrecognized(_) => "The server is newer than this client and knows an error it does not.",
                }
            }
        }
    };
    (@ retriable) => { true };
    (@ fatal) => { false };
}

error_codes! {
     0 None                 fatal     "No error."
     1 UnknownApi           fatal     "The server has no API with this key."
     2 UnsupportedVersion   fatal     "The server does not speak this version of the protocol or API."
     3 Malformed            fatal     "The request does not follow the specification; the connection is closed."
     4 HelloOutOfPlace      fatal     "Hello must be the first request of a connection, and only the first."
     5 Unauthenticated      fatal     "The server wants credentials that Hello did not carry, or refused them."
     6 NotAuthorized        fatal     "The client may not do this."
     7 Internal             fatal     "The server failed in a way it should not: a bug worth reporting."
     8 ShuttingDown         retriable "The server is stopping: connect again, here or elsewhere."
     9 Busy                 retriable "The server had no memory for the request within its deadline; nothing of it was done."
    10 TooLarge             fatal     "A frame, batch or answer is larger than the limits that Hello named."
    11 UnknownTopic         fatal     "There is no topic of this name."
    12 UnknownPartition     fatal     "There is no partition with this id: its topic was deleted, or never was."
    13 OffsetOutOfRange     fatal     "The offset is below the log start offset or above the high watermark, which are given."
    14 CorruptBatch         retriable "The batch does not match its CRC or is not a whole record batch v2: damaged on its way."
    15 InvalidRecord        fatal     "The batch is whole, but not one that may be stored: the producer has a bug."
    16 OutOfOrderSequence   fatal     "The batch does not follow the producer's last one: one in between was lost."
    17 InvalidProducerEpoch fatal     "A newer producer took over this producer id."
    18 TopicExists          fatal     "There is a topic of this name already."
    19 InvalidTopicName     fatal     "A topic name has 1 to 249 of A-Z, a-z, 0-9, dot, underscore and hyphen, and is not . or .."
    20 InvalidConfig        fatal     "A setting is unknown, or its value is not one it can have."
    21 InvalidPartitions    fatal     "The number of partitions is zero or more than the server allows."
    22 PartitionRefused     fatal     "The partition's log is damaged; it takes nothing until an operator accepts the loss."
    23 StorageFull          retriable "The disk is full up to its reserve: nothing is taken until space is freed."
    24 TimedOut             retriable "The deadline passed first; a batch may still be written, so only an idempotent producer may send it again."
    25 NotLeader            retriable "The partition is led by another node: describe the topic and ask there."
    26 NotCompacted         fatal     "The topic's `cleanup.policy` does not contain `compact`: its keys are not indexed."
}

impl ErrorCode {
    /// Whether this is a refusal at all.
    #[inline]
    pub const fn is_error(self) -> bool {
        !matches!(self, Self::None)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}

/// Damaged on the way, or sent wrong: sending the same bytes again helps only the first.
impl From<&BatchError> for ErrorCode {
    fn from(error: &BatchError) -> Self {
        match error {
            BatchError::Truncated { .. }
            | BatchError::Trailing { .. }
            | BatchError::Length { .. }
            | BatchError::Crc { .. }
            | BatchError::BaseOffset { .. } => Self::CorruptBatch,
            BatchError::Magic { .. }
            | BatchError::UnknownCodec { .. }
            | BatchError::Compressed { .. }
            | BatchError::Decompress { .. }
            | BatchError::RecordCount { .. }
            | BatchError::Control
            | BatchError::Producer { .. }
            | BatchError::Record { .. } => Self::InvalidRecord,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_read_back() {
        for (number, &code) in (0u16..).zip(ErrorCode::ALL) {
            assert_eq!(code.number(), number);
            assert_eq!(ErrorCode::from_number(number), code);
        }
        let unknown = ErrorCode::from_number(ErrorCode::ALL.len() as u16);
        assert_eq!(unknown, ErrorCode::Unrecognized(ErrorCode::ALL.len() as u16));
        assert_eq!(unknown.number() as usize, ErrorCode::ALL.len());
    }

    #[test]
    fn only_none_is_no_error() {
        let fine: Vec<_> = ErrorCode::ALL.iter().filter(|code| !code.is_error()).collect();
        assert_eq!(fine, [&ErrorCode::None]);
    }
}
