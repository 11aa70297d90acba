//! A partition as a copy of one in another log: batches come with their offsets and leader epochs, and stay byte for byte
//! what they are. A partition that moves to another log is copied so.
//!
//! The one hard idea: a copy is whatever an appending partition would have become. Every batch goes through the same
//! producer state, epochs and memtables, in the same order; what batches do not say, because it lies before the first of
//! them or was lost, stands in the [`Origin`] that the copy begins with, and what the source learned beside them in the
//! [`Ending`] that it ends with.

use std::ops::Range;

use runtime::{Runtime, sabotage::planted};
use wire::record::{Attributes, Batch, BatchHeader, BatchRewriter, Producer};

use crate::{
    error::{BeginError, EndError, LeaveError, ReadError, ReplicateError},
    flush::flush_through,
    group::{Entry, EntryKind},
    manifest::Edit,
    partition::{PRODUCERS_MAX, Partition, Status},
    producer_state::Producers,
    synced::Appended,
};

/// What a copy of a partition has to know beside its batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Where its first batch starts: at the log start, or before it when that lies inside of a batch.
    pub base_offset: u64,
    /// Offsets that hold nothing and never will.
    pub lost: Vec<Range<u64>>,
    /// What its producers appended below `base_offset`, as [`Producers::encode`] has it.
    pub producers: Vec<u8>,
}

/// What a partition was when it changed no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Where it starts: deletions may have moved that since the copy began.
    pub log_start: u64,
    /// Where it ends.
    pub log_end: u64,
    /// What its producers appended, as [`Producers::encode`] has it. Of batches that were compacted away only this tells.
    pub producers: Vec<u8>,
}

