//! What the manifest says, as a value: edits go in, nothing else changes it.
//!
//! The one hard idea: whatever would otherwise live only in WAL files that are about to be recycled arrives in one
//! [`Flush`], so that there is no moment at which a crash could find half of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use runtime::sabotage::planted;
use thin_vec::{ThinVec, thin_vec};

use super::{
    edit::{Edit, Flush, Flushed, FlushedPartition, Intent, Merge},
    given_up::{ALL_OFFSETS, GivenUp},
};
use crate::{
    PartitionId,
    kept::Kept,
    segment::{Extent, SegmentId, SegmentMeta},
};

/// The root of recovery of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Segments that hold data, in flush order: of two with the same partition the earlier has the lower offsets.
    pub segments: Vec<SegmentMeta>,
    /// The number of the next segment.
    pub next_segment: SegmentId,
    /// Segments that a flush or merge set out to write and has not reported: first number to count.
    pub intents: BTreeMap<SegmentId, u32>,
    /// Segments that hold nothing any more: their files are to be deleted, then reported by [`Edit::Deleted`].
    pub obsolete: BTreeSet<SegmentId>,
    /// WAL groups up to this one live on in segments and in this state.
    pub flushed: Flushed,
    /// New groups are numbered from here on at the earliest.
    pub next_lsn: u64,
    /// Torn tails of WAL files that have not been flushed past yet.
    pub cuts: Vec<Cut>,
    /// Every partition that this state says anything of. One that is absent has no data here.
    pub partitions: BTreeMap<PartitionId, Partition>,
    /// Partitions dropped by WAL groups that have not been flushed yet, with the LSN of the group: replay and flush
    /// ignore what they find of them.
    pub dropped: BTreeMap<PartitionId, u64>,
    /// What was given up of damaged segments.
    pub given_up: GivenUp,
    /// Whether the log was stopped cleanly and not been opened since: then no WAL file needs to be read.
    pub clean: bool,
}

/// What the manifest knows of one partition. There may be a hundred thousand: lists that hardly any has take a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Its first offset.
    pub log_start: u64,
    /// Offset behind the last one that was flushed. What was deleted before its flush may lie between it and the log start.
    pub flushed_end: u64,
    /// Where each leader epoch of the flushed batches began, in order; the last is the latest.
    pub epochs: Vec<EpochStart>,
    /// Offsets below this one may have been handed out without a sync; 0 when there is no reservation.
    pub reserved_end: u64,
    /// Set when damage was found that an operator or a peer has to repair.
    pub refused: Option<Refusal>,
    /// Offsets that hold nothing because a crash took them, in order, neither touching nor overlapping.
    pub lost: ThinVec<Range<u64>>,
    /// Truncations that segments do not reflect yet, rising in both numbers.
    pub clips: ThinVec<Clip>,
    /// The idempotent producers as of the last flush, as `producer_state` encodes them.
    pub producers: Vec<u8>,
    /// Whether metadata does not know this partition: kept, never served.
    pub quarantined: bool,
}

/// Where a leader epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub leader_epoch: i32,
    /// Its first offset.
    pub offset: u64,
}

/// From where on a partition is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// First offset that is not proven.
    pub from: u64,
    /// What names the partition as touched.
    pub evidence: Evidence,
}

/// How it is known that damage touches a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Evidence {
    /// The damaged group's own directory lists it.
    Directory = 1,
    /// The group behind the damaged one lists it.
    Successor = 2,
    /// Both are unreadable, so any partition may be touched.
    Nothing = 3,
    /// Its data in a segment is damaged.
    Segment = 4,
}

/// Groups of one use of a WAL file that are void for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file's salt.
    pub salt: u64,
    /// The last group that counts.
    pub lsn: u64,
    /// New groups start here, above every LSN seen in the torn tail.
    pub next_lsn: u64,
}

/// A truncation that segments written before it do not reflect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clip {
    /// Offsets from here on are void …
    pub next_offset: u64,
    /// … in segments with numbers below this one.
    pub segments_below: SegmentId,
}

