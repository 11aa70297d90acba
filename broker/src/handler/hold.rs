//! Every shard flushes its log and deletes no segment for a while, so that a backup can copy them.

use std::{rc::Rc, time::Duration};

use runtime::Runtime;
use storage::Lsn;

use super::error::HoldError;
use crate::shard::{
    Shard,
    mesh::{Message, Reply, call},
};

/// Nobody holds for longer at a time: a backup that died keeps what is obsolete on the disk for no longer.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// How one log is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldLog {
    /// Its id.
    pub(crate) log_id: u128,
    /// The last group that was flushed for it; 0 when none had to be.
    pub(crate) flushed: Lsn,
}

/// Holds the logs of all shards; how, by number.
pub(crate) async fn hold<R: Runtime>(
    shard: &Rc<Shard<R>>,
    hold_for: Duration,
    flush: bool,
) -> Result<Vec<HeldLog>, HoldError> {
    let mut answers = Vec::new();
    for other in 0..shard.shard_count() {
        let (reply, answer) = call();
        if other == shard.index {
            hold_for_other(Rc::clone(shard), hold_for, flush, reply);
        } else if !shard.send(other, Message::Hold { hold_for, flush, reply }) {
            return Err(HoldError::Busy);
        }
        answers.push(answer);
    }
    let mut held = Vec::new();
    for answer in answers {
        held.push(answer.receive().await.unwrap_or(Err(HoldError::Busy))?);
    }
    Ok(held)
}

/// Holds this shard's log, for whoever asks.
pub(crate) fn hold_for_other<R: Runtime>(
    shard: Rc<Shard<R>>,
    hold_for: Duration,
    flush: bool,
    reply: Reply<Result<HeldLog, HoldError>>,
) {
    let own = Rc::clone(&shard);
    shard.start(async move {
        let _ = reply.try_send(hold_here(&own, hold_for, flush).await);
    });
}

async fn hold_here<R: Runtime>(shard: &Shard<R>, hold_for: Duration, flush: bool) -> Result<HeldLog, HoldError> {
    let log = &shard.log;
    // First: a merge may make obsolete what a flush has just written.
    log.hold_segments(hold_for.min(HOLD_MAX));
    let flushed = if flush { log.flush().await? } else { 0 };
    Ok(HeldLog { log_id: log.id(), flushed })
}
