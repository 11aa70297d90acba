//! DeleteRecords: partitions start later, here or on their shards.

use std::{collections::BTreeMap, rc::Rc};

use runtime::Runtime;
use wire::{ErrorCode, PartitionId};

use super::error::TrimError;
use crate::{
    request::Trimmed,
    shard::{
        Shard,
        mesh::{Message, call},
    },
};

/// A partition, and the first offset of it that stays; `None` for the high watermark.
pub(crate) type Before = (PartitionId, Option<u64>);

/// Deletes what is before each place, here or on its shard; where the partitions start now, in the order asked.
pub(crate) async fn delete_records<R: Runtime>(shard: &Rc<Shard<R>>, before: &[Before]) -> Vec<Trimmed> {
    let mut by_shard: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (row, (partition, _)) in before.iter().enumerate() {
        by_shard.entry(shard.shard_of(*partition).unwrap_or(shard.index)).or_default().push(row);
    }
    let mut trimmed: Vec<Trimmed> = before.iter().map(|_| Err(TrimError::Busy)).collect();
    for (other, rows) in by_shard {
        let before: Vec<Before> = rows.iter().map(|&row| before[row]).collect();
        let answered = if other == shard.index {
            delete_here(shard, &before).await
        } else {
            delete_there(shard, other, before).await
        };
        for (row, answered) in rows.into_iter().zip(answered) {
            trimmed[row] = answered;
        }
    }
    trimmed
}

/// Deletes from this shard's partitions.
pub(crate) async fn delete_here<R: Runtime>(shard: &Shard<R>, before: &[Before]) -> Vec<Trimmed> {
    let mut trimmed = Vec::with_capacity(before.len());
    for &(partition, offset) in before {
        let outcome = match shard.partition(partition) {
            Some(partition) => partition.delete_before(offset).await.map_err(TrimError::from),
            None => Err(TrimError::UnknownPartition),
        };
        trimmed.push(outcome.map_err(|error| match error.code() {
            // It moved.
            ErrorCode::UnknownPartition if shard.is_known(partition) => TrimError::Busy,
            _ => error,
        }));
    }
    trimmed
}

async fn delete_there<R: Runtime>(shard: &Shard<R>, other: u16, before: Vec<Before>) -> Vec<Trimmed> {
    let (reply, answer) = call();
    if !shard.send(other, Message::DeleteRecords { before, reply }) {
        return Vec::new();
    }
    answer.receive().await.unwrap_or_default()
}
