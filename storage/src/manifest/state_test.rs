//! What each edit does, case by case. That snapshots and edits amount to the same is in `tests/manifest.rs`.

use super::*;
use crate::{
    PartitionId,
    segment::{Extent, Location, SegmentMeta},
};

const P: PartitionId = PartitionId(7);
const OTHER: PartitionId = PartitionId(8);

fn own(id: u64, partition: PartitionId, base_offset: u64, next_offset: u64) -> SegmentMeta {
    segment(id, Extent::Own { partition, base_offset, next_offset })
}

fn shared(id: u64) -> SegmentMeta {
    segment(id, Extent::Shared { first: P, last: OTHER })
}

fn segment(id: u64, extent: Extent) -> SegmentMeta {
    SegmentMeta {
        id: SegmentId(id),
        level: 0,
        extent,
        bytes: 8192,
        batch_bytes: 4096,
        footer_position: 4096,
        timestamp_max: 0,
        location: Location::Local,
    }
}

fn ids(segments: impl IntoIterator<Item = u64>) -> Vec<SegmentId> {
    segments.into_iter().map(SegmentId).collect()
}

fn intent(first: u64, count: u32) -> Edit {
    Edit::Intent(Intent { first: SegmentId(first), count })
}

fn flushed(partition: PartitionId, flushed_end: u64) -> FlushedPartition {
    FlushedPartition { partition, flushed_end, ..FlushedPartition::default() }
}

/// A flush of both partitions under the intent that starts with `first`.
fn flush(first: u64, segments: Vec<SegmentMeta>, lsn: u64) -> Edit {
    Edit::Flush(Flush {
        intent: Some(SegmentId(first)),
        segments,
        through: Flushed { salt: lsn, lsn },
        partitions: vec![flushed(P, 100), flushed(OTHER, 100)],
        dropped: Vec::new(),
    })
}

fn after(edits: impl IntoIterator<Item = Edit>) -> State {
    let mut state = State::default();
    edits.into_iter().for_each(|edit| state.apply(edit).expect("the edit fits"));
    state
}

fn live(state: &State) -> Vec<SegmentId> {
    state.segments.iter().map(|segment| segment.id).collect()
}

/// Segments 0 and 1 of partition 7 up to 100 and 200, and shared segment 2, all flushed.
fn three_segments() -> Vec<Edit> {
    vec![intent(0, 3), flush(0, vec![own(0, P, 0, 100), own(1, P, 100, 200), shared(2)], 10)]
}

fn after_three(edits: impl IntoIterator<Item = Edit>) -> State {
    after(three_segments().into_iter().chain(edits))
}

#[test]
fn a_flush_makes_its_segments_live_and_its_wal_file_free() {
    let state = after_three([]);
    assert_eq!(live(&state), ids(0..3));
    assert_eq!((state.flushed, state.next_lsn), (Flushed { salt: 10, lsn: 10 }, 11));
    assert_eq!((state.intents.len(), state.obsolete.len(), state.next_segment), (0, 0, SegmentId(3)));
    assert_eq!(state.partitions[&P].flushed_end, 100);
}

#[test]
fn numbers_of_an_intent_that_were_not_used_are_deleted() {
    let state = after([intent(0, 3), flush(0, vec![shared(1)], 10)]);
    assert_eq!((live(&state), state.obsolete), (ids([1]), ids([0, 2]).into_iter().collect()));
}

#[test]
fn unfinished_intents_end_when_the_log_is_opened() {
    let edits = || [intent(0, 2), intent(2, 1), Edit::Abandon { intent: SegmentId(2) }];
    let state = after(edits());
    assert_eq!(
        [0, 1, 2, 3].map(|id| state.fate(SegmentId(id))),
        [Fate::Delete, Fate::Delete, Fate::Delete, Fate::Unknown]
    );
    assert_eq!((state.intents.len(), state.obsolete.len()), (1, 1));
    let state = after(edits().into_iter().chain([Edit::Open]));
    assert_eq!((state.intents.len(), state.obsolete.len()), (0, 3));
    let state = after(edits().into_iter().chain([Edit::Open, Edit::Deleted { segments: ids([0, 2]) }]));
    assert_eq!(state.obsolete.into_iter().collect::<Vec<_>>(), ids([1]));
    assert_eq!(state.next_segment, SegmentId(3));
}

#[test]
fn a_merge_takes_the_place_of_what_it_merged() {
    let more = [intent(3, 1), flush(3, vec![own(3, P, 200, 300)], 20), intent(4, 2)];
    let merge = Edit::Merge(Merge {
        intent: Some(SegmentId(4)),
        removed: ids([1, 2]),
        added: vec![own(4, P, 100, 200), shared(5)],
    });
    let state = after_three(more.into_iter().chain([merge]));
    assert_eq!(live(&state), ids([0, 4, 5, 3]));
    assert_eq!(state.obsolete.into_iter().collect::<Vec<_>>(), ids([1, 2]));
}

