//! Fetches that wait for records.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use runtime::Runtime;

use super::Partition;

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
