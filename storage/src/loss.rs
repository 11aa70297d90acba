//! What damage took of a partition: found out, and given up.
//!
//! Damage in the WAL stops a partition: recovery [refuses](Status::Refused) it from an offset on, for what is missing there
//! nobody knows. Damage in a segment stops only the reads that meet it. Both are given up by an operator, for good, and
//! readers are told which offsets are lost.
//!
//! The one hard idea: of a segment whole intervals of the offset index are given up, those that touch a damaged block. A
//! read of what is left never touches that block, so nothing has to be repaired before readers and merges go on around it;
//! the next merge leaves it behind. Where not even the footer can be read, all that the segment may hold is given up: what
//! lies between the segments before and behind it.

use std::{collections::BTreeSet, ops::Range, rc::Rc, time::Duration};

use runtime::{Runtime, sabotage::planted};
use thin_vec::ThinVec;

use crate::{
    compaction::dead,
    error::AcceptError,
    flush,
    manifest::{ALL_OFFSETS, Edit, Evidence, add_lost},
    partition::{Partition, RESERVATION_MAX, Status},
    segment::{Extent, SegmentError, SegmentId, footer::IntervalRun, reader::SegmentReader},
};

/// Where damage left no trace of how many offsets were given out behind what is proven, it was not so many: more than a WAL
/// has records.
const UNKNOWN_OFFSETS: u64 = 1 << 40;
/// So much of a segment is proven at once.
const STEP_BYTES: usize = 1 << 20;

/// A stretch of a partition that was gone through for damage in segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The offsets that damage took, ascending. Of some of them nobody knows whether they held anything.
    pub lost: Vec<Range<u64>>,
    /// The segments that are damaged where they hold something of the partition, or may.
    pub segments: BTreeSet<SegmentId>,
    /// Where to go on; `None` when all was gone through.
    pub next_offset: Option<u64>,
}

/// What is damaged in a segment.
struct Damage {
    segment: SegmentId,
    /// Offsets that are not to be read there any more.
    offsets: Range<u64>,
    /// Those of them that count, and may have held something.
    lost: Range<u64>,
}

impl Survey {
    fn new(damages: &[Damage], next_offset: Option<u64>) -> Self {
        let mut lost = ThinVec::new();
        damages.iter().for_each(|damage| add_lost(&mut lost, damage.lost.clone()));
        Self { lost: lost.to_vec(), segments: damages.iter().map(|damage| damage.segment).collect(), next_offset }
    }
}

impl<R: Runtime> Partition<R> {
    /// Goes through what segments hold of it from offset `from` on, past all caches, and says what damage took. Ends behind
    /// about `bytes_max` bytes.
    ///
    /// # Errors
    /// [`AcceptError`]; [`AcceptError::Segment`] if a segment cannot be read for a reason that may pass.
    pub async fn survey(&self, from: u64, bytes_max: u64) -> Result<Survey, AcceptError> {
        let (damages, next_offset) = self.damages(from, bytes_max).await?;
        Ok(Survey::new(&damages, next_offset))
    }

    /// The same, and gives it up, durably: it is not read any more, and readers are told what is lost.
    ///
    /// # Errors
    /// As [`Self::survey`].
    pub async fn give_up_damaged(&self, from: u64, bytes_max: u64) -> Result<Survey, AcceptError> {
        loop {
            let truncations = self.log.manifest.truncations();
            let (damages, next_offset) = self.damages(from, bytes_max).await?;
            if self.give_up(&damages, truncations).await? {
                if next_offset.is_none() {
                    self.log.damaged.borrow_mut().remove(&self.id());
                }
                return Ok(Survey::new(&damages, next_offset));
            }
        }
    }

    /// What [`Self::accept_loss`] would give up now.
    pub fn refused_offsets(&self) -> Option<Range<u64>> {
        let from = self.refused_from()?.max(self.log_start());
        Some(from..self.end_of_loss().max(from))
    }

