//! The footer's parser on bytes that nobody vouches for, and on those of a later version.

use proptest::prelude::*;
use storage::{
    PartitionId,
    index::key_index::Table,
    segment::{
        Footer, SegmentId,
        format::{FormatError, Identity, SectionKind, TABLE_ENTRY_BYTES, TRAILER_BYTES, encode_footer},
    },
};

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library to the fuzz targets, a module here")]
mod checks;

const IDENTITY: Identity = Identity { log_id: 7, id: SegmentId(9), level: 0 };

/// The sections of a sound footer over two partitions in 16 KiB of batches.
fn sections() -> Vec<(u16, bool, Vec<u8>)> {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let directory = words(&[1, 10, 30, 4096, 500, 0, /**/ 5, 0, 9, 12_288, 800, 2 | 1 << 32]);
    let offsets = words(&[10, 4096, 20, 12_000, 0, 12_288]);
    let times = words(&[400, 500, 800]);
    let epochs = [(3i32, 10u64), (3, 0)]
        .iter()
        .flat_map(|(epoch, offset)| epoch.to_le_bytes().into_iter().chain(offset.to_le_bytes()));
    vec![
        (SectionKind::Directory as u16, true, directory),
        (SectionKind::OffsetIndex as u16, true, offsets),
        (SectionKind::TimeIndex as u16, true, times),
        (SectionKind::EpochIndex as u16, true, epochs.collect()),
        (SectionKind::BlockChecksums as u16, true, vec![0; 4]),
    ]
}

fn parse(sections: &[(u16, bool, Vec<u8>)]) -> Result<Footer, FormatError> {
    let sections: Vec<_> = sections.iter().map(|(kind, required, bytes)| (*kind, *required, &bytes[..])).collect();
    Footer::parse(encode_footer(&IDENTITY, 20_480, 16_384, &sections), 20_480)
}

#[test]
fn an_unknown_section_is_skipped_unless_it_is_required() {
    let mut sections = sections();
    sections.insert(2, (77, false, vec![1, 2, 3]));
    assert_eq!(parse(&sections).unwrap().holdings().count(), 2);
    sections[2].1 = true;
    assert_eq!(parse(&sections).unwrap_err(), FormatError::UnknownSection { kind: 77 });
}

#[test]
fn every_section_is_needed_once() {
    for missing in 0..sections().len() {
        let mut sections = sections();
        let (kind, ..) = sections.remove(missing);
        let error = parse(&sections).unwrap_err();
        assert!(matches!(error, FormatError::MissingSection { kind: found } if found as u16 == kind), "{error}");
    }
    let mut sections = sections();
    sections.push(sections[0].clone());
    assert!(matches!(parse(&sections).unwrap_err(), FormatError::Inconsistent { .. }));
}

#[test]
fn a_later_version_is_named() {
    let sound = sections();
    let sections: Vec<_> = sound.iter().map(|(kind, required, bytes)| (*kind, *required, &bytes[..])).collect();
    let mut bytes = encode_footer(&IDENTITY, 20_480, 16_384, &sections);
    let version = bytes.len() - 60;
    bytes[version] = 3;
    assert_eq!(Footer::parse(bytes, 20_480).unwrap_err(), FormatError::UnknownVersion { version: 3 });
}

#[test]
fn entries_that_contradict_each_other_are_refused() {
    assert!(parse(&sections()).is_ok());
    // Section, byte in it, and what it becomes.
    for (section, position, byte, why) in [
        (0, 0, 5, "partitions that do not ascend"),
        (0, 8, 30, "a partition without offsets"),
        (0, 24, 1, "a first batch that is not behind the header"),
        (0, 73, 0, "positions that do not ascend"),
        (0, 32, 0, "a largest timestamp that is not in the time index"),
        (0, 88, 0, "no interval of its own"),
        (0, 88, 9, "an interval that does not exist"),
        (0, 92, 0, "no epoch of its own"),
        (1, 0, 9, "an index that starts elsewhere"),
        (1, 16, 10, "offsets that do not ascend"),
        (1, 16, 40, "offsets behind the partition's end"),
        (1, 25, 0xff, "positions in the next partition"),
        (2, 8, 0, "a running maximum that falls"),
        (3, 4, 11, "an epoch that starts in the middle"),
    ] {
        let mut sections = sections();
        sections[section].2[position] = byte;
        let parsed = parse(&sections);
        assert!(matches!(parsed, Err(FormatError::Inconsistent { .. })), "{why}: {parsed:?}");
    }
    for section in 0..5 {
        let mut sections = sections();
        sections[section].2.pop();
        assert!(matches!(parse(&sections), Err(FormatError::Inconsistent { .. })), "section {section} cut short");
    }
}

/// Sections over the same batches and, behind them, key tables of 100 keys for both partitions.
fn keyed_sections() -> Vec<(u16, bool, Vec<u8>)> {
    let mut sections = sections();
    let end = Table::new(20_480, 100).unwrap().end();
    let words = [1, 20_480, 100, /**/ 5, end, 100];
    sections.push((
        SectionKind::KeyIndex as u16,
        false,
        words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect(),
    ));
    sections
}

fn parse_keyed(sections: &[(u16, bool, Vec<u8>)]) -> Result<Footer, FormatError> {
    let sections: Vec<_> = sections.iter().map(|(kind, required, bytes)| (*kind, *required, &bytes[..])).collect();
    Footer::parse(encode_footer(&IDENTITY, 24_576, 16_384, &sections), 24_576)
}

