//! Fetch: the batches follow the head from the memory they lie in.

use std::time::Duration;

use runtime::Runtime;
use wire::{
    ErrorCode, PartitionId,
    api::fetch::{Lost, PartitionRow, Request, ResponseHead},
    codec::List,
};

use super::{Answer, ReplyTo};
use crate::{
    handler::{error::FetchError, fetch::FetchAnswer},
    request::{FetchRequest, Fetched, Position},
    server::{limits::Budget, outbox::Outbox},
};

/// What a frame asks for.
pub(super) fn request(request: &Request<'_>) -> FetchRequest {
    let position = |row: wire::api::fetch::Position| Position {
        partition: row.partition,
        offset: row.offset,
        bytes_max: row.bytes_max as usize,
    };
    FetchRequest {
        wait_max: Duration::from_millis(request.wait_ms_max.into()),
        bytes_min: request.bytes_min as usize,
        bytes_max: request.bytes_max as usize,
        positions: request.partitions.iter().map(position).collect(),
    }
}

/// Puts the answer into the outbox.
pub(super) fn answer<R: Runtime>(
    outbox: &Outbox<R>,
    to: ReplyTo,
    partitions: &[PartitionId],
    answer: FetchAnswer<R>,
    budget: &Budget,
) {
    let reasons: Vec<_> = answer.iter().map(reason).collect();
    let encode = |out: &mut Vec<u8>, frame_bytes_max: usize| {
        let named = partitions.iter().zip(&answer).zip(&reasons);
        let rows: Vec<_> = named.map(|((partition, fetched), reason)| row(*partition, fetched, reason)).collect();
        Answer { out, to, frame_bytes_max }.response_head(&ResponseHead { partitions: List::from(&rows) })
    };
    if outbox.answer_aside(to, encode) {
        let batches = answer.into_iter().filter_map(|fetched| fetched.batches.ok());
        outbox.attach(batches.flat_map(|batches| batches.slices), budget);
    }
}

fn reason<S>(fetched: &Fetched<S>) -> String {
    fetched.batches.as_ref().err().map(FetchError::to_string).unwrap_or_default()
}

fn row<'a, S>(partition: PartitionId, fetched: &Fetched<S>, reason: &'a str) -> PartitionRow<'a> {
    let (error, batch_bytes, lost) = match &fetched.batches {
        Ok(batches) => (ErrorCode::None, batches.bytes as u32, batches.lost.clone()),
        Err(error) => (error.code(), 0, None),
    };
    PartitionRow {
        partition,
        error,
        reason,
        log_start_offset: fetched.offsets.log_start,
        high_watermark: fetched.offsets.high_watermark,
        log_end_offset: fetched.offsets.log_end,
        lost: lost.map(|lost| Lost { from: lost.start, to: lost.end }),
        batch_bytes,
    }
}
