//! What can go wrong, told by what the caller can do about it.
//!
//! One enum for all calls: match on a variant for its data, or ask [`Error::kind`] what to do. The hard idea is
//! [`ErrorKind::OutcomeUnknown`]: a request that left this process and was never answered is neither a success nor a
//! failure, and whoever treats it as either will lose records or have them twice.

use std::{io, sync::Arc, time::Duration};

use wire::{ErrorCode, record::BatchError};

/// Why a call failed. Cheap to clone: all records of a batch share their fate.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection could be made.
    #[error("cannot connect to {address}: {source}; check that a broker listens there (`streambus serve` starts one)")]
    Connect {
        /// The address tried, as it was given.
        address: Arc<str>,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The connection ended before the answer came, or before the request left.
    #[error("connection to {address} ended: {reason}; the client reconnects by itself")]
    Disconnected {
        /// The broker's address.
        address: Arc<str>,
        /// Why it ended.
        reason: Arc<str>,
    },
    /// A broker that answers with bytes which the protocol does not allow.
    #[error(
        "{address} does not speak the StreamBus protocol as this client knows it: {reason}; check address and versions"
    )]
    Protocol {
        /// The broker's address.
        address: Arc<str>,
        /// What is wrong with the bytes.
        reason: Arc<str>,
    },
    /// The address belongs to another cluster than before, where the same partition ids mean other partitions.
    #[error("{address} is cluster {found:032x} now, {expected:032x} before; make a new client to talk to it")]
    OtherCluster {
        /// The broker's address.
        address: Arc<str>,
        /// The cluster this client first connected to.
        expected: u128,
        /// The cluster that answers now.
        found: u128,
    },
    /// The broker said no.
    #[error("{operation} refused by {address}: {code}: {reason}")]
    Refused {
        /// What was asked, and of what: "produce to orders/3".
        operation: Arc<str>,
        /// The broker's address.
        address: Arc<str>,
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people; the code's meaning where the broker gave no reason.
        reason: Arc<str>,
    },
    /// There is no topic of this name.
    #[error("there is no topic {topic:?}; create it with `streambus topic create {topic}` or `Admin::create_topic`")]
    UnknownTopic {
        /// The name asked for.
        topic: Arc<str>,
    },
    /// The topic has no partition of this number.
    #[error("topic {topic:?} has partitions 0 to {}, and no {partition}", partition_count.saturating_sub(1))]
    UnknownPartition {
        /// The topic.
        topic: Arc<str>,
        /// The number asked for.
        partition: u32,
        /// How many partitions there are.
        partition_count: u32,
    },
    /// The partition is led by a node whose address this client does not know.
    #[error(
        "node {node} leads {topic}/{partition}, but none of the bootstrap addresses is that node's; add its address"
    )]
    UnknownNode {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The node's id.
        node: u32,
    },
    /// The delivery timeout passed and the records are certainly not written.
    #[error("records for {topic}/{partition} not written within {timeout:?}: {reason}; they may be sent again")]
    DeliveryTimeout {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The delivery timeout.
        timeout: Duration,
        /// What kept them from being written.
        reason: Arc<str>,
    },
    /// The request left and was never answered: it may have taken effect or not.
    #[error("whether {operation} took effect is unknown: {reason}; look before you repeat it")]
    OutcomeUnknown {
        /// What was asked, and of what.
        operation: Arc<str>,
        /// Why there is no answer.
        reason: Arc<str>,
    },
    /// A record that fits into no batch.
    #[error(
        "a record of {record_bytes} bytes fits no batch of {batch_bytes_max} bytes; split it or raise batch_bytes_max"
    )]
    RecordTooLarge {
        /// Bytes the record takes in a batch.
        record_bytes: usize,
        /// The producer's limit, which is at most the broker's.
        batch_bytes_max: usize,
    },
    /// The producer's buffer has no room for the record now.
    #[error("the producer's buffer is full: wait for deliveries, use `send`, or raise buffer_bytes_max")]
    BufferFull,
    /// The records were given up before they were written: their producer was closed or dropped.
    #[error("the producer for {topic:?} is closed; records that were not acknowledged may or may not be written")]
    ProducerClosed {
        /// The producer's topic.
        topic: Arc<str>,
    },
    /// The offset to read next is not, or no longer, in the partition.
    #[error(
        "offset {offset} of {topic}/{partition} is out of range: {earliest} to {latest} can be read; seek to one of them"
    )]
    OffsetOutOfRange {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The offset asked for.
        offset: u64,
        /// The first offset that can be read.
        earliest: u64,
        /// Where the next record will be.
        latest: u64,
    },
    /// Offsets that a `memory` topic lost in an unclean stop, or that were given up after damage. Reported once; the consumer
    /// goes on behind them.
    #[error("offsets {from} to {} of {topic}/{partition} were lost in an unclean stop or to damage; reading goes on at {to}", to - 1)]
    Lost {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The first lost offset.
        from: u64,
        /// The first offset that is not.
        to: u64,
    },
    /// Offsets that were skipped without a word. Reported once; the consumer goes on behind them.
    #[error("offsets {from} to {} of {topic}/{partition} are missing; reading goes on at {to}", to - 1)]
    Gap {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The first missing offset.
        from: u64,
        /// The first offset that is not.
        to: u64,
    },
    /// A batch that is damaged or that this client cannot read. The partition stops there until it is sought elsewhere.
    #[error("batch at offset {offset} of {topic}/{partition} cannot be read: {source}; seek past it to go on")]
    UnreadableBatch {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The offset that was to be read.
        offset: u64,
        /// What is wrong.
        source: BatchError,
    },
    /// The consumer has no partition left that it could read: each stopped with an error of its own before.
    #[error("every partition of the consumer has stopped; seek to go on")]
    AllStopped,
    /// A setting with a value that it cannot have.
    #[error("{setting}: {reason}")]
    InvalidSetting {
        /// The builder's method.
        setting: &'static str,
        /// What it can have.
        reason: Arc<str>,
    },
}

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing was done, and the same call may succeed later. Of a consumer: the next call goes on behind what was told.
    Retriable,
    /// Nothing was done, and the same call will not succeed: something else has to change first.
    Fatal,
    /// It may have been done or not: look before you repeat it.
    OutcomeUnknown,
    /// The call itself asks for what cannot be: mend it.
    InvalidRequest,
}

