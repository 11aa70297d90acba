//! Stats: the counters of all shards, added up.

use std::rc::Rc;

use runtime::Runtime;

use crate::{
    metrics::Reading,
    shard::{
        Shard,
        mesh::{Message, call},
    },
};

/// The node's counters. A shard too busy to say is left out.
pub(crate) async fn stats<R: Runtime>(shard: &Rc<Shard<R>>) -> Reading {
    let mut answers = Vec::new();
    for other in (0..shard.shard_count()).filter(|&other| other != shard.index) {
        let (reply, answer) = call();
        if shard.send(other, Message::Stats { reply }) {
            answers.push(answer);
        }
    }
    let mut readings = vec![shard.read_metrics()];
    for answer in answers {
        readings.extend(answer.receive().await);
    }
    Reading::sum(&readings)
}
