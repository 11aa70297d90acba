//! Partition to log to shard: the only place that decides.
//!
//! MetaLog says which log a partition lives in, and which logs there are. Of those that are live, the lowest have a shard
//! of their own, in order; the others are spare, and each is run by the shard that its number gives. So the answer stays
//! the same from a start to the next one, whichever spare log is given up meanwhile.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use storage::PartitionSettings;
use wire::PartitionId;

use crate::{
    meta::{self, LogEntry, LogNumber, LogState, Snapshot, TopicName, TopicPartition},
    request::{PlacedPartition, Topic},
};

/// The logs that one shard is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seating {
    /// Its own, where new partitions go. It is yet to be made if metadata does not know it.
    pub(crate) own: LogNumber,
    /// Those without a shard of their own.
    pub(crate) spare: Vec<LogNumber>,
    /// How many logs the whole node runs: they share a disk.
    pub(crate) logs_of_node: u32,
}

/// The logs of each of so many shards from a start on: there may be more logs than shards, or fewer.
pub(crate) fn seat(logs: &[LogEntry], shards: u16) -> Vec<Seating> {
    let mut live = (0..).zip(logs).filter(|(_, log)| log.is_live()).map(|(number, _)| number);
    let own: Vec<_> = live.by_ref().take(shards.into()).collect();
    let made = logs.len() as LogNumber..;
    let logs_of_node = u32::from(shards) + live.clone().count() as u32;
    let seating = |own| Seating { own, spare: Vec::new(), logs_of_node };
    let mut seats: Vec<_> = own.into_iter().chain(made).take(shards.into()).map(seating).collect();
    live.for_each(|spare| seats[usize::from(shard_of_spare(spare, shards))].spare.push(spare));
    seats
}

fn shard_of_spare(log: LogNumber, shards: u16) -> u16 {
    (log % LogNumber::from(shards)) as u16
}

/// The metadata in force on a shard, and where every partition is served.
#[derive(Default)]
pub(crate) struct Placement {
    snapshot: Arc<Snapshot>,
    logs: FxHashMap<PartitionId, LogNumber>,
    /// The shard that runs each log, by number; of a retired one that means nothing.
    shards: Vec<u16>,
}

impl Placement {
    /// The placement of a snapshot on a node of so many shards, whose logs are as [`seat`] has them.
    pub(crate) fn new(snapshot: Arc<Snapshot>, shards: u16) -> Self {
        let partitions = snapshot.topics.values().flat_map(|topic| &topic.partitions);
        let logs = partitions.map(|partition| (partition.id, partition.log)).collect();
        let mut own = 0..;
        let shard = |(number, log): (LogNumber, &LogEntry)| match log.state {
            LogState::InUse => own.next().expect("there are few shards"),
            LogState::Spare | LogState::Retired => shard_of_spare(number, shards),
        };
        let shards = (0..).zip(&snapshot.logs).map(shard).collect();
        Self { snapshot, logs, shards }
    }

    /// The snapshot's number.
    pub(crate) fn version(&self) -> u64 {
        self.snapshot.version
    }

    /// The shard that leads a partition.
    pub(crate) fn shard_of(&self, id: PartitionId) -> Option<u16> {
        self.log_of(id).map(|log| self.shard_of_log(log))
    }

    /// The shard that runs a log which metadata knows.
    pub(crate) fn shard_of_log(&self, log: LogNumber) -> u16 {
        self.shards[log as usize]
    }

    /// The log that a partition lives in, if it is any topic's.
    pub(crate) fn log_of(&self, id: PartitionId) -> Option<LogNumber> {
        self.logs.get(&id).copied()
    }

    /// The partitions that `shard` leads, each with what it is kept by.
    pub(crate) fn led_by(&self, shard: u16) -> impl Iterator<Item = (TopicPartition, PartitionSettings)> {
        self.snapshot.topics.values().flat_map(move |topic| {
            let led = topic.partitions.iter().filter(move |partition| self.shard_of_log(partition.log) == shard);
            led.map(|&partition| (partition, topic.settings.meant()))
        })
    }

    /// All topics, by name.
    pub(crate) fn topics(&self) -> impl Iterator<Item = Topic> {
        self.snapshot.topics.iter().map(|(name, topic)| self.described(name, topic))
    }