impl Error {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { .. }
            | Self::Disconnected { .. }
            | Self::DeliveryTimeout { .. }
            | Self::BufferFull
            | Self::Lost { .. }
            | Self::Gap { .. } => ErrorKind::Retriable,
            Self::OutcomeUnknown { .. } | Self::ProducerClosed { .. } => ErrorKind::OutcomeUnknown,
            Self::Refused { code, .. } => kind_of(*code),
            Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::RecordTooLarge { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::InvalidSetting { .. } => ErrorKind::InvalidRequest,
            Self::Protocol { .. }
            | Self::OtherCluster { .. }
            | Self::UnknownNode { .. }
            | Self::UnreadableBatch { .. }
            | Self::AllStopped => ErrorKind::Fatal,
        }
    }

    /// Whether nothing was done and the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        self.kind() == ErrorKind::Retriable
    }

    /// The broker's error code, where a broker refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::UnknownTopic { .. } => Some(ErrorCode::UnknownTopic),
            Self::OffsetOutOfRange { .. } => Some(ErrorCode::OffsetOutOfRange),
            _ => None,
        }
    }

    pub(crate) fn refused(operation: impl Into<Arc<str>>, address: &Arc<str>, code: ErrorCode, reason: &str) -> Self {
        let reason = if reason.is_empty() { code.meaning() } else { reason };
        Self::Refused { operation: operation.into(), address: address.clone(), code, reason: reason.into() }
    }
}

fn kind_of(code: ErrorCode) -> ErrorKind {
    match code {
        // The one retriable code after which the work may still be done.
        ErrorCode::TimedOut => ErrorKind::OutcomeUnknown,
        ErrorCode::TooLarge
        | ErrorCode::UnknownTopic
        | ErrorCode::UnknownPartition
        | ErrorCode::OffsetOutOfRange
        | ErrorCode::InvalidRecord
        | ErrorCode::TopicExists
        | ErrorCode::InvalidTopicName
        | ErrorCode::InvalidConfig
        | ErrorCode::NotCompacted
        | ErrorCode::InvalidPartitions => ErrorKind::InvalidRequest,
        code if code.is_retriable() => ErrorKind::Retriable,
        _ => ErrorKind::Fatal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_kind_that_says_what_to_do() {
        let check = |code, kind| assert_eq!(Error::refused("x", &"a".into(), code, "").kind(), kind, "{code}");
        check(ErrorCode::Busy, ErrorKind::Retriable);
        check(ErrorCode::ShuttingDown, ErrorKind::Retriable);
        check(ErrorCode::TimedOut, ErrorKind::OutcomeUnknown);
        check(ErrorCode::TopicExists, ErrorKind::InvalidRequest);
        check(ErrorCode::OutOfOrderSequence, ErrorKind::Fatal);
        check(ErrorCode::Unrecognized(9_999), ErrorKind::Fatal);
    }

    #[test]
    fn messages_name_the_place_and_the_next_step() {
        let error = Error::refused("produce to orders/3", &"127.0.0.1:9092".into(), ErrorCode::Busy, "");
        let text = error.to_string();
        assert!(text.contains("orders/3") && text.contains("127.0.0.1:9092") && text.contains("Busy (9)"), "{text}");
        let text = Error::UnknownTopic { topic: "orders".into() }.to_string();
        assert!(text.contains("streambus topic create orders"), "{text}");
    }

    #[test]
    fn an_error_stays_small_enough_to_return_by_value() {
        assert!(size_of::<Error>() <= 96, "{} bytes", size_of::<Error>());
    }
}
