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
    /// Batches were taken back: how much the log remembers depends on how many there were.
    is_uncertain: bool,
}

impl Producers {
    pub(crate) fn of(&mut self, partition: u64, producer: i64) -> &mut Sent {
        self.0.entry((partition, producer)).or_default()
    }

    /// Batches for which `is_there` does not hold are gone.
    pub(crate) fn keep(&mut self, partition: u64, is_uncertain: bool, is_there: impl Fn(u64) -> bool) {
        for ((of, _), sent) in &mut self.0 {
            if *of == partition {
                let before = sent.batches.len();
                sent.batches.retain(|&(_, _, base_offset)| is_there(base_offset));
                sent.is_uncertain |= is_uncertain && sent.batches.len() < before;
                // The log knows the epoch from what is in it.
                if sent.batches.is_empty() {
                    sent.is_uncertain = true;
                }
            }
        }
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