    /// Gives up what damage to the WAL took, durably: the partition goes on behind every offset that it may have given out,
    /// and readers are told which ones are lost. Answers those; none where it is not refused.
    ///
    /// Intact batches behind the damage are lost with it: a reader could not tell what is missing in between.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub async fn accept_loss(&self) -> Result<Option<Range<u64>>, AcceptError> {
        // A truncation is not half done meanwhile: it may cut off what is damaged.
        let _cutting = self.log.cutting.lock().await;
        // While its WAL files are there, every recovery finds the damage anew.
        flush::flush_recovered(&self.log).await??;
        let _alone = self.log.maintenance.lock().await;
        let from = match self.state.status.get() {
            // What was deleted is not lost.
            Status::Refused { from } => from.max(self.state.log_start()),
            Status::Gone => return Err(AcceptError::Gone),
            Status::Serving | Status::Truncating | Status::Leaving => return Ok(None),
        };
        let next_offset = self.end_of_loss().max(from);
        self.log.wal.memtables.borrow_mut().truncate(self.id(), from);
        let clip = Edit::Clip { partition: self.id(), next_offset: from };
        self.log.edit_all(vec![clip, Edit::Accept { partition: self.id(), next_offset }]).await?;
        self.state.producers.borrow_mut().truncate(from);
        self.state.cut_to(from);
        self.state.forget_lost(from);
        self.state.lose(from..next_offset);
        self.state.set_status(Status::Serving);
        self.log.delete_obsolete().await?;
        Ok(Some(from..next_offset))
    }

    /// No offset from there on was ever given out, damaged as the log is.
    fn end_of_loss(&self) -> u64 {
        let manifest = self.log.manifest_state();
        let refusal = manifest.partitions.get(&self.id()).and_then(|known| known.refused);
        let margin = match refusal.map(|refusal| refusal.evidence) {
            Some(Evidence::Nothing) | None => UNKNOWN_OFFSETS,
            // A reservation may be what was damaged, and offsets below it were given out without a sync.
            Some(_) if self.durability() == wire::Durability::Memory => 2 * RESERVATION_MAX,
            Some(_) => 0,
        };
        self.state.log_end() + margin
    }

    /// Notes durably that this is not read any more; not if segments changed since it was found.
    async fn give_up(&self, damages: &[Damage], truncations: u64) -> Result<bool, AcceptError> {
        let log = &self.log;
        let _cutting = log.cutting.lock().await;
        let _alone = log.maintenance.lock().await;
        self.check_there()?;
        if truncations != log.manifest.truncations() || !self.are_live(damages) {
            return Ok(false);
        }
        let partition = self.id();
        let mut edits = Vec::new();
        for Damage { segment, offsets, lost } in damages {
            edits.push(Edit::GiveUp { partition, segment: *segment, offsets: offsets.clone() });
            if !lost.is_empty() && !planted("give up silently") {
                edits.push(Edit::Lost { partition, offsets: lost.clone() });
            }
        }
        log.edit_all(edits).await?;
        for Damage { segment, lost, .. } in damages {
            self.state.lose(lost.clone());
            log.segments.forget(*segment);
            // What was in the way of a merge may be given up now.
            log.unreadable.borrow_mut().remove(segment);
        }
        dead::weigh_given_up(log);
        log.maintained();
        log.delete_obsolete().await?;
        Ok(true)
    }

    fn check_there(&self) -> Result<(), AcceptError> {
        if self.state.status.get() == Status::Gone { Err(AcceptError::Gone) } else { Ok(()) }
    }

    fn are_live(&self, damages: &[Damage]) -> bool {
        damages.iter().all(|damage| self.log.is_live(damage.segment))
    }

    /// The damage from `from` on, and where to go on looking.
    async fn damages(&self, from: u64, bytes_max: u64) -> Result<(Vec<Damage>, Option<u64>), AcceptError> {
        loop {
            self.check_there()?;
            let mut search = Search::new(self, from.max(self.log_start()), bytes_max);
            let next_offset = search.go_through().await?;
            // What a merge replaced meanwhile was not there because of that.
            if self.are_live(&search.found) {
                return Ok((search.found, next_offset));
            }
        }
    }
}

/// A walk through the segments of a partition, lower offsets first.
struct Search<'a, R: Runtime> {
    partition: &'a Partition<R>,
    /// All below was gone through.
    held_to: u64,
    bytes_left: u64,
    /// Segments met since then of which not even the footer can be read.
    unreadable: Vec<SegmentId>,
    found: Vec<Damage>,
}

