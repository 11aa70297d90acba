//! The sync group: what one durable write carries, in the WAL, in the manifest and in the metadata log.
//!
//! ```text
//!   0                72                                             directory_position
//!   ┌────────────────┬─────────┬─────────┬───────────┬──────────────┬─────────────────────┬─────────┐
//!   │ header         │ entry 0 │ entry 1 │ …         │ directory    │ tails of the group  │ padding │
//!   │ log, salt, LSN │ back to back, bytes as given  │ 40 B an entry│ before, 16 B each   │ to 4 KiB│
//!   └────────────────┴─────────┴─────────┴───────────┴──────────────┴─────────────────────┴─────────┘
//! ```
//!
//! The one hard idea: a group proves itself. Its checksums start from the salt of the file's present use, so neither
//! an older use of a recycled file nor bytes a producer chose can pose as a group; and it carries, per partition, how
//! far the group before it went, so that damage to one group names what is lost even when its own directory is gone.
//! The header proves itself before anything in it is believed: a damaged version number is damage, and no later format.
//! `FORMAT.md` specifies the bytes.

use runtime::{BLOCK_ALIGNMENT, Block, sabotage::planted};

use crate::{PartitionId, synced::Lsn};

/// Groups start at multiples of this many bytes, and are padded to one.
pub const GROUP_ALIGNMENT: usize = BLOCK_ALIGNMENT;

/// Length of the header in bytes; the first entry starts here.
pub const HEADER_BYTES: usize = 72;

/// Length in bytes of one directory entry.
pub const DIRECTORY_ENTRY_BYTES: usize = 40;

/// Length in bytes of one tail.
pub const TAIL_BYTES: usize = 16;

/// A batch entry's checksum covers this many of its first bytes: up to and with the batch's own CRC, which covers
/// the rest.
pub const BATCH_PREFIX_BYTES: usize = 21;

const MAGIC: [u8; 4] = *b"SBGP";
const VERSION: u16 = 1;
/// The checksum of the header and of the lists behind the entries.
const CRC_POSITION: usize = 64;
/// The checksum of the header alone, up to [`CRC_POSITION`]. Every later version keeps it in this place.
const HEADER_CRC_POSITION: usize = 68;

const _: () = assert!(HEADER_CRC_POSITION + 4 == HEADER_BYTES);

/// What an entry is. The numbers are part of the format and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A record batch, as produced.
    Batch = 1,
    /// The partition ends at `next_offset`; what lies behind it in the log is void.
    Truncate = 2,
    /// The partition starts at `base_offset`.
    LogStart = 3,
    /// The partition is gone.
    Drop = 4,
    /// Offsets below `next_offset` may be handed out before they are synced.
    Reserve = 5,
    /// Nothing; it witnesses that the group before it was synced.
    Marker = 6,
    /// An edit of the manifest or of the metadata log, opaque here.
    Edit = 7,
}

impl EntryKind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Batch,
            2 => Self::Truncate,
            3 => Self::LogStart,
            4 => Self::Drop,
            5 => Self::Reserve,
            6 => Self::Marker,
            7 => Self::Edit,
            _ => return None,
        })
    }
}

/// What the directory says of one entry, besides where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// The partition it is about; 0 for entries that are about none.
    pub partition: PartitionId,
    /// Leader epoch it was written in.
    pub leader_epoch: i32,
    /// Its first offset.
    pub base_offset: u64,
    /// The offset behind its last one.
    pub next_offset: u64,
}

/// How far a partition went in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The partition.
    pub partition: PartitionId,
    /// The offset behind its last one in that group.
    pub next_offset: u64,
}

/// What makes a group one of its log and of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The log it belongs to.
    pub log_id: u128,
    /// Random bits of the file's present use.
    pub salt: u64,
    /// Its number. Groups of a log are written one after the other in this order.
    pub lsn: Lsn,
    /// Number of the group written before it in this log; 0 for the first.
    pub previous_lsn: Lsn,
}