impl<R: Runtime> Partition<R> {
    /// What a copy of this partition begins with.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn origin(&self) -> Result<Origin, ReadError> {
        let log_start = self.check_readable(self.offsets().log_start)?.log_start;
        let base_offset = self.batch_start(log_start).await?;
        let mut producers = self.state.producers.borrow().clone();
        producers.truncate(base_offset);
        let lost = self.state.lost.borrow().to_vec();
        Ok(Origin { base_offset, lost, producers: producers.encode(u64::MAX) })
    }

    /// Makes this partition, which is empty, the beginning of a copy, durably.
    ///
    /// # Errors
    /// [`BeginError`].
    pub async fn begin(&self, origin: &Origin) -> Result<(), BeginError> {
        let producers = Producers::decode(&origin.producers, PRODUCERS_MAX, self.log.rt.now())?;
        let _alone = self.log.maintenance.lock().await;
        if self.state.status.get() != Status::Serving {
            return Err(BeginError::Gone);
        }
        let log_end = self.offsets().log_end;
        if log_end > 0 {
            return Err(BeginError::NotEmpty { log_end });
        }
        let Origin { base_offset, lost, producers: encoded } = origin.clone();
        self.log
            .edit(Edit::Begin { partition: self.id(), base_offset, lost: lost.clone(), producers: encoded })
            .await?;
        self.state.recovered(base_offset, base_offset);
        self.state.lost.replace(lost.into());
        self.state.producers.replace(producers);
        Ok(())
    }

    /// Appends a batch as it is, with the offsets and the leader epoch that it has. The caller has verified it.
    ///
    /// # Errors
    /// [`ReplicateError`]; nothing was appended.
    pub fn replicate(&self, batch: &Batch<'_>) -> Result<Appended, ReplicateError> {
        self.check_takes()?;
        self.log.space.check_append()?;
        let (header, bytes) = (batch.header(), batch.bytes());
        let bytes_max = self.log.options.wal_file_bytes() / 2;
        if bytes.len() > bytes_max {
            return Err(ReplicateError::TooLarge { bytes: bytes.len(), bytes_max });
        }
        self.skip_lost();
        let (expected, found) = (self.offsets().log_end, header.base_offset);
        let next_offset = found.checked_add(u64::from(header.last_offset_delta.cast_unsigned()) + 1);
        let Some(next_offset) = next_offset.filter(|_| found == expected) else {
            return Err(ReplicateError::Gap { expected, found });
        };
        let entry = Entry {
            kind: EntryKind::Batch,
            partition: self.id(),
            leader_epoch: header.leader_epoch,
            base_offset: found,
            next_offset,
        };
        let lsn = self.log.wal.push(&self.state, entry, bytes, |_| ());
        Ok(self.appended(header, entry, lsn))
    }

    /// Goes on where `batch` starts, which is what the source has next: compaction by key took away what lay between. A
    /// batch without records takes those offsets, as compaction itself leaves one where it has to.
    ///
    /// # Errors
    /// [`ReplicateError`].
    pub fn skip_compacted(&self, batch: &Batch<'_>) -> Result<(), ReplicateError> {
        let behind = batch.header();
        loop {
            self.skip_lost();
            let base_offset = self.offsets().log_end;
            let Some(gap) = behind.base_offset.checked_sub(base_offset).filter(|&gap| gap > 0) else { return Ok(()) };
            let offsets = gap.min(i32::MAX as u64);
            let header = BatchHeader {
                base_offset,
                attributes: Attributes::default(),
                last_offset_delta: (offsets - 1) as i32,
                producer: Producer::NONE,
                ..*behind
            };
            let bytes = BatchRewriter::new(&header, None).finish();
            let _placed = self.replicate(&Batch::parse_one(&bytes).expect("it was just made"))?;
        }
    }

    /// Goes on behind offsets that are known to be lost, once all that lies before them is on stable storage.
    pub fn skip_lost(&self) {
        let offsets = self.offsets();
        if offsets.synced == offsets.log_end {
            self.state.skip_lost();
        }
    }

    /// Ends a copy: from now on it is what the source was, after a crash too.
    ///
    /// # Errors
    /// [`EndError`].
    pub async fn end(&self, ending: &Ending) -> Result<(), EndError> {
        let producers = Producers::decode(&ending.producers, PRODUCERS_MAX, self.log.rt.now())?;
        let offsets = self.offsets();
        if offsets.log_end != ending.log_end || offsets.synced != ending.log_end {
            return Err(EndError::Short { synced: offsets.synced, expected: ending.log_end });
        }
        if !planted("move without log start") {
            self.delete_before(Some(ending.log_start)).await?;
        }
        let follows_from_batches = self.state.producers.borrow().encode(u64::MAX) == ending.producers;
        if !follows_from_batches && !planted("move without producers") {
            self.state.producers.replace(producers);
            // Compaction took the batches that say so from the source: the manifest has to, and a flush tells it.
            self.state.producers_cut.set(true);
            flush_through(&self.log, self.log.wal.lsn_last()).await?;
        }
        Ok(())
    }

    /// Changes no more until [`Self::stay`], whoever asks: the partition is about to live in another log. It is read as
    /// before.
    ///
    /// # Errors
    /// [`LeaveError`].
    pub async fn leave(&self) -> Result<(), LeaveError> {
        // No deletion and no truncation is half done meanwhile.
        let _cutting = self.log.cutting.lock().await;
        match self.state.status.get() {
            Status::Serving | Status::Leaving => self.state.set_status(Status::Leaving),
            Status::Refused { from } => return Err(LeaveError::Refused { from }),
            // A truncation that is half done failed, and with it the log.
            Status::Gone | Status::Truncating => return Err(LeaveError::Gone),
        }
        Ok(())
    }

    /// What it is, now that it changes no more and all of it can be read.
    pub fn ending(&self) -> Ending {
        let offsets = self.offsets();
        let producers = self.state.producers.borrow().encode(u64::MAX);
        Ending { log_start: offsets.log_start, log_end: offsets.log_end, producers }
    }

    /// Changes again: it does not live in another log after all.
    pub fn stay(&self) {
        if self.state.status.get() == Status::Leaving {
            self.state.set_status(Status::Serving);
        }
    }

    /// Takes no more part in anything because another log has the partition now: whoever waits for records here hears of
    /// it. What is on the disk stays until [`Self::drop_partition`].
    pub fn retire(&self) {
        self.state.set_status(Status::Gone);
    }
}
