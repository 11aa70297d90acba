//! What one producer knows of its records on one partition.

use std::ops::Range;

use crate::{
    Moment, Value, WriterId,
    span::{Span, push},
};

/// Notes of one producer on one partition: what it sent, and what became of it. What is neither acknowledged nor
/// refused by the end is unknown.
///
/// A note costs a few nanoseconds and, when it continues the last one, no memory; else 24 bytes.
#[derive(Debug)]
pub struct Writer {
    id: WriterId,
    partition: u64,
    sent: u64,
    pub(crate) acked: Vec<Span>,
    pub(crate) refused: Vec<Range<u64>>,
    pub(crate) last_ok: Option<Moment>,
}

impl Writer {
    /// A writer that has sent nothing. `partition` is any number that names the partition in this run.
    pub fn new(id: WriterId, partition: u64) -> Self {
        Self { id, partition, sent: 0, acked: Vec::new(), refused: Vec::new(), last_ok: None }
    }

    /// Which writer this is.
    pub fn id(&self) -> WriterId {
        self.id
    }

    /// The partition it writes to.
    pub fn partition(&self) -> u64 {
        self.partition
    }

    /// Records sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Takes the next `count` values, to be sent in their order; returns the first. A retry sends the same values
    /// again and takes none. Call it before the bytes leave: a value that was never taken counts as corruption.
    ///
    /// # Panics
    /// After 2^40 records.
    pub fn send(&mut self, count: u64) -> Value {
        let first = Value::new(self.id, self.sent);
        self.sent += count;
        let _last_fits = Value::new(self.id, self.sent);
        first
    }

    /// The broker acknowledged `count` values from `first` on, stored from `base_offset` on.
    ///
    /// # Panics
    /// When they were never sent by this writer: the run itself is wrong.
    pub fn acked(&mut self, first: Value, count: u64, base_offset: u64, now: Moment) {
        self.assert_sent(first, count);
        if count > 0 {
            push(&mut self.acked, Span { offset: base_offset, value: first, count });
            self.last_ok = self.last_ok.max(Some(now));
        }
    }

    /// The broker refused `count` values from `first` on: an error that says they were not, and will not be, stored.
    /// Not for timeouts or lost connections.
    ///
    /// # Panics
    /// When they were never sent by this writer: the run itself is wrong.
    pub fn refused(&mut self, first: Value, count: u64) {
        self.assert_sent(first, count);
        let start = first.to_u64();
        match self.refused.last_mut() {
            Some(last) if last.end == start => last.end += count,
            _ => self.refused.push(start..start + count),
        }
    }

    fn assert_sent(&self, first: Value, count: u64) {
        assert!(
            first.writer() == self.id && first.sequence() + count <= self.sent,
            "{count} values from {first} on were not sent by {}, which sent {}",
            self.id,
            self.sent
        );
    }
}