/// A group under construction in a block of its own.
pub struct Builder<B: Block> {
    block: B,
    used: usize,
    positions: Vec<u32>,
    entries: Vec<Entry>,
}

/// A finished group: bytes to write, and the directory that says where its entries lie.
pub struct Sealed<F> {
    /// The whole group, padded.
    pub bytes: F,
    /// Its entries, in order.
    pub entries: Vec<Entry>,
    /// Position of each entry within the group, in the same order.
    pub positions: Vec<u32>,
    /// Where the last entry ends.
    pub entries_end: u32,
}

impl<F> Sealed<F> {
    /// Where entry `index` lies within the group.
    pub fn range(&self, index: usize) -> std::ops::Range<usize> {
        let end = self.positions.get(index + 1).copied().unwrap_or(self.entries_end);
        self.positions[index] as usize..end as usize
    }
}

impl<B: Block> Builder<B> {
    /// Starts an empty group in `block`.
    pub fn new(block: B) -> Self {
        Self::for_entries(block, 0)
    }

    /// The same for about so many entries, as far as anyone can tell.
    pub fn for_entries(block: B, count: usize) -> Self {
        assert!(block.len() > HEADER_BYTES, "a block holds at least a header");
        Self { block, used: HEADER_BYTES, positions: Vec::with_capacity(count), entries: Vec::with_capacity(count) }
    }

    /// Starts a group around one batch that already lies in `block`, right behind the room for the header.
    pub fn around(block: B, entry: Entry, batch_bytes: usize) -> Self {
        let mut group = Self::new(block);
        assert!(group.fits(batch_bytes, 0), "the block has room for the directory behind the batch");
        group.positions.push(group.used as u32);
        group.entries.push(entry);
        group.used += batch_bytes;
        group
    }

    /// Bytes a block needs for a group of one entry of `payload_bytes` and `tails` tails.
    pub fn block_bytes_for(payload_bytes: usize, tails: usize) -> usize {
        (HEADER_BYTES + payload_bytes + DIRECTORY_ENTRY_BYTES + tails * TAIL_BYTES).next_multiple_of(GROUP_ALIGNMENT)
    }

    /// Whether one more entry of `payload_bytes` fits, leaving room for `tails` tails.
    pub fn fits(&self, payload_bytes: usize, tails: usize) -> bool {
        let directory = (self.entries.len() + 1) * DIRECTORY_ENTRY_BYTES;
        let len = self.used + payload_bytes + directory + tails * TAIL_BYTES;
        len.next_multiple_of(GROUP_ALIGNMENT) <= self.block.len()
    }

    /// Copies an entry in. Returns its bytes, for patching in place until the group is sealed.
    ///
    /// # Panics
    /// If it does not fit.
    #[inline]
    pub fn push(&mut self, entry: Entry, payload: &[u8]) -> &mut [u8] {
        assert!(self.fits(payload.len(), 0), "the caller asked whether the entry fits");
        self.positions.push(self.used as u32);
        self.entries.push(entry);
        let start = self.used;
        self.used += payload.len();
        let bytes = &mut self.block[start..self.used];
        bytes.copy_from_slice(payload);
        bytes
    }

    /// Its entries so far.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether it has no entry yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Length of the whole group, padded, with `tails` tails.
    pub fn padded_bytes(&self, tails: usize) -> usize {
        (self.used + self.entries.len() * DIRECTORY_ENTRY_BYTES + tails * TAIL_BYTES).next_multiple_of(GROUP_ALIGNMENT)
    }