/// What is to become of a segment's file found at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It holds data.
    Live,
    /// It is the rest of an unfinished write, or replaced: delete it.
    Delete,
    /// The manifest never heard of it: leave it alone, report it, neither delete nor adopt it.
    Unknown,
}

/// Why an edit does not fit the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// Numbers that are given out already, or too many at once.
    #[error("an intent claims segments from {first:?} on, the next number is {next:?}")]
    IntentTaken {
        /// The first one claimed.
        first: SegmentId,
        /// The next number.
        next: SegmentId,
    },
    /// No unfinished intent starts there.
    #[error("there is no unfinished intent from {first:?} on")]
    NoIntent {
        /// The intent that is to be finished.
        first: SegmentId,
    },
    /// A segment outside the intent it is written under, or twice.
    #[error("{segment:?} is not part of the intent, or is reported twice")]
    NotIntended {
        /// The segment.
        segment: SegmentId,
    },
    /// A segment that is to be replaced holds no data.
    #[error("{segment:?} is not live")]
    NotLive {
        /// The segment.
        segment: SegmentId,
    },
}

impl State {
    /// Takes an edit in.
    ///
    /// # Errors
    /// [`Inconsistent`], and nothing changes: a bug, as edits are checked before they are written.
    pub fn apply(&mut self, edit: Edit) -> Result<(), Inconsistent> {
        self.check(&edit)?;
        match edit {
            Edit::Open => {
                self.clean = false;
                while let Some((first, count)) = self.intents.pop_first() {
                    self.abandon(Intent { first, count });
                }
            }
            Edit::Intent(intent) => {
                self.next_segment = intent.end();
                self.intents.insert(intent.first, intent.count);
            }
            Edit::Abandon { intent } => drop(self.finish(Some(intent), Vec::new())),
            Edit::Flush(flush) => self.flush(flush),
            Edit::Merge(merge) => self.merge(merge),
            Edit::Deleted { segments } => {
                for id in segments {
                    self.obsolete.remove(&id);
                }
            }
            Edit::LogStart { partition, log_start } => {
                self.update(partition, |partition| partition.raise_log_start(log_start));
                self.retire_void(partition);
            }
            Edit::Clip { partition, next_offset } => {
                let clip = Clip { next_offset, segments_below: self.next_segment };
                self.update(partition, |partition| partition.clip(clip));
                self.retire_void(partition);
                self.forget_clips();
            }
            Edit::Cut(cut) => {
                self.cuts.push(cut);
                self.next_lsn = self.next_lsn.max(cut.next_lsn);
            }
            Edit::Refuse { partition, refusal } => self.update(partition, |partition| partition.refuse(refusal)),
            Edit::Accept { partition, next_offset } => {
                self.update(partition, |partition| partition.accept(next_offset))
            }
            Edit::Lost { partition, offsets } => self.update(partition, |partition| partition.lose(offsets)),
            Edit::Quarantine { partition } => self.update(partition, |partition| partition.quarantined = true),
            Edit::Drop { partition, lsn } => {
                self.drop_partition(partition);
                if lsn > self.flushed.lsn {
                    self.dropped.insert(partition, lsn);
                }
            }
            Edit::Clean { last_lsn, next_lsn } => {
                self.flushed.lsn = self.flushed.lsn.max(last_lsn);
                self.next_lsn = self.next_lsn.max(next_lsn);
                self.partitions.values_mut().for_each(|partition| partition.reserved_end = 0);
                self.clean = true;
            }
            Edit::Begin { partition, base_offset, lost, producers } => {
                self.begin(partition, base_offset, lost, producers);
            }
            Edit::GiveUp { partition, segment, offsets } => self.give_up(partition, segment, offsets),
        }
        self.forget_given_up();
        Ok(())
    }

