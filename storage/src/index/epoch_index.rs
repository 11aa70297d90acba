//! Leader epoch to its first offset: what tells a follower where its log parts from the leader's.
//!
//! The one hard idea: an epoch has no end of its own; it ends where the next one starts. So only starts are stored, and
//! the end of the last epoch is the end of what is being asked about.

/// Length of an encoded entry in bytes: the epoch, signed 32 bits, then its first offset, 64 bits, little-endian.
pub const ENTRY_BYTES: usize = 12;

/// Where a leader epoch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub leader_epoch: i32,
    /// The first offset written in it.
    pub offset: u64,
}

/// Epochs in ascending order, as bytes of someone else's.
#[derive(Clone, Copy, Debug)]
pub struct EpochIndex<'a> {
    entries: &'a [[u8; ENTRY_BYTES]],
}

impl<'a> EpochIndex<'a> {
    /// An index of the whole entries in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { entries: bytes.as_chunks().0 }
    }

    /// Number of epochs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no epoch.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All epochs, ascending.
    pub fn starts(&self) -> impl DoubleEndedIterator<Item = EpochStart> + 'a {
        self.entries.iter().map(decode)
    }

    /// The last epoch at or below `leader_epoch` and the offset at which it ends, when nothing from `end_offset` on
    /// counts; `None` when every epoch below `end_offset` is a later one.
    pub fn end_of(&self, leader_epoch: i32, end_offset: u64) -> Option<(i32, u64)> {
        let later = self.entries.partition_point(|entry| {
            let start = decode(entry);
            start.leader_epoch <= leader_epoch && start.offset < end_offset
        });
        let found = decode(&self.entries[later.checked_sub(1)?]);
        let end = self.entries.get(later).map_or(end_offset, |next| decode(next).offset.min(end_offset));
        Some((found.leader_epoch, end))
    }
}

fn decode(entry: &[u8; ENTRY_BYTES]) -> EpochStart {
    EpochStart {
        leader_epoch: i32::from_le_bytes(*entry.first_chunk().expect("an entry has 12 bytes")),
        offset: u64::from_le_bytes(*entry.last_chunk().expect("an entry has 12 bytes")),
    }
}

/// An index as it grows.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    leader_epoch: Option<i32>,
}

impl Builder {
    /// Starts anew: the next batch is the first of its partition.
    pub fn start_partition(&mut self) {
        self.leader_epoch = None;
    }

    /// Tells of the next batch.
    ///
    /// # Errors
    /// The epoch of the batch before, when it is a later one: then nothing was added.
    #[inline]
    pub fn add(&mut self, leader_epoch: i32, offset: u64) -> Result<(), i32> {
        match self.leader_epoch {
            Some(current) if current == leader_epoch => return Ok(()),
            Some(current) if current > leader_epoch => return Err(current),
            _ => {}
        }
        self.leader_epoch = Some(leader_epoch);
        self.bytes.extend_from_slice(&leader_epoch.to_le_bytes());
        self.bytes.extend_from_slice(&offset.to_le_bytes());
        Ok(())
    }

    /// Number of epochs so far, all partitions together.
    pub fn len(&self) -> usize {
        self.bytes.len() / ENTRY_BYTES
    }

    /// Whether no batch was added yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The encoded entries.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_epochs() -> Builder {
        let mut builder = Builder::default();
        for (leader_epoch, offset) in [(3, 100), (3, 110), (5, 120), (9, 200), (9, 220)] {
            builder.add(leader_epoch, offset).unwrap();
        }
        builder
    }

    #[test]
    fn an_epoch_ends_where_the_next_one_starts() {
        let builder = three_epochs();
        let index = EpochIndex::new(builder.bytes());
        assert_eq!(index.starts().map(|start| start.leader_epoch).collect::<Vec<_>>(), [3, 5, 9]);
        for (leader_epoch, expected) in [
            (2, None),
            (3, Some((3, 120))),
            (4, Some((3, 120))),
            (5, Some((5, 200))),
            (9, Some((9, 250))),
            (i32::MAX, Some((9, 250))),
        ] {
            assert_eq!(index.end_of(leader_epoch, 250), expected, "epoch {leader_epoch}");
        }
    }

    #[test]
    fn what_was_clipped_off_has_no_epochs() {
        let builder = three_epochs();
        let index = EpochIndex::new(builder.bytes());
        assert_eq!(index.end_of(5, 150), Some((5, 150)));
        assert_eq!(index.end_of(9, 150), Some((5, 150)));
        assert_eq!(index.end_of(3, 110), Some((3, 110)));
        assert_eq!(index.end_of(3, 100), None);
    }

    #[test]
    fn an_epoch_that_falls_is_refused() {
        let mut builder = three_epochs();
        assert_eq!(builder.add(8, 230), Err(9));
        builder.start_partition();
        assert_eq!(builder.add(8, 0), Ok(()));
        assert_eq!(builder.len(), 4);
    }
}
