//! What damage took is looked for, and its loss accepted, by the shard that leads the partition.

use std::rc::Rc;

use runtime::Runtime;

use super::error::LossError;
use crate::{
    request::{Stretch, Surveyed},
    shard::{
        Shard,
        mesh::{Message, Reply, call},
    },
};

/// Says what damage took from a stretch of a partition, and gives it up unless that was not asked for.
pub(crate) async fn accept<R: Runtime>(shard: &Rc<Shard<R>>, stretch: Stretch) -> Surveyed {
    match shard.shard_of(stretch.partition) {
        None => Err(LossError::UnknownPartition),
        Some(here) if here == shard.index => accept_here(shard, stretch).await,
        Some(there) => {
            let (reply, answer) = call();
            if !shard.send(there, Message::AcceptLoss { stretch, reply }) {
                return Err(LossError::Busy);
            }
            answer.receive().await.unwrap_or(Err(LossError::Busy))
        }
    }
}

/// The same for another shard.
pub(crate) fn accept_for_other<R: Runtime>(shard: Rc<Shard<R>>, stretch: Stretch, reply: Reply<Surveyed>) {
    let own = Rc::clone(&shard);
    shard.start(async move {
        let _ = reply.try_send(accept_here(&own, stretch).await);
    });
}

async fn accept_here<R: Runtime>(shard: &Shard<R>, stretch: Stretch) -> Surveyed {
    let Stretch { partition, from_offset, dry_run } = stretch;
    let led = shard.partition(partition).ok_or_else(|| {
        // It moved, or is not known here yet.
        if shard.is_known(partition) { LossError::Busy } else { LossError::UnknownPartition }
    })?;
    if dry_run {
        return Ok(led.survey(from_offset).await?);
    }
    let survey = led.accept_loss(from_offset).await?;
    for lost in &survey.lost {
        tracing::warn!("partition {partition} goes on without offsets {} to {}: lost", lost.start, lost.end - 1);
    }
    for segment in &survey.segments {
        tracing::warn!("partition {partition} goes on without what is damaged in segment {}", segment.0);
    }
    Ok(survey)
}