    /// Finishes the group: directory, tails of the group before it, padding, header and checksums.
    ///
    /// # Panics
    /// If the tails do not fit; [`Self::fits`] was told their number.
    pub fn seal(mut self, stamp: Stamp, tails: &[Tail]) -> Sealed<B::Frozen> {
        let seed = salted(stamp.salt);
        let entries_end = self.used;
        let padded = self.padded_bytes(tails.len());
        let mut position = entries_end;
        for (index, entry) in self.entries.iter().enumerate() {
            let start = self.positions[index] as usize;
            let end = self.positions.get(index + 1).map_or(entries_end, |&next| next as usize);
            let crc = entry_crc(seed, entry.kind, &self.block[start..end]);
            encode_entry(&mut self.block[position..position + DIRECTORY_ENTRY_BYTES], entry, start as u32, crc);
            position += DIRECTORY_ENTRY_BYTES;
        }
        for tail in tails {
            self.block[position..position + 8].copy_from_slice(&tail.partition.0.to_le_bytes());
            self.block[position + 8..position + 16].copy_from_slice(&tail.next_offset.to_le_bytes());
            position += TAIL_BYTES;
        }
        self.block[position..padded].fill(0);
        let header = Header {
            stamp,
            length: position as u32,
            directory_position: entries_end as u32,
            entry_count: self.entries.len() as u32,
            tail_count: tails.len() as u32,
        };
        header.encode(&mut self.block[..HEADER_BYTES]);
        let header_crc = header_crc(seed, &self.block);
        let crc = crc32c::crc32c_append(header_crc, &self.block[entries_end..position]);
        self.block[CRC_POSITION..CRC_POSITION + 4].copy_from_slice(&crc.to_le_bytes());
        self.block[HEADER_CRC_POSITION..HEADER_BYTES].copy_from_slice(&header_crc.to_le_bytes());
        Sealed {
            bytes: self.block.freeze(padded),
            entries: self.entries,
            positions: self.positions,
            entries_end: entries_end as u32,
        }
    }
}

/// A group's header, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What makes it one of its log and file.
    pub stamp: Stamp,
    /// Length of the group before padding, in bytes.
    pub length: u32,
    /// Where the entries end and the directory starts.
    pub directory_position: u32,
    /// Number of entries.
    pub entry_count: u32,
    /// Number of tails of the group before it.
    pub tail_count: u32,
}

/// Why bytes are no group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// No group of this log and this use of the file starts here.
    #[error("no group of this file starts here")]
    Absent,
    /// A group starts here, and its checksum does not hold, or its bytes end early.
    #[error("the group's checksum does not hold")]
    Damaged,
    /// An entry's checksum does not hold, though the directory's does.
    #[error("entry {index} of the group is damaged")]
    EntryDamaged {
        /// Which entry.
        index: u32,
    },
    /// Written by a later version: nothing of the log may be touched.
    #[error("the group has format version {version}, this program knows up to {VERSION}")]
    UnknownVersion {
        /// The version found.
        version: u16,
    },
    /// Written by a later version: nothing of the log may be touched.
    #[error("the group has an entry of unknown kind {kind}")]
    UnknownKind {
        /// The kind found.
        kind: u8,
    },
}

