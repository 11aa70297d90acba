//! Why a handler refuses, and the number a client gets for it: one exhaustive match for each kind of request, so that
//! an error added to storage or metadata does not compile before it has a number.

use storage::{
    AcceptError, AppendError, FlushError, LogFailed, ReadError, journal::WriteError, producer_state::SequenceError,
};
use thiserror::Error;
use wire::{ErrorCode, record::BatchError};

use crate::meta::{ProposeError, Refusal, SettingError, TopicName, TopicNameError};

/// Why a batch was not appended, or not acknowledged.
#[derive(Debug, Error)]
pub(crate) enum ProduceError {
    /// No partition of this id.
    #[error("there is no such partition: its topic was deleted, or never was")]
    UnknownPartition,
    /// It lives in another log than the batch was sent to: it moved.
    #[error("the partition moved while the batch was on its way; nothing was appended")]
    Moved,
    /// Larger than any batch may be.
    #[error("the batch has {bytes} bytes, at most {bytes_max} are taken")]
    TooLarge { bytes: usize, bytes_max: usize },
    /// Not a batch, or not one that may be stored.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The log did not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// No memory came free in time, or the way to the partition's shard is full.
    #[error("the server had no room for it in time; nothing was appended")]
    Busy,
    /// The deadline passed before the ack.
    #[error("the batch was appended, but not synced in time")]
    TimedOut,
    /// The log failed, and the process is about to end.
    #[error(transparent)]
    Failed(#[from] LogFailed),
}

/// Why a partition was not read.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    /// No partition of this id.
    #[error("there is no such partition: its topic was deleted, or never was")]
    UnknownPartition,
    /// It is served elsewhere: it moved.
    #[error("the partition moved while the request was on its way; nothing was read")]
    Moved,
    /// The log could not give it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The way to the partition's shard is full.
    #[error("the server is busy; nothing was read")]
    Busy,
}

/// Why a key was not looked up.
#[derive(Debug, Error)]
pub(crate) enum GetError {
    /// No partition of this id.
    #[error("there is no such partition: its topic was deleted, or never was")]
    UnknownPartition,
    /// Its keys are not indexed, and to walk through everything is what Fetch is for.
    #[error("the topic is not compacted: set its cleanup.policy to compact, or read it")]
    NotCompacted,
    /// The log could not give it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No memory came free in time, or the way to the partition's shard is full.
    #[error("the server is busy; nothing was looked up")]
    Busy,
}

/// Why an offset was not found.
pub(crate) type ListOffsetsError = FetchError;

impl ProduceError {
    /// What the client is told.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownPartition => ErrorCode::UnknownPartition,
            Self::Moved => ErrorCode::NotLeader,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Batch(error) => ErrorCode::from(error),
            Self::Append(error) => append_code(error),
            Self::Busy => ErrorCode::Busy,
            Self::TimedOut => ErrorCode::TimedOut,
            // Whether it was written is not known, so only an idempotent producer may send it again.
            Self::Failed(_) => ErrorCode::TimedOut,
        }
    }
}

impl FetchError {
    /// What the client is told.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownPartition => ErrorCode::UnknownPartition,
            Self::Moved => ErrorCode::NotLeader,
            Self::Read(error) => read_code(error),
            Self::Busy => ErrorCode::Busy,
        }
    }
}

impl GetError {
    /// What the client is told.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownPartition => ErrorCode::UnknownPartition,
            Self::NotCompacted => ErrorCode::NotCompacted,
            Self::Read(error) => read_code(error),
            Self::Busy => ErrorCode::Busy,
        }
    }
}

fn append_code(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::Sequence(error) => sequence_code(error),
        AppendError::TooLarge { .. } => ErrorCode::TooLarge,
        AppendError::Keyless { .. } => ErrorCode::InvalidRecord,
        AppendError::Batch(error) => ErrorCode::from(error),
        AppendError::Refused { .. } => ErrorCode::PartitionRefused,
        AppendError::DiskFull { .. } => ErrorCode::StorageFull,
        AppendError::Truncating | AppendError::Leaving => ErrorCode::Busy,
        AppendError::Gone => ErrorCode::UnknownPartition,
        AppendError::Closing => ErrorCode::ShuttingDown,
        AppendError::Failed(_) => ErrorCode::ShuttingDown,
    }
}

fn sequence_code(error: &SequenceError) -> ErrorCode {
    match error {
        SequenceError::Invalid { .. } => ErrorCode::InvalidRecord,
        SequenceError::StaleEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        SequenceError::OutOfOrder { .. } => ErrorCode::OutOfOrderSequence,
        SequenceError::TooManyProducers { .. } => ErrorCode::Busy,
    }
}

fn read_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Refused { .. } | ReadError::Segment(_) => ErrorCode::PartitionRefused,
        ReadError::Gone => ErrorCode::UnknownPartition,
    }
}

