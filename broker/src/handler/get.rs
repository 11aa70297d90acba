//! Get: the last record of a key, from the shard that leads its partition.

use std::rc::Rc;

use runtime::Runtime;
use wire::{ErrorCode, PartitionId};

use super::error::GetError;
use crate::{
    request::Got,
    shard::{
        Shard,
        mesh::{Message, call},
    },
};

/// Looks the key up, here or on its partition's shard.
pub(crate) async fn get<R: Runtime>(shard: &Rc<Shard<R>>, partition: PartitionId, key: Vec<u8>) -> Got {
    match shard.shard_of(partition) {
        Some(other) if other != shard.index => {
            let (reply, answer) = call();
            if !shard.send(other, Message::Get { partition, key, reply }) {
                return Err(GetError::Busy);
            }
            answer.receive().await.unwrap_or(Err(GetError::Busy))
        }
        _ => get_here(shard, partition, &key).await,
    }
}

/// Looks up a key of this shard's partition.
pub(crate) async fn get_here<R: Runtime>(shard: &Shard<R>, partition: PartitionId, key: &[u8]) -> Got {
    let got = match shard.partition(partition) {
        Some(partition) => partition.get(key).await,
        None => Err(GetError::UnknownPartition),
    };
    got.map_err(|error| match error.code() {
        // It moved.
        ErrorCode::UnknownPartition if shard.is_known(partition) => GetError::Busy,
        _ => error,
    })
}
