//! Every shard flushes its logs and deletes no segment for a while, so that a backup can copy them.
//!
//! No partition moves meanwhile: whoever copies logs one after the other would find it in both, or in none.

use std::{rc::Rc, time::Duration};

use futures_lite::future;
use runtime::Runtime;
use storage::Lsn;

use super::error::HoldError;
use crate::{
    meta::LogNumber,
    shard::{
        Shard,
        mesh::{Message, Reply, call},
    },
};

/// Nobody holds for longer at a time: a backup that died keeps what is obsolete on the disk for no longer.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// A move under way may take so long to end.
const MOVE_END_MAX: Duration = Duration::from_secs(10);

/// How one log is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldLog {
    /// Its number.
    pub(crate) number: LogNumber,
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
    let hold_for = hold_for.min(HOLD_MAX);
    ask_all(shard, |reply| Message::HoldMoves { hold_for: MOVE_END_MAX + hold_for, reply }).await?;
    let held = ask_all(shard, |reply| Message::Hold { hold_for, flush, reply }).await?;
    let mut logs: Vec<_> = held.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    logs.sort_unstable_by_key(|log| log.number);
    Ok(logs)
}

/// Asks every shard, this one too; what they answer, by number.
async fn ask_all<R: Runtime, T>(
    shard: &Rc<Shard<R>>,
    message: impl Fn(Reply<T>) -> Message<R>,
) -> Result<Vec<T>, HoldError> {
    let mut asked = Vec::new();
    for other in 0..shard.shard_count() {
        let (reply, answer) = call();
        if !shard.send(other, message(reply)) {
            return Err(HoldError::Busy);
        }
        asked.push(answer);
    }
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.receive().await.ok_or(HoldError::Busy)?);
    }
    Ok(answers)
}

/// Lets no partition move for so long; answers when none does any more.
pub(crate) fn hold_moves_for_other<R: Runtime>(shard: Rc<Shard<R>>, hold_for: Duration, reply: Reply<()>) {
    let own = Rc::clone(&shard);
    shard.start(async move {
        own.moving.hold(own.rt.now() + hold_for);
        let at_rest = async {
            own.moving.at_rest().await;
            true
        };
        let too_late = async {
            own.rt.sleep(MOVE_END_MAX).await;
            false
        };
        // Without an answer the server counts as busy.
        if future::or(at_rest, too_late).await {
            let _ = reply.try_send(());
        }
    });
}

/// Holds this shard's logs, for whoever asks.
pub(crate) fn hold_for_other<R: Runtime>(
    shard: Rc<Shard<R>>,
    hold_for: Duration,
    flush: bool,
    reply: Reply<Result<Vec<HeldLog>, HoldError>>,
) {
    let own = Rc::clone(&shard);
    shard.start(async move {
        let _ = reply.try_send(hold_here(&own, hold_for, flush).await);
    });
}

async fn hold_here<R: Runtime>(shard: &Shard<R>, hold_for: Duration, flush: bool) -> Result<Vec<HeldLog>, HoldError> {
    let logs = shard.logs.all();
    // First: a merge may make obsolete what a flush has just written.
    logs.iter().for_each(|(_, log)| log.hold_segments(hold_for));
    let mut held = Vec::new();
    for (number, log) in logs {
        let flushed = if flush { log.flush().await? } else { 0 };
        held.push(HeldLog { number, log_id: log.id(), flushed });
    }
    Ok(held)
}
