//! The bytes of a segment file around its batches: header page, section table, trailer.
//!
//! ```text
//!  0            4096                             footer_position                                      end of file
//!  ┌────────────┬─────────┬────────────┬───────┬──────────┬─────┬──────────┬───────┬─────────┬─────────┐
//!  │ header page│ batches │ key tables │ zeros │ section 0│ …   │ section n│ table │ zeros   │ trailer │
//!  └────────────┴─────────┴────────────┴───────┴──────────┴─────┴──────────┴───────┴─────────┴─────────┘
//!    blocks of 64 KiB, checksums in a section    each under the checksum in    under the trailer's
//!                                                its table entry               checksum
//! ```
//!
//! Every byte of the file lies under exactly one checksum. `FORMAT.md` specifies the fields.

use std::ops::Range;

use runtime::BLOCK_ALIGNMENT;

use super::{SegmentId, checksum::Seal};

/// Length of the header page in bytes; the first batch starts here.
pub const HEADER_BYTES: u64 = BLOCK_ALIGNMENT as u64;

/// Length of the trailer, the last bytes of the file.
pub const TRAILER_BYTES: usize = 64;

/// Length of an entry of the section table in bytes.
pub const TABLE_ENTRY_BYTES: usize = 24;

/// Of the header page, and of the trailer of a segment without key tables.
const VERSION: u16 = 1;
/// Of the trailer of a segment with key tables, which may lie between the batches and the footer.
const VERSION_WITH_KEYS: u16 = 2;
const HEADER_MAGIC: [u8; 4] = *b"SBSG";
const TRAILER_MAGIC: [u8; 4] = *b"SBSF";
const HEADER_CRC_POSITION: usize = 32;
const TRAILER_CRC_POSITION: usize = TRAILER_BYTES - 4;
const REQUIRED: u16 = 1;

/// A file this large has more sections than any version will need; a larger count is nonsense.
const SECTIONS_MAX: u32 = 256;

/// What a section holds. The numbers are part of the format and are never reused; 6 producer snapshot, 7 aborted
/// transactions and 9 bloom filter are spoken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum SectionKind {
    /// One entry a partition, ascending.
    Directory = 1,
    /// [`crate::index::offset_index`], partition after partition.
    OffsetIndex = 2,
    /// [`crate::index::time_index`], partition after partition.
    TimeIndex = 3,
    /// [`crate::index::epoch_index`], partition after partition.
    EpochIndex = 4,
    /// Checksums of the 64 KiB blocks in front of the footer.
    BlockChecksums = 5,
    /// Where the key tables of compacted partitions lie, see [`crate::index::key_index`]. Not every segment has it.
    KeyIndex = 8,
}

impl SectionKind {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Directory,
            2 => Self::OffsetIndex,
            3 => Self::TimeIndex,
            4 => Self::EpochIndex,
            5 => Self::BlockChecksums,
            8 => Self::KeyIndex,
            _ => return None,
        })
    }
}

/// Which segment of which log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The log.
    pub log_id: u128,
    /// The segment's number in it.
    pub id: SegmentId,
    /// Its level: 0 from a flush, 1 from a merge.
    pub level: u8,
}

impl Identity {
    pub(crate) fn seal(&self) -> Seal {
        Seal::new(self.log_id, self.id)
    }

    /// Magic, version, level, log and segment: how header and trailer both begin.
    fn encode(&self, magic: [u8; 4], version: u16, out: &mut [u8]) {
        out[..4].copy_from_slice(&magic);
        out[4..6].copy_from_slice(&version.to_le_bytes());
        out[6] = self.level;
        out[7] = 0;
        out[8..24].copy_from_slice(&self.log_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.id.0.to_le_bytes());
    }

    fn parse(bytes: &[u8], magic: [u8; 4], version_max: u16, position: u64) -> Result<Self, FormatError> {
        let found = array(bytes, 0);
        if found != magic {
            return Err(FormatError::Magic { position, expected: magic, found });
        }
        let version = u16_at(bytes, 4);
        if !(VERSION..=version_max).contains(&version) {
            return Err(FormatError::UnknownVersion { version });
        }
        Ok(Self { log_id: u128::from_le_bytes(array(bytes, 8)), id: SegmentId(u64_at(bytes, 24)), level: bytes[6] })
    }
}

