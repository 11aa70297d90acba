//! What MetaLog knows, as a deterministic state machine: the same commands in the same order give the same state and
//! the same outcomes, on any node and in any replay.
//!
//! The one hard idea: numbers are never given out twice. Partitions, producer ids and leader epochs come from counters
//! that only rise, and a command that was refused changed nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    sync::Arc,
};

use wire::{PartitionId, TopicId};

use super::{
    command::Command,
    logs::{LogEntry, LogNumber},
    setting::{SettingError, TopicSettings},
    topic::{Topic, TopicName, TopicPartition},
};

/// Producer ids are made durable in blocks of this many, before the first of a block is used.
pub const PRODUCER_IDS_PER_BLOCK: i64 = 1_000;

/// Partitions of one topic, at most.
const TOPIC_PARTITIONS_MAX: u32 = 100_000;

/// Partitions of all topics, at most, those of deleted topics included until they are gone.
const PARTITIONS_MAX: usize = 1_000_000;

/// Settings of one topic, at most.
const SETTINGS_MAX: usize = 64;

/// Bytes of a setting's name or value, at most.
const SETTING_BYTES_MAX: usize = 4096;

/// A cluster's id: random, drawn when its metadata was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterId(pub u128);

/// All metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node whose data directory this is; `None` before its first start.
    pub node_id: Option<u32>,
    /// The latest leader epoch; 0 before the first start.
    pub leader_epoch: i32,
    /// Logs by their number.
    pub logs: Vec<LogEntry>,
    /// Topics by name. Shared, so that a copy of the state costs little.
    pub topics: BTreeMap<TopicName, Arc<Topic>>,
    /// Copies of partitions that count for nothing, and that their log has not confirmed to be gone: of deleted topics,
    /// and what a move has not finished or left behind.
    pub tombstones: BTreeSet<TopicPartition>,
    /// The next partition's number.
    pub next_partition: u64,
    /// The next block's first producer id.
    pub next_producer_id: i64,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What it says, and there is nothing to tell.
    Done,
    /// The leader epoch of whatever the node leads from now on.
    LeaderEpoch(i32),
    /// The topic created, deleted or altered.
    Topic(TopicId),
    /// Producer ids that nobody else gets.
    ProducerIds(Range<i64>),
}

/// Why a command was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The data directory is another node's.
    #[error("the data directory belongs to node {expected}, this is node {found}; set node_id back, or dir to another")]
    OtherNode {
        /// The node that started here first.
        expected: u32,
        /// The node that starts now.
        found: u32,
    },
    /// Every leader epoch was used.
    #[error("leader epochs are used up")]
    NoMoreEpochs,
    /// Every producer id was used.
    #[error("producer ids are used up")]
    NoMoreProducerIds,
    /// A log is registered twice.
    #[error("log {id:032x} is registered already")]
    LogKnown {
        /// Its id.
        id: u128,
    },
    /// There are more logs than shards can be.
    #[error("there can be no {logs} logs")]
    TooManyLogs {
        /// How many there would be.
        logs: usize,
    },
    /// There is no log of this number, or it was given up.
    #[error("there is no log {log}")]
    UnknownLog {
        /// Its number.
        log: LogNumber,
    },
    /// A log that takes partitions, or holds some, is not given up.
    #[error("log {log} is in use")]
    LogInUse {
        /// Its number.
        log: LogNumber,
    },
    /// There is no partition of this number.
    #[error("there is no partition {id}")]
    UnknownPartition {
        /// Its number.
        id: PartitionId,
    },
    /// The log holds the partition, or a copy that has to go first.
    #[error("log {log} holds a copy of partition {id} already")]
    HasCopy {
        /// The partition.
        id: PartitionId,
        /// The log's number.
        log: LogNumber,
    },
    /// A move was not announced, or given up.
    #[error("partition {id} is not on its way to log {log}")]
    NotPrepared {
        /// The partition.
        id: PartitionId,
        /// The log's number.
        log: LogNumber,
    },
    /// Partitions have nowhere to live.
    #[error("no log is registered")]
    NoLog,
    /// The name is taken.
    #[error("topic {name} exists already")]
    TopicExists {
        /// The name.
        name: TopicName,
    },
    /// There is no topic of that name.
    #[error("there is no topic {name}")]
    UnknownTopic {
        /// The name.
        name: TopicName,
    },
    /// A topic has at least one partition, and not too many.
    #[error("a topic has 1 to {TOPIC_PARTITIONS_MAX} partitions, not {found}")]
    PartitionCount {
        /// What was asked for.
        found: u32,
    },
    /// The cluster has too many partitions.
    #[error("the cluster can have {PARTITIONS_MAX} partitions, and {found} would be too many")]
    TooManyPartitions {
        /// How many there would be.
        found: usize,
    },
    /// More settings than there are.
    #[error("a topic has at most {SETTINGS_MAX} settings, not {found}")]
    TooManySettings {
        /// How many were given.
        found: usize,
    },
    /// A setting's name or value is too long.
    #[error("setting {name:.64} takes {bytes} bytes, at most {SETTING_BYTES_MAX} are allowed")]
    SettingTooLong {
        /// Its name.
        name: String,
        /// The longer one's length.
        bytes: usize,
    },
    /// A setting that topics do not have, or do not have so.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

