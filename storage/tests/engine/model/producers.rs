//! What idempotent producers have sent, and what the log has to make of what they send next.

use std::collections::BTreeMap;

use storage::{AppendError, producer_state::SequenceError};

/// The producers of every partition.
#[derive(Default)]
pub(crate) struct Producers(BTreeMap<(u64, i64), Sent>);

/// What one producer knows of its batches in one partition.
#[derive(Default)]
pub(crate) struct Sent {
    epoch: i16,
    /// Sequence, count and base offset of what is in the log.
    batches: Vec<(i32, i32, u64)>,
    /// Batches were taken back or lost: what the log remembers depends on how many there were.
    is_uncertain: bool,
}

impl Producers {
    pub(crate) fn of(&mut self, partition: u64, producer: i64) -> &mut Sent {
        self.0.entry((partition, producer)).or_default()
    }

    /// Batches for which `is_there` does not hold are gone.
    pub(crate) fn keep(&mut self, partition: u64, is_there: impl Fn(u64) -> bool) {
        for sent in self.all_of(partition) {
            sent.batches.retain(|&(_, _, base_offset)| is_there(base_offset));
            // The log knows the epoch from what is in it.
            sent.is_uncertain |= sent.batches.is_empty();
        }
    }

    /// How much the log remembers of each producer is its own business: any sequence may be next, once.
    pub(crate) fn doubt(&mut self, partition: u64) {
        self.all_of(partition).for_each(|sent| sent.is_uncertain = true);
    }

    fn all_of(&mut self, partition: u64) -> impl Iterator<Item = &mut Sent> {
        self.0.iter_mut().filter(move |((of, _), _)| *of == partition).map(|(_, sent)| sent)
    }
}

impl Sent {
    pub(crate) fn epoch(&self) -> i16 {
        self.epoch
    }

    /// The last batch: sequence, count, base offset. `None` where the log may have forgotten it.
    pub(crate) fn last(&self) -> Option<(i32, i32, u64)> {
        self.batches.last().copied().filter(|_| !self.is_uncertain)
    }

    pub(crate) fn next_sequence(&self) -> i32 {
        self.batches.last().map_or(0, |(sequence, count, _)| sequence + count)
    }

    pub(crate) fn appended(&mut self, sequence: i32, count: i32, base_offset: u64) {
        self.batches.push((sequence, count, base_offset));
        self.is_uncertain = false;
    }

    pub(crate) fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.batches.clear();
    }
}

pub(crate) fn is_out_of_order(error: &AppendError) -> bool {
    matches!(error, AppendError::Sequence(SequenceError::OutOfOrder { .. }))
}

pub(crate) fn is_stale(error: &AppendError) -> bool {
    matches!(error, AppendError::Sequence(SequenceError::StaleEpoch { .. }))
}
