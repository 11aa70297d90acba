//! LossAccept, between frames and its handler.

use std::ops::Range;

use wire::api::loss_accept;

use super::Answer;
use crate::handler::error::LossError;

/// Appends the answer.
pub(super) fn encode(out: &mut Answer<'_>, accepted: Result<Option<Range<u64>>, LossError>) {
    match accepted {
        Ok(lost) => {
            let lost = lost.unwrap_or_default();
            out.response(&loss_accept::Response { lost_from: lost.start, lost_end: lost.end });
        }
        Err(error) => out.failure::<loss_accept::Response>(error.code(), &error.to_string()),
    }
}
