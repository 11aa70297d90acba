//! The answers a connection is owed, in the order of its requests.
//!
//! The hard idea: produce requests wait here as they are, outcomes and all, and sync groups are numbered in the order in
//! which they were appended. So whoever holds a sync token takes a whole run off the front; nothing is allocated for a
//! request and no task is woken for one. Whatever a task works out has its place kept for it. Only fetches stand outside
//! of the line, for they may wait for long.

use std::{collections::VecDeque, iter::FusedIterator, mem};

use runtime::Instant;
use storage::{Lsn, Synced};
use wire::PartitionId;

use crate::{
    handler::error::ProduceError,
    native::ReplyTo,
    request::{Placed, ProduceOutcome},
};

/// What became of a batch when it was appended.
pub(crate) type AppendOutcome = (PartitionId, Result<Placed, ProduceError>);

/// One connection's line of answers.
#[derive(Default)]
pub(crate) struct Answers {
    line: VecDeque<Owed>,
    /// Answers that have left the line.
    gone: u64,
    /// The outcomes of the produce requests in the line, in the same order, then those of the request being handled.
    outcomes: VecDeque<AppendOutcome>,
    /// How many of them are the request's that is being handled.
    open: usize,
    /// The last sync group one of these waits for.
    open_lsn: Lsn,
}

/// A place in the line.
#[derive(Debug)]
#[must_use = "a place that is never filled holds up everything behind it"]
pub(crate) struct Place {
    number: u64,
    /// Where the answer goes.
    pub(crate) to: ReplyTo,
}

enum Owed {
    /// To be made when its sync group is on the disk.
    Produce { to: ReplyTo, outcomes: usize, lsn: Lsn, deadline: Instant },
    /// A task works it out.
    Awaited,
    /// Made, and not its turn yet.
    Made(Vec<u8>),
}

/// What can leave the line.
pub(crate) enum Due<'a> {
    /// The answer to a produce request, to be made of these outcomes.
    Produced(ReplyTo, Outcomes<'a>),
    /// An answer that was made.
    Made(Vec<u8>),
}

/// What became of the batches of one request. Those that nobody asks for go with it.
pub(crate) struct Outcomes<'a> {
    all: &'a mut VecDeque<AppendOutcome>,
    left: usize,
    synced: Synced,
}

impl Iterator for Outcomes<'_> {
    type Item = (PartitionId, ProduceOutcome);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (partition, outcome) = self.all.pop_front().expect("the line knows how many there are");
        Some((partition, outcome.and_then(|placed| placed.acknowledge_by(self.synced))))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Outcomes<'_> {}
impl FusedIterator for Outcomes<'_> {}

impl Drop for Outcomes<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.left > 0 {
            self.all.drain(..self.left);
        }
    }
}

impl Answers {
    /// Adds the outcome of a batch of the request being handled.
    #[inline]
    pub(crate) fn push(&mut self, partition: PartitionId, outcome: Result<Placed, ProduceError>) {
        if let Ok(placed) = &outcome
            && placed.appended.needs_sync()
        {
            self.open_lsn = self.open_lsn.max(placed.appended.lsn());
        }
        self.outcomes.push_back((partition, outcome));
        self.open += 1;
    }

    /// Ends the request being handled; its answer waits until every batch of it may be acknowledged, or `deadline`.
    #[inline]
    pub(crate) fn close(&mut self, to: ReplyTo, deadline: Instant) {
        let (outcomes, lsn) = (mem::take(&mut self.open), mem::take(&mut self.open_lsn));
        self.line.push_back(Owed::Produce { to, outcomes, lsn, deadline });
    }

    /// Takes back the outcomes of the request being handled.
    pub(crate) fn reopen(&mut self) -> impl Iterator<Item = AppendOutcome> {
        let open = mem::take(&mut self.open);
        self.open_lsn = 0;
        self.outcomes.drain(self.outcomes.len() - open..)
    }

    /// Keeps a place for an answer that is worked out elsewhere.
    pub(crate) fn keep_place(&mut self, to: ReplyTo) -> Place {
        self.line.push_back(Owed::Awaited);
        Place { number: self.gone + self.line.len() as u64 - 1, to }
    }

    /// Fills a place.
    pub(crate) fn fill(&mut self, place: &Place, answer: Vec<u8>) {
        let owed = &mut self.line[(place.number - self.gone) as usize];
        assert!(matches!(owed, Owed::Awaited), "a place is filled once");
        *owed = Owed::Made(answer);
    }

    /// The sync group the first answer waits for, if it waits for one.
    pub(crate) fn next_lsn(&self) -> Option<Lsn> {
        match self.line.front() {
            Some(Owed::Produce { lsn, .. }) => Some(*lsn),
            _ => None,
        }
    }

    /// Whether nothing is owed.
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Takes everything off the front whose turn has come: made, covered by `synced`, or past its deadline.
    pub(crate) fn take_due(&mut self, synced: Synced, now: Instant, mut take: impl FnMut(Due<'_>)) {
        while let Some(first) = self.line.pop_front_if(|owed| owed.is_due(synced, now)) {
            self.gone += 1;
            match first {
                Owed::Produce { to, outcomes, .. } => {
                    take(Due::Produced(to, Outcomes { all: &mut self.outcomes, left: outcomes, synced }));
                }
                Owed::Made(answer) => take(Due::Made(answer)),
                Owed::Awaited => unreachable!("it is not due"),
            }
        }
    }
}

impl Owed {
    fn is_due(&self, synced: Synced, now: Instant) -> bool {
        match self {
            Self::Produce { lsn, deadline, .. } => *lsn <= synced.lsn() || *deadline <= now,
            Self::Awaited => false,
            Self::Made(_) => true,
        }
    }
}