    /// Whether an edit fits, without applying it.
    ///
    /// # Errors
    /// [`Inconsistent`].
    pub fn check(&self, edit: &Edit) -> Result<(), Inconsistent> {
        match edit {
            Edit::Intent(intent) => {
                let fits =
                    intent.first >= self.next_segment && intent.first.0.checked_add(intent.count.into()).is_some();
                let taken = Inconsistent::IntentTaken { first: intent.first, next: self.next_segment };
                if fits { Ok(()) } else { Err(taken) }
            }
            Edit::Abandon { intent } => self.check_intent(Some(*intent), &[]),
            Edit::Flush(flush) => self.check_intent(flush.intent, &flush.segments),
            Edit::Merge(merge) => {
                let live: BTreeSet<_> = self.segments.iter().map(|segment| segment.id).collect();
                match merge.removed.iter().find(|id| !live.contains(id)) {
                    Some(&segment) => Err(Inconsistent::NotLive { segment }),
                    None => self.check_intent(merge.intent, &merge.added),
                }
            }
            _ => Ok(()),
        }
    }

    /// What is to become of the file of segment `id`.
    pub fn fate(&self, id: SegmentId) -> Fate {
        let intended = self.intents.range(..=id).next_back();
        if self.segments.iter().any(|segment| segment.id == id) {
            Fate::Live
        } else if self.obsolete.contains(&id)
            || intended.is_some_and(|(&first, &count)| Intent { first, count }.contains(id))
        {
            Fate::Delete
        } else {
            Fate::Unknown
        }
    }

    /// The offsets of a partition in a segment that count: from the log start to the clip, without what was given up. None
    /// of a partition that is gone.
    pub fn kept(&self, segment: SegmentId, partition: PartitionId) -> Kept {
        let Some(known) = self.partitions.get(&partition) else { return Kept::default() };
        // A clip may lie below the log start: nothing of the segment counts then.
        let end = known.clip_of(segment).unwrap_or(u64::MAX).max(known.log_start);
        Kept::new(known.log_start..end, self.given_up.of(partition, segment).into())
    }

    /// Where the data of `partition` in segment `id` ends because of a truncation; `None` if it is whole.
    pub fn clip_of(&self, partition: PartitionId, id: SegmentId) -> Option<u64> {
        self.partitions.get(&partition)?.clip_of(id)
    }

    fn check_intent(&self, intent: Option<SegmentId>, segments: &[SegmentMeta]) -> Result<(), Inconsistent> {
        let intent = match intent {
            None => Intent { first: SegmentId(0), count: 0 },
            Some(first) => match self.intents.get(&first) {
                Some(&count) => Intent { first, count },
                None => return Err(Inconsistent::NoIntent { first }),
            },
        };
        let mut seen = BTreeSet::new();
        match segments.iter().find(|segment| !intent.contains(segment.id) || !seen.insert(segment.id)) {
            Some(segment) => Err(Inconsistent::NotIntended { segment: segment.id }),
            None => Ok(()),
        }
    }

    fn flush(&mut self, flush: Flush) {
        let Flush { intent, segments, through, partitions, dropped } = flush;
        for partition in dropped {
            self.drop_partition(partition);
            self.dropped.insert(partition, through.lsn);
        }
        for flushed in partitions {
            let (id, log_start) = (flushed.partition, flushed.log_start);
            let raises = self.partitions.get(&id).is_some_and(|partition| partition.log_start < log_start);
            self.update(id, |partition| partition.flush(flushed));
            if raises {
                self.retire_void(id);
            }
        }
        let live = self.finish(intent, segments);
        self.segments.extend(live);
        self.flushed = Flushed { lsn: through.lsn.max(self.flushed.lsn), ..through };
        self.next_lsn = self.next_lsn.max(through.lsn.saturating_add(1));
        self.cuts.retain(|cut| cut.next_lsn > through.lsn);
        self.dropped.retain(|_, lsn| *lsn > through.lsn);
    }

    fn merge(&mut self, merge: Merge) {
        let removed: BTreeSet<_> = merge.removed.into_iter().collect();
        let place = self.segments.iter().position(|segment| removed.contains(&segment.id));
        let place = place.unwrap_or(self.segments.len());
        self.segments.retain(|segment| !removed.contains(&segment.id));
        self.obsolete.extend(removed);
        let live = self.finish(merge.intent, merge.added);
        self.segments.splice(place..place, live);
        self.forget_clips();
    }

