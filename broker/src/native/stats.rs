//! Stats and Health, between frames and their handlers.

use wire::{
    api::{
        health::{self, State},
        stats::{self, Counter},
    },
    codec::List,
};

use super::Answer;
use crate::{handler::health::ShardHealth, metrics::Reading};

/// Appends the answer to Stats: by name.
pub(super) fn encode_stats(out: &mut Answer<'_>, reading: &Reading) {
    let mut counters: Vec<_> = reading.rows().map(|(row, value)| Counter { name: row.name, value }).collect();
    counters.sort_unstable_by_key(|counter| counter.name);
    out.response(&stats::Response { counters: List::from(&counters) });
}

/// Appends the answer to Health: by shard.
pub(super) fn encode_health(out: &mut Answer<'_>, shards: &[ShardHealth]) {
    let rows: Vec<_> = shards
        .iter()
        .zip(0..)
        .map(|(health, shard)| health::Shard { shard, state: health.state, reason: &health.reason })
        .collect();
    let worst = rows.iter().map(|row| row.state).max().unwrap_or(State::Starting);
    out.response(&health::Response { state: worst, shards: List::from(&rows) });
}
