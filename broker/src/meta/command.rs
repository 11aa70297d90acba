//! The commands of MetaLog and their bytes. `storage/FORMAT.md` specifies them.

use std::collections::BTreeMap;

use storage::codec::{DecodeError, Reader, put_bytes, put_count};
use wire::{PartitionId, TopicId};

use super::{
    logs::LogNumber,
    topic::{TopicName, TopicPartition},
};

/// Version of the encoding.
const VERSION: u8 = 1;

/// The highest kind of command.
const KIND_MAX: u8 = 12;

/// One change of the metadata. What it does is told in [`State::apply`](super::State::apply).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The node starts, in a leader epoch of its own.
    StartNode {
        /// The node.
        node_id: u32,
    },
    /// Logs exist, empty; they get the next numbers.
    RegisterLogs {
        /// Their ids.
        ids: Vec<u128>,
    },
    /// A topic is created. Its partitions go to the logs that have the fewest.
    CreateTopic {
        /// Its id, random.
        id: TopicId,
        /// Its name.
        name: TopicName,
        /// How many partitions, 1 to 100,000.
        partitions: u32,
        /// What differs from the defaults, by name.
        settings: BTreeMap<String, String>,
    },
    /// A topic is deleted. Its partitions stay behind as tombstones.
    DeleteTopic {
        /// Its name.
        name: TopicName,
    },
    /// The logs of these deleted partitions hold nothing of them any more. Versions wrote it that knew no moves; now it is
    /// [`Self::ConfirmErased`], which says which logs.
    ConfirmDropped {
        /// The partitions.
        partitions: Vec<PartitionId>,
    },
    /// The next block of producer ids is taken.
    ReserveProducerIds,
    /// A topic goes on with other settings.
    AlterTopic {
        /// Its name.
        name: TopicName,
        /// The settings that change, by name.
        set: BTreeMap<String, String>,
        /// The settings that go back to their defaults.
        unset: Vec<String>,
    },
    /// These logs have no shard of their own: they take no new partitions. All others that are not retired do.
    SpareLogs {
        /// Their numbers.
        logs: Vec<LogNumber>,
    },
    /// A spare log that holds nothing is given up; its directory goes afterwards.
    RetireLog {
        /// Its number.
        log: LogNumber,
    },
    /// A partition is about to be copied into another log. The copy is a tombstone until it is moved there.
    PrepareMove {
        /// The partition.
        partition: PartitionId,
        /// The other log.
        to: LogNumber,
    },
    /// The copy that was prepared is whole, and is the partition from now on; the former one is a tombstone.
    MovePartition {
        /// The partition.
        partition: PartitionId,
        /// The log it lives in now.
        to: LogNumber,
    },
    /// These logs hold nothing of these partitions any more.
    ConfirmErased {
        /// Partition and log of each.
        copies: Vec<TopicPartition>,
    },
}

impl Command {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.kind()];
        match self {
            Self::StartNode { node_id } => out.extend_from_slice(&node_id.to_le_bytes()),
            Self::RegisterLogs { ids } => {
                put_count(&mut out, ids.len());
                ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
            }
            Self::CreateTopic { id, name, partitions, settings } => {
                out.extend_from_slice(&id.0.to_le_bytes());
                put_bytes(&mut out, name.as_bytes());
                out.extend_from_slice(&partitions.to_le_bytes());
                put_settings(&mut out, settings);
            }
            Self::DeleteTopic { name } => put_bytes(&mut out, name.as_bytes()),
            Self::ConfirmDropped { partitions } => {
                put_count(&mut out, partitions.len());
                partitions.iter().for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
            }
            Self::ReserveProducerIds => {}
            Self::AlterTopic { name, set, unset } => {
                put_bytes(&mut out, name.as_bytes());
                put_settings(&mut out, set);
                put_count(&mut out, unset.len());
                unset.iter().for_each(|name| put_bytes(&mut out, name.as_bytes()));
            }
            Self::SpareLogs { logs } => {
                put_count(&mut out, logs.len());
                logs.iter().for_each(|log| out.extend_from_slice(&log.to_le_bytes()));
            }
            Self::RetireLog { log } => out.extend_from_slice(&log.to_le_bytes()),
            Self::PrepareMove { partition, to } | Self::MovePartition { partition, to } => {
                put_partition(&mut out, TopicPartition { id: *partition, log: *to });
            }
            Self::ConfirmErased { copies } => {
                put_count(&mut out, copies.len());
                copies.iter().for_each(|&copy| put_partition(&mut out, copy));
            }
        }
        out
    }

    /// Reads a command.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        r.number("version of the command", VERSION)?;
        let command = match r.number("kind of the command", KIND_MAX)? {
            1 => Self::StartNode { node_id: r.u32("node id")? },
            2 => Self::RegisterLogs { ids: r.list("count of logs", 16, |r| r.u128("log id"))? },
            3 => Self::CreateTopic {
                id: TopicId(r.u128("topic id")?),
                name: read_name(r)?,
                partitions: r.u32("count of partitions")?,
                settings: read_settings(r)?,
            },
            4 => Self::DeleteTopic { name: read_name(r)? },
            5 => {
                let partition = |r: &mut Reader<'_>| r.u64("partition").map(PartitionId);
                Self::ConfirmDropped { partitions: r.list("count of partitions", 8, partition)? }
            }
            6 => Self::ReserveProducerIds,
            7 => Self::AlterTopic {
                name: read_name(r)?,
                set: read_settings(r)?,
                unset: r.list("count of settings", 4, |r| r.string("name of a setting").map(str::to_owned))?,
            },
            8 => Self::SpareLogs { logs: r.list("count of logs", 4, |r| r.u32("log"))? },
            9 => Self::RetireLog { log: r.u32("log")? },
            kind @ (10 | 11) => {
                let TopicPartition { id: partition, log: to } = read_partition(r)?;
                if kind == 10 { Self::PrepareMove { partition, to } } else { Self::MovePartition { partition, to } }
            }
            _ => Self::ConfirmErased { copies: r.list("count of copies", 12, read_partition)? },
        };
        reader.finish()?;
        Ok(command)
    }

    /// The numbers are part of the format and are never reused.
    fn kind(&self) -> u8 {
        match self {
            Self::StartNode { .. } => 1,
            Self::RegisterLogs { .. } => 2,
            Self::CreateTopic { .. } => 3,
            Self::DeleteTopic { .. } => 4,
            Self::ConfirmDropped { .. } => 5,
            Self::ReserveProducerIds => 6,
            Self::AlterTopic { .. } => 7,
            Self::SpareLogs { .. } => 8,
            Self::RetireLog { .. } => 9,
            Self::PrepareMove { .. } => 10,
            Self::MovePartition { .. } => 11,
            Self::ConfirmErased { .. } => KIND_MAX,
        }
    }
}

