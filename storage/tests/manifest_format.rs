//! The manifest's bytes as `FORMAT.md` specifies them, made by hand: a change here is a change of the format.

use storage::{
    PartitionId,
    codec::DecodeError,
    manifest::{
        Clip, Cut, Edit, EpochStart, Evidence, Flush, Flushed, FlushedPartition, GivenUp, Intent, Merge, Partition,
        Refusal, State,
    },
    segment::{Extent, Location, SegmentId, SegmentMeta},
};

const P: PartitionId = PartitionId(7);
const REFUSAL: Refusal = Refusal { from: 170, evidence: Evidence::Nothing };

fn own() -> SegmentMeta {
    SegmentMeta {
        id: SegmentId(5),
        level: 0,
        extent: Extent::Own { partition: P, base_offset: 100, next_offset: 200 },
        bytes: 8192,
        batch_bytes: 4000,
        footer_position: 4096,
        timestamp_max: 1000,
        location: Location::Local,
    }
}

fn shared() -> SegmentMeta {
    SegmentMeta {
        id: SegmentId(6),
        level: 1,
        extent: Extent::Shared { first: P, last: PartitionId(9) },
        bytes: 16384,
        batch_bytes: 9000,
        footer_position: 12288,
        timestamp_max: -1,
        location: Location::Both,
    }
}

fn flush() -> Flush {
    let partition = FlushedPartition {
        partition: P,
        log_start: 1,
        flushed_end: 200,
        reserved_end: 4096,
        epochs: vec![EpochStart { leader_epoch: 3, offset: 100 }],
        producers: Some(vec![0xaa, 0xbb]),
    };
    let other = FlushedPartition { partition: PartitionId(9), flushed_end: 30, ..FlushedPartition::default() };
    Flush {
        intent: Some(SegmentId(5)),
        segments: vec![own(), shared()],
        through: Flushed { salt: 0xfeed, lsn: 42 },
        partitions: vec![partition, other],
        dropped: vec![PartitionId(8)],
    }
}

fn merge() -> Merge {
    Merge { intent: None, removed: vec![SegmentId(1), SegmentId(2)], added: Vec::new() }
}

fn edits() -> Vec<(Edit, &'static str)> {
    vec![
        (Edit::Open, "0101"),
        (Edit::Intent(Intent { first: SegmentId(5), count: 2 }), "0102050000000000000002000000"),
        (Edit::Abandon { intent: SegmentId(5) }, "01030500000000000000"),
        (
            Edit::Flush(flush()),
            concat!(
                "0104010500000000000000edfe0000000000002a000000000000000200000005000000000000000020000000000000a0",
                "0f0000000000000010000000000000e80300000000000000010107000000000000006400000000000000c80000000000",
                "00000600000000000000004000000000000028230000000000000030000000000000ffffffffffffffff010302070000",
                "000000000009000000000000000200000007000000000000000100000000000000c80000000000000000100000000000",
                "00010000000300000064000000000000000102000000aabb090000000000000000000000000000001e00000000000000",
                "00000000000000000000000000010000000800000000000000",
            ),
        ),
        (Edit::Merge(merge()), "010500020000000100000000000000020000000000000000000000"),
        (Edit::Deleted { segments: vec![SegmentId(1), SegmentId(2)] }, "01060200000001000000000000000200000000000000"),
        (Edit::LogStart { partition: P, log_start: 150 }, "010707000000000000009600000000000000"),
        (Edit::Clip { partition: P, next_offset: 180 }, "01080700000000000000b400000000000000"),
        (
            Edit::Cut(Cut { salt: 0xfeed, lsn: 42, next_lsn: 45 }),
            "0109edfe0000000000002a000000000000002d00000000000000",
        ),
        (Edit::Refuse { partition: P, refusal: REFUSAL }, "010a0700000000000000aa0000000000000003"),
        (Edit::Accept { partition: P, next_offset: 190 }, "010b0700000000000000be00000000000000"),
        (Edit::Lost { partition: P, offsets: 10..20 }, "010c07000000000000000a000000000000001400000000000000"),
        (Edit::Quarantine { partition: P }, "010d0700000000000000"),
        (Edit::Drop { partition: P, lsn: 43 }, "010e07000000000000002b00000000000000"),
        (Edit::Clean { last_lsn: 44, next_lsn: 46 }, "010f2c000000000000002e00000000000000"),
        (
            Edit::Begin { partition: P, base_offset: 100, lost: vec![110..120], producers: vec![0xaa, 0xbb] },
            "011007000000000000006400000000000000010000006e00000000000000780000000000000002000000aabb",
        ),
        (
            Edit::GiveUp { partition: P, segment: SegmentId(6), offsets: 10..20 },
            "0111070000000000000006000000000000000a000000000000001400000000000000",
        ),
    ]
}

