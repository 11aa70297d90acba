//! Produce: batches appended straight from the frame, outcomes encoded straight into the outbox.

use runtime::{Instant, Runtime};
use wire::{
    Durability, ErrorCode, PartitionId,
    api::{
        Api, Message,
        produce::{self, BatchResult, Response},
    },
    codec::List,
    frame::{Decoded, Frame},
    header::RequestHeader,
};

use super::{Answer, Next, ReplyTo, Session};
use crate::{
    handler::{
        error::ProduceError,
        produce::{append_own, deadline, room},
    },
    metrics::Metric,
    request::ProduceOutcome,
};

impl<R: Runtime> Session<R> {
    /// Appends a request's batches, in order, once the log has room.
    pub(super) async fn produce(&mut self, to: ReplyTo, request: produce::Request<'_>) {
        let room_until = self.turn_began + self.shard.limits().produce_wait_max;
        let has_room = self.shard.log.has_room() || room(&self.shard, &self.shard.log, room_until).await;
        // Asked last: whoever waited for room may find a partition paused.
        if has_room && (self.shard.pauses.is_empty() || self.are_unpaused(&request, room_until).await) {
            self.append(to, &request);
        } else {
            self.refuse_batches(to, &request);
        }
    }

    /// Waits until none of the request's partitions is paused; false when `until` comes first.
    async fn are_unpaused(&self, request: &produce::Request<'_>, until: Instant) -> bool {
        let partitions = request.batches().map(|(partition, _)| partition);
        self.shard.pauses.over(&self.shard.rt, partitions, until).await
    }

    /// Handles the first frame of `received` if it is a whole produce request that the log has room for: then there is
    /// nothing to wait for, and no reason to go through what waiting needs.
    #[inline]
    pub(crate) fn produce_at_once(&mut self, received: &[u8]) -> Option<Next> {
        let frame_bytes_max = self.shard.limits().frame_bytes_max;
        let Ok(Decoded::Frame(frame)) = Frame::<RequestHeader>::decode(received, frame_bytes_max) else { return None };
        let is_produce =
            frame.header.api == Api::Produce.key() && Api::Produce.versions().contains(&frame.header.version);
        let waits = || self.shard.is_stopping() || !self.shard.log.has_room() || !self.shard.pauses.is_empty();
        if !is_produce || waits() {
            return None;
        }
        let request = produce::Request::decode(frame.header.version, frame.body).ok()?;
        self.shard.metrics.count(Metric::ProduceRequests);
        let to = self.accept(&frame);
        self.append(to, &request);
        Some(Next::Handled { frame_bytes: frame.frame_bytes() })
    }

    #[inline]
    fn append(&mut self, to: ReplyTo, request: &produce::Request<'_>) {
        let now = self.turn_began;
        let (deadline, own) = (deadline(now, request.timeout_ms()), self.shard.logs.own_number());
        let answers = &mut *self.outbox.answers.borrow_mut();
        let mut batches = request.batches();
        while let Some((partition, batch)) = batches.next() {
            let Some(outcome) = append_own(&self.shard, own, partition, batch) else {
                let here = answers.reopen().collect();
                self.crossing.open(answers.keep_place(to), deadline, here);
                for (partition, batch) in std::iter::once((partition, batch)).chain(batches) {
                    self.crossing.add(&self.shard, partition, batch, now);
                }
                return;
            };
            answers.push(partition, outcome);
        }
        if answers.is_empty() {
            // The writer waits for no sync yet.
            self.outbox.look_again();
        }
        answers.close(to, deadline);
    }

    fn refuse_batches(&self, to: ReplyTo, request: &produce::Request<'_>) {
        let outcomes = request.batches().map(|(partition, _)| (partition, Err(ProduceError::Busy)));
        self.outbox.answer_now(to, |out, frame_bytes_max| encode_produced(out, frame_bytes_max, to, outcomes));
    }
}

/// Appends the answer to a produce request.
#[inline]
pub(crate) fn encode_produced(
    out: &mut Vec<u8>,
    frame_bytes_max: usize,
    to: ReplyTo,
    mut outcomes: impl ExactSizeIterator<Item = (PartitionId, ProduceOutcome)>,
) {
    let mut answer = Answer { out, to, frame_bytes_max };
    if outcomes.len() == 1 {
        // What small requests are made of: nothing is allocated.
        let (partition, outcome) = outcomes.next().expect("there is one");
        let reason = reason(&outcome);
        answer.response(&Response { results: List::from(&[row(partition, &outcome, &reason)]) });
        return;
    }
    encode_many(&mut answer, outcomes);
}

fn encode_many(answer: &mut Answer<'_>, outcomes: impl Iterator<Item = (PartitionId, ProduceOutcome)>) {
    let outcomes: Vec<_> = outcomes
        .map(|(partition, outcome)| {
            let reason = reason(&outcome);
            (partition, outcome, reason)
        })
        .collect();
    let rows: Vec<_> = outcomes.iter().map(|(partition, outcome, reason)| row(*partition, outcome, reason)).collect();
    answer.response(&Response { results: List::from(&rows) });
}

#[inline]
fn reason(outcome: &ProduceOutcome) -> String {
    outcome.as_ref().err().map(ProduceError::to_string).unwrap_or_default()
}

#[inline]
fn row<'a>(partition: PartitionId, outcome: &ProduceOutcome, reason: &'a str) -> BatchResult<'a> {
    match outcome {
        Ok(produced) => BatchResult {
            partition,
            error: ErrorCode::None,
            reason,
            durability: produced.acked.durability(),
            synced: produced.synced,
            base_offset: produced.acked.base_offset(),
            log_start_offset: produced.log_start_offset,
        },
        Err(error) => BatchResult {
            partition,
            error: error.code(),
            reason,
            durability: Durability::Memory,
            synced: false,
            base_offset: 0,
            log_start_offset: 0,
        },
    }
}
