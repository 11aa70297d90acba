//! What lets an ack out.
//!
//! An append answers with [`Appended`], which is no ack. It becomes [`Acked`], the only thing a produce response is
//! made from, in one of two ways: with a [`Synced`] token that covers it, minted by nothing but the completion of a
//! sync; or, on a partition whose level is `memory`, without one. None of the three can be made or changed outside this
//! crate, which `tests/ack_after_sync.rs` proves.

use wire::Durability;

/// Number of a sync group within its log. Groups are written one after the other, in this order.
pub type Lsn = u64;

/// Proof that every sync group of one log up to an LSN is on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The lower half of the log's id: enough to notice a bug, and every ack on its way carries one.
    log_id: u64,
    lsn: Lsn,
}

impl Synced {
    /// Minted when the durable write of group `lsn` completed, or when recovery found the group on the disk and
    /// synced the file that holds it.
    pub(crate) fn up_to(log_id: u128, lsn: Lsn) -> Self {
        Self { log_id: log_id as u64, lsn }
    }

    /// The last group it covers.
    pub fn lsn(self) -> Lsn {
        self.lsn
    }
}

/// A batch that has its offsets, and a place in a sync group. Not an ack.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an append that is never acknowledged leaves its producer waiting"]
pub struct Appended {
    pub(crate) base_offset: u64,
    pub(crate) next_offset: u64,
    pub(crate) lsn: Lsn,
    pub(crate) duplicate: bool,
    pub(crate) log_id: u64,
    pub(crate) durability: Durability,
    pub(crate) needs_sync: bool,
}

/// A batch whose producer may hear of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Acked {
    base_offset: u64,
    durability: Durability,
}

impl Appended {
    /// Offset of its first record.
    #[inline]
    pub fn base_offset(&self) -> u64 {
        self.base_offset
    }

    /// Offset behind its last record.
    #[inline]
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// The sync group that carries it.
    #[inline]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Whether the log held the batch already: the producer repeated itself.
    #[inline]
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }

    /// Whether the ack has to wait for the sync of [`Self::lsn`]: always on a `durable` partition, and on a `memory`
    /// one while the offsets given out are not covered by a synced reservation.
    #[inline]
    pub fn needs_sync(&self) -> bool {
        self.needs_sync
    }

    /// The ack, once its group is on stable storage.
    ///
    /// # Panics
    /// If `synced` is of another log or does not reach this batch: a bug of ours that would lose data.
    #[inline]
    pub fn acknowledge(self, synced: Synced) -> Acked {
        assert!(
            synced.log_id == self.log_id && synced.lsn >= self.lsn,
            "an ack needs the sync of group {} of log {:016x}, got {synced:?}",
            self.lsn,
            self.log_id
        );
        Acked { base_offset: self.base_offset, durability: self.durability }
    }

    /// The ack of a `memory` partition, before anything is synced.
    ///
    /// # Errors
    /// Itself, when the ack has to wait for a sync after all.
    #[inline]
    pub fn acknowledge_unsynced(self) -> Result<Acked, Self> {
        if self.needs_sync {
            return Err(self);
        }
        Ok(Acked { base_offset: self.base_offset, durability: self.durability })
    }
}

impl Acked {
    /// Offset of the batch's first record.
    #[inline]
    pub fn base_offset(&self) -> u64 {
        self.base_offset
    }

    /// What the ack means.
    #[inline]
    pub fn durability(&self) -> Durability {
        self.durability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(lsn: Lsn, needs_sync: bool) -> Appended {
        let durability = if needs_sync { Durability::Durable } else { Durability::Memory };
        Appended { base_offset: 7, next_offset: 9, lsn, duplicate: false, log_id: 1, durability, needs_sync }
    }

    #[test]
    fn a_sync_that_reaches_the_batch_acks_it() {
        let acked = appended(5, true).acknowledge(Synced::up_to(1, 5));
        assert_eq!((acked.base_offset(), acked.durability()), (7, Durability::Durable));
    }

    #[test]
    #[should_panic(expected = "an ack needs the sync of group 5")]
    fn an_earlier_sync_does_not() {
        let _ = appended(5, true).acknowledge(Synced::up_to(1, 4));
    }

    #[test]
    #[should_panic(expected = "an ack needs the sync of group 5")]
    fn a_sync_of_another_log_does_not() {
        let _ = appended(5, true).acknowledge(Synced::up_to(2, 5));
    }

    #[test]
    fn only_the_weaker_level_acks_without_a_sync() {
        assert!(appended(5, false).acknowledge_unsynced().is_ok());
        assert!(appended(5, true).acknowledge_unsynced().is_err());
    }
}
