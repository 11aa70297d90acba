//! What one consumer saw of one partition.
//!
//! What can be judged from one reader's own order (did it go back, did it skip?) is noted the moment it happens; what
//! needs the other actors' notes waits for the check.

use std::ops::Range;

use crate::{
    Moment, Value,
    span::{Span, push},
};

/// Notes of one consumer on one partition. Opened anew by [`Reader::seek`]; between two seeks a reader expects every
/// offset, in order, once.
///
/// A note costs a few nanoseconds and, when it continues the last one, no memory; else 24 bytes.
#[derive(Debug)]
pub struct Reader {
    partition: u64,
    start: u64,
    position: u64,
    high_watermark: u64,
    passed: Vec<Range<u64>>,
    pub(crate) delivered: Vec<Span>,
    pub(crate) corrupt: Vec<u64>,
    pub(crate) lost: Vec<Range<u64>>,
    pub(crate) jumps: Vec<Jump>,
    pub(crate) regressions: Vec<Regression>,
    pub(crate) last_ok: Option<Moment>,
}

/// A delivery somewhere else than at the next offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jump {
    pub(crate) expected: u64,
    pub(crate) got: u64,
}

/// A high watermark below one seen before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Regression {
    pub(crate) before: u64,
    pub(crate) after: u64,
}

impl Reader {
    /// A reader that begins at `offset`. `partition` is the number the writers use for it.
    pub fn new(partition: u64, offset: u64) -> Self {
        Self {
            partition,
            start: offset,
            position: offset,
            high_watermark: 0,
            passed: Vec::new(),
            delivered: Vec::new(),
            corrupt: Vec::new(),
            lost: Vec::new(),
            jumps: Vec::new(),
            regressions: Vec::new(),
            last_ok: None,
        }
    }

    /// The partition it reads.
    pub fn partition(&self) -> u64 {
        self.partition
    }

    /// The offset it expects next.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// `count` records from `offset` on, whose values are consecutive from `first` on, were delivered. One record at a
    /// time is as good, and costs no more memory.
    pub fn delivered(&mut self, offset: u64, first: Value, count: u64, now: Moment) {
        if count > 0 {
            self.step(offset, count);
            push(&mut self.delivered, Span { offset, value: first, count });
            self.last_ok = self.last_ok.max(Some(now));
        }
    }

    /// The record delivered at `offset` is not one that this run made, see [`crate::Payload::read`].
    pub fn corrupt(&mut self, offset: u64) {
        self.step(offset, 1);
        self.corrupt.push(offset);
    }

    /// The broker said that these offsets are lost, and goes on behind them; they may begin before the reader's
    /// position. That is within the promise of the `memory` level, and only there.
    pub fn lost(&mut self, offsets: Range<u64>) {
        if offsets.end > self.position {
            let from = offsets.start.max(self.position);
            self.step(from, offsets.end - from);
        }
        self.lost.push(offsets);
    }

    /// The reader goes somewhere else on purpose, and expects `offset` next.
    pub fn seek(&mut self, offset: u64) {
        self.passed.push(self.start..self.position);
        self.start = offset;
        self.position = offset;
    }

    /// The broker reported this high watermark (or log end offset, in an answer to this reader).
    pub fn high_watermark(&mut self, offset: u64) {
        if offset < self.high_watermark {
            self.regressions.push(Regression { before: self.high_watermark, after: offset });
        }
        self.high_watermark = self.high_watermark.max(offset);
    }

    /// The stretches of offsets it has read through, whatever it found there.
    pub(crate) fn passed(&self) -> impl Iterator<Item = Range<u64>> {
        self.passed.iter().cloned().chain(std::iter::once(self.start..self.position))
    }

    /// Moves behind `count` offsets from `offset` on.
    fn step(&mut self, offset: u64, count: u64) {
        if offset != self.position {
            self.jumps.push(Jump { expected: self.position, got: offset });
        }
        if offset < self.position {
            self.seek(offset);
        }
        self.position = offset.saturating_add(count);
    }
}