impl State {
    /// The state of a new cluster. Partitions are numbered from 1: on disk, 0 stands for none.
    pub fn new(cluster_id: ClusterId) -> Self {
        Self { cluster_id, next_partition: 1, ..Self::default() }
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn apply(&mut self, command: &Command) -> Result<Outcome, Refusal> {
        match command {
            Command::StartNode { node_id } => self.start_node(*node_id),
            Command::RegisterLogs { ids } => done(self.register_logs(ids)),
            Command::CreateTopic { id, name, partitions, settings } => {
                self.create_topic(*id, name, *partitions, settings)
            }
            Command::DeleteTopic { name } => self.delete_topic(name),
            Command::ConfirmDropped { partitions } => {
                let dropped: BTreeSet<_> = partitions.iter().collect();
                self.tombstones.retain(|copy| !dropped.contains(&copy.id));
                Ok(Outcome::Done)
            }
            Command::ReserveProducerIds => self.reserve_producer_ids(),
            Command::AlterTopic { name, set, unset } => self.alter_topic(name, set, unset),
            Command::SpareLogs { logs } => done(self.spare_logs(logs)),
            Command::RetireLog { log } => done(self.retire_log(*log)),
            Command::PrepareMove { partition, to } => done(self.prepare_move(*partition, *to)),
            Command::MovePartition { partition, to } => done(self.move_partition(*partition, *to)),
            Command::ConfirmErased { copies } => {
                for copy in copies {
                    self.tombstones.remove(copy);
                }
                Ok(Outcome::Done)
            }
        }
    }

    fn start_node(&mut self, node_id: u32) -> Result<Outcome, Refusal> {
        if let Some(expected) = self.node_id.filter(|&expected| expected != node_id) {
            return Err(Refusal::OtherNode { expected, found: node_id });
        }
        self.leader_epoch = self.leader_epoch.checked_add(1).ok_or(Refusal::NoMoreEpochs)?;
        self.node_id = Some(node_id);
        Ok(Outcome::LeaderEpoch(self.leader_epoch))
    }

    fn create_topic(
        &mut self,
        id: TopicId,
        name: &TopicName,
        partitions: u32,
        settings: &BTreeMap<String, String>,
    ) -> Result<Outcome, Refusal> {
        if self.topics.contains_key(name) {
            return Err(Refusal::TopicExists { name: name.clone() });
        }
        self.check_partition_count(partitions)?;
        check_settings(settings)?;
        let settings = TopicSettings::read(settings.clone())?;
        let partitions = self.place(partitions)?;
        self.next_partition += partitions.len() as u64;
        let topic = Topic { id, settings, partitions };
        self.topics.insert(name.clone(), Arc::new(topic));
        Ok(Outcome::Topic(id))
    }

    fn check_partition_count(&self, partitions: u32) -> Result<(), Refusal> {
        if !(1..=TOPIC_PARTITIONS_MAX).contains(&partitions) {
            return Err(Refusal::PartitionCount { found: partitions });
        }
        let existing: usize = self.topics.values().map(|topic| topic.partitions.len()).sum();
        let found = existing + self.tombstones.len() + partitions as usize;
        let numbered = self.next_partition.checked_add(partitions.into()).is_some();
        if found <= PARTITIONS_MAX && numbered { Ok(()) } else { Err(Refusal::TooManyPartitions { found }) }
    }

    /// Gives each of `count` new partitions a number, and the log in use that has the fewest by then.
    fn place(&self, count: u32) -> Result<Vec<TopicPartition>, Refusal> {
        let mut loads = self.loads();
        // The lowest number among equals, so that every replay decides alike.
        let place = |id| {
            let taking = (0..).zip(&mut loads).filter_map(|(log, load)| Some((log, load.as_mut()?)));
            let (log, load) = taking.min_by_key(|(_, load)| **load).ok_or(Refusal::NoLog)?;
            *load += 1;
            Ok(TopicPartition { id: PartitionId(id), log })
        };
        (self.next_partition..).take(count as usize).map(place).collect()
    }

    fn delete_topic(&mut self, name: &TopicName) -> Result<Outcome, Refusal> {
        let topic = self.topics.remove(name).ok_or_else(|| Refusal::UnknownTopic { name: name.clone() })?;
        self.tombstones.extend(&topic.partitions);
        Ok(Outcome::Topic(topic.id))
    }

    fn alter_topic(
        &mut self,
        name: &TopicName,
        set: &BTreeMap<String, String>,
        unset: &[String],
    ) -> Result<Outcome, Refusal> {
        let topic = self.topics.get_mut(name).ok_or_else(|| Refusal::UnknownTopic { name: name.clone() })?;
        check_settings(set)?;
        if unset.len() > SETTINGS_MAX {
            return Err(Refusal::TooManySettings { found: unset.len() });
        }
        let settings = topic.settings.altered(set, unset)?;
        Arc::make_mut(topic).settings = settings;
        Ok(Outcome::Topic(topic.id))
    }

    fn reserve_producer_ids(&mut self) -> Result<Outcome, Refusal> {
        let first = self.next_producer_id;
        self.next_producer_id = first.checked_add(PRODUCER_IDS_PER_BLOCK).ok_or(Refusal::NoMoreProducerIds)?;
        Ok(Outcome::ProducerIds(first..self.next_producer_id))
    }
}

fn done(result: Result<(), Refusal>) -> Result<Outcome, Refusal> {
    result.map(|()| Outcome::Done)
}

fn check_settings(settings: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if settings.len() > SETTINGS_MAX {
        return Err(Refusal::TooManySettings { found: settings.len() });
    }
    for (name, value) in settings {
        let bytes = name.len().max(value.len());
        if bytes > SETTING_BYTES_MAX {
            return Err(Refusal::SettingTooLong { name: name.clone(), bytes });
        }
    }
    Ok(())
}

/// 22 characters of base64 without padding, in the alphabet that needs no escaping anywhere.
impl fmt::Display for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        // The last of 22 characters holds the two lowest bits and four zeros.
        let text: String = (0..22)
            .map(|index| {
                let bits = if index < 21 { self.0 >> (122 - 6 * index) } else { self.0 << 4 };
                char::from(ALPHABET[(bits & 63) as usize])
            })
            .collect();
        formatter.pad(&text)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use wire::Durability;

