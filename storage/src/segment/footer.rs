//! What a segment knows of its own contents: the footer, read once, proven as a whole, then looked up in place.
//!
//! The one hard idea: everything the lookups rely on is checked here, when the footer is read, so that they need no
//! further error. A checksum proves that the bytes are those written; the order of the entries proves that whoever wrote
//! them was sane, which is what a hostile or half-updated file would fail.

use std::ops::Range;

use runtime::BLOCK_ALIGNMENT;

use super::{
    Extent, Location, SegmentMeta,
    checksum::BLOCK_BYTES,
    directory::{self, Directory, DirectoryEntry},
    format::{self, FormatError, HEADER_BYTES, Identity, Section, SectionKind},
};
use crate::{
    PartitionId,
    index::{
        epoch_index::{self, EpochIndex},
        key_index::Table,
        offset_index::{self, OffsetIndex},
        time_index::{self, TimeIndex},
    },
};

/// The footer of one segment.
#[derive(Debug)]
pub struct Footer {
    identity: Identity,
    position: u64,
    batches_end: u64,
    bytes: Box<[u8]>,
    directory: Range<usize>,
    offsets: Range<usize>,
    times: Range<usize>,
    epochs: Range<usize>,
    block_checksums: Range<usize>,
    key_tables: Range<usize>,
}

/// Length of an entry of the key index section in bytes: partition, position of its table, number of keys.
const KEY_ENTRY_BYTES: usize = 24;

/// What a segment holds of one partition.
#[derive(Clone, Copy, Debug)]
pub struct Holding<'a> {
    /// Its entry in the directory.
    pub entry: DirectoryEntry,
    /// Where its last batch ends, in bytes from the start of the file.
    pub end: u64,
    /// Offset to position.
    pub offsets: OffsetIndex<'a>,
    /// Timestamp to interval of the offset index.
    pub times: TimeIndex<'a>,
    /// Leader epoch to first offset.
    pub epochs: EpochIndex<'a>,
}

impl Footer {
    /// Reads a footer that starts at `position` of its file and reaches to the file's end.
    ///
    /// # Errors
    /// [`FormatError`]: a checksum that does not hold, an unknown version or required section, a missing section, or
    /// entries that contradict each other.
    pub fn parse(bytes: Box<[u8]>, position: u64) -> Result<Self, FormatError> {
        let (trailer, sections) = format::parse_table(&bytes, position)?;
        for section in &sections {
            check_section(section, &trailer.identity, &bytes, position)?;
        }
        let find = |kind| find_section(&sections, kind, position);
        let footer = Self {
            identity: trailer.identity,
            position,
            batches_end: trailer.batches_end(),
            directory: find(SectionKind::Directory)?,
            offsets: find(SectionKind::OffsetIndex)?,
            times: find(SectionKind::TimeIndex)?,
            epochs: find(SectionKind::EpochIndex)?,
            block_checksums: find(SectionKind::BlockChecksums)?,
            key_tables: match find(SectionKind::KeyIndex) {
                Err(FormatError::MissingSection { .. }) => 0..0,
                found => found?,
            },
            bytes,
        };
        footer.check_lengths()?;
        footer.check_directory()?;
        footer.check_key_tables()?;
        footer.holdings().try_for_each(|holding| footer.check_holding(&holding))?;
        Ok(footer)
    }

    /// Which segment it describes.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it starts in the file, in bytes; the blocks under checksums end here.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Its bytes, as in the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the manifest keeps of the segment.
    pub fn meta(&self, location: Location) -> SegmentMeta {
        let directory = self.directory();
        let first = directory.get(0).expect("a segment holds at least one partition");
        let last = directory.get(directory.len() - 1).expect("a segment holds at least one partition");
        let extent = if first == last {
            Extent::Own { partition: first.partition, base_offset: first.base_offset, next_offset: first.next_offset }
        } else {
            Extent::Shared { first: first.partition, last: last.partition }
        };
        SegmentMeta {
            id: self.identity.id,
            level: self.identity.level,
            extent,
            bytes: self.position + self.bytes.len() as u64,
            batch_bytes: self.batches_end - HEADER_BYTES,
            footer_position: self.position,
            timestamp_max: directory.iter().map(|entry| entry.timestamp_max).max().unwrap_or(i64::MIN),
            location,
        }
    }