/// Why bytes are not the segment they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Something else stands where a header or trailer belongs.
    #[error("magic at {position} is {found:02x?}, {expected:02x?} expected")]
    Magic {
        /// Where, in bytes from the start of the file.
        position: u64,
        /// What belongs there.
        expected: [u8; 4],
        /// What stands there.
        found: [u8; 4],
    },
    /// Written by a later version: nothing of it may be touched.
    #[error("segment format version is {version}, this program knows up to {VERSION_WITH_KEYS}")]
    UnknownVersion {
        /// The version found.
        version: u16,
    },
    /// A sound segment, but not the one asked for.
    #[error("segment {} of log {:032x} found, segment {} of log {:032x} expected",
        found.id.0, found.log_id, expected.id.0, expected.log_id)]
    OtherSegment {
        /// The one asked for.
        expected: Identity,
        /// The one found.
        found: Identity,
    },
    /// The bytes are not those that were written, or belong elsewhere.
    #[error("checksum of {what} at {position} is {found:#010x}, {expected:#010x} expected")]
    Checksum {
        /// What it covers.
        what: &'static str,
        /// Where that starts, in bytes from the start of the file.
        position: u64,
        /// The checksum on disk.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
    /// A section without which the segment must not be read, from a later version.
    #[error("section of unknown kind {kind} is required to read the segment")]
    UnknownSection {
        /// The kind found.
        kind: u16,
    },
    /// A section that every segment has is not there.
    #[error("the segment has no section {kind:?}")]
    MissingSection {
        /// The kind missed.
        kind: SectionKind,
    },
    /// Numbers that contradict each other though their checksum holds.
    #[error("{what} at {position} makes no sense")]
    Inconsistent {
        /// Which ones.
        what: &'static str,
        /// Where, in bytes from the start of the file.
        position: u64,
    },
}

/// The first page of a segment file.
pub(crate) fn encode_header(identity: &Identity) -> [u8; HEADER_BYTES as usize] {
    let mut page = [0; HEADER_BYTES as usize];
    identity.encode(HEADER_MAGIC, VERSION, &mut page);
    let crc = crc32c::crc32c(&page[..HEADER_CRC_POSITION]);
    page[HEADER_CRC_POSITION..HEADER_CRC_POSITION + 4].copy_from_slice(&crc.to_le_bytes());
    page
}

/// Reads the first page of a segment file: what a tool looks at when the rest is damaged.
///
/// # Errors
/// [`FormatError::Magic`], [`FormatError::UnknownVersion`], [`FormatError::Checksum`], and
/// [`FormatError::Inconsistent`] when there is less than a header.
pub fn parse_header(page: &[u8]) -> Result<Identity, FormatError> {
    let Some(page) = page.get(..HEADER_CRC_POSITION + 4) else {
        return Err(FormatError::Inconsistent { what: "length of the header", position: 0 });
    };
    let identity = Identity::parse(page, HEADER_MAGIC, VERSION, 0)?;
    check("the header", 0, u32_at(page, HEADER_CRC_POSITION), crc32c::crc32c(&page[..HEADER_CRC_POSITION]))?;
    Ok(identity)
}

/// The last bytes of a segment file: where everything else is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Whose they are.
    pub identity: Identity,
    /// Where the first section starts, in bytes from the start of the file; a multiple of 4 KiB.
    pub footer_position: u64,
    /// Where the section table starts, in bytes from the start of the file.
    pub table_position: u64,
    /// Bytes of batches, which start behind the header page.
    pub batch_bytes: u64,
    /// Entries of the section table.
    pub section_count: u32,
    crc: u32,
}

impl Trailer {
    /// Reads the last [`TRAILER_BYTES`] of a file of `file_bytes`. Their checksum covers the section table too and is
    /// left to [`super::Footer::parse`].
    ///
    /// # Errors
    /// [`FormatError`]: magic, version, positions outside the file.
    pub fn parse(bytes: &[u8; TRAILER_BYTES], file_bytes: u64) -> Result<Self, FormatError> {
        let position = file_bytes.saturating_sub(TRAILER_BYTES as u64);
        let identity = Identity::parse(bytes, TRAILER_MAGIC, VERSION_WITH_KEYS, position)?;
        let trailer = Self {
            identity,
            footer_position: u64_at(bytes, 32),
            table_position: u64_at(bytes, 40),
            batch_bytes: u64_at(bytes, 48),
            section_count: u32_at(bytes, 56),
            crc: u32_at(bytes, TRAILER_CRC_POSITION),
        };
        let alignment = BLOCK_ALIGNMENT as u64;
        let table_bytes = u64::from(trailer.section_count) * TABLE_ENTRY_BYTES as u64;
        let consistent = trailer.batches().is_some_and(|batches| {
            batches.end.checked_next_multiple_of(alignment).is_some_and(|end| end <= trailer.footer_position)
                && trailer.footer_position.is_multiple_of(alignment)
                && trailer.footer_position <= trailer.table_position
                && trailer.section_count <= SECTIONS_MAX
                && trailer.table_position.checked_add(table_bytes).is_some_and(|end| end <= position)
                && file_bytes.is_multiple_of(alignment)
        });
        if consistent { Ok(trailer) } else { Err(FormatError::Inconsistent { what: "the trailer", position }) }
    }

    /// Where the batches lie in the file.
    fn batches(&self) -> Option<Range<u64>> {
        Some(HEADER_BYTES..HEADER_BYTES.checked_add(self.batch_bytes)?)
    }

    /// Where the last batch ends, in bytes from the start of the file.
    pub(crate) fn batches_end(&self) -> u64 {
        HEADER_BYTES + self.batch_bytes
    }
}

/// An entry of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) kind: u16,
    pub(crate) required: bool,
    pub(crate) crc: u32,
    pub(crate) position: u64,
    pub(crate) length: u64,
}

impl Section {
    /// What it holds; `None` when a later version knows.
    pub(crate) fn known_kind(&self) -> Option<SectionKind> {
        SectionKind::from_number(self.kind)
    }
}