    use super::*;

    pub(in crate::meta) fn name(name: &str) -> TopicName {
        name.parse().expect("a topic name")
    }

    pub(in crate::meta) fn create(topic: &str, partitions: u32) -> Command {
        Command::CreateTopic {
            id: TopicId(topic.len() as u128),
            name: name(topic),
            partitions,
            settings: BTreeMap::new(),
        }
    }

    fn with_settings(settings: impl IntoIterator<Item = (String, String)>) -> Command {
        let settings = settings.into_iter().collect();
        Command::CreateTopic { id: TopicId(1), name: name("set"), partitions: 1, settings }
    }

    pub(in crate::meta) fn delete(topic: &str) -> Command {
        Command::DeleteTopic { name: name(topic) }
    }

    pub(in crate::meta) fn after(commands: impl IntoIterator<Item = Command>) -> State {
        let mut state = State::new(ClusterId(77));
        for command in commands {
            state.apply(&command).expect("the command is accepted");
        }
        state
    }

    pub(in crate::meta) fn logs(count: u128) -> Command {
        Command::RegisterLogs { ids: (0..count).collect() }
    }

    pub(in crate::meta) fn check_refused(state: &State, command: Command, expected: Refusal) {
        let mut after = state.clone();
        assert_eq!(after.apply(&command), Err(expected));
        assert_eq!(after, *state, "a refused command changes nothing");
    }

