//! MetaLog: the only home of topics, their placement, leader epochs and producer ids.
//!
//! ```text
//!   propose(command) ──> queue ──> apply to the state ──> journal, durable ──> publish a snapshot ──> answer
//!                                   what queued up meanwhile is the next group
//! ```
//!
//! Shard 0 owns it. All else is told: a shard holds an immutable [`Snapshot`], and whatever was answered is in the
//! newest one, so [`MetaLog::snapshot`] is the read barrier of a cluster of one node.
//!
//! - [`state`](State): a deterministic state machine: commands go in, outcomes come out;
//! - [`command`](Command): the commands and their bytes;
//! - `logs` and `moves`: the logs of the node, and partitions on their way from one to another;
//! - `snapshot`: the whole state as bytes, and what shards hold;
//! - `topic`: a topic and its name; `setting`: the table of its settings;
//! - `log`: the journal under it all, and the one task that writes it.

mod command;
mod log;
mod logs;
mod moves;
mod setting;
mod snapshot;
mod state;
mod topic;

pub use command::Command;
pub use log::{MetaLog, OpenError, ProposeError};
pub use logs::{LogEntry, LogNumber, LogState};
pub use setting::{SETTINGS, Setting, SettingError, TopicSettings};
pub use snapshot::Snapshot;
pub use state::{ClusterId, Outcome, PRODUCER_IDS_PER_BLOCK, Refusal, State};
pub use topic::{Topic, TopicName, TopicNameError, TopicPartition};