impl Header {
    /// Reads the header at the start of `bytes` as a group of the file whose present use has `salt`.
    ///
    /// # Errors
    /// [`GroupError::Absent`] unless magic, log and salt are right; [`GroupError::Damaged`] when its checksum does not
    /// hold or the numbers contradict each other; [`GroupError::UnknownVersion`].
    pub fn parse(bytes: &[u8], log_id: u128, salt: u64) -> Result<Self, GroupError> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else { return Err(GroupError::Absent) };
        let stamp = Stamp {
            log_id: u128::from_le_bytes(array(bytes, 8)),
            salt: u64_at(bytes, 24),
            lsn: u64_at(bytes, 32),
            previous_lsn: u64_at(bytes, 40),
        };
        if bytes[..4] != MAGIC || stamp.log_id != log_id || stamp.salt != salt {
            return Err(GroupError::Absent);
        }
        if header_crc(salted(salt), bytes) != u32_at(bytes, HEADER_CRC_POSITION) && !planted("trust the header") {
            return Err(GroupError::Damaged);
        }
        let version = u16::from_le_bytes(array(bytes, 4));
        if version != VERSION {
            return Err(GroupError::UnknownVersion { version });
        }
        let header = Self {
            stamp,
            length: u32_at(bytes, 48),
            directory_position: u32_at(bytes, 52),
            entry_count: u32_at(bytes, 56),
            tail_count: u32_at(bytes, 60),
        };
        let lists = u64::from(header.entry_count) * DIRECTORY_ENTRY_BYTES as u64
            + u64::from(header.tail_count) * TAIL_BYTES as u64;
        let consistent = header.directory_position as usize >= HEADER_BYTES
            && u64::from(header.directory_position) + lists == u64::from(header.length)
            && header.stamp.lsn > header.stamp.previous_lsn
            && header.stamp.lsn < Lsn::MAX
            && header.entry_count > 0;
        if consistent { Ok(header) } else { Err(GroupError::Damaged) }
    }

    /// Length of the group with its padding, in bytes: the next group starts that far on.
    pub fn padded_bytes(&self) -> usize {
        (self.length as usize).next_multiple_of(GROUP_ALIGNMENT)
    }

    fn encode(&self, out: &mut [u8]) {
        out.fill(0);
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[8..24].copy_from_slice(&self.stamp.log_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.stamp.salt.to_le_bytes());
        out[32..40].copy_from_slice(&self.stamp.lsn.to_le_bytes());
        out[40..48].copy_from_slice(&self.stamp.previous_lsn.to_le_bytes());
        out[48..52].copy_from_slice(&self.length.to_le_bytes());
        out[52..56].copy_from_slice(&self.directory_position.to_le_bytes());
        out[56..60].copy_from_slice(&self.entry_count.to_le_bytes());
        out[60..64].copy_from_slice(&self.tail_count.to_le_bytes());
    }
}

/// The log that a group at the start of `bytes` claims to be of: for whoever reads the root of recovery, and has no
/// other source for it. Nothing is proven before the group is parsed with it.
pub(crate) fn claimed_log_id(bytes: &[u8]) -> Option<u128> {
    bytes.get(8..24).map(|id| u128::from_le_bytes(array(id, 0)))
}

/// Whether `bytes` start with the header of a group of this log and file in which only magic, log id or salt are wrong:
/// damage, and not what an earlier use left behind, for the checksum holds as soon as they are put right.
pub(crate) fn is_altered_header(bytes: &[u8], log_id: u128, salt: u64) -> bool {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return false };
    let mut righted = *header;
    righted[..4].copy_from_slice(&MAGIC);
    righted[8..24].copy_from_slice(&log_id.to_le_bytes());
    righted[24..32].copy_from_slice(&salt.to_le_bytes());
    righted != *header && header_crc(salted(salt), &righted) == u32_at(header, HEADER_CRC_POSITION)
}

/// A group as read: header and lists proven by their checksum, entries still to be proven one by one.
pub struct Group<'a> {
    /// Its header.
    pub header: Header,
    bytes: &'a [u8],
}

impl<'a> Group<'a> {
    /// Reads the group at the start of `bytes`; the entries' own checksums are left to [`Self::entry`].
    ///
    /// # Errors
    /// As [`Header::parse`], and [`GroupError::Damaged`] or [`GroupError::UnknownKind`] for its lists.
    pub fn parse(bytes: &'a [u8], log_id: u128, salt: u64) -> Result<Self, GroupError> {
        let header = Header::parse(bytes, log_id, salt)?;
        let Some(bytes) = bytes.get(..header.length as usize) else { return Err(GroupError::Damaged) };
        let header_crc = header_crc(salted(salt), bytes);
        let crc = crc32c::crc32c_append(header_crc, &bytes[header.directory_position as usize..]);
        if crc != u32_at(bytes, CRC_POSITION) {
            return Err(GroupError::Damaged);
        }
        let group = Self { header, bytes };
        let mut end = HEADER_BYTES as u32;
        for index in 0..header.entry_count {
            let raw = group.raw_entry(index);
            if EntryKind::from_number(raw[0]).is_none() {
                return Err(GroupError::UnknownKind { kind: raw[0] });
            }
            let position = u32_at(raw, 32);
            if position < end || position > header.directory_position {
                return Err(GroupError::Damaged);
            }
            end = position;
        }
        Ok(group)
    }

