//! The sync group's bytes as `FORMAT.md` specifies them, and what becomes of bytes that are none.

use proptest::prelude::*;
use runtime::{Runtime, sim::block_on};
use storage::{
    PartitionId,
    group::{Builder, Entry, EntryKind, GROUP_ALIGNMENT, Group, GroupError, Stamp, Tail},
};

#[path = "../fuzz/src/group.rs"]
#[expect(unreachable_pub, reason = "a library to the fuzz target, a module here")]
mod checks;

use checks::{LOG_ID, SALT, reseal, sync_group_parsed};

const STAMP: Stamp = Stamp { log_id: LOG_ID, salt: SALT, lsn: 0x0a0b, previous_lsn: 0x0a09 };

const TAILS: [Tail; 2] = [
    Tail { partition: PartitionId(0x1122), next_offset: 0x3344 },
    Tail { partition: PartitionId(u64::MAX), next_offset: 1 << 62 },
];

/// One entry of every kind. The batch's bytes are none, since nothing here looks into them: they are as long as what its
/// checksum covers and a bit longer.
fn entries() -> Vec<(Entry, Vec<u8>)> {
    let entry = |kind, partition, leader_epoch, base_offset, next_offset| Entry {
        kind,
        partition: PartitionId(partition),
        leader_epoch,
        base_offset,
        next_offset,
    };
    vec![
        (entry(EntryKind::Batch, 0x1122, 5, 100, 103), (0..24).collect()),
        (entry(EntryKind::Truncate, 0x1122, 6, 90, 90), vec![]),
        (entry(EntryKind::LogStart, 3, -1, 7, 7), vec![]),
        (entry(EntryKind::Drop, 4, 0, 8, 8), vec![]),
        (entry(EntryKind::Reserve, 5, 6, 9, 4105), vec![]),
        (entry(EntryKind::Edit, 0, 0, 1, 2), b"edit".to_vec()),
        (entry(EntryKind::Marker, 0, 0, 0, 0), vec![]),
    ]
}

fn built(entries: Vec<(Entry, Vec<u8>)>, stamp: Stamp, tails: Vec<Tail>) -> Vec<u8> {
    block_on(1, async move |rt| {
        let mut group = Builder::new(rt.block(0));
        for (entry, payload) in &entries {
            group.push(*entry, payload);
        }
        group.seal(stamp, &tails).bytes.to_vec()
    })
}

fn golden() -> Vec<u8> {
    let text = include_str!("fixtures/v1/group.hex");
    let digits: Vec<_> = text.lines().flat_map(|line| line.split('#').next().expect("a first part").chars()).collect();
    let digits: Vec<_> = digits.into_iter().filter(|digit| !digit.is_whitespace()).collect();
    let digit = |digit: char| digit.to_digit(16).expect("a hexadecimal digit") as u8;
    let mut bytes: Vec<_> = digits.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
    bytes.resize(GROUP_ALIGNMENT, 0);
    bytes
}

/// Header, lists and every entry hold.
fn holds(bytes: &[u8]) -> bool {
    Group::parse(bytes, LOG_ID, SALT)
        .is_ok_and(|group| (0..group.header.entry_count).all(|index| group.entry(index).is_ok()))
}

#[test]
fn a_group_is_as_specified() {
    let written = built(entries(), STAMP, TAILS.to_vec());
    assert!(written == golden(), "a change of the format needs a new version of it, got\n{}", hex(&written));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_group_as_specified_is_read() {
    let bytes = golden();
    let group = Group::parse(&bytes, LOG_ID, SALT).expect("it is one");
    assert_eq!(group.header.stamp, STAMP);
    assert_eq!(group.header.padded_bytes(), GROUP_ALIGNMENT);
    let found: Vec<_> = (0..7).map(|index| group.entry(index).expect("it holds")).collect();
    let found: Vec<_> = found.into_iter().map(|(entry, payload)| (entry, payload.to_vec())).collect();
    assert_eq!(found, entries());
    assert_eq!(group.tails().collect::<Vec<_>>(), TAILS);
}

#[test]
fn no_changed_byte_and_no_cut_goes_unnoticed() {
    let bytes = golden();
    let length = Group::parse(&bytes, LOG_ID, SALT).expect("it is one").header.length as usize;
    assert!(holds(&bytes[..length]), "padding is no part of it");
    for cut in 0..length {
        assert!(!holds(&bytes[..cut]), "cut to {cut} bytes");
    }
    // Of a batch, what its own checksum covers is left to that.
    let unproven = 72 + 21..72 + 24;
    for at in (0..length).filter(|at| !unproven.contains(at)) {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            assert!(!holds(&bytes), "bit {bit} of byte {at} changed");
        }
    }
}

