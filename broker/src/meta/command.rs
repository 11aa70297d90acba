//! The commands of MetaLog and their bytes. `storage/FORMAT.md` specifies them.

use std::collections::BTreeMap;

use storage::codec::{DecodeError, Reader, put_bytes, put_count};
use wire::{PartitionId, TopicId};

use super::topic::TopicName;

/// Version of the encoding.
const VERSION: u8 = 1;

/// The highest kind of command.
const KIND_MAX: u8 = 6;

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
        /// Their ids, in the order of their shards.
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
    /// The logs of these deleted partitions hold nothing of them any more.
    ConfirmDropped {
        /// The partitions.
        partitions: Vec<PartitionId>,
    },
    /// The next block of producer ids is taken.
    ReserveProducerIds,
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
            _ => Self::ReserveProducerIds,
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
            Self::ReserveProducerIds => KIND_MAX,
        }
    }
}

pub(super) fn read_name(reader: &mut Reader<'_>) -> Result<TopicName, DecodeError> {
    let name = reader.string("topic name")?;
    name.parse().map_err(|_| reader.malformed("topic name", name.len()))
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