#[test]
fn edits_that_do_not_fit_are_refused() {
    let check = |edit: Edit, expected: Inconsistent| {
        let mut state = after_three([intent(3, 2)]);
        let before = state.clone();
        assert_eq!(state.apply(edit), Err(expected));
        assert_eq!(state, before);
    };
    check(intent(4, 1), Inconsistent::IntentTaken { first: SegmentId(4), next: SegmentId(5) });
    check(intent(u64::MAX, 1), Inconsistent::IntentTaken { first: SegmentId(u64::MAX), next: SegmentId(5) });
    check(flush(4, vec![], 20), Inconsistent::NoIntent { first: SegmentId(4) });
    check(flush(3, vec![shared(5)], 20), Inconsistent::NotIntended { segment: SegmentId(5) });
    check(flush(3, vec![shared(4), shared(4)], 20), Inconsistent::NotIntended { segment: SegmentId(4) });
    check(Edit::Abandon { intent: SegmentId(0) }, Inconsistent::NoIntent { first: SegmentId(0) });
    let merge = Merge { intent: Some(SegmentId(3)), removed: ids([0, 9]), added: vec![] };
    check(Edit::Merge(merge), Inconsistent::NotLive { segment: SegmentId(9) });
}

#[test]
fn a_snapshot_claims_no_impossible_segments() {
    for (first, count) in [(u64::MAX, 1), (0, INTENT_SEGMENTS_MAX + 1)] {
        let state = State { intents: [(SegmentId(first), count)].into(), ..State::default() };
        assert!(State::decode(&state.encode()).is_err(), "{count} segments from {first} on");
    }
}

#[test]
fn a_log_start_frees_own_segments_below() {
    let log_start = |log_start| Edit::LogStart { partition: P, log_start };
    assert_eq!(live(&after_three([log_start(99)])), ids(0..3));
    assert_eq!(live(&after_three([log_start(100)])), ids(1..3));
    let state = after_three([log_start(500), log_start(300)]);
    assert_eq!(live(&state), ids([2]));
    assert_eq!(state.partitions[&P].log_start, 500);
    let raised = FlushedPartition { log_start: 100, ..flushed(P, 250) };
    let flush = Flush { partitions: vec![raised], through: Flushed { salt: 1, lsn: 20 }, ..Flush::default() };
    assert_eq!(live(&after_three([Edit::Flush(flush)])), ids(1..3));
}

#[test]
fn a_truncation_clips_the_segments_numbered_so_far() {
    let clip = |next_offset| Edit::Clip { partition: P, next_offset };
    let state = after_three([clip(50), intent(3, 1), flush(3, vec![own(3, P, 50, 150)], 20)]);
    assert_eq!(live(&state), ids([0, 2, 3]));
    let clip_of = |state: &State, id| state.clip_of(P, SegmentId(id));
    assert_eq!([0, 2, 3].map(|id| clip_of(&state, id)), [Some(50), Some(50), None]);
    assert_eq!(state.clip_of(OTHER, SegmentId(2)), None);

    let again = after_three([clip(50), intent(3, 1), flush(3, vec![own(3, P, 50, 150)], 20), clip(120)]);
    assert_eq!([0, 2, 3].map(|id| clip_of(&again, id)), [Some(50), Some(50), Some(120)]);
    let deeper = after_three([clip(50), intent(3, 1), flush(3, vec![own(3, P, 50, 150)], 20), clip(20)]);
    assert_eq!([0, 2].map(|id| clip_of(&deeper, id)), [Some(20), Some(20)]);
    assert_eq!((live(&deeper), deeper.partitions[&P].clips.len()), (ids([0, 2]), 1));
    assert_eq!(deeper.partitions[&P].flushed_end, 20);

    // The same segments once more, less deep.
    let repeated = after_three([clip(50), clip(80)]);
    assert_eq!((clip_of(&repeated, 0), repeated.partitions[&P].clips.len()), (Some(50), 1));
}