    /// The topic of this name.
    pub(crate) fn topic(&self, name: &str) -> Option<Topic> {
        self.snapshot.topics.get_key_value(name).map(|(name, topic)| self.described(name, topic))
    }

    fn described(&self, name: &TopicName, topic: &meta::Topic) -> Topic {
        let placed = |partition: &TopicPartition| PlacedPartition {
            partition: partition.id,
            shard: self.shard_of_log(partition.log),
        };
        Topic {
            name: name.to_string(),
            id: topic.id,
            settings: topic.settings.clone(),
            partitions: topic.partitions.iter().map(placed).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(states: &[LogState]) -> Vec<LogEntry> {
        (1..).zip(states).map(|(id, &state)| LogEntry { id, state }).collect()
    }

    /// What a snapshot says once the start has made and spared logs as they were seated.
    fn started(mut logs: Vec<LogEntry>, seats: &[Seating]) -> Placement {
        for number in logs.len() as LogNumber.. {
            if !seats.iter().any(|seat| seat.own == number) {
                break;
            }
            logs.push(LogEntry { id: u128::from(number) + 100, state: LogState::InUse });
        }
        for seat in seats {
            logs[seat.own as usize].state = LogState::InUse;
            seat.spare.iter().for_each(|&spare| logs[spare as usize].state = LogState::Spare);
        }
        let state = meta::State { logs, ..meta::State::default() };
        Placement::new(Arc::new(Snapshot { version: 1, state }), seats.len() as u16)
    }

    /// Own and spare logs of each shard; the placement that follows agrees.
    fn check(states: &[LogState], shards: u16, expected: &[(LogNumber, &[LogNumber])]) {
        let seats = seat(&logs(states), shards);
        let found: Vec<_> = seats.iter().map(|seat| (seat.own, &seat.spare[..])).collect();
        assert_eq!(found, expected, "{states:?} on {shards}");
        let logs_of_node = expected.iter().map(|(_, spare)| 1 + spare.len() as u32).sum();
        assert!(seats.iter().all(|seat| seat.logs_of_node == logs_of_node));
        let placement = started(logs(states), &seats);
        for (shard, seat) in (0..).zip(&seats) {
            for &log in seat.spare.iter().chain([&seat.own]) {
                assert_eq!(placement.shard_of_log(log), shard, "log {log} of {states:?} on {shards}");
            }
        }
    }

    #[test]
    fn every_live_log_has_one_shard_and_every_shard_one_log_of_its_own() {
        use LogState::{InUse, Retired, Spare};
        check(&[], 2, &[(0, &[]), (1, &[])]);
        check(&[InUse, InUse], 2, &[(0, &[]), (1, &[])]);
        check(&[InUse], 3, &[(0, &[]), (1, &[]), (2, &[])]);
        check(&[InUse, InUse, InUse], 1, &[(0, &[1, 2])]);
        check(&[InUse, InUse, InUse, InUse, InUse], 2, &[(0, &[2, 4]), (1, &[3])]);
        // A spare log that is not drained yet has a shard again before another one is made.
        check(&[InUse, Spare], 2, &[(0, &[]), (1, &[])]);
        // A number is never used again.
        check(&[InUse, Retired], 2, &[(0, &[]), (2, &[])]);
        check(&[InUse, Retired, Spare, Spare], 2, &[(0, &[]), (2, &[3])]);
        check(&[Retired, Retired, InUse, Spare], 1, &[(2, &[3])]);
    }

    #[test]
    fn a_spare_log_stays_where_it_is_when_another_is_given_up() {
        use LogState::{InUse, Retired, Spare};
        let seats = seat(&logs(&[InUse, InUse, Spare, Spare, Spare]), 2);
        let left = started(
            logs(&[InUse, InUse, Retired, Spare, Spare]),
            &seat(&logs(&[InUse, InUse, Retired, Spare, Spare]), 2),
        );
        for (shard, seat) in (0..).zip(&seats) {
            for &spare in seat.spare.iter().filter(|&&spare| spare != 2) {
                assert_eq!(left.shard_of_log(spare), shard);
            }
        }
    }
}