    /// Ends an intent. Answers which of its segments hold data; the files of all others are to be deleted.
    fn finish(&mut self, intent: Option<SegmentId>, mut written: Vec<SegmentMeta>) -> Vec<SegmentMeta> {
        if let Some(first) = intent
            && let Some(count) = self.intents.remove(&first)
        {
            self.abandon(Intent { first, count });
        }
        // Their partition may have gone, or been cut, while they were written.
        written.retain(|segment| !self.is_void(segment));
        for segment in &written {
            self.obsolete.remove(&segment.id);
        }
        written
    }

    fn abandon(&mut self, intent: Intent) {
        self.obsolete.extend((intent.first.0..intent.end().0).map(SegmentId));
    }

    /// Begins a copy of a partition. It may have been here before: then shared segments still hold what it was.
    fn begin(&mut self, id: PartitionId, base_offset: u64, lost: Vec<Range<u64>>, producers: Vec<u8>) {
        let clip = Clip { next_offset: 0, segments_below: self.next_segment };
        let begun = Partition {
            log_start: base_offset,
            flushed_end: base_offset,
            lost: lost.into(),
            producers,
            clips: if planted("begin without a clip") { ThinVec::new() } else { thin_vec![clip] },
            ..Partition::default()
        };
        self.partitions.insert(id, begun);
        self.retire_void(id);
        self.forget_clips();
    }

    fn give_up(&mut self, partition: PartitionId, segment: SegmentId, offsets: Range<u64>) {
        let is_live = self.segments.iter().any(|live| live.id == segment);
        if is_live && self.partitions.contains_key(&partition) {
            self.given_up.add(partition, segment, offsets);
            self.retire_void(partition);
        }
    }

    /// Forgets what was given up of partitions and segments that are gone.
    fn forget_given_up(&mut self) {
        if self.given_up.is_empty() {
            return;
        }
        let live: BTreeSet<_> = self.segments.iter().map(|segment| segment.id).collect();
        let partitions = &self.partitions;
        self.given_up.retain(|partition, segment| partitions.contains_key(&partition) && live.contains(&segment));
    }

    fn drop_partition(&mut self, partition: PartitionId) {
        self.partitions.remove(&partition);
        self.retire_void(partition);
    }

    /// Declares segments obsolete in which a partition was the last to have anything.
    fn retire_void(&mut self, of: PartitionId) {
        let mut segments = std::mem::take(&mut self.segments);
        segments.retain(|segment| {
            let void = segment.extent.may_hold(of) && self.is_void(segment);
            if void {
                self.obsolete.insert(segment.id);
            }
            !void
        });
        self.segments = segments;
    }

    /// Whether all of a segment is behind a log start or a truncation, or given up, or its partition gone. Of a shared one
    /// that can be read nobody knows without looking: what is dead in it goes when it is merged.
    fn is_void(&self, segment: &SegmentMeta) -> bool {
        match segment.extent {
            Extent::Own { partition: id, base_offset, next_offset } => {
                let Some(partition) = self.partitions.get(&id) else { return true };
                next_offset <= partition.log_start
                    || partition.clip_of(segment.id).is_some_and(|end| end <= base_offset)
                    || self.given_up.covers(id, segment.id, &(base_offset..next_offset))
            }
            Extent::Shared { first, last } => {
                let is_given_up = |id: PartitionId| self.given_up.covers(id, segment.id, &ALL_OFFSETS);
                let gives_up =
                    |(&id, known): (&PartitionId, &Partition)| is_given_up(id) || known.clip_of(segment.id) == Some(0);
                // Unless somebody found that it cannot be read, it goes when it is merged.
                self.given_up.concerns(segment.id)
                    && self.partitions.range(first..=last).all(gives_up)
                    && self.partitions.range(first..=last).any(|(&id, _)| is_given_up(id))
            }
        }
    }

    /// Forgets the clips that no segment can need any more, written or being written.
    fn forget_clips(&mut self) {
        let first_intended = self.intents.keys().next().copied();
        for (&id, partition) in self.partitions.iter_mut().filter(|(_, partition)| !partition.clips.is_empty()) {
            let holders = self.segments.iter().filter(|segment| segment.extent.may_hold(id)).map(|segment| segment.id);
            let oldest = holders.chain(first_intended).min();
            partition.clips.retain(|clip| oldest.is_some_and(|oldest| oldest < clip.segments_below));
        }
    }

