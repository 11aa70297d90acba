//! ListOffsets: from the beginning, the end or a time to an offset.

use std::{collections::BTreeMap, rc::Rc};

use runtime::Runtime;
use storage::ReadError;
use wire::PartitionId;

use super::{error::FetchError, fetch::missing};
use crate::{
    request::{At, ListedOffset},
    shard::{
        Shard,
        mesh::{Message, call},
    },
};

/// A place in a partition.
pub(crate) type Query = (PartitionId, At);

/// Looks up every place, here or on its shard, in the order asked.
pub(crate) async fn list_offsets<R: Runtime>(shard: &Rc<Shard<R>>, queries: &[Query]) -> Vec<ListedOffset> {
    let mut by_shard: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (row, (partition, _)) in queries.iter().enumerate() {
        by_shard.entry(shard.shard_of(*partition).unwrap_or(shard.index)).or_default().push(row);
    }
    let mut found: Vec<ListedOffset> = queries.iter().map(|_| Err(FetchError::Busy)).collect();
    for (other, rows) in by_shard {
        let queries: Vec<Query> = rows.iter().map(|&row| queries[row]).collect();
        let listed = if other == shard.index {
            list_here(shard, &queries).await
        } else {
            list_there(shard, other, queries).await
        };
        for (row, listed) in rows.into_iter().zip(listed) {
            found[row] = listed;
        }
    }
    found
}

/// Looks up places of this shard's partitions.
pub(crate) async fn list_here<R: Runtime>(shard: &Shard<R>, queries: &[Query]) -> Vec<ListedOffset> {
    let mut listed = Vec::with_capacity(queries.len());
    for (partition, at) in queries {
        listed.push(list_one(shard, *partition, *at).await);
    }
    listed
}

async fn list_one<R: Runtime>(shard: &Shard<R>, partition: PartitionId, at: At) -> ListedOffset {
    let missing = || missing(shard, partition);
    let partition = shard.partition(partition).ok_or_else(missing)?;
    match at {
        At::Earliest => Ok((partition.offsets().log_start, None)),
        At::Latest => Ok((partition.offsets().high_watermark, None)),
        At::Timestamp(timestamp_ms) => match partition.offset_at(timestamp_ms).await {
            Ok(Some((offset, timestamp_ms))) => Ok((offset, Some(timestamp_ms))),
            Ok(None) => Ok((partition.offsets().high_watermark, None)),
            // It moved while it was looked into.
            Err(ReadError::Gone) => Err(missing()),
            Err(error) => Err(error.into()),
        },
    }
}

async fn list_there<R: Runtime>(shard: &Shard<R>, other: u16, queries: Vec<Query>) -> Vec<ListedOffset> {
    let (reply, answer) = call();
    if shard.send(other, Message::ListOffsets { queries, reply }) {
        answer.receive().await.unwrap_or_default()
    } else {
        Vec::new()
    }
}
