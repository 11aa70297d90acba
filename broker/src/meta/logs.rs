//! The logs of a node, as metadata knows them: which there are, and which of them take new partitions.
//!
//! The one hard idea: a log's number is its place in the list, for ever. One that is given up leaves its number behind,
//! retired, so that nothing written about it can ever be taken for another log's.

use std::collections::BTreeSet;

use super::{
    state::{Refusal, State},
    topic::TopicPartition,
};

/// A log's number: an index into [`State::logs`].
pub type LogNumber = u32;

/// Logs, at most, those given up included.
const LOGS_MAX: usize = 1 << 16;

/// Logs in use or spare, at most: one a shard.
const LOGS_LIVE_MAX: usize = 1024;

/// A log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Random, and what tells it from any other.
    pub id: u128,
    /// What it is used for.
    pub state: LogState,
}

/// What a log is used for. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogState {
    /// New partitions may go there: it is some shard's own.
    InUse = 0,
    /// There are fewer shards than logs. It takes no new partitions, and those it has move away.
    Spare = 1,
    /// It is empty and given up; its directory goes. Its number stays.
    Retired = 2,
}

impl LogEntry {
    /// One that was just made.
    pub(super) fn new(id: u128) -> Self {
        Self { id, state: LogState::InUse }
    }

    /// Whether its directory is to be there.
    pub fn is_live(&self) -> bool {
        self.state != LogState::Retired
    }
}

impl LogState {
    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::InUse, Self::Spare, Self::Retired].into_iter().find(|&state| state as u8 == number)
    }
}

impl State {
    /// A log that is not retired.
    pub fn live_log(&self, number: LogNumber) -> Option<&LogEntry> {
        self.logs.get(number as usize).filter(|log| log.is_live())
    }

    pub(super) fn register_logs(&mut self, ids: &[u128]) -> Result<(), Refusal> {
        let live = self.logs.iter().filter(|log| log.is_live()).count();
        if live + ids.len() > LOGS_LIVE_MAX || self.logs.len() + ids.len() > LOGS_MAX {
            return Err(Refusal::TooManyLogs { logs: live + ids.len() });
        }
        let mut known: BTreeSet<_> = self.logs.iter().map(|log| log.id).collect();
        if let Some(&id) = ids.iter().find(|&&id| !known.insert(id)) {
            return Err(Refusal::LogKnown { id });
        }
        self.logs.extend(ids.iter().copied().map(LogEntry::new));
        Ok(())
    }

    /// These logs are spare from now on, all others that are live in use.
    pub(super) fn spare_logs(&mut self, spare: &[LogNumber]) -> Result<(), Refusal> {
        if let Some(&log) = spare.iter().find(|&&log| self.live_log(log).is_none()) {
            return Err(Refusal::UnknownLog { log });
        }
        for (number, log) in (0..).zip(&mut self.logs).filter(|(_, log)| log.is_live()) {
            log.state = if spare.contains(&number) { LogState::Spare } else { LogState::InUse };
        }
        Ok(())
    }

    /// Gives up a spare log that holds nothing any more.
    pub(super) fn retire_log(&mut self, number: LogNumber) -> Result<(), Refusal> {
        if self.live_log(number).is_none() {
            return Err(Refusal::UnknownLog { log: number });
        }
        let is_spare = self.logs[number as usize].state == LogState::Spare;
        if !is_spare || self.holds_anything(number) {
            return Err(Refusal::LogInUse { log: number });
        }
        self.logs[number as usize].state = LogState::Retired;
        Ok(())
    }

    /// Whether a log holds a partition, or a copy of one that counts for nothing.
    pub fn holds_anything(&self, number: LogNumber) -> bool {
        let mut placed = self.topics.values().flat_map(|topic| &topic.partitions);
        placed.any(|partition| partition.log == number) || self.tombstones.iter().any(|copy| copy.log == number)
    }

    /// How many partitions each log has, by number; of logs that take no new ones nothing is said.
    pub(super) fn loads(&self) -> Vec<Option<u64>> {
        let mut loads: Vec<_> = self.logs.iter().map(|log| (log.state == LogState::InUse).then_some(0)).collect();
        for &TopicPartition { log, .. } in self.topics.values().flat_map(|topic| &topic.partitions) {
            if let Some(load) = &mut loads[log as usize] {
                *load += 1;
            }
        }
        loads
    }
}

#[cfg(test)]
mod tests {
    use super::{super::state::tests::*, *};
    use crate::meta::Command;

    fn spare(logs: &[LogNumber]) -> Command {
        Command::SpareLogs { logs: logs.to_vec() }
    }

    #[test]
    fn a_spare_log_takes_no_partitions_until_it_has_a_shard_again() {
        let state = after([logs(3), spare(&[1, 2]), create("a", 2)]);
        assert_eq!(placed(&state, "a"), [(1, 0), (2, 0)]);
        let state = after([logs(3), spare(&[1, 2]), create("a", 2), spare(&[2]), create("bb", 3)]);
        assert_eq!(placed(&state, "bb"), [(3, 1), (4, 1), (5, 0)]);
        check_refused(&state, spare(&[3]), Refusal::UnknownLog { log: 3 });
        check_refused(&after([logs(1), spare(&[0])]), create("a", 1), Refusal::NoLog);
    }

    #[test]
    fn a_log_is_given_up_once_it_is_spare_and_empty_and_its_number_stays() {
        let retire = |log| Command::RetireLog { log };
        let filled = after([logs(2), create("a", 2)]);
        check_refused(&filled, retire(1), Refusal::LogInUse { log: 1 });
        check_refused(&filled, retire(2), Refusal::UnknownLog { log: 2 });
        let draining = after([logs(2), create("a", 2), spare(&[1])]);
        check_refused(&draining, retire(1), Refusal::LogInUse { log: 1 });
        let deleted = after([logs(2), create("a", 2), spare(&[1]), delete("a")]);
        check_refused(&deleted, retire(1), Refusal::LogInUse { log: 1 });

        let mut state = after([logs(2), spare(&[1]), retire(1)]);
        check_refused(&state, retire(1), Refusal::UnknownLog { log: 1 });
        check_refused(&state, spare(&[1]), Refusal::UnknownLog { log: 1 });
        check_refused(&state, Command::RegisterLogs { ids: vec![1] }, Refusal::LogKnown { id: 1 });
        state.apply(&Command::RegisterLogs { ids: vec![7] }).expect("another log");
        assert_eq!(state.logs.iter().map(LogEntry::is_live).collect::<Vec<_>>(), [true, false, true]);
        state.apply(&create("a", 3)).expect("two logs take partitions");
        assert_eq!(placed(&state, "a"), [(1, 0), (2, 2), (3, 0)]);
    }
}