    /// What it holds of each partition, ascending.
    pub fn holdings(&self) -> impl Iterator<Item = Holding<'_>> {
        (0..self.directory().len()).map_while(|number| self.holding(number))
    }

    /// What it holds of `partition`.
    pub fn find(&self, partition: PartitionId) -> Option<Holding<'_>> {
        self.holding(self.directory().find(partition)?)
    }

    /// Its directory, ascending.
    pub fn entries(&self) -> impl Iterator<Item = DirectoryEntry> {
        self.directory().iter()
    }

    /// Entry `number` of its directory, from 0.
    pub fn entry(&self, number: usize) -> Option<DirectoryEntry> {
        self.directory().get(number)
    }

    /// Positions that enclose every batch of partition `number` of its directory with an offset in `offsets`: of a partition
    /// that lies in them as a whole its own, and otherwise those of [`Holding::span`].
    pub fn span(&self, number: usize, offsets: &Range<u64>) -> Range<u64> {
        match self.entry(number) {
            Some(entry) if entry.is_within(offsets) => {
                entry.position..self.entry(number + 1).map_or(self.batches_end, |next| next.position)
            }
            _ => self.holding(number).map_or(0..0, |holding| holding.span(offsets)),
        }
    }

    /// What it holds of partition `number` of its directory, from 0.
    pub fn holding(&self, number: usize) -> Option<Holding<'_>> {
        let directory = self.directory();
        let entry = directory.get(number)?;
        let next = directory.get(number + 1);
        let (offsets, times, epochs) =
            (self.section(&self.offsets), self.section(&self.times), self.section(&self.epochs));
        let end_interval = next.map_or(offsets.len() / offset_index::ENTRY_BYTES, |next| next.first_interval as usize);
        let end_epoch = next.map_or(epochs.len() / epoch_index::ENTRY_BYTES, |next| next.first_epoch as usize);
        let intervals = entry.first_interval as usize..end_interval;
        Some(Holding {
            entry,
            end: next.map_or(self.batches_end, |next| next.position),
            offsets: OffsetIndex::new(entries(offsets, intervals.clone(), offset_index::ENTRY_BYTES)),
            times: TimeIndex::new(entries(times, intervals, time_index::ENTRY_BYTES)),
            epochs: EpochIndex::new(entries(epochs, entry.first_epoch as usize..end_epoch, epoch_index::ENTRY_BYTES)),
        })
    }

    /// The key table of `partition`, if it has one: without, its batches have to be looked through.
    pub fn key_table(&self, partition: PartitionId) -> Option<Table> {
        let entries = self.section(&self.key_tables).as_chunks().0;
        let number = entries.binary_search_by_key(&partition.0, |entry| decode_key_entry(entry).0).ok()?;
        let (_, position, keys) = decode_key_entry(&entries[number]);
        Table::new(position, keys)
    }

    /// Where the batches of all partitions up to and with `partition` end, in bytes from the start of the file.
    pub fn partitions_end(&self, partition: PartitionId) -> u64 {
        self.directory().behind(partition).map_or(self.batches_end, |next| next.position)
    }

    /// Where a read that starts at the batch at `position` may end: the last known end of a batch up to `limit`, or the
    /// first one behind `position` if that lies further. Batches of several partitions may lie between.
    pub fn batch_end(&self, position: u64, limit: u64) -> u64 {
        if limit >= self.batches_end {
            return self.batches_end;
        }
        let intervals = OffsetIndex::new(self.section(&self.offsets));
        let behind = intervals.behind_position(limit.max(position));
        let within = behind.checked_sub(1).map_or(position, |number| intervals.entry(number).position);
        match within {
            end if end > position => end,
            _ if behind < intervals.len() => intervals.entry(behind).position,
            _ => self.batches_end,
        }
    }

    /// Proves that `bytes` are those of block `number`.
    ///
    /// # Errors
    /// [`FormatError::Checksum`].
    ///
    /// # Panics
    /// If the file has no such block in front of its footer.
    pub fn check_block(&self, number: u64, bytes: &[u8]) -> Result<(), FormatError> {
        let position = number * BLOCK_BYTES as u64;
        let checksums = self.section(&self.block_checksums);
        let expected = format::u32_at(checksums, number as usize * 4);
        format::check("the block", position, expected, self.identity.seal().block_crc(number, bytes))
    }

    fn directory(&self) -> Directory<'_> {
        Directory::new(self.section(&self.directory))
    }

    fn section(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    fn check_lengths(&self) -> Result<(), FormatError> {
        let count = |section: &Range<usize>, entry_bytes: usize, what| {
            let whole = section.len().is_multiple_of(entry_bytes);
            if whole { Ok(section.len() / entry_bytes) } else { Err(self.inconsistent(what, section)) }
        };
        let partitions = count(&self.directory, directory::ENTRY_BYTES, "the partition directory")?;
        let intervals = count(&self.offsets, offset_index::ENTRY_BYTES, "the offset index")?;
        let epochs = count(&self.epochs, epoch_index::ENTRY_BYTES, "the epoch index")?;
        let times = count(&self.times, time_index::ENTRY_BYTES, "the time index")?;
        let checksums = count(&self.block_checksums, 4, "the block checksums")?;
        if partitions == 0 || intervals < partitions || epochs < partitions {
            return Err(self.inconsistent("the partition directory", &self.directory));
        }
        if times != intervals {
            return Err(self.inconsistent("the time index", &self.times));
        }
        if checksums as u64 != self.position.div_ceil(BLOCK_BYTES as u64) {
            return Err(self.inconsistent("the block checksums", &self.block_checksums));
        }
        Ok(())
    }

    /// Partitions, positions and numbers of index entries ascend, and stay inside what they point to.
    fn check_directory(&self) -> Result<(), FormatError> {
        let directory = self.directory();
        let ends = DirectoryEntry {
            position: self.batches_end,
            first_interval: (self.offsets.len() / offset_index::ENTRY_BYTES) as u32,
            first_epoch: (self.epochs.len() / epoch_index::ENTRY_BYTES) as u32,
            ..DirectoryEntry::default()
        };
        let starts_at_zero = directory
            .get(0)
            .is_some_and(|first| (first.position, first.first_interval, first.first_epoch) == (HEADER_BYTES, 0, 0));
        let partitions_ascend = directory.iter().is_sorted_by(|entry, next| entry.partition < next.partition);
        let starts_ascend = directory.iter().zip(directory.iter().skip(1).chain([ends])).all(|(entry, next)| {
            entry.base_offset < entry.next_offset
                && entry.position < next.position
                && entry.first_interval < next.first_interval
                && entry.first_epoch < next.first_epoch
        });
        if starts_at_zero && partitions_ascend && starts_ascend {
            Ok(())
        } else {
            Err(self.inconsistent("the partition directory", &self.directory))
        }
    }

    /// Key tables are of partitions that are there, ascending, and fill what lies between the batches and the footer.
    fn check_key_tables(&self) -> Result<(), FormatError> {
        let inconsistent = || self.inconsistent("the key index", &self.key_tables);
        let (entries, rest) = self.section(&self.key_tables).as_chunks();
        let (mut end, mut previous) = (self.batches_end, None);
        for (partition, position, keys) in entries.iter().map(decode_key_entry) {
            let table = Table::new(position, keys).filter(|table| table.end() <= self.position);
            if position != end || previous >= Some(partition) || self.directory().find(PartitionId(partition)).is_none()
            {
                return Err(inconsistent());
            }
            end = table.ok_or_else(inconsistent)?.end();
            previous = Some(partition);
        }
        let is_filled = end.checked_next_multiple_of(BLOCK_ALIGNMENT as u64) == Some(self.position);
        if rest.is_empty() && is_filled { Ok(()) } else { Err(inconsistent()) }
    }

    /// The indexes of one partition start where it starts, ascend, and end before it ends.
    fn check_holding(&self, holding: &Holding<'_>) -> Result<(), FormatError> {
        let Holding { entry, end, offsets, times, epochs } = holding;
        let last = offsets.entry(offsets.len() - 1);
        let intervals = (1..offsets.len()).map(|number| (offsets.entry(number - 1), offsets.entry(number)));
        if offsets.entry(0) != (offset_index::Entry { offset: entry.base_offset, position: entry.position })
            || last.offset >= entry.next_offset
            || last.position >= *end
            || !intervals.clone().all(|(a, b)| a.offset < b.offset && a.position < b.position)
        {
            return Err(self.inconsistent("the offset index", &self.offsets));
        }
        let times_ascend =
            (1..times.len()).all(|number| times.timestamp_max(number - 1) <= times.timestamp_max(number));
        if times.timestamp_max(times.len() - 1) != entry.timestamp_max || !times_ascend {
            return Err(self.inconsistent("the time index", &self.times));
        }
        let mut epochs_ascend =
            epochs.starts().is_sorted_by(|a, b| a.leader_epoch < b.leader_epoch && a.offset < b.offset);
        epochs_ascend &= epochs.starts().next().is_some_and(|first| first.offset == entry.base_offset);
        epochs_ascend &= epochs.starts().next_back().is_some_and(|last| last.offset < entry.next_offset);
        if epochs_ascend { Ok(()) } else { Err(self.inconsistent("the epoch index", &self.epochs)) }
    }

    fn inconsistent(&self, what: &'static str, section: &Range<usize>) -> FormatError {
        FormatError::Inconsistent { what, position: self.position + section.start as u64 }
    }
}

