//! What one shard may ask of another. Nothing else crosses cores.
//!
//! Every message that wants an answer carries the way back, an inbox for one. Sending never waits: a shard whose inbox
//! is full is busy, and that is the answer. Whoever gives up drops its end, and the other side sees that.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use runtime::{
    Runtime,
    mesh::{Inbox, SendError, Sender, inbox},
};
use storage::replica::{Ending, Origin};
use wire::{PartitionId, TopicId};

use crate::{
    handler::{
        delete_records::Before,
        error::{HoldError, TopicError},
        health::ShardHealth,
        hold::HeldLog,
        list_offsets::Query,
        produce::Bundle,
    },
    meta::{LogNumber, Snapshot, TopicPartition},
    metrics::Reading,
    request::{
        Fetched, Got, ListedOffset, NewTopic, PartitionStatus, Position, ProduceOutcome, Stretch, Surveyed, Topic,
        TopicChange, Trimmed,
    },
    server::connection::Arrival,
    shard::{
        copying::{Copied, CopyError, Copying},
        start::Order,
    },
};

/// The way back for one answer.
pub(crate) type Reply<T> = Sender<T>;

/// A way back, and where the answer arrives. `None` arrives when there will be none.
pub(crate) fn call<T>() -> (Reply<T>, Inbox<T>) {
    inbox(1)
}

/// What a shard is asked or told.
pub(crate) enum Message<R: Runtime> {
    /// Take this connection.
    Connection(Arrival<R>),
    /// Append these batches to partitions of this log, in this order.
    Produce { log: LogNumber, bundle: Bundle, reply: Reply<Vec<ProduceOutcome>> },
    /// Read these partitions once.
    Fetch { positions: Vec<Position>, bytes_max: usize, is_first: bool, reply: Reply<Vec<Fetched<Bytes>>> },
    /// Answer when one of these partitions has something to read, unless `given_up` closes first.
    Watch { positions: Vec<(PartitionId, u64)>, given_up: Inbox<()>, reply: Reply<()> },
    /// Look up these places.
    ListOffsets { queries: Vec<Query>, reply: Reply<Vec<ListedOffset>> },
    /// Look up this key.
    Get { partition: PartitionId, key: Vec<u8>, reply: Reply<Got> },
    /// Delete the oldest records of these partitions.
    DeleteRecords { before: Vec<Before>, reply: Reply<Vec<Trimmed>> },
    /// Say what these partitions hold.
    Describe { partitions: Vec<PartitionId>, reply: Reply<Vec<Option<PartitionStatus>>> },
    /// Look for what damage took, and give it up unless that was not asked for.
    AcceptLoss { stretch: Stretch, reply: Reply<Surveyed> },
    /// Move no partition for so long; answer when none moves any more.
    HoldMoves { hold_for: Duration, reply: Reply<()> },
    /// Delete no segment for so long, and flush first if `flush`.
    Hold { hold_for: Duration, flush: bool, reply: Reply<Result<Vec<HeldLog>, HoldError>> },
    /// To shard 0: create a topic.
    CreateTopic { topic: NewTopic, reply: Reply<Result<Topic, TopicError>> },
    /// To shard 0: give a topic other settings.
    AlterTopic { change: TopicChange, reply: Reply<Result<TopicId, TopicError>> },
    /// To shard 0: delete a topic.
    DeleteTopic { name: String, reply: Reply<Result<TopicId, TopicError>> },
    /// To shard 0: a block of producer ids.
    ProducerIds { reply: Reply<std::ops::Range<i64>> },
    /// From shard 0: serve by this metadata from now on.
    Apply { snapshot: Arc<Snapshot>, reply: Reply<()> },
    /// From shard 0: remove these copies of partitions from the disk, then answer.
    Erase { copies: Vec<TopicPartition>, reply: Reply<()> },
    /// Say what a copy of this partition begins with.
    Origin { partition: PartitionId, reply: Reply<Result<Origin, CopyError>> },
    /// From shard 0: copy a partition into one of your logs.
    Receive { copying: Copying, reply: Reply<Result<(), CopyError>> },
    /// Read a partition for a copy of it.
    ReadCopy { partition: PartitionId, offset: u64, reply: Reply<Result<Copied, CopyError>> },
    /// Have a partition not change, and appends to it wait; say what it is then.
    PauseAppends { partition: PartitionId, reply: Reply<Result<Ending, CopyError>> },
    /// From shard 0: let them go on.
    ResumeAppends { partition: PartitionId },
    /// From shard 0: say whether this log holds nothing.
    IsDrained { log: LogNumber, reply: Reply<bool> },
    /// From shard 0: close this log for good, then answer.
    CloseLog { log: LogNumber, reply: Reply<()> },
    /// Say what was counted.
    Stats { reply: Reply<Reading> },
    /// Say how the shard is.
    Health { reply: Reply<ShardHealth> },
    /// From shard 0, while the node starts or stops.
    Order(Order),
}

/// Pause before a full inbox is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// Sends what must get through: for shard 0, whose tasks for that have nothing else to do.
pub(crate) async fn send_surely<R: Runtime>(rt: &R, inbox: &Sender<Message<R>>, mut message: Message<R>) {
    while let Err(SendError::Full(unsent)) = inbox.try_send(message) {
        message = unsent;
        rt.sleep(RETRY_AFTER).await;
    }
}