    /// Changes what is known of a partition, unless it was dropped and has not begun again.
    fn update(&mut self, id: PartitionId, change: impl FnOnce(&mut Partition)) {
        match self.partitions.get_mut(&id) {
            Some(partition) => change(partition),
            None if !self.dropped.contains_key(&id) => change(self.partitions.entry(id).or_default()),
            None => {}
        }
    }
}

impl Partition {
    /// Where its data in segment `id` ends because of a truncation; `None` if it is whole.
    pub fn clip_of(&self, id: SegmentId) -> Option<u64> {
        // Both numbers rise, so the first clip that concerns the segment cuts deepest.
        self.clips.iter().find(|clip| id < clip.segments_below).map(|clip| clip.next_offset)
    }

    /// The latest leader epoch of the flushed batches.
    pub fn last_epoch(&self) -> Option<i32> {
        self.epochs.last().map(|start| start.leader_epoch)
    }

    fn flush(&mut self, flushed: FlushedPartition) {
        self.flushed_end = flushed.flushed_end;
        self.reserved_end = flushed.reserved_end;
        flushed.epochs.into_iter().for_each(|start| self.begin_epoch(start));
        if let Some(producers) = flushed.producers {
            self.producers = producers;
        }
        self.raise_log_start(flushed.log_start);
    }

    fn raise_log_start(&mut self, log_start: u64) {
        self.log_start = self.log_start.max(log_start);
        self.lost.retain(|range| range.end > log_start);
        // The epoch in which the log now starts still matters; those before it do not.
        let begun = self.epochs.iter().filter(|start| start.offset <= log_start).count();
        self.epochs.drain(..begun.saturating_sub(1));
    }

    fn begin_epoch(&mut self, start: EpochStart) {
        self.epochs.retain(|older| older.offset < start.offset && older.leader_epoch <= start.leader_epoch);
        // An epoch that goes on over several flushes began in the first of them.
        if self.last_epoch() != Some(start.leader_epoch) {
            self.epochs.push(start);
        }
    }

    fn clip(&mut self, clip: Clip) {
        self.flushed_end = self.flushed_end.min(clip.next_offset);
        self.epochs.retain(|start| start.offset < clip.next_offset);
        cut_lost(&mut self.lost, clip.next_offset);
        self.clips.retain(|older| older.next_offset < clip.next_offset);
        // An older one of the same segments cuts deeper.
        if self.clips.last().is_none_or(|older| older.segments_below < clip.segments_below) {
            self.clips.push(clip);
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        if self.refused.is_none_or(|known| refusal.from < known.from) {
            self.refused = Some(refusal);
        }
    }

    fn accept(&mut self, next_offset: u64) {
        if let Some(refusal) = self.refused.take() {
            self.lose(refusal.from..next_offset);
        }
    }

    fn lose(&mut self, range: Range<u64>) {
        add_lost(&mut self.lost, range);
    }
}

/// Forgets what was lost from `next_offset` on: these offsets are given out again.
pub(crate) fn cut_lost(lost: &mut ThinVec<Range<u64>>, next_offset: u64) {
    if planted("remember cut losses") {
        return;
    }
    lost.retain_mut(|range| {
        range.end = range.end.min(next_offset);
        !range.is_empty()
    });
}

/// Adds a range of lost offsets, joined with those it touches: a reader is told of a range before it goes on behind it, so
/// no two may meet.
pub(crate) fn add_lost(lost: &mut ThinVec<Range<u64>>, mut range: Range<u64>) {
    if range.is_empty() {
        return;
    }
    lost.retain(|other| {
        let touches = other.start <= range.end && range.start <= other.end;
        if touches {
            range = range.start.min(other.start)..range.end.max(other.end);
        }
        !touches
    });
    let place = lost.partition_point(|other| other.start < range.start);
    lost.insert(place, range);
}