impl Holding<'_> {
    /// Bytes of its batches.
    pub fn bytes(&self) -> u64 {
        self.end - self.entry.position
    }

    /// Positions of whole intervals that enclose every batch with an offset in `offsets`; empty when there is none.
    pub fn span(&self, offsets: &Range<u64>) -> Range<u64> {
        if offsets.is_empty() || offsets.start >= self.entry.next_offset {
            return self.end..self.end;
        }
        let start = self.offsets.floor(offsets.start).unwrap_or(0);
        let end = self.offsets.ceiling(offsets.end);
        let end = if end < self.offsets.len() { self.offsets.entry(end).position } else { self.end };
        self.offsets.entry(start).position..end
    }

    /// The numbers of the intervals of its offset index that hold anything with an offset in `offsets`.
    pub(crate) fn intervals(&self, offsets: &Range<u64>) -> Range<usize> {
        if offsets.is_empty() || offsets.start >= self.entry.next_offset {
            return 0..0;
        }
        self.offsets.floor(offsets.start).unwrap_or(0)..self.offsets.ceiling(offsets.end)
    }

    /// The first of these intervals, and those behind it that end before `position_max`.
    pub(crate) fn run(&self, numbers: Range<usize>, position_max: u64) -> IntervalRun {
        let start = numbers.start;
        let more = (start + 1..numbers.end).take_while(|&last| self.interval_start(last + 1).1 <= position_max).count();
        let numbers = start..start + 1 + more;
        let (from, to) = (self.interval_start(numbers.start), self.interval_start(numbers.end));
        IntervalRun { numbers, offsets: from.0..to.0, positions: from.1..to.1 }
    }

    /// Offset and position at which an interval starts; those behind the last batch for the one behind the last.
    pub(crate) fn interval_start(&self, number: usize) -> (u64, u64) {
        if number < self.offsets.len() {
            let entry = self.offsets.entry(number);
            (entry.offset, entry.position)
        } else {
            (self.entry.next_offset, self.end)
        }
    }

    /// The last leader epoch at or below `leader_epoch` and the offset at which it ends here, when nothing from
    /// `end_offset` on counts; `None` when every epoch below that is a later one.
    pub fn epoch_end(&self, leader_epoch: i32, end_offset: u64) -> Option<(i32, u64)> {
        self.epochs.end_of(leader_epoch, end_offset.min(self.entry.next_offset))
    }
}

