//! The loss of what damage took is accepted by the shard that leads the partition.

use std::{ops::Range, rc::Rc};

use runtime::Runtime;
use wire::PartitionId;

use super::error::LossError;
use crate::shard::{
    Shard,
    mesh::{Message, Reply, call},
};

/// Gives up what damage took from a partition; which offsets are lost, if any.
pub(crate) async fn accept<R: Runtime>(
    shard: &Rc<Shard<R>>,
    partition: PartitionId,
) -> Result<Option<Range<u64>>, LossError> {
    match shard.shard_of(partition) {
        None => Err(LossError::UnknownPartition),
        Some(here) if here == shard.index => accept_here(shard, partition).await,
        Some(there) => {
            let (reply, answer) = call();
            if !shard.send(there, Message::AcceptLoss { partition, reply }) {
                return Err(LossError::Busy);
            }
            answer.receive().await.unwrap_or(Err(LossError::Busy))
        }
    }
}

/// The same for another shard.
pub(crate) fn accept_for_other<R: Runtime>(
    shard: Rc<Shard<R>>,
    partition: PartitionId,
    reply: Reply<Result<Option<Range<u64>>, LossError>>,
) {
    let own = Rc::clone(&shard);
    shard.start(async move {
        let _ = reply.try_send(accept_here(&own, partition).await);
    });
}

async fn accept_here<R: Runtime>(shard: &Shard<R>, partition: PartitionId) -> Result<Option<Range<u64>>, LossError> {
    let led = shard.partition(partition).ok_or_else(|| {
        // It moved, or is not known here yet.
        if shard.is_known(partition) { LossError::Busy } else { LossError::UnknownPartition }
    })?;
    let lost = led.accept_loss().await?;
    if let Some(lost) = &lost {
        tracing::warn!("partition {partition} goes on at offset {}: {lost:?} are given up as lost", lost.end);
    }
    Ok(lost)
}