/// Encodes a footer: the sections back to back, their table, and the trailer at the end of a whole page.
///
/// Kinds are numbers here and not [`SectionKind`], so that a test writes what a later version would.
///
/// # Panics
/// Unless the footer starts at a page behind `batch_bytes` of batches.
pub fn encode_footer(
    identity: &Identity,
    footer_position: u64,
    batch_bytes: u64,
    sections: &[(u16, bool, &[u8])],
) -> Box<[u8]> {
    assert!(footer_position.is_multiple_of(BLOCK_ALIGNMENT as u64) && footer_position >= HEADER_BYTES + batch_bytes);
    let has_keys = sections.iter().any(|&(kind, ..)| kind == SectionKind::KeyIndex as u16);
    let sections_bytes: usize = sections.iter().map(|(_, _, bytes)| bytes.len()).sum();
    let table_bytes = sections.len() * TABLE_ENTRY_BYTES;
    let footer_bytes = (sections_bytes + table_bytes + TRAILER_BYTES).next_multiple_of(BLOCK_ALIGNMENT);
    let mut out = Vec::with_capacity(footer_bytes);
    let mut table = Vec::with_capacity(table_bytes);
    for &(kind, required, bytes) in sections {
        table.extend_from_slice(&kind.to_le_bytes());
        table.extend_from_slice(&(if required { REQUIRED } else { 0 }).to_le_bytes());
        table.extend_from_slice(&identity.seal().section_crc(kind, bytes).to_le_bytes());
        table.extend_from_slice(&(footer_position + out.len() as u64).to_le_bytes());
        table.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&table);
    out.resize(footer_bytes, 0);
    let trailer = &mut out[footer_bytes - TRAILER_BYTES..];
    identity.encode(TRAILER_MAGIC, if has_keys { VERSION_WITH_KEYS } else { VERSION }, trailer);
    trailer[32..40].copy_from_slice(&footer_position.to_le_bytes());
    trailer[40..48].copy_from_slice(&(footer_position + sections_bytes as u64).to_le_bytes());
    trailer[48..56].copy_from_slice(&batch_bytes.to_le_bytes());
    trailer[56..60].copy_from_slice(&(sections.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c(&out[sections_bytes..footer_bytes - 4]);
    out[footer_bytes - 4..].copy_from_slice(&crc.to_le_bytes());
    out.into_boxed_slice()
}

/// Reads the trailer and the section table of a footer that starts at `footer_position` and reaches to the end of the
/// file, and proves both. Sections lie inside the footer, back to back.
pub(crate) fn parse_table(footer: &[u8], footer_position: u64) -> Result<(Trailer, Vec<Section>), FormatError> {
    let inconsistent = |what, position| FormatError::Inconsistent { what, position };
    let file_bytes = footer_position.checked_add(footer.len() as u64);
    let (Some(trailer_bytes), Some(file_bytes)) = (footer.last_chunk(), file_bytes) else {
        return Err(inconsistent("length of the footer", footer_position));
    };
    let trailer = Trailer::parse(trailer_bytes, file_bytes)?;
    if trailer.footer_position != footer_position {
        return Err(inconsistent("position of the footer", footer_position));
    }
    let table_start = (trailer.table_position - footer_position) as usize;
    let covered = &footer[table_start..footer.len() - 4];
    check("the section table", trailer.table_position, trailer.crc, crc32c::crc32c(covered))?;
    let mut end = footer_position;
    let mut sections = Vec::with_capacity(trailer.section_count as usize);
    for raw in covered.chunks_exact(TABLE_ENTRY_BYTES).take(trailer.section_count as usize) {
        let section = Section {
            kind: u16_at(raw, 0),
            required: u16_at(raw, 2) & REQUIRED != 0,
            crc: u32_at(raw, 4),
            position: u64_at(raw, 8),
            length: u64_at(raw, 16),
        };
        if section.position != end || section.length > trailer.table_position - end {
            return Err(inconsistent("the section table", trailer.table_position));
        }
        end += section.length;
        sections.push(section);
    }
    if end != trailer.table_position {
        return Err(inconsistent("the section table", trailer.table_position));
    }
    Ok((trailer, sections))
}

/// Compares a checksum on disk with that of the bytes it covers.
pub(crate) fn check(what: &'static str, position: u64, expected: u32, found: u32) -> Result<(), FormatError> {
    if expected == found { Ok(()) } else { Err(FormatError::Checksum { what, position, expected, found }) }
}

pub(crate) fn array<const N: usize>(bytes: &[u8], position: usize) -> [u8; N] {
    bytes[position..position + N].try_into().expect("the range has N bytes")
}

fn u16_at(bytes: &[u8], position: usize) -> u16 {
    u16::from_le_bytes(array(bytes, position))
}

pub(crate) fn u32_at(bytes: &[u8], position: usize) -> u32 {
    u32::from_le_bytes(array(bytes, position))
}

pub(crate) fn u64_at(bytes: &[u8], position: usize) -> u64 {
    u64::from_le_bytes(array(bytes, position))
}
