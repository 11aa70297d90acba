//! Who reads on where they stopped, and how far ahead of them the disk should be.
//!
//! The one hard idea: a reader is known by where it will go on. A read of a partition that starts exactly where one ended
//! before is the same reader's, whoever asks; nobody registers, nothing is to be closed, and one that goes away is
//! forgotten when its place is needed.

use std::{collections::VecDeque, ops::Range};

use super::EXTENT_BYTES_MAX;
use crate::{PartitionId, segment::SegmentId};

/// So many readers are told apart.
const READERS_MAX: usize = 256;
/// A reader that went on once is read ahead for by so much, and twice as much each time.
const WINDOW_BYTES_MIN: u64 = 128 << 10;
/// The most that is read ahead for one reader.
const WINDOW_BYTES_MAX: u64 = 4 << 20;

/// One reader, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    partition: PartitionId,
    next_offset: u64,
    /// Bytes to be read ahead; 0 as long as it read once.
    window_bytes: u64,
    /// The extent it used last.
    pub(super) used: Option<(SegmentId, u64)>,
    /// Up to which position of which segment was read ahead, last one last: the one it is in and the one behind.
    ahead: VecDeque<(SegmentId, u64)>,
}

/// The readers that were seen last.
#[derive(Debug, Default)]
pub(super) struct Readers(VecDeque<Reader>);

impl Readers {
    /// The reader that goes on at this offset, or one that was never seen. Until [`Self::leave`] nobody else is it.
    pub(super) fn arrive(&mut self, partition: PartitionId, offset: u64) -> Reader {
        match self.place_of(partition, offset) {
            Some(place) => self.0.remove(place).expect("it was just found"),
            None => Reader::stranger(partition),
        }
    }

    /// The same, who stays.
    pub(super) fn known(&self, partition: PartitionId, offset: u64) -> Option<&Reader> {
        self.place_of(partition, offset).map(|place| &self.0[place])
    }

    /// It will go on at `next_offset`, having read so many bytes. `window_bytes_max` is what memory allows.
    pub(super) fn leave(&mut self, mut reader: Reader, next_offset: u64, bytes: u64, window_bytes_max: u64) {
        // One that takes large pieces needs more than one of them ahead.
        let wanted = (reader.window_bytes * 2).max(bytes.saturating_mul(2));
        reader.window_bytes = wanted.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX).min(window_bytes_max);
        reader.next_offset = next_offset;
        if self.0.len() == READERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(reader);
    }

    fn place_of(&self, partition: PartitionId, offset: u64) -> Option<usize> {
        self.0.iter().rposition(|reader| reader.next_offset == offset && reader.partition == partition)
    }
}

impl Reader {
    /// One of whom nothing is known.
    pub(crate) fn stranger(partition: PartitionId) -> Self {
        Self { partition, next_offset: 0, window_bytes: 0, used: None, ahead: VecDeque::new() }
    }

    /// Up to which position of a segment was read ahead for it, or is to be.
    pub(super) fn ahead_in(&self, segment: SegmentId) -> u64 {
        self.ahead.iter().find(|&&(known, _)| known == segment).map_or(0, |&(_, end)| end)
    }

    /// Whether the window of a reader that stands at `position` reaches beyond `end`.
    pub(super) fn reaches_beyond(&self, position: u64, end: u64) -> bool {
        self.window_bytes > end - position
    }

    /// What to read ahead for it now, of a segment whose bytes are of use up to `end`, when it stands at `position`, or
    /// will with `bytes_before` still in front of it. Empty most of the time: it is told to read when half the window is
    /// used up, for the disk likes large pieces.
    pub(super) fn plan(&mut self, segment: SegmentId, position: u64, end: u64, bytes_before: u64) -> Range<u64> {
        let window = self.window_bytes.saturating_sub(bytes_before);
        let known = self.ahead.iter().position(|&(known, _)| known == segment);
        let from = known.map_or(position, |place| self.ahead[place].1.max(position));
        if window == 0 || from >= end || from - position > window / 2 {
            return from..from;
        }
        let to = (position + window).next_multiple_of(self.grain()).min(end);
        if to <= from {
            return from..from;
        }
        match known {
            Some(place) => self.ahead[place].1 = to,
            None => {
                self.ahead.truncate(1);
                self.ahead.push_front((segment, to));
            }
        }
        from..to
    }

