//! Requests that wait: produce for its sync, fetch for records.
//!
//! The hard idea: a connection's produce requests wait in one queue in the order of their sync groups, so whoever holds
//! a sync token takes a whole run off its front. Nothing is allocated for a request and no task is woken for one.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    task::Poll,
};

use runtime::{Instant, Runtime};
use storage::{Lsn, Synced};
use wire::PartitionId;

use super::Partition;
use crate::{
    handler::error::ProduceError,
    request::{Placed, ProduceOutcome},
};

/// Produce requests of one connection that wait for their sync. `T` says how to answer.
pub(crate) struct DelayedProduce<T> {
    requests: VecDeque<Waiting<T>>,
    /// The outcomes of all requests, in the same order.
    outcomes: VecDeque<(PartitionId, Result<Placed, ProduceError>)>,
    /// Outcomes behind those of the last request: they belong to the request being handled.
    open: usize,
    /// The last sync group one of these waits for.
    open_lsn: Lsn,
}

struct Waiting<T> {
    answer: T,
    outcomes: usize,
    lsn: Lsn,
    deadline: Instant,
}

impl<T> Default for DelayedProduce<T> {
    fn default() -> Self {
        Self { requests: VecDeque::new(), outcomes: VecDeque::new(), open: 0, open_lsn: 0 }
    }
}

impl<T> DelayedProduce<T> {
    /// Adds the outcome of a batch of the request being handled.
    pub(crate) fn push(&mut self, partition: PartitionId, outcome: Result<Placed, ProduceError>) {
        if let Ok(placed) = &outcome
            && placed.appended.needs_sync()
        {
            self.open_lsn = self.open_lsn.max(placed.appended.lsn);
        }
        self.outcomes.push_back((partition, outcome));
        self.open += 1;
    }

    /// Ends the request being handled; it waits until every batch of it may be acknowledged, or `deadline`.
    pub(crate) fn close(&mut self, answer: T, deadline: Instant) {
        let (outcomes, lsn) = (mem::take(&mut self.open), mem::take(&mut self.open_lsn));
        self.requests.push_back(Waiting { answer, outcomes, lsn, deadline });
    }

    /// Takes back the outcomes of the request being handled.
    pub(crate) fn reopen(&mut self) -> impl Iterator<Item = (PartitionId, Result<Placed, ProduceError>)> {
        let open = mem::take(&mut self.open);
        self.open_lsn = 0;
        self.outcomes.drain(self.outcomes.len() - open..)
    }

    /// The sync group the first request waits for.
    pub(crate) fn next_lsn(&self) -> Option<Lsn> {
        self.requests.front().map(|first| first.lsn)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Takes every request off the front that `synced` covers or whose deadline is past, and has it answered.
    pub(crate) fn complete(
        &mut self,
        synced: Synced,
        now: Instant,
        mut answer: impl FnMut(T, &mut dyn ExactSizeIterator<Item = (PartitionId, ProduceOutcome)>),
    ) {
        while let Some(first) = self.requests.front() {
            let is_synced = first.lsn <= synced.lsn();
            if !is_synced && first.deadline > now {
                return;
            }
            let first = self.requests.pop_front().expect("it was just looked at");
            let mut outcomes = self
                .outcomes
                .drain(..first.outcomes)
                .map(|(partition, outcome)| (partition, outcome.and_then(|placed| placed.acknowledge_by(synced))));
            answer(first.answer, &mut outcomes);
        }
    }
}

/// Waits until any of these partitions has something to read at its offset or behind it.
pub(crate) async fn visible_in_any<R: Runtime>(positions: Vec<(Partition<R>, u64)>) {
    let waits = positions.into_iter().map(|(partition, offset)| async move { partition.visible_beyond(offset).await });
    any(waits.map(|wait| Box::pin(wait) as _).collect()).await;
}

/// Waits until the first of several futures is ready; for ever if there is none.
pub(crate) async fn any<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T>>>>) -> T {
    poll_fn(|context| {
        let ready = futures.iter_mut().find_map(|future| match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        });
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
