//! DeleteRecords, between frames and the handler.

use wire::{
    ErrorCode,
    api::delete_records::{Deleted, Request, Response},
    codec::List,
};

use super::Answer;
use crate::{handler::delete_records::Before, request::Trimmed};

/// What a frame asks for.
pub(super) fn before(request: &Request<'_>) -> Vec<Before> {
    request.partitions.iter().map(|before| (before.partition, before.offset)).collect()
}

/// Appends the answer.
pub(super) fn encode(out: &mut Answer<'_>, before: &[Before], trimmed: &[Trimmed]) {
    let reasons: Vec<_> =
        trimmed.iter().map(|trimmed| trimmed.as_ref().err().map(ToString::to_string).unwrap_or_default()).collect();
    let rows: Vec<_> = before
        .iter()
        .zip(trimmed)
        .zip(&reasons)
        .map(|((&(partition, _), trimmed), reason)| {
            let (error, log_start_offset) = match trimmed {
                Ok(log_start_offset) => (ErrorCode::None, *log_start_offset),
                Err(error) => (error.code(), 0),
            };
            Deleted { partition, error, reason, log_start_offset }
        })
        .collect();
    out.response(&Response { partitions: List::from(&rows) });
}