    /// Number and log of each partition of a topic.
    pub(in crate::meta) fn placed(state: &State, topic: &str) -> Vec<(u64, u32)> {
        state.topics[topic].partitions.iter().map(|partition| (partition.id.0, partition.log)).collect()
    }

    #[test]
    fn every_start_takes_the_next_leader_epoch() {
        let mut state = after([]);
        for epoch in 1..=3 {
            assert_eq!(state.apply(&Command::StartNode { node_id: 4 }), Ok(Outcome::LeaderEpoch(epoch)));
        }
        check_refused(&state, Command::StartNode { node_id: 5 }, Refusal::OtherNode { expected: 4, found: 5 });
        state.leader_epoch = i32::MAX;
        check_refused(&state, Command::StartNode { node_id: 4 }, Refusal::NoMoreEpochs);
    }

    #[test]
    fn logs_are_registered_once() {
        let state = after([logs(2), Command::RegisterLogs { ids: vec![9] }]);
        assert_eq!(state.logs, [0, 1, 9].map(LogEntry::new));
        check_refused(&state, Command::RegisterLogs { ids: vec![5, 1] }, Refusal::LogKnown { id: 1 });
        check_refused(&state, Command::RegisterLogs { ids: vec![5, 5] }, Refusal::LogKnown { id: 5 });
        check_refused(
            &state,
            Command::RegisterLogs { ids: (100..1122).collect() },
            Refusal::TooManyLogs { logs: 1025 },
        );
    }

    #[test]
    fn partitions_go_where_fewest_are_and_have_new_numbers() {
        let state = after([logs(3), create("a", 4), create("bb", 1)]);
        assert_eq!(placed(&state, "a"), [(1, 0), (2, 1), (3, 2), (4, 0)]);
        assert_eq!(placed(&state, "bb"), [(5, 1)]);
        let state = after([logs(3), create("a", 4), create("bb", 1), delete("a"), create("ccc", 5)]);
        assert_eq!(placed(&state, "ccc"), [(6, 0), (7, 2), (8, 0), (9, 1), (10, 2)]);
        let state = after([logs(1), create("a", 2), Command::RegisterLogs { ids: vec![7] }, create("bb", 3)]);
        assert_eq!(placed(&state, "bb"), [(3, 1), (4, 1), (5, 0)]);
    }

    #[test]
    fn a_deleted_topic_leaves_tombstones_until_they_are_confirmed() {
        let confirm =
            |ids: &[u64]| Command::ConfirmDropped { partitions: ids.iter().copied().map(PartitionId).collect() };
        let state = after([logs(2), create("a", 3), delete("a")]);
        assert!(state.topics.is_empty());
        let tombstones: Vec<_> = state.tombstones.iter().map(|copy| (copy.id.0, copy.log)).collect();
        assert_eq!(tombstones, [(1, 0), (2, 1), (3, 0)]);
        check_refused(&state, delete("a"), Refusal::UnknownTopic { name: name("a") });
        let again = after([logs(2), create("a", 3), delete("a"), confirm(&[1, 3, 99]), create("a", 1)]);
        assert_eq!(again.tombstones.iter().map(|copy| copy.id).collect::<Vec<_>>(), [PartitionId(2)]);
        assert_eq!(placed(&again, "a"), [(4, 0)]);
    }