#[test]
fn a_group_belongs_to_one_log_and_one_use_of_a_file() {
    let bytes = golden();
    for (log_id, salt) in [(LOG_ID, SALT ^ 1), (LOG_ID ^ 1, SALT), (LOG_ID, 0)] {
        assert_eq!(Group::parse(&bytes, log_id, salt).map(drop), Err(GroupError::Absent));
    }
}

#[test]
fn a_checksum_does_not_hold_under_another_salt() {
    let mut bytes = golden();
    bytes[24..32].copy_from_slice(&(SALT ^ 1).to_le_bytes());
    assert_eq!(Group::parse(&bytes, LOG_ID, SALT ^ 1).map(drop), Err(GroupError::Damaged));
}

#[test]
fn a_later_version_is_told_from_damage() {
    let mut bytes = golden();
    bytes[4] = 2;
    assert_eq!(Group::parse(&bytes, LOG_ID, SALT).map(drop), Err(GroupError::Damaged));
    reseal(&mut bytes);
    assert_eq!(Group::parse(&bytes, LOG_ID, SALT).map(drop), Err(GroupError::UnknownVersion { version: 2 }));
    let mut bytes = golden();
    let directory = u32::from_le_bytes(bytes[52..56].try_into().unwrap()) as usize;
    bytes[directory + 40] = 8;
    assert_eq!(Group::parse(&bytes, LOG_ID, SALT).map(drop), Err(GroupError::Damaged));
    reseal(&mut bytes);
    assert_eq!(Group::parse(&bytes, LOG_ID, SALT).map(drop), Err(GroupError::UnknownKind { kind: 8 }));
}

proptest! {
    #[test]
    fn any_bytes_are_a_group_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        sync_group_parsed(&bytes);
    }

    #[test]
    fn what_is_built_is_read_back(
        entries in proptest::collection::vec((arbitrary_entry(), proptest::collection::vec(any::<u8>(), 0..100)), 1..12),
        tails in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..5),
        lsn in 2..u64::MAX,
        damage in (any::<proptest::sample::Index>(), 1..=255u8),
    ) {
        let stamp = Stamp { lsn, previous_lsn: lsn / 2, ..STAMP };
        let tails: Vec<_> = tails.into_iter().map(|(id, next_offset)| Tail { partition: PartitionId(id), next_offset }).collect();
        let mut bytes = built(entries.clone(), stamp, tails.clone());
        prop_assert!(holds(&bytes));
        let group = Group::parse(&bytes, LOG_ID, SALT).unwrap();
        prop_assert_eq!(group.header.stamp, stamp);
        prop_assert_eq!(group.tails().collect::<Vec<_>>(), tails);
        let found = (0..group.header.entry_count).map(|index| group.entry(index).unwrap());
        let found: Vec<_> = found.map(|(entry, payload)| (entry, payload.to_vec())).collect();
        prop_assert_eq!(&found, &entries);
        sync_group_parsed(&bytes);

        let (length, directory) = (group.header.length as usize, group.header.directory_position as usize);
        let at = damage.0.index(length);
        bytes[at] ^= damage.1;
        let in_batch_body = lies_in_batch_body(&entries, at);
        prop_assert!(!holds(&bytes) || (in_batch_body && at < directory), "byte {} of {}", at, length);
    }
}

/// Whether byte `at` of the group lies in a batch, behind what its entry's checksum covers.
fn lies_in_batch_body(entries: &[(Entry, Vec<u8>)], at: usize) -> bool {
    let mut start = 72;
    entries.iter().any(|(entry, payload)| {
        let unproven = start + 21..start + payload.len();
        start += payload.len();
        entry.kind == EntryKind::Batch && unproven.contains(&at)
    })
}

fn arbitrary_entry() -> impl Strategy<Value = Entry> {
    const KINDS: [EntryKind; 7] = [
        EntryKind::Batch,
        EntryKind::Truncate,
        EntryKind::LogStart,
        EntryKind::Drop,
        EntryKind::Reserve,
        EntryKind::Marker,
        EntryKind::Edit,
    ];
    (proptest::sample::select(&KINDS[..]), any::<[u64; 3]>(), any::<i32>()).prop_map(|(kind, numbers, leader_epoch)| {
        let [partition, base_offset, next_offset] = numbers;
        Entry { kind, partition: PartitionId(partition), leader_epoch, base_offset, next_offset }
    })
}