/// Consecutive intervals of an offset index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IntervalRun {
    /// Which.
    pub(crate) numbers: Range<usize>,
    /// Where their batches lie, in bytes from the start of the file.
    pub(crate) positions: Range<u64>,
    /// The offsets from the first batch to the batch behind them.
    pub(crate) offsets: Range<u64>,
}

/// Proves a section this program knows; refuses one it needs and does not know; leaves the others alone.
fn check_section(section: &Section, identity: &Identity, footer: &[u8], position: u64) -> Result<(), FormatError> {
    let Some(kind) = section.known_kind() else {
        return if section.required { Err(FormatError::UnknownSection { kind: section.kind }) } else { Ok(()) };
    };
    let what = match kind {
        SectionKind::Directory => "the partition directory",
        SectionKind::OffsetIndex => "the offset index",
        SectionKind::TimeIndex => "the time index",
        SectionKind::EpochIndex => "the epoch index",
        SectionKind::BlockChecksums => "the block checksums",
        SectionKind::KeyIndex => "the key index",
    };
    let found = identity.seal().section_crc(section.kind, &footer[range_in_footer(section, position)]);
    format::check(what, section.position, section.crc, found)
}

/// Where the one section of a kind lies in the footer.
fn find_section(sections: &[Section], kind: SectionKind, position: u64) -> Result<Range<usize>, FormatError> {
    let mut of_kind = sections.iter().filter(|section| section.known_kind() == Some(kind));
    match (of_kind.next(), of_kind.next()) {
        (Some(section), None) => Ok(range_in_footer(section, position)),
        (Some(_), Some(twice)) => {
            Err(FormatError::Inconsistent { what: "a second section of a kind", position: twice.position })
        }
        (None, _) => Err(FormatError::MissingSection { kind }),
    }
}

/// Adds an entry of the key index section.
pub(super) fn encode_key_entry(out: &mut Vec<u8>, partition: PartitionId, table: &Table) {
    for word in [partition.0, table.position, table.keys] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// Partition, position of its table, number of keys.
fn decode_key_entry(entry: &[u8; KEY_ENTRY_BYTES]) -> (u64, u64, u64) {
    let word = |at| format::u64_at(entry, at);
    (word(0), word(8), word(16))
}

fn range_in_footer(section: &Section, position: u64) -> Range<usize> {
    let start = (section.position - position) as usize;
    start..start + section.length as usize
}

fn entries(section: &[u8], numbers: Range<usize>, entry_bytes: usize) -> &[u8] {
    &section[numbers.start * entry_bytes..numbers.end * entry_bytes]
}
