//! Hold, between frames and its handler.

use wire::{api::hold, codec::List};

use super::Answer;
use crate::handler::{error::HoldError, hold::HeldLog};

/// Appends the answer.
pub(super) fn encode(out: &mut Answer<'_>, held: Result<Vec<HeldLog>, HoldError>) {
    match held {
        Ok(held) => {
            let log = |held: &HeldLog| hold::Log { log_id: held.log_id, flushed_lsn: held.flushed };
            let logs: Vec<_> = held.iter().map(log).collect();
            out.response(&hold::Response { logs: List::from(&logs) });
        }
        Err(error) => out.failure::<hold::Response<'_>>(error.code(), &error.to_string()),
    }
}
