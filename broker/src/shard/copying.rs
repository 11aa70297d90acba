//! A partition on its way from one log to another, as the two shards see it that run these.
//!
//! The shard of the target reads from the source as a replica would: first what there is, at the pace of the background,
//! while the source goes on serving; then what came meanwhile, until little is left; then appends pause, and the rest is
//! copied. Nothing of it counts before MetaLog says so, see `mover`. The source does nothing but answer, so a copy that is
//! given up leaves nothing there but the pause, which whoever gives up ends.

use std::{rc::Rc, time::Duration};

use futures_lite::future;
use runtime::{Runtime, mesh::Inbox};
use storage::{
    BeginError, EndError, LeaveError, Log, LogFailed, PartitionSettings, ReadError, ReplicateError,
    replica::{Ending, Origin},
};
use wire::{
    PartitionId,
    record::{BatchError, Batches},
};

use super::{
    Shard,
    mesh::{Message, Reply, call, send_surely},
};
use crate::{meta::LogNumber, metrics::Metric, partition::Partition};

/// Bytes read from the source at a time.
const READ_BYTES: usize = 256 << 10;

/// Bytes copied in a second while nobody waits for them.
const COPY_BYTES_PER_S: u64 = 64 << 20;

/// Passes after which appends pause however much is left: the source takes more than can be copied.
const PASSES_MAX: usize = 8;

/// How long appends may pause for the rest to be copied.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A partition to be copied into a log of the shard that is told so.
#[derive(Clone, Debug)]
pub(crate) struct Copying {
    /// The partition.
    pub(crate) partition: PartitionId,
    /// What it is kept by.
    pub(crate) settings: PartitionSettings,
    /// The shard that serves it.
    pub(crate) from: u16,
    /// The log that the copy goes to.
    pub(crate) to: LogNumber,
    /// What the copy begins with.
    pub(crate) origin: Origin,
}

/// What the source has from an offset on.
#[derive(Debug)]
pub(crate) struct Copied {
    bytes: Vec<u8>,
    /// Where to read on.
    next_offset: u64,
    /// The end of what can be read.
    high_watermark: u64,
}

