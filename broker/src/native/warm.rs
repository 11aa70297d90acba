//! Has what the next produce requests will touch brought from memory, many requests at a time.
//!
//! The hard idea: requests are handled one after the other, and each begins at its partition. Among thousands of
//! partitions that is a trip to memory or several, and nothing else to do meanwhile. Asked for beforehand, the trips of
//! many requests overlap and cost little more than one.

use runtime::Runtime;
use wire::{
    api::{Api, produce::RequestHead},
    frame::{Decoded, Frame},
    header::RequestHeader,
};

use crate::shard::Shard;

/// Requests looked at together; the processor has about as many trips to memory under way.
const REQUESTS_TOGETHER: usize = 32;

/// A larger request costs so much that a trip to memory does not show.
const FRAME_BYTES_MAX: usize = 4 << 10;

/// How far it has come in what was received.
#[derive(Default)]
pub(super) struct Warm {
    /// Requests that were looked at and not handled yet.
    requests_ahead: usize,
}

impl Warm {
    /// Looks at the requests that `received` begins with, unless that was done; the caller is about to handle the first.
    #[inline]
    pub(super) fn next<R: Runtime>(&mut self, shard: &Shard<R>, received: &[u8]) {
        if self.requests_ahead == 0 {
            self.requests_ahead = look_ahead(shard, received);
        }
        self.requests_ahead = self.requests_ahead.saturating_sub(1);
    }
}

/// Asks for the partitions of the first small requests, and answers how many these are.
fn look_ahead<R: Runtime>(shard: &Shard<R>, mut received: &[u8]) -> usize {
    let partitions = shard.partitions();
    let mut requests = 0;
    while requests < REQUESTS_TOGETHER
        && let Ok(Decoded::Frame(frame)) = Frame::<RequestHeader>::decode(received, FRAME_BYTES_MAX)
    {
        requests += 1;
        received = &received[frame.frame_bytes()..];
        // A single request is as well asked for by being handled.
        if frame.header.api == Api::Produce.key()
            && (requests > 1 || !received.is_empty())
            && let Ok((head, _)) = RequestHead::decode_prefix(frame.header.version, frame.body)
            && let Some(row) = head.batches.iter().next()
            && let Some(partition) = partitions.get(&row.partition)
        {
            partition.prefetch();
        }
    }
    requests
}
