//! Health: how each shard is.

use std::rc::Rc;

use runtime::Runtime;
use wire::api::health::State;

use crate::shard::{
    Shard,
    mesh::{Message, call},
};

/// How one shard is.
#[derive(Clone, Debug)]
pub(crate) struct ShardHealth {
    /// In a word.
    pub(crate) state: State,
    /// What is the matter; empty when it serves.
    pub(crate) reason: String,
}

/// How every shard is, by number.
pub(crate) async fn health<R: Runtime>(shard: &Rc<Shard<R>>) -> Vec<ShardHealth> {
    let mut answers = Vec::new();
    for other in 0..shard.shard_count() {
        let (reply, answer) = call();
        let is_asked = other != shard.index && shard.send(other, Message::Health { reply });
        answers.push(is_asked.then_some(answer));
    }
    let mut health = Vec::new();
    for (other, answer) in (0..).zip(answers) {
        health.push(match answer {
            _ if other == shard.index => of_shard(shard),
            Some(answer) => answer.receive().await.unwrap_or_else(silent),
            None => silent(),
        });
    }
    health
}

/// How this shard is.
pub(crate) fn of_shard<R: Runtime>(shard: &Shard<R>) -> ShardHealth {
    if shard.is_stopping() {
        return ShardHealth { state: State::Stopping, reason: "it finishes what is under way and closes".to_owned() };
    }
    let mut reasons = Vec::new();
    let log = shard.logs.stats();
    if log.disk_is_full {
        let (free, reserve) = (log.disk_free_bytes, log.disk_reserve_bytes);
        reasons.push(format!("the disk is full: {free} bytes are free, {reserve} are kept; nothing is taken"));
    }
    let refused = shard.partitions_refused();
    if refused > 0 {
        reasons.push(format!("the log is damaged: {refused} partitions take and give nothing behind the damage"));
    }
    let damaged = shard.partitions_damaged();
    if damaged > 0 {
        reasons.push(format!("segments are damaged: {damaged} partitions refuse what was in them to readers"));
    }
    let quarantined = shard.logs.quarantined();
    if quarantined > 0 {
        reasons.push(format!(
            "its disk holds {quarantined} partitions that metadata does not know; nothing of them is served or deleted"
        ));
    }
    let state = if reasons.is_empty() { State::Serving } else { State::Degraded };
    ShardHealth { state, reason: reasons.join("; ") }
}

fn silent() -> ShardHealth {
    ShardHealth { state: State::Degraded, reason: "it is too busy to say".to_owned() }
}
