//! Partitions that move from one log to another.
//!
//! ```text
//!   prepare     the copy at the target counts for nothing: a tombstone        crash: it is erased
//!   move        the partition lives at the target, the tombstone at the source   crash: the old copy is erased
//!   erased      no tombstone
//! ```
//!
//! The one hard idea: at every moment one log has the partition and all other copies are tombstones. So a crash needs no
//! decision: what every start does with tombstones, which is to erase them, is right at each step.

use std::sync::Arc;

use storage::PartitionSettings;
use wire::PartitionId;

use super::{
    logs::LogNumber,
    state::{Refusal, State},
    topic::TopicPartition,
};

impl State {
    /// The log that a partition lives in, if it is any topic's.
    pub fn log_of(&self, id: PartitionId) -> Option<LogNumber> {
        let mut placed = self.topics.values().flat_map(|topic| &topic.partitions);
        placed.find(|partition| partition.id == id).map(|partition| partition.log)
    }

    /// What a partition is kept by, if it is any topic's.
    pub fn settings_of(&self, id: PartitionId) -> Option<PartitionSettings> {
        let of_topic = self.topics.values().find(|topic| topic.partitions.iter().any(|partition| partition.id == id));
        of_topic.map(|topic| topic.settings.meant())
    }

    /// A copy of a partition is about to be written to another log. It counts for nothing.
    pub(super) fn prepare_move(&mut self, id: PartitionId, to: LogNumber) -> Result<(), Refusal> {
        let from = self.log_of(id).ok_or(Refusal::UnknownPartition { id })?;
        if self.live_log(to).is_none() {
            return Err(Refusal::UnknownLog { log: to });
        }
        let copy = TopicPartition { id, log: to };
        if from == to || self.tombstones.contains(&copy) {
            return Err(Refusal::HasCopy { id, log: to });
        }
        self.tombstones.insert(copy);
        Ok(())
    }

    /// The copy that was prepared is the partition from now on, and what it was copied from counts for nothing.
    pub(super) fn move_partition(&mut self, id: PartitionId, to: LogNumber) -> Result<(), Refusal> {
        let from = self.log_of(id).ok_or(Refusal::UnknownPartition { id })?;
        if !self.tombstones.remove(&TopicPartition { id, log: to }) {
            return Err(Refusal::NotPrepared { id, log: to });
        }
        self.tombstones.insert(TopicPartition { id, log: from });
        for topic in self.topics.values_mut() {
            if let Some(place) = topic.partitions.iter().position(|partition| partition.id == id) {
                Arc::make_mut(topic).partitions[place].log = to;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::state::tests::*, *};
    use crate::meta::Command;

    fn id(id: u64) -> PartitionId {
        PartitionId(id)
    }

    fn prepare(partition: u64, to: LogNumber) -> Command {
        Command::PrepareMove { partition: id(partition), to }
    }

    fn finish(partition: u64, to: LogNumber) -> Command {
        Command::MovePartition { partition: id(partition), to }
    }

    fn erased(partition: u64, log: LogNumber) -> Command {
        Command::ConfirmErased { copies: vec![TopicPartition { id: id(partition), log }] }
    }

    fn tombstones(state: &State) -> Vec<(u64, LogNumber)> {
        state.tombstones.iter().map(|copy| (copy.id.0, copy.log)).collect()
    }

    #[test]
    fn one_log_has_the_partition_and_every_other_copy_is_a_tombstone() {
        let mut state = after([logs(2), create("a", 2), prepare(1, 1)]);
        assert_eq!((placed(&state, "a"), tombstones(&state)), (vec![(1, 0), (2, 1)], vec![(1, 1)]));
        state.apply(&finish(1, 1)).expect("it was prepared");
        assert_eq!((placed(&state, "a"), tombstones(&state)), (vec![(1, 1), (2, 1)], vec![(1, 0)]));
        state.apply(&erased(1, 0)).expect("the old copy is gone");
        assert_eq!(tombstones(&state), []);
    }

    #[test]
    fn a_move_is_prepared_once_and_not_to_where_a_copy_is() {
        let state = after([logs(2), create("a", 2), prepare(1, 1)]);
        check_refused(&state, prepare(1, 1), Refusal::HasCopy { id: id(1), log: 1 });
        check_refused(&state, prepare(1, 0), Refusal::HasCopy { id: id(1), log: 0 });
        check_refused(&state, prepare(1, 2), Refusal::UnknownLog { log: 2 });
        check_refused(&state, prepare(9, 0), Refusal::UnknownPartition { id: id(9) });
        let given_up = after([logs(2), create("a", 2), prepare(1, 1), erased(1, 1)]);
        check_refused(&given_up, finish(1, 1), Refusal::NotPrepared { id: id(1), log: 1 });
        // The old copy is in the way of moving back until it is erased.
        let moved = after([logs(2), create("a", 2), prepare(1, 1), finish(1, 1)]);
        check_refused(&moved, prepare(1, 0), Refusal::HasCopy { id: id(1), log: 0 });
        let back = after([logs(2), create("a", 2), prepare(1, 1), finish(1, 1), erased(1, 0), prepare(1, 0)]);
        assert_eq!(tombstones(&back), [(1, 0)]);
    }

    #[test]
    fn a_topic_deleted_while_a_partition_moves_leaves_both_copies_as_tombstones() {
        let state = after([logs(2), create("a", 2), prepare(1, 1), delete("a")]);
        assert_eq!(tombstones(&state), [(1, 0), (1, 1), (2, 1)]);
        check_refused(&state, finish(1, 1), Refusal::UnknownPartition { id: id(1) });
        // What old journals say is confirmed wherever it was.
        let mut state = state;
        state.apply(&Command::ConfirmDropped { partitions: vec![id(1)] }).expect("always taken");
        assert_eq!(tombstones(&state), [(2, 1)]);
    }
}