#[test]
fn a_clip_is_forgotten_when_merges_have_carried_it_out() {
    let clip = Edit::Clip { partition: P, next_offset: 50 };
    let merge = |removed: &[u64], first: u64, added: Vec<SegmentMeta>| {
        let removed = ids(removed.iter().copied());
        [intent(first, 1), Edit::Merge(Merge { intent: Some(SegmentId(first)), removed, added })]
    };
    let once = after_three([clip.clone()].into_iter().chain(merge(&[0], 3, vec![own(3, P, 0, 50)])));
    assert_eq!(once.partitions[&P].clips.len(), 1, "segment 2 may hold more");
    let both = merge(&[0], 3, vec![own(3, P, 0, 50)]).into_iter().chain(merge(&[2], 4, vec![shared(4)]));
    let twice = after_three([clip.clone()].into_iter().chain(both.clone()));
    assert_eq!(twice.partitions[&P].clips, []);
    // A segment that was being written at the truncation may still come.
    let written = after_three(
        [intent(3, 1), clip].into_iter().chain(merge(&[0], 4, vec![own(4, P, 0, 50)]).into_iter().chain(merge(
            &[2],
            5,
            vec![shared(5)],
        ))),
    );
    assert_eq!(written.clip_of(P, SegmentId(3)), Some(50));
}

#[test]
fn a_segment_written_across_a_truncation_may_be_void() {
    let state = after_three([
        intent(3, 1),
        Edit::Clip { partition: P, next_offset: 200 },
        flush(3, vec![own(3, P, 200, 300)], 20),
    ]);
    assert_eq!((live(&state), state.fate(SegmentId(3))), (ids(0..3), Fate::Delete));
}

#[test]
fn a_dropped_partition_takes_its_segments_with_it_and_stays_away() {
    let drop = Edit::Drop { partition: P, lsn: 15 };
    let late =
        [Edit::Lost { partition: P, offsets: 0..5 }, intent(3, 2), flush(3, vec![own(3, P, 200, 300), shared(4)], 12)];
    let state = after_three([drop.clone()].into_iter().chain(late.clone()));
    assert_eq!((live(&state), state.fate(SegmentId(3))), (ids([2, 4]), Fate::Delete));
    assert_eq!((state.partitions.contains_key(&P), state.dropped.get(&P)), (false, Some(&15)));
    let passed = Flush { through: Flushed { salt: 1, lsn: 15 }, ..Flush::default() };
    let state = after_three([drop].into_iter().chain(late).chain([Edit::Flush(passed)]));
    assert!(state.dropped.is_empty());
    assert!(after_three([Edit::Drop { partition: P, lsn: 10 }]).dropped.is_empty(), "flushed already");
}

#[test]
fn a_flush_drops_what_its_wal_file_dropped() {
    let dropping = Flush { dropped: vec![P], through: Flushed { salt: 1, lsn: 20 }, ..Flush::default() };
    let state = after_three([Edit::Flush(Flush { partitions: vec![flushed(P, 9)], ..dropping })]);
    assert_eq!((live(&state), state.partitions.contains_key(&P), state.dropped.len()), (ids([2]), false, 0));
}

#[test]
fn cuts_hold_until_flushed_past() {
    let cut = Edit::Cut(Cut { salt: 3, lsn: 20, next_lsn: 25 });
    let through = |lsn| Edit::Flush(Flush { through: Flushed { salt: 4, lsn }, ..Flush::default() });
    let state = after_three([cut.clone(), through(24)]);
    assert_eq!((state.cuts.len(), state.next_lsn), (1, 25));
    assert_eq!(after_three([cut, through(25)]).cuts, []);
}

#[test]
fn leader_epochs_are_where_they_began() {
    let begin = |epochs: &[(i32, u64)], flushed_end| {
        let epochs = epochs.iter().map(|&(leader_epoch, offset)| EpochStart { leader_epoch, offset }).collect();
        let partitions = vec![FlushedPartition { epochs, ..flushed(P, flushed_end) }];
        Edit::Flush(Flush { partitions, ..Flush::default() })
    };
    let check = |edits: &[Edit], expected: &[(i32, u64)]| {
        let state = after(edits.iter().cloned());
        let epochs: Vec<_> =
            state.partitions[&P].epochs.iter().map(|start| (start.leader_epoch, start.offset)).collect();
        assert_eq!(epochs, expected);
        assert_eq!(state.partitions[&P].last_epoch(), expected.last().map(|last| last.0));
    };
    let flushes = [begin(&[(1, 0), (3, 40)], 50), begin(&[(3, 50), (4, 80)], 90)];
    check(&flushes, &[(1, 0), (3, 40), (4, 80)]);
    let clip = Edit::Clip { partition: P, next_offset: 60 };
    check(&[&flushes[..], std::slice::from_ref(&clip)].concat(), &[(1, 0), (3, 40)]);
    check(&[&flushes[..], &[clip, begin(&[(5, 60)], 70)]].concat(), &[(1, 0), (3, 40), (5, 60)]);
    // What replaces a suffix that a crash took, in a later epoch.
    check(&[&flushes[..], &[begin(&[(6, 45)], 70)]].concat(), &[(1, 0), (3, 40), (6, 45)]);
    let log_start = |log_start| Edit::LogStart { partition: P, log_start };
    check(&[&flushes[..], &[log_start(40)]].concat(), &[(3, 40), (4, 80)]);
    check(&[&flushes[..], &[log_start(79)]].concat(), &[(3, 40), (4, 80)]);
    check(&[&flushes[..], &[log_start(200)]].concat(), &[(4, 80)]);
}

