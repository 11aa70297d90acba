//! A partition this node leads, over the one that storage keeps.

mod append;
pub(crate) mod delayed;

use runtime::Runtime;
use storage::{
    AcceptError, LeaveError, Offsets, PartitionSettings, ReadError, Survey, TrimError,
    replica::{Ending, Origin},
};

pub(crate) use self::append::Append;
use crate::{
    handler::error::GetError,
    meta::LogNumber,
    request::{FetchedBatches, Got, PartitionStatus},
};

/// So much of a partition is looked at for damage by one request.
const SURVEY_BYTES: u64 = 64 << 20;

/// A partition this shard leads. A clone is another handle to it.
pub(crate) struct Partition<R: Runtime> {
    stored: storage::Partition<R>,
    /// The log it lives in.
    log: LogNumber,
    /// Of this node's leadership; in every batch that it places.
    leader_epoch: i32,
}

impl<R: Runtime> Clone for Partition<R> {
    fn clone(&self) -> Self {
        Self { stored: self.stored.clone(), ..*self }
    }
}

impl<R: Runtime> Partition<R> {
    /// Leads `stored`, which lives in `log`, in this epoch.
    pub(crate) fn lead(stored: storage::Partition<R>, log: LogNumber, leader_epoch: i32) -> Self {
        Self { stored, log, leader_epoch }
    }

    /// The log it lives in.
    pub(crate) fn log(&self) -> LogNumber {
        self.log
    }

    /// Asks for the memory that an append is going to touch.
    #[inline]
    pub(crate) fn prefetch(&self) {
        self.stored.prefetch();
    }

    /// Keeps it by other settings from now on.
    pub(crate) fn configure(&self, settings: PartitionSettings) {
        self.stored.configure(settings);
    }

    /// Its offsets at the moment.
    pub(crate) fn offsets(&self) -> Offsets {
        self.stored.offsets()
    }

    /// Whole batches from the one that holds `offset` on.
    pub(crate) async fn read(&self, offset: u64, bytes_max: usize) -> Result<FetchedBatches<R::Frozen>, ReadError> {
        let storage::Batches { slices, bytes, next_offset, lost } = self.stored.read(offset, bytes_max).await?;
        Ok(FetchedBatches { slices, bytes, next_offset, lost })
    }

    /// Waits until consumers may see a record at `offset` or behind it, or reading there can only fail.
    pub(crate) async fn visible_beyond(&self, offset: u64) {
        self.stored.visible_beyond(offset).await;
    }

    /// What a copy of it begins with.
    pub(crate) async fn origin(&self) -> Result<Origin, ReadError> {
        self.stored.origin().await
    }

    /// It changes no more until [`Self::stay`].
    pub(crate) async fn leave(&self) -> Result<(), LeaveError> {
        self.stored.leave().await
    }

    /// What it is, now that it changes no more and all of it can be read.
    pub(crate) fn ending(&self) -> Ending {
        self.stored.ending()
    }

    /// It does not leave after all.
    pub(crate) fn stay(&self) {
        self.stored.stay();
    }

    /// It is not led here any more: whoever waits for records of it hears of it.
    pub(crate) fn retire(&self) {
        self.stored.retire();
    }

    /// The first record with this timestamp or a later one: its offset and timestamp.
    pub(crate) async fn offset_at(&self, timestamp_ms: i64) -> Result<Option<(u64, i64)>, ReadError> {
        self.stored.offset_at(timestamp_ms).await
    }

    /// The last record of a key, of a compacted partition.
    pub(crate) async fn get(&self, key: &[u8]) -> Got {
        if !self.stored.settings().cleanup.compact {
            return Err(GetError::NotCompacted);
        }
        Ok(self.stored.get(key).await?)
    }

    /// Deletes the records before `offset`, or all that consumers see; where it starts then.
    pub(crate) async fn delete_before(&self, offset: Option<u64>) -> Result<u64, TrimError> {
        self.stored.delete_before(offset).await
    }

    /// From which offset on its log is damaged.
    pub(crate) fn refused_from(&self) -> Option<u64> {
        self.stored.refused_from()
    }

    /// The first offset at which damage in a segment was met.
    pub(crate) fn damaged_from(&self) -> Option<u64> {
        self.stored.damaged_from()
    }

    /// What damage took of a stretch from `from` on.
    pub(crate) async fn survey(&self, from: u64) -> Result<Survey, AcceptError> {
        let mut survey = self.stored.survey(from, SURVEY_BYTES).await?;
        if survey.next_offset.is_none() {
            survey.lost.extend(self.stored.refused_offsets());
        }
        Ok(survey)
    }

    /// The same, and gives it up.
    pub(crate) async fn accept_loss(&self, from: u64) -> Result<Survey, AcceptError> {
        let mut survey = self.stored.give_up_damaged(from, SURVEY_BYTES).await?;
        if survey.next_offset.is_none() {
            survey.lost.extend(self.stored.accept_loss().await?);
        }
        Ok(survey)
    }

    /// What it holds.
    pub(crate) fn status(&self) -> PartitionStatus {
        PartitionStatus {
            offsets: self.stored.offsets(),
            refused_from: self.refused_from(),
            damaged_from: self.damaged_from(),
        }
    }
}