fn state() -> State {
    let partition = Partition {
        log_start: 1,
        flushed_end: 200,
        epochs: vec![EpochStart { leader_epoch: 3, offset: 100 }],
        reserved_end: 4096,
        refused: Some(REFUSAL),
        lost: vec![10..20].into(),
        clips: vec![Clip { next_offset: 180, segments_below: SegmentId(6) }].into(),
        producers: vec![0xaa, 0xbb],
        quarantined: false,
    };
    let quarantined = Partition { quarantined: true, ..Partition::default() };
    State {
        segments: vec![shared()],
        next_segment: SegmentId(7),
        intents: [(SegmentId(6), 1)].into(),
        obsolete: [SegmentId(5)].into(),
        flushed: Flushed { salt: 0xfeed, lsn: 42 },
        next_lsn: 45,
        cuts: vec![Cut { salt: 0xbeef, lsn: 40, next_lsn: 50 }],
        partitions: [(P, partition), (PartitionId(9), quarantined)].into(),
        dropped: [(PartitionId(8), 60)].into(),
        given_up: GivenUp::default(),
        clean: true,
    }
}

const STATE: &str = concat!(
    "01010700000000000000edfe0000000000002a000000000000002d000000000000000100000006000000000000000040",
    "00000000000028230000000000000030000000000000ffffffffffffffff010302070000000000000009000000000000",
    "000100000006000000000000000100000001000000050000000000000001000000efbe00000000000028000000000000",
    "0032000000000000000100000008000000000000003c0000000000000002000000070000000000000001000000000000",
    "00c80000000000000000100000000000000100000003000000640000000000000001aa0000000000000003010000000a",
    "00000000000000140000000000000001000000b40000000000000006000000000000000002000000aabb090000000000",
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000100000000",
);

/// What a snapshot with something given up has behind the rest.
const GIVEN_UP: &str = concat!(
    "02000000070000000000000006000000000000000a000000000000001400000000000000",
    "0700000000000000060000000000000028000000000000003200000000000000",
);

fn state_given_up() -> State {
    let segment = SegmentId(6);
    State { given_up: [(P, segment, 10..20), (P, segment, 40..50)].into_iter().collect(), ..state() }
}

/// A snapshot's version is its first byte.
fn snapshot_2() -> String {
    format!("02{}{GIVEN_UP}", &STATE[2..])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex")).collect()
}

#[test]
fn edits_are_as_specified() {
    for (edit, expected) in edits() {
        assert_eq!(hex(&edit.encode()), expected, "{edit:?}");
        assert_eq!(Edit::decode(&bytes(expected)), Ok(edit));
    }
}

#[test]
fn the_snapshot_is_as_specified() {
    assert_eq!(hex(&state().encode()), STATE);
    assert_eq!(State::decode(&bytes(STATE)), Ok(state()));
}

#[test]
fn a_snapshot_has_another_version_where_something_was_given_up() {
    assert_eq!(hex(&state_given_up().encode()), snapshot_2());
    assert_eq!(State::decode(&bytes(&snapshot_2())), Ok(state_given_up()));
}

#[test]
fn nothing_may_be_missing_or_too_much() {
    let check = |whole: &[u8], decode: &dyn Fn(&[u8]) -> bool| {
        assert!(decode(whole));
        for len in 0..whole.len() {
            assert!(!decode(&whole[..len]), "cut to {len} bytes");
        }
        assert!(!decode(&[whole, &[0]].concat()), "one byte too many");
    };
    for (_, expected) in edits() {
        check(&bytes(expected), &|bytes| Edit::decode(bytes).is_ok());
    }
    check(&bytes(STATE), &|bytes| State::decode(bytes).is_ok());
    check(&bytes(&snapshot_2()), &|bytes| State::decode(bytes).is_ok());
}

#[test]
fn later_versions_and_kinds_are_told_from_nonsense() {
    let later = |field, found, known| Err(DecodeError::Unknown { field, found, known });
    assert_eq!(Edit::decode(&[2, 1]), later("version of the edit", 2, 1));
    assert_eq!(Edit::decode(&[1, 18]), later("kind of the edit", 18, 17));
    assert_eq!(State::decode(&[3]).map(drop), later("version of the snapshot", 3, 2).map(|_: Edit| ()));
}