#[test]
fn the_lowest_refusal_holds_until_the_loss_is_accepted() {
    let refuse = |from| Edit::Refuse { partition: P, refusal: Refusal { from, evidence: Evidence::Directory } };
    let state = after([refuse(30), refuse(20), refuse(40)]);
    assert_eq!(state.partitions[&P].refused.map(|refusal| refusal.from), Some(20));
    let accept = |next_offset| Edit::Accept { partition: P, next_offset };
    let state = after([refuse(30), accept(45), accept(90)]);
    assert_eq!((state.partitions[&P].refused, state.partitions[&P].lost.to_vec()), (None, vec![30..45]));
    assert_eq!(after([refuse(30), accept(30)]).partitions[&P].lost, []);
}

#[test]
fn lost_ranges_are_joined_and_end_with_the_log_start() {
    let lost = |offsets| Edit::Lost { partition: P, offsets };
    let check = |edits: &[Edit], expected: &[std::ops::Range<u64>]| {
        assert_eq!(after(edits.iter().cloned()).partitions[&P].lost, expected);
    };
    check(&[lost(10..20), lost(30..40)], &[10..20, 30..40]);
    check(&[lost(30..40), lost(10..20)], &[10..20, 30..40]);
    check(&[lost(10..20), lost(30..40), lost(20..30)], &[10..40]);
    check(&[lost(10..20), lost(30..40), lost(15..32), lost(5..5)], &[10..40]);
    check(&[lost(10..20), lost(30..40), Edit::LogStart { partition: P, log_start: 20 }], &[30..40]);
    check(&[lost(10..20), lost(30..40), Edit::Clip { partition: P, next_offset: 15 }], &[10..15]);
}

#[test]
fn a_clean_stop_ends_reservations_and_an_open_ends_it() {
    let reserved = FlushedPartition { reserved_end: 4096, ..flushed(P, 50) };
    let flush =
        Edit::Flush(Flush { partitions: vec![reserved], through: Flushed { salt: 2, lsn: 8 }, ..Flush::default() });
    assert_eq!(after([flush.clone()]).partitions[&P].reserved_end, 4096);
    let clean = Edit::Clean { last_lsn: 9, next_lsn: 12 };
    let state = after([flush.clone(), clean.clone()]);
    assert_eq!((state.clean, state.partitions[&P].reserved_end), (true, 0));
    assert_eq!((state.flushed, state.next_lsn), (Flushed { salt: 2, lsn: 9 }, 12));
    assert!(!after([flush, clean, Edit::Open]).clean);
}

#[test]
fn producers_change_when_a_flush_says_so() {
    let flush = |producers| {
        let partitions = vec![FlushedPartition { producers, ..flushed(P, 50) }];
        Edit::Flush(Flush { partitions, ..Flush::default() })
    };
    assert_eq!(after([flush(Some(vec![1, 2])), flush(None)]).partitions[&P].producers, [1, 2]);
    assert_eq!(after([flush(Some(vec![1, 2])), flush(Some(vec![3]))]).partitions[&P].producers, [3]);
}

#[test]
fn a_partition_that_begins_again_has_nothing_of_what_it_was() {
    let begin = Edit::Begin { partition: P, base_offset: 40, lost: vec![60..70], producers: vec![1] };
    let state = after_three([Edit::Drop { partition: P, lsn: 20 }, begin.clone()]);
    let begun = &state.partitions[&P];
    assert_eq!((begun.log_start, begun.flushed_end, &begun.lost[..]), (40, 40, &[60..70][..]));
    assert_eq!(state.clip_of(P, SegmentId(2)), Some(0), "the shared segment still holds what it was");
    // The groups up to the drop stay void, and what is said of the partition counts again.
    assert_eq!(state.dropped.get(&P), Some(&20));
    let flush = [intent(3, 1), flush(3, vec![own(3, P, 40, 100)], 30)];
    let state = after_three([Edit::Drop { partition: P, lsn: 20 }, begin].into_iter().chain(flush));
    assert_eq!(state.partitions[&P].flushed_end, 100);
    assert_eq!((state.clip_of(P, SegmentId(3)), state.dropped.get(&P)), (None, None));
}
