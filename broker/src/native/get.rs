//! Get, between frames and the handler.

use wire::{
    api::get::{Found, Header, Response},
    codec::List,
};

use super::Answer;
use crate::request::Got;

/// Appends the answer.
pub(super) fn encode(out: &mut Answer<'_>, got: &Got) {
    let found = match got {
        Ok(Some(found)) => found,
        Ok(None) => return out.response(&Response { found: None }),
        Err(error) => return out.failure::<Response<'_>>(error.code(), &error.to_string()),
    };
    let headers: Vec<_> = found.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
    let (offset, timestamp_ms, value) = (found.offset, found.timestamp_ms, &found.value);
    out.response(&Response { found: Some(Found { offset, timestamp_ms, value, headers: List::from(&headers) }) });
}