pub(super) fn read_name(reader: &mut Reader<'_>) -> Result<TopicName, DecodeError> {
    let name = reader.string("topic name")?;
    name.parse().map_err(|_| reader.malformed("topic name", name.len()))
}

pub(super) fn put_partition(out: &mut Vec<u8>, partition: TopicPartition) {
    out.extend_from_slice(&partition.id.0.to_le_bytes());
    out.extend_from_slice(&partition.log.to_le_bytes());
}

pub(super) fn read_partition(reader: &mut Reader<'_>) -> Result<TopicPartition, DecodeError> {
    Ok(TopicPartition { id: PartitionId(reader.u64("partition")?), log: reader.u32("log of a partition")? })
}

pub(super) fn put_settings(out: &mut Vec<u8>, settings: &BTreeMap<String, String>) {
    put_count(out, settings.len());
    for (name, value) in settings {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

pub(super) fn read_settings(reader: &mut Reader<'_>) -> Result<BTreeMap<String, String>, DecodeError> {
    reader.list("count of settings", 8, |r| {
        Ok((r.string("name of a setting")?.to_owned(), r.string("value of a setting")?.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::state::tests::{after, create, name},
        *,
    };
    use crate::meta::{ClusterId, State};

    fn create_with_settings() -> Command {
        let settings = [("streambus.durability", "memory"), ("retention.ms", "1000")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Command::CreateTopic {
            id: TopicId(0x0123456789abcdef0123456789abcdef),
            name: name("orders"),
            partitions: 3,
            settings,
        }
    }

    /// Every kind, with its bytes made by hand.
    fn commands() -> Vec<(Command, &'static str)> {
        vec![
            (Command::StartNode { node_id: 3 }, "010103000000"),
            (
                Command::RegisterLogs { ids: vec![10, 11] },
                "0102020000000a0000000000000000000000000000000b000000000000000000000000000000",
            ),
            (
                create_with_settings(),
                concat!(
                    "0103efcdab8967452301efcdab8967452301060000006f726465727303000000020000000c00000072657465",
                    "6e74696f6e2e6d7304000000313030301400000073747265616d6275732e6475726162696c69747906000000",
                    "6d656d6f7279",
                ),
            ),
            (Command::DeleteTopic { name: name("orders") }, "0104060000006f7264657273"),
            (Command::ConfirmDropped { partitions: vec![PartitionId(1)] }, "0105010000000100000000000000"),
            (Command::ReserveProducerIds, "0106"),
            (
                Command::AlterTopic {
                    name: name("orders"),
                    set: [("max.message.bytes".to_owned(), "2000".to_owned())].into(),
                    unset: vec!["a".to_owned()],
                },
                concat!(
                    "0107060000006f726465727301000000110000006d61782e6d6573736167652e6279746573040000003230303001000000",
                    "0100000061",
                ),
            ),
            (Command::SpareLogs { logs: vec![1, 2] }, "0108020000000100000002000000"),
            (Command::RetireLog { log: 2 }, "010902000000"),
            (Command::PrepareMove { partition: PartitionId(1), to: 1 }, "010a010000000000000001000000"),
            (Command::MovePartition { partition: PartitionId(1), to: 1 }, "010b010000000000000001000000"),
            (
                Command::ConfirmErased { copies: vec![TopicPartition { id: PartitionId(4), log: 1 }] },
                "010c01000000040000000000000001000000",
            ),
        ]
    }

    /// What they and two more amount to, with its bytes made by hand.
    fn state() -> (State, &'static str) {
        let start =
            [Command::StartNode { node_id: 3 }, Command::RegisterLogs { ids: vec![10, 11] }, create_with_settings()];
        let delete = [create("gone", 2), Command::DeleteTopic { name: name("gone") }, Command::ReserveProducerIds];
        let spare = [Command::SpareLogs { logs: vec![1] }];
        (
            after(start.into_iter().chain(delete).chain(spare)),
            concat!(
                "024d0000000000000000000000000000000103000000010000000600000000000000e8030000000000000200",
                "00000a000000000000000000000000000000000b000000000000000000000000000000010100000006000000",
                "6f7264657273efcdab8967452301efcdab8967452301020000000c000000726574656e74696f6e2e6d730400",
                "0000313030301400000073747265616d6275732e6475726162696c697479060000006d656d6f727903000000",
                "0100000000000000000000000200000000000000010000000300000000000000000000000200000004000000",
                "0000000001000000050000000000000000000000",
            ),
        )
    }

    /// What a program wrote that knew neither spare logs nor moves.
    const STATE_1: &str = concat!(
        "014d0000000000000000000000000000000103000000010000000600000000000000e8030000000000000200",
        "00000a0000000000000000000000000000000b00000000000000000000000000000001000000060000006f72",
        "64657273efcdab8967452301efcdab8967452301020000000c000000726574656e74696f6e2e6d7304000000",
        "313030301400000073747265616d6275732e6475726162696c697479060000006d656d6f7279030000000100",
        "0000000000000000000002000000000000000100000003000000000000000000000002000000040000000000",
        "000001000000050000000000000000000000",
    );

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn commands_are_as_specified() {
        for (command, expected) in commands() {
            assert_eq!(hex(&command.encode()), expected, "{command:?}");
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
    }

    #[test]
    fn the_snapshot_is_as_specified() {
        let (state, expected) = state();
        assert_eq!(hex(&state.encode()), expected);
        assert_eq!(State::decode(&state.encode()), Ok(state));
        let fresh = State::new(ClusterId(1));
        assert_eq!(State::decode(&fresh.encode()), Ok(fresh));
    }

    #[test]
    fn a_snapshot_without_states_of_logs_is_still_read() {
        let (mut state, _) = state();
        state.apply(&Command::SpareLogs { logs: vec![] }).expect("both logs are live");
        assert_eq!(State::decode(&bytes(STATE_1)), Ok(state));
    }

    #[test]
    fn nothing_may_be_missing_or_too_much() {
        let check = |whole: &[u8], decode: &dyn Fn(&[u8]) -> bool| {
            assert!((0..whole.len()).all(|len| !decode(&whole[..len])));
            assert!(!decode(&[whole, &[0]].concat()));
        };
        for (command, _) in commands() {
            check(&command.encode(), &|bytes| Command::decode(bytes).is_ok());
        }
        check(&state().0.encode(), &|bytes| State::decode(bytes).is_ok());
    }

    #[test]
    fn later_versions_and_kinds_are_told_from_nonsense() {
        let later = |field, found, known| DecodeError::Unknown { field, found, known };
        assert_eq!(Command::decode(&[2, 1]), Err(later("version of the command", 2, 1)));
        assert_eq!(Command::decode(&[1, 13]), Err(later("kind of the command", 13, 12)));
        assert_eq!(State::decode(&[3]), Err(later("version of the snapshot", 3, 2)));
    }

    #[test]
    fn a_partition_lives_in_a_log_that_is_there() {
        let (mut state, _) = state();
        state.logs.pop();
        assert!(State::decode(&state.encode()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..14) {
            let _ = (State::decode(&bytes), Command::decode(&bytes));
            if bytes.len() > 2 {
                for version in [1, 2] {
                    bytes[..2].copy_from_slice(&[version, kind]);
                    let _ = (State::decode(&bytes), Command::decode(&bytes));
                }
            }
        }

        #[test]
        fn changed_bytes_do_no_harm(which in 0usize..12, position in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = commands().swap_remove(which).0.encode();
            let at = position.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(command) = Command::decode(&bytes) {
                let _ = state().0.apply(&command);
            }
            let mut bytes = state().0.encode();
            let at = position.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(mut state) = State::decode(&bytes) {
                let again = State::decode(&state.encode()).expect("our own bytes");
                prop_assert_eq!(&again, &state);
                for (command, _) in commands() {
                    let _ = state.apply(&command);
                }
            }
        }
    }
}