    /// The directory's entries with their place in the group, whatever the state of their bytes.
    pub fn entries(&self) -> impl Iterator<Item = (Entry, std::ops::Range<usize>)> + '_ {
        (0..self.header.entry_count).map(|index| (self.decode_entry(index), self.range(index)))
    }

    /// Entry `index` and its bytes, proven by its checksum. A batch's own CRC is the caller's to check.
    ///
    /// # Errors
    /// [`GroupError::EntryDamaged`].
    pub fn entry(&self, index: u32) -> Result<(Entry, &'a [u8]), GroupError> {
        let entry = self.decode_entry(index);
        let payload = &self.bytes[self.range(index)];
        let expected = u32_at(self.raw_entry(index), 36);
        if entry_crc(salted(self.header.stamp.salt), entry.kind, payload) != expected {
            return Err(GroupError::EntryDamaged { index });
        }
        Ok((entry, payload))
    }

    /// How far each partition went in the group before this one.
    pub fn tails(&self) -> impl Iterator<Item = Tail> + '_ {
        let start = self.header.directory_position as usize + self.header.entry_count as usize * DIRECTORY_ENTRY_BYTES;
        self.bytes[start..]
            .chunks_exact(TAIL_BYTES)
            .map(|raw| Tail { partition: PartitionId(u64_at(raw, 0)), next_offset: u64_at(raw, 8) })
    }

    fn raw_entry(&self, index: u32) -> &'a [u8] {
        let start = self.header.directory_position as usize + index as usize * DIRECTORY_ENTRY_BYTES;
        &self.bytes[start..start + DIRECTORY_ENTRY_BYTES]
    }

    fn decode_entry(&self, index: u32) -> Entry {
        let raw = self.raw_entry(index);
        Entry {
            kind: EntryKind::from_number(raw[0]).expect("parse refused unknown kinds"),
            leader_epoch: u32_at(raw, 4).cast_signed(),
            partition: PartitionId(u64_at(raw, 8)),
            base_offset: u64_at(raw, 16),
            next_offset: u64_at(raw, 24),
        }
    }

    fn range(&self, index: u32) -> std::ops::Range<usize> {
        let end = if index + 1 < self.header.entry_count {
            u32_at(self.raw_entry(index + 1), 32)
        } else {
            self.header.directory_position
        };
        u32_at(self.raw_entry(index), 32) as usize..end as usize
    }
}

/// The checksum's starting value for one use of a file.
fn salted(salt: u64) -> u32 {
    crc32c::crc32c(&salt.to_le_bytes())
}

/// The checksum of the header, and what that of the lists goes on from.
fn header_crc(seed: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(seed, &bytes[..CRC_POSITION])
}

fn entry_crc(seed: u32, kind: EntryKind, payload: &[u8]) -> u32 {
    let covered = match kind {
        EntryKind::Batch => payload.len().min(BATCH_PREFIX_BYTES),
        _ => payload.len(),
    };
    crc32c::crc32c_append(seed, &payload[..covered])
}

fn encode_entry(out: &mut [u8], entry: &Entry, position: u32, crc: u32) {
    out[..4].copy_from_slice(&[entry.kind as u8, 0, 0, 0]);
    out[4..8].copy_from_slice(&entry.leader_epoch.to_le_bytes());
    out[8..16].copy_from_slice(&entry.partition.0.to_le_bytes());
    out[16..24].copy_from_slice(&entry.base_offset.to_le_bytes());
    out[24..32].copy_from_slice(&entry.next_offset.to_le_bytes());
    out[32..36].copy_from_slice(&position.to_le_bytes());
    out[36..40].copy_from_slice(&crc.to_le_bytes());
}

fn array<const N: usize>(bytes: &[u8], position: usize) -> [u8; N] {
    bytes[position..position + N].try_into().expect("the range has N bytes")
}

fn u32_at(bytes: &[u8], position: usize) -> u32 {
    u32::from_le_bytes(array(bytes, position))
}

fn u64_at(bytes: &[u8], position: usize) -> u64 {
    u64::from_le_bytes(array(bytes, position))
}