    /// What the end of its window is rounded up to, so that full extents are read.
    fn grain(&self) -> u64 {
        let half = 1 << (self.window_bytes / 2).max(1).ilog2();
        u64::clamp(half, WINDOW_BYTES_MIN, EXTENT_BYTES_MAX as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId(7);
    const SEGMENT: SegmentId = SegmentId(1);
    const KIB: u64 = 1 << 10;

    /// Reads on in pieces of so many bytes; what is read ahead, piece by piece.
    fn read_on(piece: u64, pieces: u64, end: u64) -> Vec<Range<u64>> {
        let mut readers = Readers::default();
        (0..pieces)
            .map(|number| {
                let mut reader = readers.arrive(PARTITION, number);
                let position = (number + 1) * piece;
                let ahead = reader.plan(SEGMENT, position, end, 0);
                readers.leave(reader, number + 1, piece, u64::MAX);
                ahead
            })
            .filter(|ahead| !ahead.is_empty())
            .collect()
    }

    #[test]
    fn one_read_is_no_reason_to_read_ahead() {
        let mut readers = Readers::default();
        for offset in [10, 20, 5, 11] {
            let mut reader = readers.arrive(PARTITION, offset);
            assert_eq!(reader, Reader::stranger(PARTITION));
            assert!(reader.plan(SEGMENT, 0, u64::MAX, 0).is_empty());
            readers.leave(reader, offset + 3, 1000, u64::MAX);
        }
        assert_ne!(readers.arrive(PARTITION, 13), Reader::stranger(PARTITION));
        assert_eq!(readers.arrive(PARTITION, 13), Reader::stranger(PARTITION), "one reader is not two");
        assert_eq!(readers.arrive(PartitionId(8), 23), Reader::stranger(PartitionId(8)));
    }

    #[test]
    fn the_window_grows_and_its_pieces_follow_each_other() {
        let ahead = read_on(16 * KIB, 1_000, u64::MAX);
        assert_eq!(ahead[0], 32 * KIB..256 * KIB);
        assert!(ahead.windows(2).all(|pair| pair[0].end == pair[1].start), "{ahead:?}");
        let lengths: Vec<_> = ahead.iter().map(|ahead| ahead.end - ahead.start).collect();
        let full = EXTENT_BYTES_MAX as u64;
        assert!(lengths.len() > 6 && lengths[4..].iter().all(|&length| length % full == 0), "{lengths:?}");
        assert!(ahead[4..].iter().all(|ahead| ahead.end % full == 0), "{ahead:?}");
    }

    #[test]
    fn who_takes_much_has_as_much_again_ahead_at_once() {
        assert_eq!(read_on(1024 * KIB, 2, u64::MAX), [2048 * KIB..4096 * KIB]);
    }

    #[test]
    fn little_memory_means_a_small_window() {
        let mut readers = Readers::default();
        readers.leave(Reader::stranger(PARTITION), 1, 1024 * KIB, 256 * KIB);
        assert_eq!(readers.arrive(PARTITION, 1).plan(SEGMENT, 0, u64::MAX, 0), 0..256 * KIB);
        readers.leave(Reader::stranger(PARTITION), 1, 1024 * KIB, 0);
        assert!(readers.arrive(PARTITION, 1).plan(SEGMENT, 0, u64::MAX, 0).is_empty());
    }

    #[test]
    fn nothing_is_read_behind_the_end_and_the_rest_of_the_window_is_for_the_next_segment() {
        let (end, next) = (100 * KIB, SegmentId(2));
        assert_eq!(read_on(16 * KIB, 6, end), [32 * KIB..end]);
        let mut reader = Reader { window_bytes: 1024 * KIB, ..Reader::stranger(PARTITION) };
        assert_eq!(reader.plan(SEGMENT, 0, end, 0), 0..end);
        assert!(reader.reaches_beyond(0, end));
        assert_eq!(reader.plan(next, 4096, u64::MAX, end), 4096..1024 * KIB);
        assert!(reader.plan(SEGMENT, 50 * KIB, end, 0).is_empty(), "what was read ahead is remembered of both");
        assert!(reader.plan(next, 4096, u64::MAX, end / 2).is_empty());
    }

    #[test]
    fn who_was_not_seen_for_long_is_forgotten() {
        let mut readers = Readers::default();
        for reader in 0..=READERS_MAX as u64 {
            readers.leave(Reader::stranger(PARTITION), reader * 10, 1, u64::MAX);
        }
        assert_eq!(readers.arrive(PARTITION, 0), Reader::stranger(PARTITION));
        assert_ne!(readers.arrive(PARTITION, 10), Reader::stranger(PARTITION));
    }
}