/// Why a partition was not copied. It stays where it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// It was deleted, or is not where it was thought to be.
    #[error("it is not there any more")]
    Gone,
    /// Its log is damaged: nothing is moved that cannot be proven.
    #[error("its log is damaged")]
    Refused,
    /// The source could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What was read is no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The copy could not be begun.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The source goes on changing.
    #[error(transparent)]
    Leave(#[from] LeaveError),
    /// The copy is not whole.
    #[error(transparent)]
    End(#[from] EndError),
    /// The target did not take a batch.
    #[error(transparent)]
    Replicate(#[from] ReplicateError),
    /// The target's log failed.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// The rest took too long while appends paused.
    #[error("the source got further ahead than could be copied in {PAUSE_MAX:?}")]
    Late,
    /// A backup copies the logs.
    #[error("a backup is under way")]
    Held,
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

/// What a copy of a partition that this shard serves begins with.
pub(crate) async fn origin<R: Runtime>(shard: &Shard<R>, partition: PartitionId) -> Result<Origin, CopyError> {
    Ok(source(shard, partition)?.origin().await?)
}

/// Reads from a partition that this shard serves.
pub(crate) async fn read<R: Runtime>(
    shard: &Shard<R>,
    partition: PartitionId,
    offset: u64,
) -> Result<Copied, CopyError> {
    let partition = source(shard, partition)?;
    let read = partition.read(offset, READ_BYTES).await?;
    let mut bytes = Vec::with_capacity(read.bytes);
    read.slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
    Ok(Copied { bytes, next_offset: read.next_offset, high_watermark: partition.offsets().high_watermark })
}

/// Has appends to a partition that this shard serves wait.
pub(crate) fn pause<R: Runtime>(shard: &Shard<R>, partition: PartitionId) {
    if shard.partition(partition).is_some() {
        shard.pauses.pause(partition);
    }
}

/// Has them go on, whichever log they go to.
pub(crate) fn resume<R: Runtime>(shard: &Shard<R>, partition: PartitionId) {
    if let Some(partition) = shard.partition(partition) {
        partition.stay();
    }
    shard.pauses.resume(partition);
}

/// What a partition is that this shard serves and that takes no appends, once it does not change in other ways either and
/// all of it can be read.
pub(crate) async fn end<R: Runtime>(shard: &Shard<R>, partition: PartitionId) -> Result<Ending, CopyError> {
    let source = source(shard, partition)?;
    source.leave().await?;
    if !shard.pauses.holds(partition) {
        // Whoever asked has given up meanwhile.
        source.stay();
        return Err(CopyError::Late);
    }
    let log_end = source.offsets().log_end;
    if log_end > 0 {
        source.visible_beyond(log_end - 1).await;
    }
    Ok(source.ending())
}

fn source<R: Runtime>(shard: &Shard<R>, partition: PartitionId) -> Result<Partition<R>, CopyError> {
    let partition = shard.partition(partition).ok_or(CopyError::Gone)?;
    if partition.refused_from().is_some() { Err(CopyError::Refused) } else { Ok(partition) }
}

/// Copies a partition into a log of this shard, up to its end, and leaves appends paused: at the source, and here for when
/// it is served from here.
pub(crate) async fn receive<R: Runtime>(shard: &Rc<Shard<R>>, copying: Copying) -> Result<(), CopyError> {
    let log = shard.logs.get(copying.to).ok_or(CopyError::Gone)?;
    let target = log.adopt(copying.partition, copying.settings);
    target.begin(&copying.origin).await?;
    let copy = Copy { shard, log, target, copying: &copying };
    copy.catch_up().await?;
    shard.pauses.pause(copying.partition);
    let late = async {
        shard.rt.sleep(PAUSE_MAX).await;
        Err(CopyError::Late)
    };
    future::or(copy.finish(), late).await
}

/// One copy under way, on the shard of its target.
struct Copy<'a, R: Runtime> {
    shard: &'a Rc<Shard<R>>,
    log: Log<R>,
    target: storage::Partition<R>,
    copying: &'a Copying,
}

impl<R: Runtime> Copy<'_, R> {
    /// Copies until little is left.
    async fn catch_up(&self) -> Result<(), CopyError> {
        for pass in 0..PASSES_MAX {
            if self.shard.moving.held_for(self.shard.rt.now()).is_some() {
                return Err(CopyError::Held);
            }
            let bytes = self.copy_once_through(pass == 0).await?;
            if bytes <= READ_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// Pauses appends to the source and copies what is left of it.
    async fn finish(&self) -> Result<(), CopyError> {
        let partition = self.copying.partition;
        let ending = self.ask(|reply| Message::PauseAppends { partition, reply }).await?;
        self.copy_once_through(false).await?;
        self.target.skip_lost();
        Ok(self.target.end(&ending).await?)
    }

    /// Copies what the source has now; how many bytes that was. In its own time it keeps to the pace of the background.
    async fn copy_once_through(&self, paced: bool) -> Result<usize, CopyError> {
        let (partition, rt) = (self.copying.partition, &self.shard.rt);
        let mut bytes = 0;
        let mut end = None;
        loop {
            if self.shard.is_stopping() {
                return Err(CopyError::Stopping);
            }
            if paced && self.shard.moving.held_for(rt.now()).is_some() {
                return Err(CopyError::Held);
            }
            self.target.skip_lost();
            let offset = self.target.offsets().log_end;
            if end.is_some_and(|end| offset >= end) {
                return Ok(bytes);
            }
            let copied = self.ask(|reply| Message::ReadCopy { partition, offset, reply }).await?;
            end.get_or_insert(copied.high_watermark);
            self.append(&copied.bytes).await?;
            bytes += copied.bytes.len();
            self.shard.metrics.add(Metric::MoveBytes, copied.bytes.len() as u64);
            if copied.bytes.is_empty() && copied.next_offset == offset {
                return Ok(bytes);
            }
            if paced {
                let pace = copied.bytes.len() as u64 * 1_000_000 / COPY_BYTES_PER_S;
                rt.sleep(Duration::from_micros(pace)).await;
            }
        }
    }

    /// Appends whole batches as they are, and waits until they are on stable storage.
    async fn append(&self, bytes: &[u8]) -> Result<(), CopyError> {
        let mut lsn = 0;
        for batch in Batches::new(bytes) {
            let batch = batch?;
            batch.verify_stored()?;
            if !self.log.has_room() {
                self.log.admit().await;
            }
            self.target.skip_compacted(&batch)?;
            lsn = self.target.replicate(&batch)?.lsn();
        }
        self.log.synced(lsn).await?;
        Ok(())
    }

    /// Asks the shard of the source.
    async fn ask<T>(&self, message: impl FnOnce(Reply<Result<T, CopyError>>) -> Message<R>) -> Result<T, CopyError> {
        ask(self.shard, self.copying.from, message).await?
    }
}

/// Asks a shard, this one or another, what it may take a while to answer.
pub(crate) async fn ask<R: Runtime, T>(
    shard: &Shard<R>,
    to: u16,
    message: impl FnOnce(Reply<T>) -> Message<R>,
) -> Result<T, CopyError> {
    let (reply, answer): (Reply<T>, Inbox<T>) = call();
    send_surely(&shard.rt, &shard.mesh()[usize::from(to)], message(reply)).await;
    // A shard answers as long as it lives.
    answer.receive().await.ok_or(CopyError::Stopping)
}