    #[test]
    fn topics_are_within_bounds() {
        check_refused(&after([]), create("a", 1), Refusal::NoLog);
        let state = after([logs(1), create("a", 1)]);
        check_refused(&state, create("a", 1), Refusal::TopicExists { name: name("a") });
        for found in [0, TOPIC_PARTITIONS_MAX + 1, u32::MAX] {
            check_refused(&state, create("b", found), Refusal::PartitionCount { found });
        }
        // Nine tenths of the room, a ninth of that deleted and not confirmed.
        let many = (0..9).map(|n| create(&format!("t{n}"), TOPIC_PARTITIONS_MAX)).chain([delete("t0"), create("b", 1)]);
        let full = after([logs(1)].into_iter().chain(many));
        check_refused(&full, create("c", 100_000), Refusal::TooManyPartitions { found: PARTITIONS_MAX + 1 });
        let numbered = State { next_partition: u64::MAX, ..state };
        check_refused(&numbered, create("b", 1), Refusal::TooManyPartitions { found: 2 });
    }

    #[test]
    fn settings_are_within_bounds() {
        let state = after([logs(1)]);
        let setting = |n: usize| (format!("setting.{n}"), "x".to_owned());
        check_refused(&state, with_settings((0..65).map(setting)), Refusal::TooManySettings { found: 65 });
        for (name, value) in [("n".repeat(4097), String::new()), ("n".to_owned(), "v".repeat(4097))] {
            let expected = Refusal::SettingTooLong { name: name.clone(), bytes: 4097 };
            check_refused(&state, with_settings([(name, value)]), expected);
        }
    }

    #[test]
    fn the_level_of_a_topic_is_one_of_its_settings() {
        let level = |level: &str| with_settings([(Durability::SETTING.to_owned(), level.to_owned())]);
        let durability = |state: State, topic: &str| state.topics[topic].settings.durability();
        assert_eq!(durability(after([logs(1), create("a", 1)]), "a"), Durability::Durable);
        assert_eq!(durability(after([logs(1), level("memory")]), "set"), Durability::Memory);
        let Err(Refusal::Setting(SettingError::Value { .. })) = after([logs(1)]).apply(&level("fast")) else {
            panic!("there is no such level");
        };
    }

    #[test]
    fn a_topic_is_altered_as_a_whole_or_not_at_all() {
        let alter = |topic: &str, set: &[(&str, &str)], unset: &[&str]| Command::AlterTopic {
            name: name(topic),
            set: set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            unset: unset.iter().map(|name| (*name).to_owned()).collect(),
        };
        let state = after([logs(1), create("a", 1), alter("a", &[("max.message.bytes", "500")], &[])]);
        assert_eq!(state.topics["a"].settings.meant().batch_bytes_max, 500);
        check_refused(&state, alter("b", &[], &[]), Refusal::UnknownTopic { name: name("b") });
        let fixed = Refusal::Setting(SettingError::Fixed { name: Durability::SETTING });
        check_refused(&state, alter("a", &[("max.message.bytes", "1"), (Durability::SETTING, "memory")], &[]), fixed);
        let unknown = Refusal::Setting(SettingError::Unknown { name: "x".to_owned() });
        check_refused(&state, alter("a", &[("max.message.bytes", "1")], &["x"]), unknown);
        let long = "v".repeat(4097);
        let expected = Refusal::SettingTooLong { name: "max.message.bytes".to_owned(), bytes: 4097 };
        check_refused(&state, alter("a", &[("max.message.bytes", long.as_str())], &[]), expected);
        let back = after([
            logs(1),
            create("a", 1),
            alter("a", &[("max.message.bytes", "500")], &[]),
            alter("a", &[], &["max.message.bytes"]),
        ]);
        assert_eq!(back, after([logs(1), create("a", 1)]));
    }

    #[test]
    fn producer_ids_come_in_blocks() {
        let mut state = after([]);
        assert_eq!(state.apply(&Command::ReserveProducerIds), Ok(Outcome::ProducerIds(0..1000)));
        assert_eq!(state.apply(&Command::ReserveProducerIds), Ok(Outcome::ProducerIds(1000..2000)));
        state.next_producer_id = i64::MAX - 5;
        check_refused(&state, Command::ReserveProducerIds, Refusal::NoMoreProducerIds);
    }

    #[test]
    fn a_cluster_id_has_22_characters() {
        let check = |id: u128, expected: &str| assert_eq!(ClusterId(id).to_string(), expected);
        check(0, "AAAAAAAAAAAAAAAAAAAAAA");
        check(u128::MAX, "_____________________w");
        check(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, "ASNFZ4mrze_-3LqYdlQyEA");
    }
}
