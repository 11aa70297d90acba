//! Offset to position, sparse: one entry an interval of batches.
//!
//! The one hard idea: offsets grow almost evenly with bytes, so a straight line through the first and the last entry
//! lands near the right one, and from there the same slope leads to within a few entries of it. What is left are sixteen
//! neighbours, which are halved four times: no branch depends on what is found, so that one lookup need not wait for another.

use std::hint::select_unpredictable;

/// Length of an encoded entry in bytes: offset, then position, 64 bits each, little-endian.
pub const ENTRY_BYTES: usize = 16;

/// A batch gets an entry when it starts at least this many bytes behind the last one that got one. What a lookup leaves
/// to be walked is therefore shorter than this, or one batch.
pub const INTERVAL_BYTES: u64 = 8 * 1024;

/// Among so many neighbours is what the slope leads to.
const WINDOW: usize = 16;

/// Where a batch lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Offset of its first record.
    pub offset: u64,
    /// Where it starts, in bytes from the start of the file.
    pub position: u64,
}

/// Entries in ascending order of both offset and position, as bytes of someone else's. Of entries in another order it
/// finds nothing useful, and does no harm.
#[derive(Clone, Copy, Debug)]
pub struct OffsetIndex<'a> {
    entries: &'a [[u8; ENTRY_BYTES]],
    first_offset: u64,
    /// Slope of the line, as a fraction of 2^63.
    entries_per_offset: i64,
}

impl<'a> OffsetIndex<'a> {
    /// An index of the whole entries in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        let (entries, _) = bytes.as_chunks();
        let first_offset = entries.first().map_or(0, offset_of);
        let last_offset = entries.last().map_or(0, offset_of);
        let offsets = last_offset.saturating_sub(first_offset).max(1);
        // Never above 1, as no two entries have the same offset; the conversion saturates.
        let slope = entries.len().saturating_sub(1) as f64 / offsets as f64;
        Self { entries, first_offset, entries_per_offset: (slope * 2f64.powi(63)) as i64 }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entry `number`, from 0.
    ///
    /// # Panics
    /// If there is none of that number.
    pub fn entry(&self, number: usize) -> Entry {
        Entry { offset: offset_of(&self.entries[number]), position: position_of(&self.entries[number]) }
    }

    /// Number of the last entry at or below `offset`; `None` when all lie above it.
    #[inline]
    pub fn floor(&self, offset: u64) -> Option<usize> {
        let last = self.entries.len().checked_sub(1)?;
        let guess = (self.steps(offset.checked_sub(self.first_offset)?) as usize).min(last);
        let off_by = self.steps(offset.wrapping_sub(offset_of(&self.entries[guess])));
        // Where any of this is wrong or wraps, the window does not hold what is looked for.
        let start = (guess as i64).wrapping_add(off_by).wrapping_sub(WINDOW as i64 / 2).max(0) as usize;
        let start = start.min(self.entries.len().saturating_sub(WINDOW));
        let Some(window) = self.entries[start..].first_chunk::<WINDOW>() else { return Some(self.search(offset)) };
        let within = floor_among(window, offset);
        let starts_below = within > 0 || start == 0;
        let ends_above = within < WINDOW - 1 || start + WINDOW == self.entries.len();
        if starts_below && ends_above { Some(start + within) } else { Some(self.search(offset)) }
    }

    /// Number of the first entry at or above `offset`; the number of entries when all lie below it.
    pub fn ceiling(&self, offset: u64) -> usize {
        match self.floor(offset) {
            Some(number) if self.entry(number).offset == offset => number,
            Some(number) => number + 1,
            None => 0,
        }
    }

    /// Number of the first entry that lies behind `position`; the number of entries when none does.
    pub fn behind_position(&self, position: u64) -> usize {
        self.entries.partition_point(|entry| position_of(entry) <= position)
    }

    /// How many entries lie on so many offsets, which may be negative, by the slope. Of more than 2^62 it is wrong.
    #[inline]
    fn steps(&self, offsets: u64) -> i64 {
        // Doubled first, as the upper half of a product costs no shift.
        ((i128::from((offsets << 1).cast_signed()) * i128::from(self.entries_per_offset)) >> 64) as i64
    }

    /// Finds what the slope did not, among all entries.
    #[cold]
    fn search(&self, offset: u64) -> usize {
        floor_among(self.entries, offset)
    }
}

