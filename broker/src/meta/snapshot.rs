//! The whole state: as bytes, which a metadata file begins with and `storage/FORMAT.md` specifies, and as what each
//! shard holds.

use std::{ops::Deref, sync::Arc};

use storage::codec::{DecodeError, Reader, put_bytes, put_count};
use wire::TopicId;

use super::{
    command::{self, put_partition, put_settings, read_name, read_settings},
    logs::{LogEntry, LogState},
    setting::TopicSettings,
    state::{ClusterId, State},
    topic::{Topic, TopicName, TopicPartition},
};

/// Version of the encoding.
const VERSION: u8 = 2;

/// The state after some command, immutable, for any shard.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// How many commands it holds: the higher, the newer.
    pub version: u64,
    /// The state.
    pub state: State,
}

impl Deref for Snapshot {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl State {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.cluster_id.0.to_le_bytes());
        out.push(self.node_id.is_some().into());
        out.extend_from_slice(&self.node_id.unwrap_or_default().to_le_bytes());
        out.extend_from_slice(&self.leader_epoch.to_le_bytes());
        out.extend_from_slice(&self.next_partition.to_le_bytes());
        out.extend_from_slice(&self.next_producer_id.to_le_bytes());
        put_count(&mut out, self.logs.len());
        for log in &self.logs {
            out.extend_from_slice(&log.id.to_le_bytes());
            out.push(log.state as u8);
        }
        put_count(&mut out, self.topics.len());
        self.topics.iter().for_each(|(name, topic)| put_topic(&mut out, name, topic));
        put_count(&mut out, self.tombstones.len());
        self.tombstones.iter().for_each(|&copy| put_partition(&mut out, copy));
        out
    }

    /// Reads a state.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let version = r.number("version of the snapshot", VERSION)?;
        let cluster_id = ClusterId(r.u128("cluster id")?);
        let (has_node_id, node_id) = (r.bool("presence of a node id")?, r.u32("node id")?);
        let (leader_epoch, next_partition) = (r.i32("leader epoch")?, r.u64("next partition")?);
        let next_producer_id = r.i64("next producer id")?;
        let logs: Vec<_> = r.list("count of logs", 16, |r| read_log(r, version))?;
        let topics = r.list("count of topics", 29, |r| read_topic(r, logs.len()))?;
        let tombstones = r.list("count of tombstones", 12, |r| read_partition(r, logs.len()))?;
        reader.finish()?;
        Ok(Self {
            cluster_id,
            node_id: has_node_id.then_some(node_id),
            leader_epoch,
            logs,
            topics,
            tombstones,
            next_partition,
            next_producer_id,
        })
    }
}

/// Version 1 knew no logs but those in use.
fn read_log(r: &mut Reader<'_>, version: u8) -> Result<LogEntry, DecodeError> {
    let id = r.u128("log id")?;
    let number = if version > 1 { r.u8("state of a log")? } else { LogState::InUse as u8 };
    let state = LogState::from_number(number).ok_or_else(|| r.malformed("state of a log", 1))?;
    Ok(LogEntry { id, state })
}

fn put_topic(out: &mut Vec<u8>, name: &TopicName, topic: &Topic) {
    put_bytes(out, name.as_bytes());
    out.extend_from_slice(&topic.id.0.to_le_bytes());
    put_settings(out, topic.settings.given());
    put_count(out, topic.partitions.len());
    topic.partitions.iter().for_each(|&partition| put_partition(out, partition));
}

fn read_topic(r: &mut Reader<'_>, logs: usize) -> Result<(TopicName, Arc<Topic>), DecodeError> {
    let name = read_name(r)?;
    let id = TopicId(r.u128("topic id")?);
    let settings = TopicSettings::read(read_settings(r)?).map_err(|_| r.malformed("settings of a topic", 0))?;
    let partitions = r.list("count of partitions", 12, |r| read_partition(r, logs))?;
    Ok((name, Arc::new(Topic { id, settings, partitions })))
}

fn read_partition(r: &mut Reader<'_>, logs: usize) -> Result<TopicPartition, DecodeError> {
    let partition = command::read_partition(r)?;
    if (partition.log as usize) < logs { Ok(partition) } else { Err(r.malformed("log of a partition", 4)) }
}
