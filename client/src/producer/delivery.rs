//! What becomes of a record: a future that its sender may keep, await or drop.
//!
//! The hard idea: all records of a batch share one outcome, so a delivery is a reference to its batch and an index, and a
//! record costs no allocation.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{FutureExt, future::Shared};
use tokio::sync::oneshot;
use wire::Durability;

use crate::error::Error;

/// Resolves once the record is acknowledged, or will not be. Dropping it does not take the record back; a failure is then
/// told by the next [`flush`](crate::Producer::flush) or [`close`](crate::Producer::close).
#[derive(Debug, Clone)]
pub struct Delivery {
    batch: BatchOutcome,
    index: u32,
}

/// Where a record lies and what its acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// The partition.
    pub partition: u32,
    /// The record's number in the partition.
    pub offset: u64,
    /// What has happened to it: the topic's level.
    pub durability: Durability,
    /// Whether it is on stable storage: always so for [`Durability::Durable`], by chance for [`Durability::Memory`].
    pub synced: bool,
}

/// The broker's acknowledgement of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) base_offset: u64,
    pub(crate) durability: Durability,
    pub(crate) synced: bool,
}

/// The end of a batch's outcome that its records hold.
pub(crate) type BatchOutcome = Shared<oneshot::Receiver<Result<Delivered, Error>>>;

/// The end that decides.
pub(crate) type Decide = oneshot::Sender<Result<Delivered, Error>>;

/// Both ends of the outcome of a new batch. It is decided with what became of the batch's first record.
pub(crate) fn outcome() -> (Decide, BatchOutcome) {
    let (decide, outcome) = oneshot::channel();
    (decide, outcome.shared())
}

impl Delivery {
    #[inline]
    pub(crate) fn new(batch: BatchOutcome, index: u32) -> Self {
        Self { batch, index }
    }
}

impl Future for Delivery {
    type Output = Result<Delivered, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let first =
            ready!(self.batch.poll_unpin(context)).expect("the producer decides every batch, also when it is dropped");
        Poll::Ready(first.map(|first| Delivered { offset: first.offset + u64::from(self.index), ..first }))
    }
}