/// Number of the last of `entries` at or below `offset`; 0 when all lie above it. Which way a lookup goes is a coin toss, so
/// there is no branch on it: a mispredicted one costs more than all the rest.
#[inline]
fn floor_among(entries: &[[u8; ENTRY_BYTES]], offset: u64) -> usize {
    let (mut floor, mut len) = (0, entries.len());
    while len > 1 {
        let half = len / 2;
        let middle = floor + half;
        floor = select_unpredictable(offset_of(&entries[middle]) <= offset, middle, floor);
        len -= half;
    }
    floor
}

#[inline]
fn offset_of(entry: &[u8; ENTRY_BYTES]) -> u64 {
    u64::from_le_bytes(*entry.first_chunk().expect("an entry has 16 bytes"))
}

#[inline]
fn position_of(entry: &[u8; ENTRY_BYTES]) -> u64 {
    u64::from_le_bytes(*entry.last_chunk().expect("an entry has 16 bytes"))
}

/// An index as it grows: batches in, encoded entries out, to be looked up at any time.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    /// Batches before it get no entry.
    next_entry_position: u64,
}

impl Builder {
    /// Lets the next batch have an entry whatever the distance: it is the first of its partition.
    pub fn start_partition(&mut self) {
        self.next_entry_position = 0;
    }

    /// Tells of the next batch. Returns whether it got an entry, and so starts an interval.
    #[inline]
    pub fn add(&mut self, offset: u64, position: u64) -> bool {
        if position < self.next_entry_position {
            return false;
        }
        self.next_entry_position = position + INTERVAL_BYTES;
        let mut entry = [0; ENTRY_BYTES];
        entry[..8].copy_from_slice(&offset.to_le_bytes());
        entry[8..].copy_from_slice(&position.to_le_bytes());
        self.bytes.extend_from_slice(&entry);
        true
    }

    /// Number of entries so far.
    pub fn len(&self) -> usize {
        self.bytes.len() / ENTRY_BYTES
    }

    /// Whether no batch was added yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The entries so far.
    pub fn index(&self) -> OffsetIndex<'_> {
        OffsetIndex::new(&self.bytes)
    }

    /// The encoded entries.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index_of(offsets: &[u64]) -> Builder {
        let mut builder = Builder::default();
        for (number, &offset) in offsets.iter().enumerate() {
            assert!(builder.add(offset, number as u64 * INTERVAL_BYTES));
        }
        builder
    }

    #[test]
    fn one_entry_an_interval_and_one_for_each_partition() {
        let mut builder = Builder::default();
        assert!(builder.add(0, 4096));
        assert!(!builder.add(1, 4096 + INTERVAL_BYTES - 1));
        assert!(builder.add(2, 4096 + INTERVAL_BYTES));
        builder.start_partition();
        assert!(builder.add(0, 4096 + INTERVAL_BYTES + 100));
        assert_eq!(builder.len(), 3);
        assert_eq!(builder.index().entry(1), Entry { offset: 2, position: 4096 + INTERVAL_BYTES });
    }

    #[test]
    fn nothing_is_found_in_an_empty_index() {
        let index = OffsetIndex::new(&[0; ENTRY_BYTES - 1]);
        assert!(index.is_empty());
        assert_eq!((index.floor(0), index.ceiling(0), index.behind_position(0)), (None, 0, 0));
    }

    #[test]
    fn entries_out_of_order_do_no_harm() {
        let builder = index_of(&[50, 10, u64::MAX, 0, 7]);
        for offset in [0, 10, 50, 60, u64::MAX] {
            let _ = (builder.index().floor(offset), builder.index().ceiling(offset));
        }
    }

    proptest! {
        /// Even, ragged and lopsided gaps alike: the guess may be off by thousands of entries.
        #[test]
        fn lookups_agree_with_a_plain_search(
            first in 0..1_000_000u64,
            gaps in prop::collection::vec(prop_oneof![Just(100u64), 1..1_000u64, 1..(1u64 << 40)], 0..3_000),
            asked in prop::collection::vec(any::<prop::sample::Index>(), 20),
            nudge in 0..3u64,
        ) {
            let offsets: Vec<u64> = std::iter::once(first)
                .chain(gaps.iter().scan(first, |offset, gap| { *offset += gap; Some(*offset) }))
                .collect();
            let builder = index_of(&offsets);
            let index = builder.index();
            for pick in asked {
                let offset = (pick.get(&offsets) + nudge).saturating_sub(1);
                let at_or_below = offsets.partition_point(|&entry| entry <= offset);
                prop_assert_eq!(index.floor(offset), at_or_below.checked_sub(1));
                prop_assert_eq!(index.ceiling(offset), offsets.partition_point(|&entry| entry < offset));
            }
            let position = nudge * INTERVAL_BYTES;
            prop_assert_eq!(index.behind_position(position), (nudge as usize + 1).min(offsets.len()));
        }
    }
}