#[test]
fn key_tables_lie_between_batches_and_footer() {
    let footer = parse_keyed(&keyed_sections()).unwrap();
    assert_eq!(footer.key_table(PartitionId(1)), Table::new(20_480, 100));
    assert_eq!(footer.key_table(PartitionId(5)).map(|table| table.keys), Some(100));
    assert_eq!(footer.key_table(PartitionId(2)), None);
    assert_eq!(parse(&sections()).unwrap().key_table(PartitionId(1)), None);
}

#[test]
fn key_tables_that_lie_elsewhere_are_refused() {
    // Byte of the section, and what it becomes.
    for (position, byte, why) in [
        (0, 5, "partitions that do not ascend"),
        (0, 2, "a partition that is not there"),
        (24, 6, "a partition that is not there"),
        (8, 1, "a table that does not start where the batches end"),
        (32, 1, "a table that does not start where the one before it ends"),
        (16, 99, "tables that leave room between them"),
        (40, 255, "tables that leave no room"),
        (47, 255, "more keys than a file holds"),
    ] {
        let mut sections = keyed_sections();
        sections[5].2[position] = byte;
        let parsed = parse_keyed(&sections);
        assert!(matches!(parsed, Err(FormatError::Inconsistent { .. })), "{why}: {parsed:?}");
    }
    let mut sections = keyed_sections();
    sections[5].2.push(0);
    assert!(matches!(parse_keyed(&sections), Err(FormatError::Inconsistent { .. })), "a section cut short");
    sections.pop();
    assert!(matches!(parse_keyed(&sections), Err(FormatError::Inconsistent { .. })), "room that nothing fills");
}

/// A sound footer, changed where its table or trailer lies, under a checksum that holds.
fn forged(forge: impl FnOnce(&mut [u8])) -> Box<[u8]> {
    let sections = sections();
    let sections: Vec<_> = sections.iter().map(|(kind, required, bytes)| (*kind, *required, &bytes[..])).collect();
    let sections_bytes: usize = sections.iter().map(|(_, _, bytes)| bytes.len()).sum();
    let mut bytes = encode_footer(&IDENTITY, 20_480, 16_384, &sections);
    let crc_position = bytes.len() - 4;
    forge(&mut bytes[sections_bytes..crc_position]);
    let crc = crc32c::crc32c(&bytes[sections_bytes..crc_position]);
    bytes[crc_position..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn sections_lie_back_to_back_and_inside_the_footer() {
    assert!(Footer::parse(forged(|_| ()), 20_480).is_ok());
    for section in 0..5 {
        for (field, change) in [(8, 1), (8, u64::MAX), (16, 1), (16, u64::MAX), (16, 1 << 40)] {
            let parsed = Footer::parse(
                forged(|table| {
                    let place = section * TABLE_ENTRY_BYTES + field;
                    let value = u64::from_le_bytes(table[place..place + 8].try_into().unwrap());
                    table[place..place + 8].copy_from_slice(&value.wrapping_add(change).to_le_bytes());
                }),
                20_480,
            );
            assert!(matches!(parsed, Err(FormatError::Inconsistent { .. })), "section {section}: {parsed:?}");
        }
    }
}

#[test]
fn a_trailer_that_points_elsewhere_is_refused() {
    let trailer_of = |table: &mut [u8]| table.len() + 4 - TRAILER_BYTES;
    for field in [32, 40, 48] {
        for value in [0, 1, 4096, 20_481, 24_576, 1 << 40, u64::MAX] {
            let footer = forged(|table| {
                let place = trailer_of(table) + field;
                table[place..place + 8].copy_from_slice(&u64::to_le_bytes(value));
            });
            let parsed = Footer::parse(footer, 20_480);
            assert!(parsed.is_err(), "field {field} is {value}: {parsed:?}");
        }
    }
    for count in [0, 4, 6, 257, u32::MAX] {
        let footer = forged(|table| {
            let place = trailer_of(table) + 56;
            table[place..place + 4].copy_from_slice(&u32::to_le_bytes(count));
        });
        assert!(Footer::parse(footer, 20_480).is_err(), "{count} sections");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..6_000)) {
        checks::segment_footer_parsed(&bytes);
    }

    #[test]
    fn sections_changed_under_a_sound_checksum_do_no_harm(
        changes in prop::collection::vec((0..6usize, any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut sections = keyed_sections();
        for (section, place, byte) in changes {
            let bytes = &mut sections[section].2;
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let sections: Vec<_> = sections.iter().map(|(kind, required, bytes)| (*kind, *required, &bytes[..])).collect();
        checks::segment_footer_looked_up(encode_footer(&IDENTITY, 24_576, 16_384, &sections), 24_576);
    }

    #[test]
    fn tables_changed_under_a_sound_checksum_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let footer = forged(|table| {
            // The table and the trailer, not the zeros between.
            let places: Vec<_> = (0..5 * TABLE_ENTRY_BYTES).chain(table.len() + 4 - TRAILER_BYTES..table.len()).collect();
            for (place, byte) in changes {
                table[*place.get(&places)] = byte;
            }
        });
        checks::segment_footer_looked_up(footer, 20_480);
    }
}
