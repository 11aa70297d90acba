//! A large batch is received straight into the block that goes to the disk.
//!
//! The head of a produce request says where its batch begins and how long it is. Once the usual receive buffer is full
//! of one large batch, that is believed, as far as the shard's memory for connections goes; otherwise, and for requests
//! of several batches, the usual way does.

use runtime::Runtime;
use storage::group::HEADER_BYTES as GROUP_HEADER_BYTES;
use wire::{
    Api, PartitionId,
    api::produce::RequestHead,
    header::{HEADER_BYTES, Header as _, RequestHeader},
};

use super::{ReplyTo, Session};
use crate::{
    handler::{
        error::ProduceError,
        produce::{append_block, deadline, room},
    },
    metrics::Metric,
};

/// Smaller batches cost less by a copy than by a sync group of their own.
const BATCH_BYTES_MIN: usize = 256 << 10;

/// A large batch of which only the start has come.
pub(crate) struct LargeBatch<R: Runtime> {
    to: ReplyTo,
    timeout_ms: u32,
    partition: PartitionId,
    batch_bytes: usize,
    block: R::Block,
    /// Bytes of the batch that are in the block.
    filled: usize,
}

impl<R: Runtime> Session<R> {
    /// The large batch that `received` is the start of, moved into its block; `None` if the usual way is to be taken.
    pub(crate) fn large_batch(&self, received: &[u8]) -> Option<LargeBatch<R>> {
        let (head, behind) = received.split_first_chunk::<HEADER_BYTES>()?;
        let (header, body_bytes) = RequestHeader::decode(head).ok()?;
        if header.api() != Ok(Api::Produce) || (body_bytes as usize) < BATCH_BYTES_MIN || self.shard.is_stopping() {
            return None;
        }
        let (head, head_bytes) = RequestHead::decode_prefix(header.version, behind).ok()?;
        let (row, rows) = (head.batches.iter().next()?, head.batches.len());
        let batch_bytes = row.batch_bytes as usize;
        let is_fit = rows == 1
            && head_bytes + batch_bytes == body_bytes as usize
            && (BATCH_BYTES_MIN..=self.shard.limits().batch_bytes_max).contains(&batch_bytes)
            && !self.shard.is_elsewhere(row.partition);
        if !is_fit || !self.shard.budget.try_take(batch_bytes) {
            return None;
        }
        let frame_bytes = (HEADER_BYTES + body_bytes as usize) as u32;
        let to = ReplyTo { correlation: header.correlation, version: header.version, frame_bytes };
        let block = self.shard.log.batch_block(batch_bytes);
        let (partition, timeout_ms) = (row.partition, head.timeout_ms);
        let mut large = LargeBatch { to, timeout_ms, partition, batch_bytes, block, filled: 0 };
        let start = &behind[head_bytes..];
        large.rest()[..start.len()].copy_from_slice(start);
        large.filled(start.len());
        Some(large)
    }

    /// Appends a large batch that is whole, once the log has room.
    pub(crate) async fn append_large(&mut self, large: LargeBatch<R>) {
        let LargeBatch { to, timeout_ms, partition, batch_bytes, block, .. } = large;
        self.shard.metrics.count(Metric::ProduceRequests);
        self.outbox.accept(to.frame_bytes);
        let now = self.shard.rt.now();
        let until = now + self.shard.limits().produce_wait_max;
        let has_room = room(&self.shard, &self.shard.log, until).await
            && self.shard.pauses.over(&self.shard.rt, std::iter::once(partition), until).await;
        let outcome =
            if has_room { append_block(&self.shard, partition, block, batch_bytes) } else { Err(ProduceError::Busy) };
        // It is the log's memory now, or free.
        self.shard.budget.give_back(batch_bytes);
        let answers = &mut *self.outbox.answers.borrow_mut();
        answers.push(partition, outcome);
        answers.close(to, deadline(now, timeout_ms));
        self.outbox.look_again();
    }

    /// Gives up on a large batch whose rest will not come.
    pub(crate) fn forget_large(&self, large: LargeBatch<R>) {
        self.shard.budget.give_back(large.batch_bytes);
    }
}

impl<R: Runtime> LargeBatch<R> {
    /// The room for what is still to come; empty when the batch is whole.
    pub(crate) fn rest(&mut self) -> &mut [u8] {
        &mut self.block[GROUP_HEADER_BYTES..][..self.batch_bytes][self.filled..]
    }

    /// So many bytes were put into [`Self::rest`].
    pub(crate) fn filled(&mut self, len: usize) {
        self.filled += len;
    }

    /// Bytes of it that have come.
    pub(crate) fn received(&self) -> usize {
        self.filled
    }
}