impl<'a, R: Runtime> Search<'a, R> {
    fn new(partition: &'a Partition<R>, from: u64, bytes_max: u64) -> Self {
        Self { partition, held_to: from, bytes_left: bytes_max, unreadable: Vec::new(), found: Vec::new() }
    }

    /// Answers where to go on, if that was not all.
    async fn go_through(&mut self) -> Result<Option<u64>, SegmentError> {
        let (log, id) = (&self.partition.log, self.partition.id());
        let end = self.partition.readable_end();
        // As of the same moment as the segments: a flush may take it out of memory before they were gone through.
        let memory_start = log.wal.memtables.borrow_mut().first_offset(id).unwrap_or(u64::MAX).min(end);
        for (meta, offsets) in self.partition.live_segments(self.held_to..end) {
            let reader = match SegmentReader::open(&log.rt, log.segments.dir(), log.id, &meta).await {
                Ok(reader) => reader,
                Err(error) if error.is_damage() => {
                    match meta.extent {
                        Extent::Own { base_offset, next_offset, .. } => {
                            self.reach(base_offset.max(offsets.start));
                            self.lose(meta.id, base_offset..next_offset, &offsets);
                            self.held_to = self.held_to.max(next_offset.min(offsets.end));
                        }
                        Extent::Shared { .. } => self.unreadable.push(meta.id),
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(entry) = reader.footer().find(id).map(|holding| holding.entry) else { continue };
            if entry.next_offset <= offsets.start || offsets.end <= entry.base_offset {
                continue;
            }
            self.reach(entry.base_offset.max(offsets.start));
            if let Some(next_offset) = self.prove(&Rc::new(reader), &offsets).await? {
                return Ok(Some(next_offset));
            }
            self.held_to = self.held_to.max(entry.next_offset.min(offsets.end));
        }
        self.reach(memory_start);
        Ok(None)
    }

    /// There is something at `offset`: what cannot be read before it lay in between.
    fn reach(&mut self, offset: u64) {
        let between = self.held_to..offset.max(self.held_to);
        for segment in self.unreadable.drain(..) {
            self.found.push(Damage { segment, offsets: ALL_OFFSETS, lost: between.clone() });
        }
    }

    /// Proves what a segment holds in `offsets`; answers where to go on if that was too much.
    async fn prove(
        &mut self,
        reader: &Rc<SegmentReader<R>>,
        offsets: &Range<u64>,
    ) -> Result<Option<u64>, SegmentError> {
        let Some(holding) = reader.footer().find(self.partition.id()) else { return Ok(None) };
        let mut numbers = holding.intervals(offsets);
        while !numbers.is_empty() {
            let (_, position) = holding.interval_start(numbers.start);
            let run = holding.run(numbers.clone(), reader.read_limit(position, STEP_BYTES));
            if self.bytes_left == 0 {
                return Ok(Some(run.offsets.start.max(offsets.start)));
            }
            self.bytes_left = self.bytes_left.saturating_sub(run.positions.end - run.positions.start);
            if !is_sound(reader, &run).await? {
                // Which of them it is.
                for number in run.numbers.clone() {
                    let one = holding.run(number..number + 1, 0);
                    if run.numbers.len() == 1 || !is_sound(reader, &one).await? {
                        self.lose(reader.id(), one.offsets, offsets);
                    }
                }
            }
            numbers.start = run.numbers.end;
            self.partition.log.rt.sleep(Duration::ZERO).await;
        }
        Ok(None)
    }

    fn lose(&mut self, segment: SegmentId, offsets: Range<u64>, counting: &Range<u64>) {
        let lost = offsets.start.max(counting.start)..offsets.end.min(counting.end);
        self.found.push(Damage { segment, offsets, lost });
    }
}

/// Whether a read of these intervals would give batches.
async fn is_sound<R: Runtime>(reader: &SegmentReader<R>, run: &IntervalRun) -> Result<bool, SegmentError> {
    let start = run.positions.start;
    let read = reader.verified_in_steps(run.positions.clone()).await;
    let cut =
        read.and_then(|bytes| reader.cut(std::slice::from_ref(&bytes), start, &ALL_OFFSETS, usize::MAX).map(drop));
    match cut {
        Ok(()) => Ok(true),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}