/// Why records were not deleted.
#[derive(Debug, Error)]
pub(crate) enum TrimError {
    /// No partition of this id.
    #[error("there is no such partition: its topic was deleted, or never was")]
    UnknownPartition,
    /// The log did not do it.
    #[error(transparent)]
    Log(#[from] storage::TrimError),
    /// The way to the partition's shard is full.
    #[error("the server is busy; nothing was deleted")]
    Busy,
}

impl TrimError {
    /// What the client is told.
    pub(crate) fn code(&self) -> ErrorCode {
        use storage::TrimError as Log;
        match self {
            Self::UnknownPartition | Self::Log(Log::Gone) => ErrorCode::UnknownPartition,
            Self::Log(Log::OutOfRange { .. }) => ErrorCode::OffsetOutOfRange,
            Self::Log(Log::Refused { .. }) => ErrorCode::PartitionRefused,
            Self::Log(Log::Truncating | Log::Leaving) | Self::Busy => ErrorCode::Busy,
            Self::Log(Log::Closing) => ErrorCode::ShuttingDown,
            // The process is about to end; whether it was done is found out by the next one.
            Self::Log(Log::Failed(_)) => ErrorCode::TimedOut,
        }
    }
}

/// Why a loss was not accepted.
#[derive(Debug, Error)]
pub(crate) enum LossError {
    /// No partition of this id.
    #[error("there is no such partition: its topic was deleted, or never was")]
    UnknownPartition,
    /// The log could not.
    #[error(transparent)]
    Log(#[from] AcceptError),
    /// The way to the partition's shard is full, or it did not answer.
    #[error("the server is busy; ask again")]
    Busy,
}

impl LossError {
    /// What the client is told.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownPartition | Self::Log(AcceptError::Gone) => ErrorCode::UnknownPartition,
            Self::Log(AcceptError::DiskFull { .. }) => ErrorCode::StorageFull,
            Self::Log(AcceptError::Segment(_)) => ErrorCode::PartitionRefused,
            Self::Log(AcceptError::Failed(_)) => ErrorCode::ShuttingDown,
            Self::Busy => ErrorCode::Busy,
        }
    }
}

/// Why logs are not held for a backup.
#[derive(Debug, Error)]
pub(crate) enum HoldError {
    /// A log could not flush.
    #[error(transparent)]
    Log(#[from] FlushError),
    /// The way to a shard is full, or it did not answer.
    #[error("the server is busy; ask again")]
    Busy,
}

impl HoldError {
    /// What the client is told.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Log(FlushError::DiskFull { .. }) => ErrorCode::StorageFull,
            Self::Log(FlushError::Closing | FlushError::Failed(_)) => ErrorCode::ShuttingDown,
            Self::Busy => ErrorCode::Busy,
        }
    }
}

/// Why a topic was not created, altered or deleted.
#[derive(Debug, Error)]
pub(crate) enum TopicError {
    /// No topic of this name.
    #[error("there is no topic of this name")]
    Unknown,
    /// It was there for a moment.
    #[error("topic {name} was created, and deleted by someone else")]
    Deleted { name: TopicName },
    /// Not a name.
    #[error(transparent)]
    Name(#[from] TopicNameError),
    /// A setting that topics do not have, or do not have so.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// MetaLog refused it or could not write it.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The way to shard 0 is full.
    #[error("the server is busy; nothing was changed")]
    Busy,
    /// Shard 0 did not answer.
    #[error("the server is stopping; whether it was done is not known")]
    Stopping,
}

impl TopicError {
    /// What the client is told.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Unknown | Self::Deleted { .. } => ErrorCode::UnknownTopic,
            Self::Name(_) => ErrorCode::InvalidTopicName,
            Self::Setting(_) => ErrorCode::InvalidConfig,
            Self::Propose(ProposeError::Refused(refusal)) => refusal_code(refusal),
            Self::Propose(ProposeError::Write(error)) => match error {
                WriteError::NoSpace { .. } => ErrorCode::StorageFull,
                // The process is about to end; whether it was done is found out by the next one.
                WriteError::Failed { .. } => ErrorCode::TimedOut,
            },
            Self::Busy => ErrorCode::Busy,
            Self::Stopping => ErrorCode::TimedOut,
        }
    }
}

fn refusal_code(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::TopicExists { .. } => ErrorCode::TopicExists,
        Refusal::UnknownTopic { .. } => ErrorCode::UnknownTopic,
        Refusal::PartitionCount { .. } | Refusal::TooManyPartitions { .. } => ErrorCode::InvalidPartitions,
        Refusal::TooManySettings { .. } | Refusal::SettingTooLong { .. } | Refusal::Setting(_) => {
            ErrorCode::InvalidConfig
        }
        Refusal::OtherNode { .. }
        | Refusal::NoMoreEpochs
        | Refusal::NoMoreProducerIds
        | Refusal::LogKnown { .. }
        | Refusal::TooManyLogs { .. }
        | Refusal::NoLog
        | Refusal::UnknownLog { .. }
        | Refusal::LogInUse { .. }
        | Refusal::UnknownPartition { .. }
        | Refusal::HasCopy { .. }
        | Refusal::NotPrepared { .. } => ErrorCode::Internal,
    }
}
