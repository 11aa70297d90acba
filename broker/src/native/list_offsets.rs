//! ListOffsets, between frames and the handler.

use wire::{
    ErrorCode,
    api::list_offsets::{Found, Request, Response},
    codec::List,
};

use super::Answer;
use crate::{handler::list_offsets::Query, request::ListedOffset};

/// What a frame asks for.
pub(super) fn queries(request: &Request<'_>) -> Vec<Query> {
    request.partitions.iter().map(|query| (query.partition, query.at)).collect()
}

/// Appends the answer.
pub(super) fn encode(out: &mut Answer<'_>, queries: &[Query], listed: &[ListedOffset]) {
    let reasons: Vec<_> =
        listed.iter().map(|listed| listed.as_ref().err().map(ToString::to_string).unwrap_or_default()).collect();
    let rows: Vec<_> = queries
        .iter()
        .zip(listed)
        .zip(&reasons)
        .map(|(((partition, _), listed), reason)| {
            let (error, offset, timestamp_ms) = match listed {
                Ok((offset, timestamp_ms)) => (ErrorCode::None, *offset, timestamp_ms.unwrap_or(-1)),
                Err(error) => (error.code(), 0, -1),
            };
            Found { partition: *partition, error, reason, offset, timestamp_ms }
        })
        .collect();
    out.response(&Response { partitions: List::from(&rows) });
}
