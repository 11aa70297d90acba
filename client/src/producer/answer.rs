//! From what a connection answered, or failed to, to what became of each batch of a request.

use std::sync::Arc;

use wire::{api::produce, frame::ResponseError};

use super::{accumulator::Ticket, delivery::Ack, queue::Attempt};
use crate::{
    connection::{Failure, Response},
    error::Error,
};

/// One attempt for each batch of the ticket, whatever was answered.
pub(crate) fn attempts(
    topic: &str,
    ticket: &Ticket,
    address: &Arc<str>,
    answer: Result<Response, Failure>,
) -> Vec<Attempt> {
    let all = |attempt| vec![attempt; ticket.batches.len()];
    let nonsense =
        |reason: String| all(Attempt::Unanswered(Error::Protocol { address: address.clone(), reason: reason.into() }));
    let response = match answer {
        Ok(response) => response,
        Err(Failure { error, maybe_done: true }) => return all(Attempt::Unanswered(error)),
        Err(Failure { error, maybe_done: false }) => return all(Attempt::NotSent(error)),
    };
    match response.message::<produce::Response<'_>>() {
        Ok(response) if response.results.len() == ticket.batches.len() => {
            let batches = response.results.iter().zip(&ticket.batches);
            batches.map(|(result, &(partition, _))| attempt(topic, partition, address, result)).collect()
        }
        Ok(response) => nonsense(format!("{} batches sent, {} answered", ticket.batches.len(), response.results.len())),
        Err(ResponseError::Refused { error: code, reason }) => {
            let error = Error::refused(format!("produce to {topic}"), address, code, &reason);
            all(Attempt::Refused { code, error })
        }
        Err(ResponseError::Malformed(error)) => nonsense(error.to_string()),
    }
}

fn attempt(topic: &str, partition: u32, address: &Arc<str>, result: produce::BatchResult<'_>) -> Attempt {
    if result.error.is_error() {
        let error = Error::refused(format!("produce to {topic}/{partition}"), address, result.error, result.reason);
        return Attempt::Refused { code: result.error, error };
    }
    let produce::BatchResult { base_offset, durability, synced, .. } = result;
    Attempt::Acked(Ack { base_offset, durability, synced })
}
